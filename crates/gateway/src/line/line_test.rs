//! The line's promises, with an owner that only listens.

use std::collections::BTreeSet;

use nihilo_types::autoscaler::DataPath;
use nihilo_types::id::{Epoch, NodeId, ObjectKey, ShardId};

use nihilo_types::id::InstanceId;

use super::*;
use crate::testkit::target;

#[derive(Default)]
struct Owner(Mutex<Vec<DemandSignal>>);

impl ScaleUp for Owner {
    fn demand(&self, signal: DemandSignal) {
        self.0.lock().push(signal);
    }
}

fn line() -> (Arc<Line>, Arc<Owner>) {
    let owner = Arc::new(Owner::default());
    let target = RevisionTarget {
        container_concurrency: 1,
        ..target("r")
    };
    let around = Surroundings {
        home: NodeId(1),
        scale_up: owner.clone(),
        held: HeldBytes::default(),
        out_of_reach: OutOfReach::default(),
        metrics: Metrics::default(),
    };
    (Arc::new(Line::new(Arc::new(target), around)), owner)
}

const WAKING: Waking = Waking {
    spawned_us: 1_000,
    ready_us: 2_000,
};

fn table(seq: u64, ids: &[&str]) -> EndpointTable {
    let endpoint = |id: &&str| Endpoint {
        id: InstanceId::from(*id),
        node: NodeId(1),
        session: SessionId(9),
        peer_address: "127.0.0.1:1".into(),
        container_concurrency: 1,
        waking: WAKING,
    };
    EndpointTable {
        revision: ObjectKey::new("default", "r"),
        revision_uid: "u".into(),
        epoch: Epoch(1),
        seq,
        data_path: DataPath::Proxy,
        instances: ids.iter().map(endpoint).collect(),
        last_failure: "it broke".into(),
    }
}

fn wish(limit: Duration) -> Wish {
    let arrived = Instant::now();
    Wish {
        arrived,
        deadline: arrived + limit,
        source: 0,
        n_bytes: 100,
        is_back: false,
        is_probe: false,
    }
}

fn soon() -> Wish {
    wish(Duration::from_secs(20))
}

async fn queued(line: &Arc<Line>, n: usize) {
    let reached = async {
        while line.inner.lock().waiters.len() != n {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .unwrap();
}

#[tokio::test]
async fn waiting_raises_demand_on_edges_and_a_place_wakes_exactly_one() {
    let (line, owner) = line();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let line = line.clone();
            tokio::spawn(async move { line.take(&soon()).await })
        })
        .collect();
    queued(&line, 4).await;
    let edges: Vec<_> = owner
        .0
        .lock()
        .iter()
        .map(|signal| signal.n_waiting)
        .collect();
    assert_eq!(edges, [1, 2, 4]);
    line.update(table(1, &["a"]));
    queued(&line, 3).await;
    for task in waiting {
        // Each one ends, frees its place, and so wakes the next.
        let taken = task.await.unwrap().unwrap();
        assert!(taken.is_cold);
        assert_eq!(taken.endpoint.waking, WAKING);
    }
}

#[tokio::test]
async fn an_emptied_line_raises_demand_with_its_next_first_waiter() {
    let (line, owner) = line();
    for round in 1..=3 {
        let waiting = tokio::spawn({
            let line = line.clone();
            async move { line.take(&soon()).await }
        });
        queued(&line, 1).await;
        assert_eq!(owner.0.lock().len(), round, "raised at once each time");
        line.update(table(2 * round as u64, &["a"]));
        drop(waiting.await.unwrap().unwrap());
        line.update(table(2 * round as u64 + 1, &[]));
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_wake_up_to_the_next() {
    let (line, _) = line();
    line.update(table(1, &["a"]));
    let held = line.take(&soon()).await.unwrap();
    let gone = tokio::spawn({
        let line = line.clone();
        async move { line.take(&soon()).await }
    });
    queued(&line, 1).await;
    let stays = tokio::spawn({
        let line = line.clone();
        async move { line.take(&soon()).await.map(|_| ()) }
    });
    queued(&line, 2).await;
    gone.abort();
    queued(&line, 1).await;
    drop(held);
    stays.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_deadline_ends_the_wait_with_the_last_failure() {
    let (line, _) = line();
    line.update(table(1, &[]));
    let error = line
        .take(&wish(Duration::from_millis(20)))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        LineError::Deadline {
            last_failure: "it broke".into()
        }
    );
}

#[tokio::test]
async fn an_older_table_is_ignored_and_a_lost_node_takes_its_places() {
    let (line, _) = line();
    line.update(table(2, &["a"]));
    line.update(table(1, &[]));
    drop(line.take(&soon()).await.unwrap());
    line.session_down(SessionId(9));
    assert!(line.take(&wish(Duration::ZERO)).await.is_err());
}

#[tokio::test]
async fn a_drain_that_was_called_off_unseen_does_not_strand_the_line() {
    let (line, owner) = line();
    line.update(table(1, &["a"]));
    let endpoint = line.take(&soon()).await.unwrap().endpoint.clone();
    // The refusal came late: the owner has called the drain off, and has nothing new to say.
    line.avoid(&endpoint, Trouble::Gone);
    let started = Instant::now();
    let taken = line.take(&soon()).await.unwrap();
    assert_eq!(taken.endpoint.id, endpoint.id);
    assert!(taken.is_cold && started.elapsed() >= Duration::from_millis(125));
    // It was there all the time: nothing was woken.
    assert_eq!(taken.endpoint.waking, Waking::default());
    assert_eq!(owner.0.lock().len(), 1, "demand goes up meanwhile");
}

#[tokio::test]
async fn traffic_is_reported_and_then_once_more_as_zero() {
    let (line, _) = line();
    assert!(
        line.report().is_none(),
        "not even zero, before there was any"
    );
    let counted = line.count();
    assert!(
        line.report()
            .is_some_and(|stat| stat.n_started == 1 && stat.in_flight == 1)
    );
    drop(counted);
    while line.report().is_some_and(|stat| stat.area_us > 0) {}
    assert!(line.report().is_none());
}

#[tokio::test]
async fn an_arrival_does_not_pass_those_who_wait() {
    let (line, _) = line();
    line.update(table(1, &["a"]));
    let held = line.take(&soon()).await.unwrap();
    let first = tokio::spawn({
        let line = line.clone();
        async move { line.take(&soon()).await }
    });
    queued(&line, 1).await;
    drop(held);
    // The place is the waiter's before it even wakes.
    let late = line.take(&wish(Duration::from_millis(20))).await;
    assert!(matches!(late, Err(LineError::Deadline { .. })), "{late:?}");
    drop(first.await.unwrap().unwrap());
    assert!(line.take(&soon()).await.is_ok());
}

#[tokio::test]
async fn a_full_line_refuses_at_once_and_who_was_in_it_comes_back() {
    let (line, _) = line();
    {
        let mut target = line.target.lock();
        let small = RevisionTarget {
            queue_depth: 2,
            ..(**target).clone()
        };
        *target = Arc::new(small);
    }
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let line = line.clone();
            tokio::spawn(async move { line.take(&soon()).await.map(|_| ()) })
        })
        .collect();
    queued(&line, 2).await;
    let refused = line.take(&soon()).await;
    assert!(
        matches!(refused, Err(LineError::Full { retry_after: 1 })),
        "{refused:?}"
    );
    let back = Wish {
        is_back: true,
        ..wish(Duration::from_millis(5))
    };
    let waited = line.take(&back).await;
    assert!(
        matches!(waited, Err(LineError::Deadline { .. })),
        "{waited:?}"
    );
    line.update(table(1, &["a"]));
    for task in waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_meet_its_deadline_is_refused_on_joining() {
    let (line, _) = line();
    line.update(table(1, &["a"]));
    for _ in 0..20 {
        let now = Instant::now();
        line.inner.lock().service.add(now, Duration::from_secs(2));
    }
    let held = line.take(&soon()).await.unwrap();
    let refused = line.take(&wish(Duration::from_secs(1))).await;
    assert!(
        matches!(refused, Err(LineError::Overloaded { .. })),
        "{refused:?}"
    );
    drop(held);
}

#[tokio::test]
async fn sources_take_turns() {
    let (line, _) = line();
    line.update(table(1, &["a"]));
    let held = line.take(&soon()).await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (n, source) in [1, 1, 1, 1, 2].into_iter().enumerate() {
        let (line, served) = (line.clone(), served.clone());
        tasks.push(tokio::spawn(async move {
            let taken = line.take(&Wish { source, ..soon() }).await.unwrap();
            served.lock().push(source);
            drop(taken);
        }));
        queued(&self::line_of(&held), n + 1).await;
    }
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    let served = served.lock();
    assert!(served[..2].contains(&2), "{served:?}");
}

fn line_of(taken: &Taken) -> Arc<Line> {
    taken.line.clone()
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_owner_out_of_reach_is_refused_and_so_is_who_comes_until_it_is_back() {
    let (line, owner) = line();
    let n_asked = || owner.0.lock().len();
    let waiting = tokio::spawn({
        let line = line.clone();
        async move { line.take(&soon()).await.map(|_| ()) }
    });
    queued(&line, 1).await;
    line.around.out_of_reach.set([ShardId(1)].into());
    line.refuse_out_of_reach();
    assert_eq!(line.inner.lock().waiters.len(), 1, "another shard's owner");
    line.around.out_of_reach.set([ShardId(0)].into());
    line.refuse_out_of_reach();
    let refused = waiting.await.unwrap();
    let told = |refused: &Result<(), LineError>| match refused {
        Err(LineError::OutOfReach { retry_after }) => (4..=6).contains(retry_after),
        Ok(()) | Err(_) => false,
    };
    assert!(told(&refused), "{refused:?}");
    // At once, and the owner is asked a few times a second, not by each.
    let asked_before = n_asked();
    for _ in 0..100 {
        let refused = line.take(&soon()).await.map(|_| ());
        assert!(told(&refused), "{refused:?}");
    }
    assert_eq!(n_asked(), asked_before + 1);
    tokio::time::advance(Duration::from_millis(250)).await;
    drop(line.take(&soon()).await);
    assert_eq!(n_asked(), asked_before + 2);
    // What still runs is served, and one that has to wait for it waits.
    line.update(table(1, &["a"]));
    let held = line.take(&soon()).await.unwrap();
    let behind = tokio::spawn({
        let line = line.clone();
        async move { line.take(&soon()).await.map(|_| ()) }
    });
    queued(&line, 1).await;
    line.refuse_out_of_reach();
    drop(held);
    behind.await.unwrap().unwrap();
    // Back in reach, requests are held again.
    line.update(table(2, &[]));
    line.around.out_of_reach.set(BTreeSet::new());
    let waited = line.take(&wish(Duration::from_millis(5))).await;
    assert!(
        matches!(waited, Err(LineError::Deadline { .. })),
        "{waited:?}"
    );
}

#[tokio::test]
async fn a_probe_wakes_nothing_and_is_served_like_any_where_something_runs() {
    let (line, owner) = line();
    let probe = Wish {
        is_probe: true,
        ..soon()
    };
    assert_eq!(line.take(&probe).await.unwrap_err(), LineError::Asleep);
    assert!(owner.0.lock().is_empty());
    line.update(EndpointTable {
        last_failure: String::new(),
        ..table(1, &["a"])
    });
    let held = line.take(&probe).await.unwrap();
    // All places taken: it waits for one, without a word to the owner.
    let waiting = tokio::spawn({
        let line = line.clone();
        async move { line.take(&probe).await }
    });
    queued(&line, 1).await;
    drop(held);
    drop(waiting.await.unwrap().unwrap());
    assert!(owner.0.lock().is_empty());
    // Gone again, after a start that failed: the truth.
    line.update(table(2, &[]));
    assert_eq!(line.take(&probe).await.unwrap_err(), LineError::Broken);
    assert!(owner.0.lock().is_empty());
    // Nothing of all this is in what is reported.
    assert!(line.report().is_none());
}
