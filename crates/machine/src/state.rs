//! Everything that is replicated, in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use nihilo_types::autoscaler::ScaleRecord;
use nihilo_types::bundle::Digest;
use nihilo_types::config_map::{ConfigMap, SYSTEM_MAPS, SYSTEM_NAMESPACE};
use nihilo_types::configuration::Configuration;
use nihilo_types::domain::{ClusterDomainClaim, DomainMapping};
use nihilo_types::id::{Epoch, Kind, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::revision::Revision;
use nihilo_types::route::Route;
use nihilo_types::secret::SealedSecret;
use nihilo_types::service::Service;
use nihilo_types::shard::{N_SHARDS, shard_of};
use serde::{Deserialize, Serialize};

use crate::bundles::{Bundle, BundleKey, Bundles};
use crate::command::{FIRST_CLUSTER_VERSION, InitCluster, OpenSession};
use crate::domains::Domains;
use crate::member::{Duty, JoinToken, Member, Standing};
use crate::objects::{Objects, RevisionFacts, RouteFacts, ServiceFacts};
use crate::replies::Replies;
use crate::reply::Reply;
use crate::settings::Settings;
use crate::siblings::Siblings;

/// More nodes than leave between two looks at the applied state.
pub(crate) const MAX_LEFT: usize = 64;

/// The replicated state as of one log index. Changed only by [`State::apply`].
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(crate) cluster: Option<Arc<InitCluster>>,
    pub(crate) clock: Clock,
    /// `None` = never raised.
    pub(crate) version: Option<u32>,
    /// Clusters that this one was made of, oldest first.
    pub(crate) ancestors: Vec<String>,
    pub(crate) members: BTreeMap<NodeId, Arc<Member>>,
    pub(crate) tokens: BTreeMap<String, Arc<JoinToken>>,
    pub(crate) services: Objects<Service>,
    pub(crate) configurations: Objects<Configuration>,
    pub(crate) revisions: Objects<Revision>,
    pub(crate) routes: Objects<Route>,
    pub(crate) config_maps: BTreeMap<ObjectKey, Arc<ConfigMap>>,
    pub(crate) secrets: BTreeMap<ObjectKey, Arc<SealedSecret>>,
    /// What the system's ConfigMaps say; derived.
    pub(crate) settings: Arc<Settings>,
    pub(crate) domains: Domains,
    pub(crate) bundles: Bundles,
    pub(crate) scales: BTreeMap<ObjectKey, Arc<ScaleRecord>>,
    pub(crate) sessions: BTreeMap<SessionId, Arc<Session>>,
    /// Sessions that their own nodes closed, newest last, at most [`MAX_LEFT`]. Not persisted:
    /// whoever learns of an end by a snapshot takes it for a loss.
    /// With whether the node said that it comes back.
    pub(crate) left: VecDeque<(SessionId, bool)>,
    /// Node to the store under whose name it opened its sessions; never removed.
    pub(crate) stores: BTreeMap<NodeId, Arc<str>>,
    pub(crate) owners: BTreeMap<ShardId, ShardOwner>,
    pub(crate) replies: Replies,
    /// Newest entry that changed sessions or owners; derived.
    pub(crate) ownership_at: LogIndex,
    /// Service to its revisions; derived.
    pub(crate) revisions_of: Siblings,
    /// Shard to the Services in it; derived.
    pub(crate) services_in: BTreeMap<ShardId, BTreeSet<ObjectKey>>,
}

/// LogTime and the newest wall time, both in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    pub log_ms: u64,
    pub wall_ms: u64,
}

/// An open session: one life of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub opened: OpenSession,
}

/// Who may act for a shard, and since which entry. Session 0 = nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardOwner {
    pub session: SessionId,
    pub epoch: Epoch,
}

/// What one entry did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub reply: Reply,
    /// Rows to write, in order; the store adds nothing and drops nothing.
    pub rows: Vec<RowChange>,
    /// Objects changed, in order, all at the entry's index.
    pub events: Vec<ObjectEvent>,
    /// Whether sessions or the owner table changed.
    pub ownership_changed: bool,
}

/// One key of the persisted state; `None` deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// A change of one object as watchers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectEvent {
    pub index: LogIndex,
    pub object: ObjectChange,
}

/// The object after the change, or as it last was when `deleted`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ObjectChange {
    Service {
        object: Arc<Service>,
        change: EventKind,
    },
    Configuration {
        object: Arc<Configuration>,
        change: EventKind,
    },
    Revision {
        object: Arc<Revision>,
        change: EventKind,
    },
    Route {
        object: Arc<Route>,
        change: EventKind,
    },
    ConfigMap {
        object: Arc<ConfigMap>,
        change: EventKind,
    },
    DomainMapping {
        object: Arc<DomainMapping>,
        change: EventKind,
    },
    DomainClaim {
        object: Arc<ClusterDomainClaim>,
        change: EventKind,
    },
    Secret {
        object: Arc<SealedSecret>,
        change: EventKind,
    },
    /// A scale record changed; shown with the revision, not watched by itself.
    Scale { revision: ObjectKey },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl ObjectChange {
    pub fn key(&self) -> ObjectKey {
        match self {
            ObjectChange::Service { object, .. } => object.metadata.key(),
            ObjectChange::Configuration { object, .. } => object.metadata.key(),
            ObjectChange::Revision { object, .. } => object.metadata.key(),
            ObjectChange::Route { object, .. } => object.metadata.key(),
            ObjectChange::ConfigMap { object, .. } => object.metadata.key(),
            ObjectChange::DomainMapping { object, .. } => object.metadata.key(),
            ObjectChange::DomainClaim { object, .. } => object.metadata.key(),
            ObjectChange::Secret { object, .. } => object.metadata.key(),
            ObjectChange::Scale { revision } => revision.clone(),
        }
    }

    /// `None` for a scale record.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            ObjectChange::Service { .. } => Some(Kind::Service),
            ObjectChange::Configuration { .. } => Some(Kind::Configuration),
            ObjectChange::Revision { .. } => Some(Kind::Revision),
            ObjectChange::Route { .. } => Some(Kind::Route),
            ObjectChange::ConfigMap { .. } => Some(Kind::ConfigMap),
            ObjectChange::DomainMapping { .. } => Some(Kind::DomainMapping),
            ObjectChange::DomainClaim { .. } => Some(Kind::ClusterDomainClaim),
            ObjectChange::Secret { .. } => Some(Kind::Secret),
            ObjectChange::Scale { .. } => None,
        }
    }
}

impl State {
    pub fn cluster(&self) -> Option<&InitCluster> {
        self.cluster.as_deref()
    }

    /// The store that belongs to a node's id; `None` for a node that never had a session.
    pub fn store_of(&self, node: NodeId) -> Option<&str> {
        self.stores.get(&node).map(|store| &**store)
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The version whose rules entries are written for.
    pub fn cluster_version(&self) -> u32 {
        self.version.unwrap_or(FIRST_CLUSTER_VERSION)
    }

    /// Every node that was ever a member, by id, those that were removed included.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.values()
    }

    pub fn member(&self, node: NodeId) -> Option<&Arc<Member>> {
        self.members.get(&node)
    }

    /// The entry that took a node out; `None` while it belongs to the cluster or is unknown.
    pub fn removed_at(&self, node: NodeId) -> Option<LogIndex> {
        match self.members.get(&node)?.standing {
            Standing::Removed { at } => Some(at),
            Standing::Learner | Standing::Voter => None,
        }
    }

    /// What work a node is given; one that the state does not know has all of it.
    pub fn duty_of(&self, node: NodeId) -> Duty {
        self.members
            .get(&node)
            .map_or(Duty::Full, |member| member.duty)
    }

    /// Members that are not given all work, by id, with what they are given.
    pub fn off_duty(&self) -> impl Iterator<Item = (NodeId, Duty)> + '_ {
        let present = self.members.values().filter(|member| !member.is_removed());
        let duties = present.map(|member| (member.id, member.duty));
        duties.filter(|(_, duty)| !duty.is_full())
    }

    /// Join tokens that were neither used nor revoked, expired ones included.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<JoinToken>> {
        self.tokens.values()
    }

    pub fn token(&self, id: &str) -> Option<&Arc<JoinToken>> {
        self.tokens.get(id)
    }

    pub fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        self.services.get(key)
    }

    pub fn configuration(&self, key: &ObjectKey) -> Option<Arc<Configuration>> {
        self.configurations.get(key)
    }

    pub fn revision(&self, key: &ObjectKey) -> Option<Arc<Revision>> {
        self.revisions.get(key)
    }

    pub fn route(&self, key: &ObjectKey) -> Option<Arc<Route>> {
        self.routes.get(key)
    }

    /// What can be told of a Service without opening it: for looks at very many.
    pub fn service_facts(&self, key: &ObjectKey) -> Option<ServiceFacts> {
        self.services.facts(key)
    }

    /// What can be told of a Revision without opening it.
    pub fn revision_facts(&self, key: &ObjectKey) -> Option<RevisionFacts> {
        self.revisions.facts(key)
    }

    /// What can be told of a Route without opening it.
    pub fn route_facts(&self, key: &ObjectKey) -> Option<RouteFacts> {
        self.routes.facts(key)
    }

    /// Routes of a shard that wait until all gateways serve their newest assignment, by key.
    pub fn routes_awaited_in(
        &self,
        shard: ShardId,
    ) -> impl Iterator<Item = (&ObjectKey, RouteFacts)> {
        self.routes.awaited_in(shard)
    }

    /// Routes whose traffic goes somewhere, by key.
    pub fn assigned_routes(&self) -> impl Iterator<Item = &ObjectKey> {
        let all = self.routes.all_facts();
        all.filter(|(_, facts)| facts.is_assigned)
            .map(|(key, _)| key)
    }

    pub fn config_map(&self, key: &ObjectKey) -> Option<&Arc<ConfigMap>> {
        self.config_maps.get(key)
    }

    pub fn config_maps(&self) -> impl Iterator<Item = &Arc<ConfigMap>> {
        self.config_maps.values()
    }

    pub fn secret(&self, key: &ObjectKey) -> Option<&Arc<SealedSecret>> {
        self.secrets.get(key)
    }

    /// By key.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<SealedSecret>> {
        self.secrets.values()
    }

    /// Id of the key that all Secrets are sealed by; `None` while there is none.
    pub fn secrets_key_id(&self) -> Option<&str> {
        let (_, first) = self.secrets.first_key_value()?;
        Some(&first.sealed_by)
    }

    pub fn domain_mapping(&self, key: &ObjectKey) -> Option<&Arc<DomainMapping>> {
        self.domains.mapping(key)
    }

    /// By key.
    pub fn domain_mappings(&self) -> impl Iterator<Item = &Arc<DomainMapping>> {
        self.domains.mappings().map(|(_, mapping)| mapping)
    }

    /// Those that refer to a Route, whether the host is theirs or not.
    pub fn domain_mappings_of(
        &self,
        route: &ObjectKey,
    ) -> impl Iterator<Item = &Arc<DomainMapping>> {
        let keys = self.domains.keys_of_route(route);
        keys.filter_map(move |key| self.domains.mapping(&key))
    }

    /// Those that refer to a Route of the shard, and that not all gateways serve though they are to.
    pub fn domain_mappings_awaited_in(
        &self,
        shard: ShardId,
    ) -> impl Iterator<Item = &Arc<DomainMapping>> {
        self.domains.awaited_in(shard)
    }

    pub fn domain_claim(&self, host: &str) -> Option<&Arc<ClusterDomainClaim>> {
        self.domains.claim(host)
    }

    /// By host.
    pub fn domain_claims(&self) -> impl Iterator<Item = &Arc<ClusterDomainClaim>> {
        self.domains.claims().map(|(_, claim)| claim)
    }

    pub fn bundle(&self, key: &BundleKey) -> Option<&Arc<Bundle>> {
        self.bundles.get(key)
    }

    /// Every bundle whose bytes are kept, with the revisions that run it, by key.
    pub fn bundles(&self) -> impl Iterator<Item = (&Arc<Bundle>, u32)> {
        let now = self.clock.log_ms;
        let all = self.bundles.all();
        all.filter(move |bundle| self.bundles.is_kept(bundle, now))
            .map(|bundle| (bundle, self.bundles.n_pins(&bundle.key())))
    }

    /// Digests of the bundles that no node may drop: a revision runs them, a tag names them, or they
    /// have just come.
    pub fn kept_bundles(&self) -> BTreeSet<Digest> {
        self.bundles().map(|(bundle, _)| bundle.digest).collect()
    }

    /// What the system's ConfigMaps say.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The recorded scale of a revision; the default (never decided) when there is none.
    pub fn scale(&self, revision: &ObjectKey) -> Arc<ScaleRecord> {
        self.scales.get(revision).cloned().unwrap_or_default()
    }

    pub fn service_keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys()
    }

    pub fn n_services(&self) -> usize {
        self.services.len()
    }

    /// All Services by key, each opened for this: not for a hot path.
    pub fn services(&self) -> impl Iterator<Item = Arc<Service>> {
        self.services.values()
    }

    /// Those whose keys are wanted; the others are not opened.
    pub fn services_of_keys(
        &self,
        is_wanted: impl Fn(&ObjectKey) -> bool,
    ) -> impl Iterator<Item = Arc<Service>> {
        self.services.values_of(is_wanted)
    }

    /// As [`Self::services`].
    pub fn configurations(&self) -> impl Iterator<Item = Arc<Configuration>> {
        self.configurations.values()
    }

    /// Those whose keys are wanted; the others are not opened.
    pub fn configurations_of_keys(
        &self,
        is_wanted: impl Fn(&ObjectKey) -> bool,
    ) -> impl Iterator<Item = Arc<Configuration>> {
        self.configurations.values_of(is_wanted)
    }

    /// As [`Self::services`].
    pub fn revisions(&self) -> impl Iterator<Item = Arc<Revision>> {
        self.revisions.values()
    }

    /// Those whose keys are wanted; the others are not opened.
    pub fn revisions_of_keys(
        &self,
        is_wanted: impl Fn(&ObjectKey) -> bool,
    ) -> impl Iterator<Item = Arc<Revision>> {
        self.revisions.values_of(is_wanted)
    }

    /// As [`Self::services`].
    pub fn routes(&self) -> impl Iterator<Item = Arc<Route>> {
        self.routes.values()
    }

    /// Those whose keys are wanted; the others are not opened.
    pub fn routes_of_keys(
        &self,
        is_wanted: impl Fn(&ObjectKey) -> bool,
    ) -> impl Iterator<Item = Arc<Route>> {
        self.routes.values_of(is_wanted)
    }

    /// The revisions of a Service, by name (so oldest generation first for generated names).
    pub fn revisions_of(&self, service: &ObjectKey) -> impl Iterator<Item = Arc<Revision>> {
        self.revision_keys_of(service)
            .filter_map(|key| self.revisions.get(&key))
    }

    /// Their keys.
    pub fn revision_keys_of(&self, service: &ObjectKey) -> impl Iterator<Item = ObjectKey> {
        self.revisions_of.keys_of(service)
    }

    pub fn n_revisions_of(&self, service: &ObjectKey) -> usize {
        self.revisions_of.n_of(service)
    }

    /// The Services of a shard, by key.
    pub fn services_in(&self, shard: ShardId) -> impl Iterator<Item = &ObjectKey> {
        self.services_in.get(&shard).into_iter().flatten()
    }

    pub fn session(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(&id)
    }

    /// Open sessions, oldest first.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values()
    }

    /// Whether a session that has ended was closed by its own node: that node still answers what
    /// it has begun. `false` when it was declared down, or nobody remembers.
    pub fn has_left(&self, session: SessionId) -> bool {
        self.left.iter().any(|(left, _)| *left == session)
    }

    /// Whether a session that has ended was closed by a node whose next process goes on with what runs
    /// there. `false` when nobody remembers.
    pub fn returns(&self, session: SessionId) -> bool {
        self.left.contains(&(session, true))
    }

    pub fn owner(&self, shard: ShardId) -> ShardOwner {
        self.owners.get(&shard).copied().unwrap_or_default()
    }

    /// All 256 shards with their owners.
    pub fn owners(&self) -> impl Iterator<Item = (ShardId, ShardOwner)> + '_ {
        (0..N_SHARDS).map(|shard| (ShardId(shard), self.owner(ShardId(shard))))
    }

    /// The session that owns a Service's shard, if any.
    pub fn owner_of(&self, service: &ObjectKey) -> Option<&Arc<Session>> {
        self.session(self.owner(shard_of(service)).session)
    }

    /// Index of the newest entry that changed sessions or the owner table.
    pub fn ownership_at(&self) -> LogIndex {
        self.ownership_at
    }

    /// URL of a host of this cluster, e.g. `http://hello.default.localhost:8080`.
    pub fn url_of(&self, host: &str) -> String {
        match self
            .cluster
            .as_deref()
            .map_or(80, |cluster| cluster.external_port)
        {
            80 => format!("http://{host}"),
            port => format!("http://{host}:{port}"),
        }
    }

    /// Main host of a route, or that of one of its tags.
    pub fn host_of(&self, route: &ObjectKey, tag: Option<&str>) -> String {
        let label = host_label(&route.name, tag);
        format!("{label}.{}.{}", route.namespace, self.domain())
    }

    /// Whether a host reads as a Route's, or as that of a tag, whether there is one or not.
    pub fn is_host_of_routes(&self, host: &str) -> bool {
        let below = host.strip_suffix(self.domain());
        let below = below.and_then(|below| below.strip_suffix('.'));
        below.is_some_and(|labels| labels.matches('.').count() == 1)
    }

    /// Domain of the routes' hosts.
    pub fn domain(&self) -> &str {
        let cluster = self.cluster.as_deref();
        cluster.map_or("localhost", |cluster| &cluster.domain)
    }
}

/// First label of a route's host, or of the host of one of its tags.
pub(crate) fn host_label(route: &str, tag: Option<&str>) -> String {
    match tag {
        Some(tag) => format!("{tag}-{route}"),
        None => route.to_owned(),
    }
}

impl State {
    /// Makes everything that is derived and not stored.
    ///
    /// But for [`Self::revisions_of`], which would open all revisions.
    pub(crate) fn rebuild_indexes(&mut self) {
        let mut services_in: BTreeMap<ShardId, Vec<ObjectKey>> = BTreeMap::new();
        for key in self.services.keys() {
            services_in
                .entry(shard_of(key))
                .or_default()
                .push(key.clone());
        }
        // Whole sets at once take half the room of sets that grow in order.
        let whole = |(shard, keys): (ShardId, Vec<ObjectKey>)| (shard, keys.into_iter().collect());
        self.services_in = services_in.into_iter().map(whole).collect();
        let mut settings = Settings::default();
        for name in SYSTEM_MAPS {
            let map = self
                .config_maps
                .get(&ObjectKey::new(SYSTEM_NAMESPACE, name));
            // An older build may have taken what this one would refuse: then defaults hold.
            if let Some(Ok(next)) = map.map(|map| settings.with(name, &map.data)) {
                settings = next;
            }
        }
        self.settings = Arc::new(settings);
        let newest_epoch = self.owners.values().map(|owner| owner.epoch.0).max();
        let newest_session = self.sessions.keys().map(|id| id.0).max();
        self.ownership_at = LogIndex(newest_epoch.max(newest_session).unwrap_or(0));
        self.replies.index();
    }
}
