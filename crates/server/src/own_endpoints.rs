//! What this node's gateway hears of the instances beside it while no owner speaks: those that an earlier
//! process of the node has left, and that serve (05-gateway §7.2).
//!
//! Without a quorum nobody else may ever speak. Whatever an owner says is newer.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_runtime::Agent;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{Epoch, NodeId, ObjectKey, SessionId};
use nihilo_types::instance::{InstanceReport, InstanceSpec};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;

/// Below that of every owner.
const EPOCH: Epoch = Epoch(0);
/// No session is meant: no end of one is the end of these instances.
const SESSION: SessionId = SessionId(0);

/// Where the instances are.
#[derive(Debug, Clone)]
pub(crate) struct Here {
    pub(crate) node: NodeId,
    pub(crate) peer_address: Arc<str>,
}

type Ready = (InstanceReport, Arc<InstanceSpec>);

/// What was told last of each revision that has instances.
type Told = BTreeMap<ObjectKey, EndpointTable>;

/// Tells the gateway, at each change, whenever the node has no session: otherwise owners speak. Where
/// one has spoken of a revision before, that holds, as it is newer.
pub(crate) async fn tell(mut say: impl FnMut(EndpointTable), agent: Agent, here: Here) {
    let mut accepting = agent.accepting();
    let (mut told, mut seq) = (Told::new(), 0);
    while accepting.wait_for(|accepting| !*accepting).await.is_ok() {
        let mut changes = agent.subscribe();
        loop {
            seq += 1;
            news(&agent.ready(), &mut told, seq, &here)
                .into_iter()
                .for_each(&mut say);
            if !changed(&mut changes, &mut accepting).await {
                break;
            }
        }
    }
}

/// Waits for a change, and takes all that have come; `false` = the node has a session.
async fn changed(
    changes: &mut Receiver<InstanceReport>,
    accepting: &mut watch::Receiver<bool>,
) -> bool {
    // A session first: nothing that is told then is of use.
    let change = tokio::select! {
        biased;
        _ = accepting.wait_for(|accepting| *accepting) => return false,
        change = changes.recv() => change,
    };
    while let Ok(_) | Err(TryRecvError::Lagged(_)) = changes.try_recv() {}
    // Closed it is never while the agent is held.
    !matches!(change, Err(RecvError::Closed))
}

/// The tables of those revisions that have other instances than was `told`.
fn news(ready: &[Ready], told: &mut Told, seq: u64, here: &Here) -> Vec<EndpointTable> {
    let now = tables(ready, seq, here);
    let gone = told
        .iter()
        .filter(|(revision, _)| !now.contains_key(*revision));
    let empty = |(_, table): (_, &EndpointTable)| EndpointTable {
        seq,
        instances: Vec::new(),
        ..table.clone()
    };
    let is_told = |table: &EndpointTable| {
        told.get(&table.revision).is_some_and(|before| {
            before.revision_uid == table.revision_uid && before.instances == table.instances
        })
    };
    let others = now.values().filter(|table| !is_told(table)).cloned();
    let news = gone.map(empty).chain(others).collect();
    *told = now;
    news
}

/// One for each revision that has instances: of two that had its name, the newer.
fn tables(ready: &[Ready], seq: u64, here: &Here) -> Told {
    let mut by_age: Vec<_> = ready.iter().collect();
    by_age.sort_by_key(|(report, _)| report.epoch);
    let mut tables = Told::new();
    for (report, spec) in by_age {
        let new = || EndpointTable {
            revision: report.revision.clone(),
            revision_uid: report.revision_uid.clone(),
            epoch: EPOCH,
            seq,
            data_path: DataPath::Proxy,
            instances: Vec::new(),
            last_failure: String::new(),
        };
        let table = tables.entry(report.revision.clone()).or_insert_with(new);
        if table.revision_uid != report.revision_uid {
            *table = new();
        }
        table.instances.push(Endpoint {
            id: report.id.clone(),
            node: here.node,
            session: SESSION,
            peer_address: here.peer_address.clone(),
            container_concurrency: spec.container_concurrency,
            waking: report.waking,
        });
    }
    tables
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::pin::Pin;

    use nihilo_gateway::LocalInstances;
    use nihilo_host::Host;
    use nihilo_runtime::config::{ConfigSource, Content};
    use nihilo_runtime::{AgentConfig, DriverConfig, FakeConfig};
    use nihilo_types::id::{InstanceId, LogIndex, ShardId};
    use nihilo_types::instance::InstanceState;
    use nihilo_types::instance_config::Holder;
    use tokio::sync::mpsc;

    use crate::ports::AdmissionPort;

    use super::*;

    fn ready(id: &str, revision: &str, uid: &str, epoch: u64) -> Ready {
        let spec: InstanceSpec = serde_json::from_value(serde_json::json!({
            "id": id,
            "revision": {"namespace": "default", "name": revision},
            "revision_uid": uid,
            "service": "s", "configuration": "s", "image": "demo/hello",
            "command": [], "args": [], "env": [], "working_dir": "", "h2c": false,
            "container_concurrency": 7,
            "boot_deadline_ms": 1, "drain_deadline_ms": 1, "termination_grace_ms": 1,
        }))
        .unwrap();
        (spec.accepted(ShardId(1), Epoch(epoch)), Arc::new(spec))
    }

    fn ids(table: &EndpointTable) -> Vec<&str> {
        let instances = table.instances.iter();
        instances.map(|endpoint| endpoint.id.as_str()).collect()
    }

    fn here() -> Here {
        Here {
            node: NodeId(3),
            peer_address: "10.0.0.3:7071".into(),
        }
    }

    #[test]
    fn each_revision_has_its_own_and_what_is_gone_is_said_to_be() {
        let here = here();
        let mut told = Told::new();
        assert!(news(&[], &mut told, 1, &here).is_empty());
        let first = [
            ready("a-1", "a", "u1", 5),
            ready("b-1", "b", "u2", 6),
            ready("a-2", "a", "u1", 7),
        ];
        let of_first = news(&first, &mut told, 2, &here);
        let [a, b] = of_first.as_slice() else {
            panic!("{of_first:?}");
        };
        assert_eq!((ids(a), ids(b)), (vec!["a-1", "a-2"], vec!["b-1"]));
        let endpoint = &a.instances[0];
        assert_eq!((endpoint.node, endpoint.session), (here.node, SESSION));
        assert_eq!((endpoint.container_concurrency, a.seq), (7, 2));
        assert_eq!(endpoint.id, InstanceId::from("a-1"));
        // Every owner's word is newer.
        assert!((a.epoch, u64::MAX) < (Epoch(1), 0));

        // Of one that was made anew under its name, only the newer counts, in whatever order.
        let second = [ready("b-2", "b", "u3", 9), ready("b-1", "b", "u2", 6)];
        let of_second = news(&second, &mut told, 3, &here);
        let [a, b] = of_second.as_slice() else {
            panic!("{of_second:?}");
        };
        assert_eq!((ids(a), &*a.revision_uid, a.seq), (vec![], "u1", 3));
        assert_eq!((ids(b), &*b.revision_uid), (vec!["b-2"], "u3"));
    }

    #[test]
    fn nothing_is_told_twice() {
        let here = here();
        let mut told = Told::new();
        let (a, b) = (ready("a-1", "a", "u1", 5), ready("b-1", "b", "u2", 6));
        let both = [a.clone(), b];
        assert_eq!(news(&both, &mut told, 1, &here).len(), 2);
        assert_eq!(news(&both, &mut told, 2, &here), []);
        // Nothing is said of the other one, and of one that is gone once.
        let of_third = news(&[a], &mut told, 3, &here);
        assert_eq!(of_third.len(), 1, "{of_third:?}");
        assert_eq!((ids(&of_third[0]), of_third[0].seq), (vec![], 3));
        assert_eq!(news(&[], &mut told, 4, &here).len(), 1);
        assert_eq!((news(&[], &mut told, 5, &here).len(), told.len()), (0, 0));
    }

    struct NoObjects;

    impl ConfigSource for NoObjects {
        fn reached(&self, _: LogIndex) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
            Box::pin(std::future::ready(true))
        }

        fn version(&self, _: Holder, _: &ObjectKey) -> Option<LogIndex> {
            None
        }

        fn find(&self, _: Holder, _: &ObjectKey) -> Result<Option<Content>, String> {
            Ok(None)
        }
    }

    fn agent(dir: &Path) -> Agent {
        let config = AgentConfig {
            node_name: "node1".into(),
            executable: std::env::current_exe().unwrap(),
            dir: dir.into(),
            capacity: 1,
            driver: DriverConfig::Fake(FakeConfig::default()),
            host: Host::default(),
            bundles: None,
            orders: None,
        };
        let admission = Arc::new(AdmissionPort(LocalInstances::default()));
        Agent::new(config, admission, Arc::new(NoObjects)).unwrap()
    }

    async fn reached(changes: &mut Receiver<InstanceReport>, state: InstanceState) {
        while changes.recv().await.unwrap().state != state {}
    }

    #[tokio::test]
    async fn what_became_ready_or_ended_in_a_session_is_told_once_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let agent = agent(dir.path());
        let (heard, mut hears) = mpsc::channel(8);
        let say = move |table| heard.try_send(table).unwrap();
        let telling = tokio::spawn(tell(say, agent.clone(), here()));
        let mut changes = agent.subscribe();
        let (report, spec) = ready("a-1", "a", "u1", 5);

        agent.set_accepting(true);
        let spec = InstanceSpec {
            boot_deadline_ms: 10_000,
            ..(*spec).clone()
        };
        let started = agent.start(report.shard, report.epoch, 1, spec);
        started.unwrap();
        reached(&mut changes, InstanceState::Ready).await;
        assert!(hears.try_recv().is_err());
        agent.set_accepting(false);
        assert_eq!(ids(&hears.recv().await.unwrap()), ["a-1"]);

        agent.set_accepting(true);
        let stopped = agent.stop(report.shard, report.epoch, 2, &report.id, "test");
        stopped.unwrap();
        reached(&mut changes, InstanceState::Destroyed).await;
        assert!(hears.try_recv().is_err());
        agent.set_accepting(false);
        let gone = hears.recv().await.unwrap();
        assert_eq!((ids(&gone), gone.seq > 1), (vec![], true));
        telling.abort();
    }
}
