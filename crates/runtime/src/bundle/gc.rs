//! What a node drops of its bundles, decided from what it has and what is to be kept; does nothing.

use std::collections::BTreeSet;

use nihilo_types::bundle::Digest;

/// A blob that nobody has continued for so long is given up.
pub(super) const PARTIAL_KEEP_MS: u64 = 24 * 60 * 60 * 1_000;
/// Above so many hundredths of the bound, trees that can be unpacked again go too.
pub(super) const PRESSURE_PERCENT: u64 = 80;

/// Something that stands on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// A bundle that can be started, and the blob it is made of. Times are the node's, in
    /// milliseconds.
    Bundle {
        digest: Digest,
        blob: Digest,
        used_ms: u64,
    },
    Blob {
        digest: Digest,
        n_bytes: u64,
    },
    /// What the tar of this digest holds.
    Tree {
        blob: Digest,
        n_bytes: u64,
        used_ms: u64,
    },
    Partial {
        key: Digest,
        n_bytes: u64,
        written_ms: u64,
        is_open: bool,
    },
}

/// What must stay, and why.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Bundles that the cluster keeps: pinned by revisions, tagged, or new. As of a moment after
    /// [`Kept::as_of_ms`].
    pub roots: BTreeSet<Digest>,
    /// Bundles that instances of this node run.
    pub in_use: BTreeSet<Digest>,
    /// Blobs that have been taken for a bundle which is about to become known.
    pub leased: BTreeSet<Digest>,
    /// What was used since is kept: the roots may be older than its use.
    pub as_of_ms: u64,
}

/// One thing to remove.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deletion {
    Bundle(Digest),
    Blob(Digest),
    Tree(Digest),
    Partial(Digest),
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    pub n_bundles: u64,
    pub n_bytes: u64,
    /// Of what stays.
    pub n_bytes_kept: u64,
}

/// Says what goes, bundles before their blobs: what is there can be started at any moment.
///
/// A bundle that is a root or in use stays, and so does its blob. `above` = bytes over which unpacked
/// trees that stand still go as well, those first that were used longest ago.
pub fn decide(holdings: &[Holding], kept: &Kept, above: u64, now_ms: u64) -> Vec<Deletion> {
    let mut deletions = Vec::new();
    let (mut needed, mut busy) = (kept.leased.clone(), BTreeSet::new());
    for holding in holdings {
        let Holding::Bundle {
            digest,
            blob,
            used_ms,
        } = holding
        else {
            continue;
        };
        let is_busy = kept.in_use.contains(digest) || *used_ms >= kept.as_of_ms;
        if is_busy {
            busy.insert(*blob);
        }
        if is_busy || kept.roots.contains(digest) || kept.leased.contains(blob) {
            needed.insert(*blob);
        } else {
            deletions.push(Deletion::Bundle(*digest));
        }
    }
    let mut n_left = 0;
    let mut idle_trees = Vec::new();
    for holding in holdings {
        match holding {
            Holding::Bundle { .. } => {}
            Holding::Blob { digest, n_bytes } => match needed.contains(digest) {
                true => n_left += n_bytes,
                false => deletions.push(Deletion::Blob(*digest)),
            },
            Holding::Tree {
                blob,
                n_bytes,
                used_ms,
            } => match needed.contains(blob) {
                true => {
                    n_left += n_bytes;
                    if !busy.contains(blob) && *used_ms < kept.as_of_ms {
                        idle_trees.push((*used_ms, *blob, *n_bytes));
                    }
                }
                false => deletions.push(Deletion::Tree(*blob)),
            },
            Holding::Partial {
                key,
                n_bytes,
                written_ms,
                is_open,
            } => match *is_open || now_ms < written_ms.saturating_add(PARTIAL_KEEP_MS) {
                true => n_left += n_bytes,
                false => deletions.push(Deletion::Partial(*key)),
            },
        }
    }
    idle_trees.sort_unstable();
    for (_, blob, n_bytes) in idle_trees {
        if n_left <= above {
            break;
        }
        n_left -= n_bytes;
        deletions.push(Deletion::Tree(blob));
    }
    deletions
}

#[cfg(test)]
#[path = "gc_test.rs"]
mod tests;
