//! The digest of a state: equal log, equal digest, on every node and build (02-store §1, S6).

use xxhash_rust::xxh3::Xxh3;

use crate::state::State;

/// Stands in no key and in no JSON value.
const END: &[u8] = &[0xff];

impl State {
    /// The digest of everything that is stored of this state. Reads all of it: not for a hot path.
    pub fn digest(&self) -> u64 {
        let rows = self.rows().into_iter();
        digest_of_rows(rows.filter_map(|row| Some((row.key, row.value?))).collect())
    }
}

/// The digest of stored rows, in whatever order they come.
pub fn digest_of_rows(mut rows: Vec<(Vec<u8>, Vec<u8>)>) -> u64 {
    rows.sort();
    let mut hasher = Xxh3::new();
    for (key, value) in rows {
        for part in [&key, END, &value, END] {
            hasher.update(part);
        }
    }
    hasher.digest()
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
