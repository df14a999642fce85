//! The digest of a state: equal log, equal digest, on every node and build (02-store §1, S6).

use xxhash_rust::xxh3::Xxh3;

use crate::rows::OBJECT_TAGS;
use crate::state::State;

/// Stands in no key and in no JSON value.
const END: &[u8] = &[0xff];

impl State {
    /// The digest of everything that is stored of this state. Reads all of it: not for a hot path.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        let mut few = Vec::new();
        self.visit_few(&mut |row| few.extend(row.value.map(|value| (row.key, value))));
        few.sort();
        let mut few = few.into_iter().peekable();
        // Objects come in the order of their rows: what there is most of is not held once more.
        for kind in OBJECT_TAGS {
            while let Some((key, value)) = few.next_if(|(key, _)| key.as_slice() < kind.as_bytes())
            {
                digest.add(&key, &value);
            }
            self.visit_objects(kind, &mut |row| {
                digest.add(&row.key, row.value.as_deref().unwrap_or_default());
            });
        }
        few.for_each(|(key, value)| digest.add(&key, &value));
        digest.0.digest()
    }
}

/// The digest of stored rows, in whatever order they come.
pub fn digest_of_rows(mut rows: Vec<(Vec<u8>, Vec<u8>)>) -> u64 {
    rows.sort();
    let mut digest = Digest::default();
    for (key, value) in rows {
        digest.add(&key, &value);
    }
    digest.0.digest()
}

/// Over rows in the order of their keys.
#[derive(Default)]
struct Digest(Xxh3);

impl Digest {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, END, value, END] {
            self.0.update(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(rows: &[(&str, &str)]) -> u64 {
        let bytes =
            |(key, value): &(&str, &str)| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        digest_of_rows(rows.iter().map(bytes).collect())
    }

    #[test]
    fn a_states_digest_is_that_of_its_rows() {
        let text = |text: &str| text.as_bytes().to_vec();
        let map =
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m","namespace":"n"}}"#;
        let rows = [
            ("clock", r#"{"log_ms":7,"wall_ms":8}"#),
            ("version", "2"),
            ("configmap\0n\0m", map),
            ("store\x001", r#""drawn""#),
            ("ancestors", r#"["before"]"#),
        ];
        let rows = rows.map(|(key, value)| (text(key), text(value)));
        let state = State::from_rows(rows).unwrap();
        let rows = state.rows().into_iter();
        let rows: Vec<_> = rows.map(|row| (row.key, row.value.unwrap())).collect();
        assert_eq!(rows.len(), 5);
        assert_eq!(state.digest(), digest_of_rows(rows));
    }

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let rows = digest(&[("a", "1"), ("b", "2")]);
        assert_eq!(digest(&[("b", "2"), ("a", "1")]), rows);
        for other in [
            &[("a", "1")][..],
            &[("a", "2"), ("b", "1")],
            &[("a1", ""), ("b", "2")],
            &[("a", "1b"), ("", "2")],
        ] {
            assert_ne!(digest(other), rows, "{other:?}");
        }
    }
}
