//! Equal applied index ⇒ equal state, on every replica and after every load (08 §5, P1).

use nihilo_machine::State;
use nihilo_machine::state::RowChange;
use xxhash_rust::xxh3::Xxh3;

use super::Verdict;

/// The hash of all rows written up to each index, as the first replica that applied it wrote them.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    hashes: Vec<u64>,
}

impl Digest {
    /// Takes a replica's hash after `index`; says whether it was the first to get there.
    pub(crate) fn observe(&mut self, index: u64, hash: u64) -> (bool, Verdict) {
        let position = usize::try_from(index - 1).unwrap_or(usize::MAX);
        match self.hashes.get(position) {
            None => {
                self.hashes.push(hash);
                (true, Ok(()))
            }
            Some(known) if *known == hash => (false, Ok(())),
            Some(known) => {
                let text = format!("entry {index} wrote {hash:x} here, {known:x} elsewhere");
                (false, Err(text))
            }
        }
    }
}

/// The hash after one more entry's rows.
pub(crate) fn chain(before: u64, rows: &[RowChange]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&before.to_be_bytes());
    for row in rows {
        hasher.update(&row.key);
        hasher.update(row.value.as_deref().unwrap_or(b"\xff"));
    }
    hasher.digest()
}

/// What was loaded says what was stored.
pub(crate) fn same_after_loading(stored: u64, loaded: &State) -> Verdict {
    let have = loaded.digest();
    if have == stored {
        return Ok(());
    }
    Err(format!("stored as {stored:x}, loaded as {have:x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_wrote_something_else_is_found() {
        let mut digest = Digest::default();
        assert_eq!(digest.observe(1, 7), (true, Ok(())));
        assert_eq!(digest.observe(1, 7), (false, Ok(())));
        assert!(digest.observe(1, 8).1.is_err());
    }
}
