//! The simulated world as a test: a few seeds here, two thousand by `cargo xtask sim`.

use std::process::Command;

use nihilo_sim::world::{Detail, Plant, run};

/// What fits into a debug build's patience.
const N_SEEDS: u64 = 12;

#[test]
fn a_few_seeds_break_nothing() {
    for seed in 0..N_SEEDS {
        let outcome = run(seed, None, Detail::Hash);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(
            outcome.totals.n_requests_ok > 0,
            "seed {seed} served nothing"
        );
    }
}

/// Three seeds, each in two processes: nothing but the seed may decide what happens.
#[test]
fn a_seed_is_a_run() {
    let told = |seed: u64| {
        let output = Command::new(env!("CARGO_BIN_EXE_nihilo-sim"))
            .args(["run", "--seed", &seed.to_string()])
            .output()
            .expect("the binary of this package starts");
        String::from_utf8(output.stdout).expect("it prints text")
    };
    let mut hashes = Vec::new();
    for seed in [3, 5, 8] {
        let (first, second) = (told(seed), told(seed));
        assert!(first.contains("hash"), "{first}");
        assert_eq!(first, second);
        hashes.push(first);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 3, "different seeds are different runs");
}

/// Runs seeds with the bug planted until an invariant breaks.
fn is_found(plant: Plant, within: u64) {
    let found = (0..within).find_map(|seed| run(seed, Some(plant), Detail::Hash).violation);
    assert!(
        found.is_some(),
        "`{plant}` is not found within {within} seeds"
    );
}

macro_rules! planted {
    ($($name:ident: $plant:ident within $seeds:literal,)*) => {
        mod planted {
            use super::*;
            $(#[test] fn $name() { is_found(Plant::$plant, $seeds); })*

            #[test]
            fn every_planted_bug_has_its_test() {
                let tested = [$(Plant::$plant,)*];
                let known = |plant: &&Plant| !tested.contains(plant);
                let missing: Vec<_> = Plant::ALL.iter().filter(known).collect();
                assert!(missing.is_empty(), "{missing:?}");
            }
        }
    };
}

planted! {
    epoch_ignored: EpochIgnored within 40,
    seq_ignored: SeqIgnored within 40,
    floor_forgotten: FloorForgotten within 60,
    adoption_forgets: AdoptionForgets within 10,
    keeper_does_not_wait: KeeperDoesNotWait within 20,
    reload_forgets_starts: ReloadForgetsStarts within 20,
    reload_resets_counter: ReloadResetsCounter within 10,
    second_session: SecondSession within 60,
    no_list_on_join: NoListOnJoin within 20,
    reopen_after_sigterm: ReopenAfterSigterm within 60,
    drain_cuts_requests: DrainCutsRequests within 10,
    stale_endpoints: StaleEndpoints within 20,
    post_retried: PostRetried within 20,
    ready_too_early: ReadyTooEarly within 20,
    entry_skipped: EntrySkipped within 3,
    streams_hang: StreamsHang within 40,
    waiter_lost: WaiterLost within 10,
    place_leaks: PlaceLeaks within 5,
    demand_once: DemandOnce within 20,
    row_after_start: RowAfterStart within 10,
    fence_ignored: FenceIgnored within 40,
    opens_behind: OpensBehind within 120,
    leaves_first: LeavesFirst within 20,
    snapshot_short: SnapshotShort within 60,
    index_behind: IndexBehind within 10,
    apply_reads_clock: ApplyReadsClock within 3,
    wrong_waiter: WrongWaiter within 10,
    resize_drops: ResizeDrops within 10,
    limit_ignored: LimitIgnored within 10,
    reservation_leaks: ReservationLeaks within 10,
}
