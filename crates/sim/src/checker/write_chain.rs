//! C4 for a key that one client writes again and again: each write is a compare-and-set on the
//! version that the last one made, so that a write which succeeds proves the one before it.
//!
//! ```text
//! write 7 ─► acked @41 ─► write 8 on @41 ─► acked @45: 7 was there, at the moment 8 was committed
//!                                        ─► conflict ─► read 7 @41: lost nothing, try again
//!                                        ─► conflict ─► read 6 @38: 7 is lost
//! ```
//!
//! What is left to a look at the end is the last write of each key. Memory: two numbers and the
//! writes of unknown outcome, however many writes there were.

use crate::checker::verdict::Evidence;

pub const NAME: &str = "C4 write chain";

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The writer's own count of its writes to this key.
    pub value: u64,
    /// Moves with each write of the key, and with others that leave the value alone.
    pub version: u64,
}

/// One key and its only writer.
#[derive(Debug, Clone)]
pub struct Chain {
    key: String,
    known: Held,
    /// Values whose outcome nobody knows, all of them written on `known.version`.
    open: Vec<u64>,
    n_acked: u64,
    n_proven: u64,
}

impl Chain {
    /// A key as it was read before the first write.
    pub fn new(key: impl Into<String>, known: Held) -> Self {
        Self {
            key: key.into(),
            known,
            open: Vec::new(),
            n_acked: 0,
            n_proven: 0,
        }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn n_acked(&self) -> u64 {
        self.n_acked
    }

    /// Acknowledged writes that a later write or read has found in their place.
    pub fn n_proven(&self) -> u64 {
        self.n_proven
    }

    /// A write on the version known was acknowledged.
    pub fn acked(&mut self, now: Held) -> Option<Evidence> {
        let known = std::mem::replace(&mut self.known, now);
        self.n_proven = self.n_acked;
        self.n_acked += 1;
        // All of them were conditional on a version that is over.
        self.open.clear();
        (now.version <= known.version).then(|| {
            let what = format!(
                "write {} was given version {}, not after {} of the one before it",
                now.value, now.version, known.version
            );
            Evidence::new(&self.key, what)
        })
    }

    /// Nobody knows what became of the write of `value`; it may still take effect.
    pub fn unknown(&mut self, value: u64) {
        self.open.push(value);
    }

    /// A linearizable read, or one of a node at rest, found `seen`; `None` = no such key.
    ///
    /// A write that was refused is neither known nor open, so that finding it is a finding.
    pub fn read(&mut self, seen: Option<Held>) -> Option<Evidence> {
        if let Some(evidence) = self.judge(seen) {
            return Some(evidence);
        }
        let seen = seen?;
        if seen.version > self.known.version {
            // What is open was conditional on the version before.
            self.open.clear();
        }
        self.known = seen;
        self.n_proven = self.n_acked;
        None
    }

    /// What is wrong with `seen`, without taking note of it.
    pub fn judge(&self, seen: Option<Held>) -> Option<Evidence> {
        let known = self.known;
        let Some(seen) = seen else {
            let what = format!(
                "the key is gone, last known as {} @{}",
                known.value, known.version
            );
            return Some(Evidence::new(&self.key, what));
        };
        let shown = format!("{} @{}", seen.value, seen.version);
        let is_known = seen.value == known.value && seen.version >= known.version;
        let is_unanswered = self.open.contains(&seen.value) && seen.version > known.version;
        if is_known || is_unanswered {
            return None;
        }
        let what = if seen.version < known.version {
            format!("went back to {shown}")
        } else if seen.value < known.value {
            format!("an acknowledged write is lost: holds {shown}")
        } else {
            format!("holds {shown}, which was refused or never written")
        };
        let open: Vec<_> = self.open.iter().map(u64::to_string).collect();
        Some(Evidence::new(&self.key, what).witness(format!(
            "last known {} @{}; unknown: {}",
            known.value,
            known.version,
            if open.is_empty() {
                "none".to_owned()
            } else {
                open.join(", ")
            }
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(value: u64, version: u64) -> Held {
        Held { value, version }
    }

    fn chain() -> Chain {
        let mut chain = Chain::new("a", held(0, 10));
        assert_eq!(chain.acked(held(1, 12)), None);
        assert_eq!(chain.acked(held(2, 15)), None);
        chain
    }

    #[track_caller]
    fn assert_found(found: Option<Evidence>, want: &str) {
        let text = found.map(|found| found.to_string()).unwrap_or_default();
        assert!(text.contains(want), "{text}");
    }

    #[test]
    fn a_chain_that_holds_proves_every_write_but_the_last() {
        let mut chain = chain();
        assert_eq!((chain.n_acked(), chain.n_proven()), (2, 1));
        // A status update moves the version only.
        assert_eq!(chain.read(Some(held(2, 17))), None);
        assert_eq!((chain.n_acked(), chain.n_proven()), (2, 2));
        chain.unknown(3);
        assert_eq!(chain.read(Some(held(2, 17))), None);
        assert_eq!(chain.judge(Some(held(3, 18))), None);
        assert_eq!(chain.read(Some(held(3, 18))), None);
        assert_eq!(chain.acked(held(4, 20)), None);
    }

    #[test]
    fn planted_acknowledged_write_missing_from_a_chain() {
        assert_found(chain().read(Some(held(1, 12))), "went back to 1 @12");
        assert_found(
            chain().read(Some(held(1, 19))),
            "an acknowledged write is lost: holds 1 @19",
        );
        assert_found(chain().read(None), "the key is gone");
    }

    #[test]
    fn planted_refused_write_shows_in_a_chain() {
        assert_found(chain().read(Some(held(3, 16))), "refused or never written");
    }

    #[test]
    fn planted_unknown_write_takes_effect_on_a_version_that_is_over() {
        let mut chain = chain();
        chain.unknown(3);
        assert_eq!(chain.acked(held(4, 16)), None);
        assert_found(chain.read(Some(held(3, 17))), "lost: holds 3 @17");
        let mut moved = self::chain();
        moved.unknown(3);
        assert_eq!(moved.read(Some(held(2, 16))), None);
        assert_found(moved.read(Some(held(3, 17))), "refused or never written");
    }

    #[test]
    fn planted_version_of_a_write_does_not_grow() {
        assert_found(chain().acked(held(3, 15)), "not after 15");
    }
}
