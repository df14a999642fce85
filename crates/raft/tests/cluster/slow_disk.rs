//! Nothing that waits for a disk may hold consensus up (02-store §18, row 3).

use std::time::Duration;

use nihilo_host::{Host, Threads};
use nihilo_machine::command::RequestKey;
use nihilo_raft::Ground;

use crate::memory_disk::{MemoryDisk, Stall};
use crate::world::{Cluster, LIMIT, Office, Rules, open};

/// Longer than followers wait for their leader.
const STALL: Duration = Duration::from_secs(1);

/// Three members whose disks take a second for each write, and where these writes run.
async fn slow_disks_hold_nothing_up(threads: Threads) {
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

    let (office, (n_ticks, _)) = (Office::of(leader), leader.tick_lateness_since(0));
    stall.set(STALL);
    let mut written = Vec::new();
    for boot in 1..=3 {
        let one = leader.propose(open(7, boot), RequestKey::default(), LIMIT);
        written.push(one.await);
    }
    let (_, late) = leader.tick_lateness_since(n_ticks);
    stall.set(Duration::ZERO);
    let latest = late.into_iter().max().unwrap();
    let now = Office::of(leader);
    assert!(
        now == office && latest < STALL / 2,
        "consensus was held up: {office:?}, then {now:?}; a tick was {latest:?} late"
    );
    for reply in written {
        reply.unwrap().result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_disk_elects_nobody() {
    slow_disks_hold_nothing_up(Threads::Own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[should_panic(expected = "consensus was held up")]
async fn planted_a_disk_that_consensus_waits_for_is_found() {
    slow_disks_hold_nothing_up(Threads::Callers).await;
}
