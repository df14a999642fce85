//! What this node's gateway hears of the instances beside it before any owner has spoken: those that an
//! earlier process of the node has left, and that serve (05-gateway §7.2).
//!
//! Without a quorum nobody else may ever speak. Whatever an owner says is newer.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_gateway::Gateway;
use nihilo_runtime::Agent;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{Epoch, NodeId, ObjectKey, SessionId};
use nihilo_types::instance::{InstanceReport, InstanceSpec};
use tokio::sync::broadcast::error::RecvError;

/// Below that of every owner.
const EPOCH: Epoch = Epoch(0);
/// The node has none yet: no end of a session is the end of these instances.
const SESSION: SessionId = SessionId(0);

/// Where the instances are.
#[derive(Debug, Clone)]
pub(crate) struct Here {
    pub(crate) node: NodeId,
    pub(crate) peer_address: Arc<str>,
}

type Ready = (InstanceReport, Arc<InstanceSpec>);

/// The uid of each revision, by which it is told from another one that had its name.
type Uids = BTreeMap<ObjectKey, Arc<str>>;

/// Tells the gateway, at each change, until the node has a session: owners speak from then on.
pub(crate) async fn tell(gateway: Gateway, agent: Agent, here: Here) {
    let (mut changes, mut accepting) = (agent.subscribe(), agent.accepting());
    let mut told = Uids::new();
    for seq in 1.. {
        for table in tables(agent.ready(), &mut told, seq, &here) {
            gateway.update_endpoints(table);
        }
        // An end first: nothing that is told then is of use.
        tokio::select! {
            biased;
            _ = accepting.wait_for(|accepting| *accepting) => return,
            change = changes.recv() => match change {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// One for each revision that has instances, or had some when it was `told` of.
fn tables(ready: Vec<Ready>, told: &mut Uids, seq: u64, here: &Here) -> Vec<EndpointTable> {
    let mut by_age: Vec<_> = ready.iter().map(|(report, _)| report).collect();
    by_age.sort_by_key(|report| report.epoch);
    for report in by_age {
        told.insert(report.revision.clone(), report.revision_uid.clone());
    }
    let instances = |revision: &ObjectKey, uid: &Arc<str>| {
        let of_it = ready
            .iter()
            .filter(|(report, _)| report.revision == *revision && report.revision_uid == *uid);
        let endpoints = of_it.map(|(report, spec)| Endpoint {
            id: report.id.clone(),
            node: here.node,
            session: SESSION,
            peer_address: here.peer_address.clone(),
            container_concurrency: spec.container_concurrency,
            waking: report.waking,
        });
        endpoints.collect()
    };
    let table = |(revision, uid): (&ObjectKey, &Arc<str>)| EndpointTable {
        revision: revision.clone(),
        revision_uid: uid.clone(),
        epoch: EPOCH,
        seq,
        data_path: DataPath::Proxy,
        instances: instances(revision, uid),
        last_failure: String::new(),
    };
    told.iter().map(table).collect()
}

#[cfg(test)]
mod tests {
    use nihilo_types::id::{InstanceId, ShardId};

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

    #[test]
    fn each_revision_has_its_own_and_what_is_gone_is_said_to_be() {
        let here = Here {
            node: NodeId(3),
            peer_address: "10.0.0.3:7071".into(),
        };
        let mut told = Uids::new();
        assert!(tables(Vec::new(), &mut told, 1, &here).is_empty());
        let first = vec![
            ready("a-1", "a", "u1", 5),
            ready("b-1", "b", "u2", 6),
            ready("a-2", "a", "u1", 7),
        ];
        let tables_of_first = tables(first, &mut told, 2, &here);
        let [a, b] = tables_of_first.as_slice() else {
            panic!("{tables_of_first:?}");
        };
        assert_eq!((ids(a), ids(b)), (vec!["a-1", "a-2"], vec!["b-1"]));
        let endpoint = &a.instances[0];
        assert_eq!((endpoint.node, endpoint.session), (here.node, SESSION));
        assert_eq!((endpoint.container_concurrency, a.seq), (7, 2));
        assert_eq!(endpoint.id, InstanceId::from("a-1"));
        // Every owner's word is newer.
        assert!((a.epoch, u64::MAX) < (Epoch(1), 0));

        // Of one that was made anew under its name, only the newer counts, in whatever order.
        let second = vec![ready("b-2", "b", "u3", 9), ready("b-1", "b", "u2", 6)];
        let tables_of_second = tables(second, &mut told, 3, &here);
        let [a, b] = tables_of_second.as_slice() else {
            panic!("{tables_of_second:?}");
        };
        assert_eq!((ids(a), &*a.revision_uid, a.seq), (vec![], "u1", 3));
        assert_eq!((ids(b), &*b.revision_uid), (vec!["b-2"], "u3"));
    }
}
