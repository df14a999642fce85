//! Nothing that waits for a disk may hold consensus up (02-store §18, row 3).

use std::time::Duration;

use nihilo_host::{Host, Threads};
use nihilo_machine::command::RequestKey;
use nihilo_raft::Ground;

use crate::memory_disk::{MemoryDisk, Stall};
use crate::world::{Cluster, LIMIT, Rules, open};

const STALL: Duration = Duration::from_secs(1);

/// Three members whose disks take a second for each write, and where these writes run.
async fn slow_disks_make_no_tick_late(threads: Threads) {
    let stall = Stall::default();
    let rules = Rules {
        ground: Box::new({
            let stall = stall.clone();
            move || Ground {
                host: Host {
                    threads,
                    ..Host::default()
                },
                disk: Some(Box::new(MemoryDisk::new(&stall))),
            }
        }),
        ..Rules::default()
    };
    let cluster = Cluster::start_by(rules, &[1, 2, 3]).await;
    let leader = &cluster.members[&cluster.leader(None).await].node;
    let first = leader.propose(open(7, 0), RequestKey::default(), LIMIT);
    first.await.unwrap();

    let (n_ticks, _) = leader.tick_lateness_since(0);
    stall.set(STALL);
    for boot in 1..=3 {
        // Whether it is answered in time is the disks' matter.
        drop(
            leader
                .propose(open(7, boot), RequestKey::default(), STALL * 2)
                .await,
        );
    }
    let (_, late) = leader.tick_lateness_since(n_ticks);
    stall.set(Duration::ZERO);
    let latest = late.into_iter().max().unwrap();
    assert!(
        latest < STALL / 2,
        "consensus was held up: a tick was {latest:?} late"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_disk_makes_no_tick_late() {
    slow_disks_make_no_tick_late(Threads::Own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[should_panic(expected = "consensus was held up")]
async fn planted_a_disk_that_consensus_waits_for_is_found() {
    slow_disks_make_no_tick_late(Threads::Callers).await;
}
