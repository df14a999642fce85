//! What must never go, whatever stands on the disk; and what goes first.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn digests(all: &BTreeSet<u8>) -> BTreeSet<Digest> {
    all.iter().map(|n| digest(*n)).collect()
}

/// Bundles 0..8 are made of blobs 100..104; whatever else stands on the disk is of those blobs too.
fn holding() -> impl Strategy<Value = Holding> {
    let (bundle, blob, time) = (0_u8..8, 100_u8..104, 0_u64..100);
    prop_oneof![
        (bundle, time.clone()).prop_map(|(n, used_ms)| Holding::Bundle {
            digest: digest(n),
            blob: digest(100 + n % 4),
            used_ms,
        }),
        (blob.clone(), 1_u64..50).prop_map(|(n, n_bytes)| Holding::Blob {
            digest: digest(n),
            n_bytes,
        }),
        (blob.clone(), 1_u64..50, time.clone()).prop_map(|(n, n_bytes, used_ms)| Holding::Tree {
            blob: digest(n),
            n_bytes,
            used_ms,
        }),
        (blob, time, any::<bool>()).prop_map(|(n, written_ms, is_open)| Holding::Partial {
            key: digest(n),
            n_bytes: 9,
            written_ms,
            is_open,
        }),
    ]
}

/// Things stand once.
fn holdings() -> impl Strategy<Value = Vec<Holding>> {
    let key = |holding: &Holding| match holding {
        Holding::Bundle { digest, .. } => (0, *digest),
        Holding::Blob { digest, .. } => (1, *digest),
        Holding::Tree { blob, .. } => (2, *blob),
        Holding::Partial { key, .. } => (3, *key),
    };
    vec(holding(), 0..30).prop_map(move |mut all| {
        let mut seen = BTreeSet::new();
        all.retain(|holding| seen.insert(key(holding)));
        all
    })
}

fn kept() -> impl Strategy<Value = Kept> {
    let some = || btree_set(0_u8..8, 0..4);
    (some(), some(), btree_set(100_u8..104, 0..2), 0_u64..100).prop_map(
        |(roots, in_use, leased, as_of_ms)| Kept {
            roots: digests(&roots),
            in_use: digests(&in_use),
            leased: digests(&leased),
            as_of_ms,
        },
    )
}

proptest! {
    /// Whatever stands on the disk, whatever room there is: what the cluster pins stays, with its
    /// blob, and so does what runs here.
    #[test]
    fn a_pinned_digest_is_never_deleted(
        holdings in holdings(),
        kept in kept(),
        above in 0_u64..200,
    ) {
        let deletions: BTreeSet<_> = decide(&holdings, &kept, above, 200).into_iter().collect();
        for holding in &holdings {
            let Holding::Bundle { digest, blob, used_ms } = holding else { continue };
            let runs = kept.in_use.contains(digest) || *used_ms >= kept.as_of_ms;
            if kept.roots.contains(digest) || runs {
                prop_assert!(!deletions.contains(&Deletion::Bundle(*digest)));
                prop_assert!(!deletions.contains(&Deletion::Blob(*blob)));
            }
            if runs {
                prop_assert!(!deletions.contains(&Deletion::Tree(*blob)));
            }
        }
        for blob in &kept.leased {
            prop_assert!(!deletions.contains(&Deletion::Blob(*blob)));
        }
    }

    /// What nobody needs goes, in the order in which a crash between two of them leaves nothing that
    /// could be started without its bytes.
    #[test]
    fn what_nobody_needs_goes_bundles_first(holdings in holdings()) {
        let kept = Kept { as_of_ms: 1_000, ..Kept::default() };
        let deletions = decide(&holdings, &kept, u64::MAX, 200);
        let is_bundle = |deletion: &Deletion| matches!(deletion, Deletion::Bundle(_));
        let first_other = deletions.iter().position(|d| !is_bundle(d)).unwrap_or(deletions.len());
        prop_assert!(deletions[first_other..].iter().all(|d| !is_bundle(d)));
        let n_kept = holdings.iter().filter(|h| matches!(h, Holding::Partial { .. })).count();
        prop_assert_eq!(deletions.len(), holdings.len() - n_kept);
    }
}

#[test]
fn where_there_is_little_room_the_tree_goes_that_was_used_longest_ago() {
    let bundle = |n: u8| Holding::Bundle {
        digest: digest(n),
        blob: digest(100 + n),
        used_ms: 0,
    };
    let tree = |n: u8, used_ms| Holding::Tree {
        blob: digest(100 + n),
        n_bytes: 10,
        used_ms,
    };
    let holdings = [
        bundle(1),
        bundle(2),
        bundle(3),
        tree(1, 5),
        tree(2, 3),
        tree(3, 1),
    ];
    let kept = Kept {
        roots: digests(&[1, 2, 3].into()),
        in_use: digests(&[3].into()),
        as_of_ms: 50,
        ..Kept::default()
    };
    let gone = |above| decide(&holdings, &kept, above, 100);
    assert_eq!(gone(30), []);
    assert_eq!(gone(25), [Deletion::Tree(digest(102))]);
    // The one in use stays, however little room there is.
    let both = [Deletion::Tree(digest(102)), Deletion::Tree(digest(101))];
    assert_eq!(gone(0), both);
}

#[test]
fn a_blob_that_does_not_come_is_given_up_after_a_day() {
    let partial = |written_ms, is_open| Holding::Partial {
        key: digest(1),
        n_bytes: 5,
        written_ms,
        is_open,
    };
    let now = 2 * PARTIAL_KEEP_MS;
    let gone = |holding| decide(&[holding], &Kept::default(), u64::MAX, now).len();
    assert_eq!(gone(partial(now - PARTIAL_KEEP_MS + 1, false)), 0);
    assert_eq!(gone(partial(now - PARTIAL_KEEP_MS, false)), 1);
    assert_eq!(gone(partial(now - PARTIAL_KEEP_MS, true)), 0);
}
