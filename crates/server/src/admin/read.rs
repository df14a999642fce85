//! Objects as the API shows them: JSON of the stored object, a revision with its scale.

use std::time::Duration;

use nihilo_machine::State;
use nihilo_raft::{RaftNode, StateHandle};
use nihilo_types::id::{Kind, LogIndex, ObjectKey};
use nihilo_types::meta::{ObjectMeta, keys};
use nihilo_types::revision::Revision;
use nihilo_wire::serving as pb;
use serde::Serialize;
use tonic::{Request, Response, Status};

use super::{error, names};

/// Bound of a linearizable read.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Waits until this node's state is as new as the request's consistency asks: linearizable unless
/// the metadata `x-nihilo-read` says `local`.
pub async fn ready<T>(
    raft: &RaftNode,
    request: &Request<T>,
    by_default: Level,
) -> Result<(), Status> {
    // What it has applied is not known to be true any more, and never gets newer.
    if raft.failure().borrow().is_some() {
        let text = "the store of this node has failed; ask another node";
        return Err(error::unavailable("STORE_FAILED", text));
    }
    let level = match request
        .metadata()
        .get("x-nihilo-read")
        .map(|value| value.as_bytes())
    {
        None => by_default,
        Some(b"linearizable") => Level::Linearizable,
        Some(b"local") => Level::Local,
        Some(_) => {
            let text = "x-nihilo-read must be `linearizable` or `local`";
            return Err(error::invalid("MALFORMED", text));
        }
    };
    if level == Level::Linearizable {
        raft.read_index(READ_LIMIT)
            .await
            .map_err(|error| error::unavailable("NO_QUORUM", error.to_string()))?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Linearizable,
    Local,
}

/// Answers with one object of a kind, by its name; linearizable unless asked otherwise.
pub async fn answer_get(
    raft: &RaftNode,
    request: Request<pb::GetRequest>,
    kind: Kind,
    plural: &str,
) -> Result<Response<pb::Object>, Status> {
    ready(raft, &request, Level::Linearizable).await?;
    let key = names::parse(&request.into_inner().name, plural)?;
    let object = get(&raft.state(), kind, &key);
    let singular = plural.trim_end_matches('s');
    object
        .map(Response::new)
        .ok_or_else(|| error::not_found(singular, &key.name))
}

/// Answers with the objects of a kind; from this node's state unless asked otherwise.
pub async fn answer_list(
    raft: &RaftNode,
    request: Request<pb::ListRequest>,
    kind: Kind,
) -> Result<Response<pb::ListResponse>, Status> {
    ready(raft, &request, Level::Local).await?;
    let request = request.into_inner();
    // Before the list: a watch from here misses nothing.
    let resource_version = applied(raft).0;
    let namespace = names::parse_parent(&request.parent)?;
    let items = list(&raft.state(), kind, namespace, &request.service);
    Ok(Response::new(pb::ListResponse {
        items,
        resource_version,
    }))
}

/// Returns one object, or `None`.
fn get(state: &StateHandle, kind: Kind, key: &ObjectKey) -> Option<pb::Object> {
    state.read(|state| match kind {
        Kind::Service => state
            .service(key)
            .map(|object| shown(object.as_ref(), &object.metadata)),
        Kind::Configuration => state
            .configuration(key)
            .map(|object| shown(object.as_ref(), &object.metadata)),
        Kind::Revision => state.revision(key).map(|object| revision(state, &object)),
        Kind::Route => state
            .route(key)
            .map(|object| shown(object.as_ref(), &object.metadata)),
        Kind::ConfigMap => state
            .config_map(key)
            .map(|object| shown(object.as_ref(), &object.metadata)),
        Kind::DomainMapping => state
            .domain_mapping(key)
            .map(|object| shown(object.as_ref(), &object.metadata)),
        Kind::Secret => state
            .secret(key)
            .map(|object| shown(&object.outline(), &object.metadata)),
        Kind::ClusterDomainClaim => state
            .domain_claim(&key.name)
            .map(|object| shown(object.as_ref(), &object.metadata)),
    })
}

/// Returns the objects of a kind, by key; `service` keeps only what belongs to it.
fn list(
    state: &StateHandle,
    kind: Kind,
    namespace: Option<&str>,
    service: &str,
) -> Vec<pb::Object> {
    if service.is_empty() {
        // A copy, which shares the objects: opening very many would hold up what is applied.
        return list_of(&state.capture().1, kind, namespace, service);
    }
    state.read(|state| list_of(state, kind, namespace, service))
}

fn list_of(state: &State, kind: Kind, namespace: Option<&str>, service: &str) -> Vec<pb::Object> {
    let wanted = |meta: &ObjectMeta| {
        let belongs =
            service.is_empty() || meta.label(keys::SERVICE).unwrap_or(&meta.name) == service;
        belongs && namespace.is_none_or(|namespace| meta.namespace == namespace)
    };
    let is_near = |key: &ObjectKey| namespace.is_none_or(|namespace| *key.namespace == *namespace);
    // A Service and what is made of it have one name, but for its revisions.
    let is_wanted = |key: &ObjectKey| is_near(key) && (service.is_empty() || *key.name == *service);
    match kind {
        Kind::Service => state
            .services_of_keys(is_wanted)
            .filter(|object| wanted(&object.metadata))
            .map(|object| shown(object.as_ref(), &object.metadata))
            .collect(),
        Kind::Configuration => state
            .configurations_of_keys(is_wanted)
            .filter(|object| wanted(&object.metadata))
            .map(|object| shown(object.as_ref(), &object.metadata))
            .collect(),
        Kind::Revision if !service.is_empty() => (state.service_keys())
            .filter(|key| is_wanted(key))
            .flat_map(|key| state.revisions_of(key))
            .map(|object| revision(state, &object))
            .collect(),
        Kind::Revision => state
            .revisions_of_keys(is_near)
            .map(|object| revision(state, &object))
            .collect(),
        Kind::ConfigMap => state
            .config_maps()
            .filter(|object| wanted(&object.metadata))
            .map(|object| shown(object.as_ref(), &object.metadata))
            .collect(),
        Kind::Secret => state
            .secrets()
            .filter(|object| wanted(&object.metadata))
            .map(|object| shown(&object.outline(), &object.metadata))
            .collect(),
        Kind::DomainMapping => state
            .domain_mappings()
            .filter(|object| {
                let belongs = service.is_empty() || object.spec.reference.name == service;
                belongs && is_near(&object.metadata.key())
            })
            .map(|object| shown(object.as_ref(), &object.metadata))
            .collect(),
        Kind::ClusterDomainClaim => state
            .domain_claims()
            .map(|object| shown(object.as_ref(), &object.metadata))
            .collect(),
        Kind::Route => state
            .routes_of_keys(is_wanted)
            .filter(|object| wanted(&object.metadata))
            .map(|object| shown(object.as_ref(), &object.metadata))
            .collect(),
    }
}

/// An object as JSON with its etag.
pub fn shown<T: Serialize>(object: &T, meta: &ObjectMeta) -> pb::Object {
    let json = serde_json::to_vec(object)
        .expect("objects hold only string-keyed maps")
        .into();
    pb::Object {
        json,
        etag: format!("\"{}\"", meta.resource_version),
    }
}

/// A revision with the replicas its autoscaler last recorded.
pub fn revision(state: &State, revision: &Revision) -> pb::Object {
    let scale = state.scale(&revision.metadata.key());
    let mut shown_revision = revision.clone();
    shown_revision.status.actual_replicas = Some(scale.ready);
    shown_revision.status.desired_replicas = u32::try_from(scale.desired).ok();
    shown(&shown_revision, &revision.metadata)
}

/// The newest index applied here.
pub fn applied(raft: &RaftNode) -> LogIndex {
    *raft.applied().borrow()
}
