//! What can be proposed. One variant, one file under `apply/`.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_types::autoscaler::ScaleRecord;
use nihilo_types::bundle::{BundleVersion, Digest, Manifest};
use nihilo_types::condition::Assertion;
use nihilo_types::config_map::ConfigMap;
use nihilo_types::domain::{ClusterDomainClaim, DomainMapping};
use nihilo_types::id::{Epoch, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::rollout::Rollout;
use nihilo_types::route::TrafficTarget;
use nihilo_types::secret::SealedSecret;
use nihilo_types::service::Service;
use serde::{Deserialize, Serialize};

use crate::member::Duty;

/// One log entry's content, around its [`Command`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of the rules this entry was written for; `apply` is gated by it, never by the
    /// binary.
    pub cluster_version: u32,
    /// LogTime in milliseconds, stamped by the leader; `apply` keeps the maximum.
    pub log_ms: u64,
    /// Wall clock in milliseconds since the epoch, for display only.
    pub wall_ms: u64,
    pub request: RequestKey,
    pub command: Command,
}

/// By which a repeated write is known to be the same one (02-store §12).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// The client's idempotency key; empty = none.
    pub id: String,
    /// Hash of what the client asked, in its own words: not of the command, which holds what the
    /// server draws or reads anew for every attempt.
    pub hash: u64,
}

impl RequestKey {
    /// `asked` is the client's request as it stands on the wire, `method` what it was sent to.
    pub fn new(id: &str, method: &str, asked: &[u8]) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(method.as_bytes());
        hasher.update(&[0]);
        hasher.update(asked);
        Self {
            id: id.to_owned(),
            hash: hasher.digest(),
        }
    }
}

/// The newest cluster version whose rules this build knows. What it writes is written for the
/// version in the state, until `SetClusterVersion` has raised that one.
pub const CLUSTER_VERSION: u32 = 2;
/// The version of a cluster that has never raised it.
pub const FIRST_CLUSTER_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    InitCluster(InitCluster),
    PutService(Box<PutService>),
    DeleteService(DeleteService),
    RecordService(RecordService),
    RecordRevision(RecordRevision),
    AssignTraffic(AssignTraffic),
    RecordRoute(RecordRoute),
    RecordScale(RecordScale),
    OpenSession(OpenSession),
    CloseSession(CloseSession),
    NodeDown(NodeDown),
    Reassign(Reassign),
    /// Since cluster version 2, as everything below.
    SetClusterVersion(SetClusterVersion),
    AdvanceRollout(AdvanceRollout),
    CollectRevisions(CollectRevisions),
    PutConfigMap(Box<PutConfigMap>),
    DeleteConfigMap(DeleteConfigMap),
    PutDomainMapping(Box<PutDomainMapping>),
    DeleteDomainMapping(DeleteDomainMapping),
    RecordDomainMapping(RecordDomainMapping),
    PutDomainClaim(Box<PutDomainClaim>),
    DeleteDomainClaim(DeleteDomainClaim),
    RecordMembers(RecordMembers),
    CreateToken(CreateToken),
    RevokeToken(RevokeToken),
    AddNode(AddNode),
    PromoteNode(PromoteNode),
    RemoveNode(RemoveNode),
    SetDuty(SetDuty),
    PutBundle(Box<PutBundle>),
    DeleteBundle(DeleteBundle),
    PutSecret(Box<PutSecret>),
    DeleteSecret(DeleteSecret),
}

impl Command {
    /// The cluster version from which on every node can apply this command.
    pub fn since(&self) -> u32 {
        match self {
            Command::PutService(put) if put.service.is_of_version_2() => 2,
            Command::InitCluster(_)
            | Command::PutService(_)
            | Command::DeleteService(_)
            | Command::RecordService(_)
            | Command::RecordRevision(_)
            | Command::AssignTraffic(_)
            | Command::RecordRoute(_)
            | Command::RecordScale(_)
            | Command::OpenSession(_)
            | Command::CloseSession(_)
            | Command::NodeDown(_)
            | Command::Reassign(_)
            // It raises the version: it is proposed once every node says that it knows it.
            | Command::SetClusterVersion(_) => FIRST_CLUSTER_VERSION,
            Command::AdvanceRollout(_)
            | Command::CollectRevisions(_)
            | Command::PutConfigMap(_)
            | Command::DeleteConfigMap(_)
            | Command::PutDomainMapping(_)
            | Command::DeleteDomainMapping(_)
            | Command::RecordDomainMapping(_)
            | Command::PutDomainClaim(_)
            | Command::DeleteDomainClaim(_)
            | Command::RecordMembers(_)
            | Command::CreateToken(_)
            | Command::RevokeToken(_)
            | Command::AddNode(_)
            | Command::PromoteNode(_)
            | Command::RemoveNode(_)
            | Command::SetDuty(_)
            | Command::PutBundle(_)
            | Command::DeleteBundle(_)
            | Command::PutSecret(_)
            | Command::DeleteSecret(_) => 2,
        }
    }

    /// Whether a blind repetition could have an effect of its own, so that a request id or a
    /// precondition is demanded (02-store §12).
    pub fn needs_request_id(&self) -> bool {
        match self {
            Command::PutService(put) => put.expect == Expect::Any,
            Command::DeleteService(delete) => delete.expect == Expect::Any,
            Command::PutConfigMap(put) => put.expect == Expect::Any,
            Command::DeleteConfigMap(delete) => delete.expect == Expect::Any,
            Command::PutDomainMapping(put) => put.expect == Expect::Any,
            Command::DeleteDomainMapping(delete) => delete.expect == Expect::Any,
            Command::PutDomainClaim(put) => put.expect == Expect::Any,
            Command::DeleteDomainClaim(delete) => delete.expect == Expect::Any,
            Command::PutSecret(put) => put.expect == Expect::Any,
            Command::DeleteSecret(delete) => delete.expect == Expect::Any,
            Command::InitCluster(_)
            | Command::RecordService(_)
            | Command::RecordRevision(_)
            | Command::AssignTraffic(_)
            | Command::RecordRoute(_)
            | Command::AdvanceRollout(_)
            | Command::CollectRevisions(_)
            | Command::RecordDomainMapping(_)
            | Command::RecordScale(_)
            | Command::OpenSession(_)
            | Command::CloseSession(_)
            | Command::NodeDown(_)
            | Command::Reassign(_)
            | Command::SetClusterVersion(_)
            | Command::RecordMembers(_)
            | Command::CreateToken(_)
            | Command::RevokeToken(_)
            | Command::PromoteNode(_)
            | Command::RemoveNode(_)
            | Command::SetDuty(_) => false,
            // Each application makes another id: a repetition must be known as one.
            Command::AddNode(_) => true,
            // A repetition would move a tag back that somebody else has moved on since.
            Command::PutBundle(_) | Command::DeleteBundle(_) => true,
        }
    }
}

/// Proof of ownership that every command of an actor carries; stale ⇒ `Fenced`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub shard: ShardId,
    pub epoch: Epoch,
}

/// What must be true of the object for the command to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    Any,
    Absent,
    /// It exists, whatever its version.
    Present,
    Version(LogIndex),
}

/// First command of a cluster's life; a second one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitCluster {
    pub cluster_id: String,
    pub name: String,
    /// Default domain of routes, e.g. `localhost`.
    pub domain: String,
    /// Port shown in URLs; 80 is left out.
    pub external_port: u16,
    /// What `config-autoscaler` begins with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub autoscaler: BTreeMap<String, String>,
}

/// Creates or replaces a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutConfigMap {
    pub config_map: ConfigMap,
    pub expect: Expect,
    /// Drawn by the proposer, for one that is new.
    pub uid: String,
}

/// Makes a bundle known whose bytes are on the disks of at least two nodes, or of all that live, and
/// moves a tag to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBundle {
    pub namespace: String,
    pub name: String,
    /// Empty = none.
    pub tag: String,
    /// Of the manifest's canonical form.
    pub digest: Digest,
    pub manifest: Manifest,
    /// It only gets a tag: refused where it is not known any more, since its bytes may be gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_be_known: bool,
}

/// Forgets bundles; nodes drop their bytes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteBundle {
    pub namespace: String,
    pub name: String,
    /// A tag goes, and its bundle where nothing else holds it; a digest goes with its tags. `None` =
    /// everything of the name.
    pub version: Option<BundleVersion>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteConfigMap {
    pub key: ObjectKey,
    pub expect: Expect,
}

/// Creates or replaces a Secret, sealed by who proposes it: no value is ever in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutSecret {
    pub secret: SealedSecret,
    pub expect: Expect,
    /// Drawn by the proposer, for one that is new.
    pub uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteSecret {
    pub key: ObjectKey,
    pub expect: Expect,
}

/// Creates or replaces a DomainMapping; a new one claims its host where the cluster does that by
/// itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutDomainMapping {
    pub domain_mapping: DomainMapping,
    pub expect: Expect,
    /// Drawn by the proposer, for one that is new.
    pub uid: String,
    /// Who asks; stamped into creator and lastModifier.
    pub user: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteDomainMapping {
    pub key: ObjectKey,
    pub expect: Expect,
}

/// The Route actor's view of a host of its Route: whether every live gateway serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordDomainMapping {
    /// Of the Route that it refers to.
    pub fence: Fence,
    pub key: ObjectKey,
    pub version: LogIndex,
    pub assertions: Vec<Assertion>,
}

/// Says which namespace a host is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutDomainClaim {
    pub claim: ClusterDomainClaim,
    pub expect: Expect,
    /// Drawn by the proposer, for one that is new.
    pub uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteDomainClaim {
    pub host: String,
    pub expect: Expect,
}

/// The Route actor moves its rollouts on; `apply` decides by LogTime what is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvanceRollout {
    pub fence: Fence,
    pub key: ObjectKey,
    pub version: LogIndex,
    /// Every live gateway serves what is assigned: the steps are planned for so many seconds from
    /// each rollout's start. `None` = take the step that is due.
    pub plan_for_s: Option<u64>,
}

/// The Service actor removes revisions that nobody needs (01-objects §13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectRevisions {
    pub fence: Fence,
    pub key: ObjectKey,
    /// By name; what is in use meanwhile stays.
    pub revisions: Vec<String>,
}

/// Creates or replaces a Service with its Configuration, Route and, when the template changed, a
/// new Revision: one entry, one version for all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutService {
    pub service: Service,
    pub expect: Expect,
    /// Drawn by the proposer; used for whichever objects the command creates.
    pub uids: Uids,
    /// Who asks; stamped into creator and lastModifier.
    pub user: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uids {
    pub service: String,
    pub configuration: String,
    pub route: String,
    pub revision: String,
}

/// Removes a Service and everything it owns in one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteService {
    pub key: ObjectKey,
    pub expect: Expect,
}

/// The Service actor's roll-up of Configuration and Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordService {
    pub fence: Fence,
    pub key: ObjectKey,
    /// Versions that the decision was made on.
    pub service_version: LogIndex,
    pub configuration_version: LogIndex,
    /// Empty = none yet.
    pub latest_ready: String,
    pub configuration: Vec<Assertion>,
    pub service: Vec<Assertion>,
}

/// The Revision actor's view of readiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRevision {
    pub fence: Fence,
    pub key: ObjectKey,
    pub version: LogIndex,
    pub assertions: Vec<Assertion>,
}

/// The Route actor's assignment: resolved targets whose percents sum to 100.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignTraffic {
    pub fence: Fence,
    pub key: ObjectKey,
    pub version: LogIndex,
    pub traffic: Vec<TrafficTarget>,
    /// The rollouts that `traffic` shows; a new one starts with this entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollouts: Vec<Rollout>,
    pub assertions: Vec<Assertion>,
}

/// The Route actor's conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRoute {
    pub fence: Fence,
    pub key: ObjectKey,
    pub version: LogIndex,
    pub assertions: Vec<Assertion>,
}

/// Desired scales of one node's autoscalers, coalesced (04-autoscaler §8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordScale {
    pub scales: Vec<ScaleUpdate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleUpdate {
    pub fence: Fence,
    pub revision: ObjectKey,
    pub uid: Arc<str>,
    pub record: ScaleRecord,
}

/// One life of a node's process begins; its previous session ends in the same entry and leaves
/// its shards to this one (03-actors §3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    pub node: NodeId,
    pub name: String,
    /// Drawn at process start; the same one twice is the same session.
    pub boot_id: String,
    pub roles: Roles,
    pub peer_address: String,
    pub gateway_address: String,
    pub admin_address: String,
    pub pid: u32,
    /// Instances this node takes at most.
    pub capacity: u32,
    /// What the node advertises as the time without leader contact after which it must be
    /// considered cut off, in milliseconds.
    pub t_self_ms: u32,
    /// Instances die with the node's process (`kill`) instead of waiting for it (`adopt`).
    pub kills_instances_on_exit: bool,
    /// Drawn when the node's data directory was made; an id belongs to one store for ever. Empty:
    /// the node does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    pub control: bool,
    pub gateway: bool,
    pub agent: bool,
}

impl Roles {
    pub const ALL: Roles = Roles {
        control: true,
        gateway: true,
        agent: true,
    };
}

/// The node says good-bye and hands its shards over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseSession {
    pub session: SessionId,
    pub moves: Vec<Move>,
    /// Its instances run on, and its next session takes them in at once; otherwise it has stopped
    /// everything before. Owners of a build that does not know this replace them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub returns: bool,
}

/// The leader declares a node dead and re-homes its shards in the same entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDown {
    pub session: SessionId,
    pub cause: DownCause,
    pub moves: Vec<Move>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownCause {
    /// Its address refuses connections: the process is gone.
    Refused,
    /// No keep-alive for its T_dead.
    Silent,
}

/// Shards change hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reassign {
    pub moves: Vec<Move>,
}

/// One shard's new owner, valid only while `from_epoch` is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub shard: ShardId,
    pub from_epoch: Epoch,
    pub to: SessionId,
}

/// Raises the rules that entries are written for; from then on older builds cannot take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetClusterVersion {
    /// One more than the present one, or the present one (no effect).
    pub version: u32,
}

/// Writes founding members down that the state does not know yet; their ids are what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordMembers {
    pub members: Vec<Founder>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    pub id: NodeId,
    pub name: String,
    pub peer_address: String,
    pub admin_address: String,
}

/// Lets one more node in. The secret itself is never in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateToken {
    /// Drawn by the proposer; a second one of the same id is refused.
    pub id: String,
    /// SHA-256 of the secret, hexadecimal.
    pub secret_hash: String,
    /// The node becomes a voter as soon as it has caught up; otherwise only where one is missing.
    pub voter: bool,
    /// Of LogTime, from this entry on.
    pub ttl_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeToken {
    pub id: String,
}

/// Consumes a token and gives a node its id, which is this entry's index. It joins as a learner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddNode {
    pub token: String,
    /// Of the secret that was shown.
    pub secret_hash: String,
    pub name: String,
    pub peer_address: String,
    pub admin_address: String,
}

/// Makes a learner a voter; consensus follows once it has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteNode {
    pub node: NodeId,
}

/// Takes a node out for good: its session ends with this entry, its id is never used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveNode {
    pub node: NodeId,
}

/// Cordons a node, drains it, or lets it work again; the same duty twice is no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDuty {
    pub node: NodeId,
    pub duty: Duty,
}
