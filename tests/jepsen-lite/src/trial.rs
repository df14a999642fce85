//! One trial: a cluster with load on it, hurt and healed, and what was seen of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nihilo_client::Client;
use nihilo_sim::checker::coverage::{Injected, InjectionResult, Required};
use nihilo_sim::checker::drain::NodeEnd;
use nihilo_sim::checker::instance_bound::{DeclaredDown, NodeRecords, SeenEmpty};
use nihilo_sim::checker::replica_equality::Digest;
use nihilo_sim::checker::request_ledger::GatewayGone;
use nihilo_sim::checker::{Evidence, Report};
use nihilo_types::node_config::OnNodeExit;
use nihilo_types::revision::Revision;
use tokio::time::Instant;

use crate::backend::{LocalCluster, Manner, N_NODES, NodeIndex, Place, Settings, log_of};
use crate::clock::{self, boottime_ns};
use crate::instance_ledger;
use crate::judge::{
    self, AT_ZERO, DIED, Evidences, Fault, SERVES_AGAIN, Strained, WHOLE, node_name,
};
use crate::proc_scan::{self, Scan};
use crate::record::{Recorder, RequestRecord};
use crate::workload::load::{Clients, Wanted};
use crate::workload::services::NAMESPACE;

/// A node that comes back: process start, log replay, session, shards, on a machine that other
/// work shares (the goal on a quiet one is 15 s). How long it took is told; what is judged by this
/// is that it comes back at all.
const BACK_LIMIT: Duration = Duration::from_secs(180);
/// From the last request to no instance: a stable window of 6 s, after a fault one more in panic,
/// the grace of 6 s, the last drain.
const ZERO_LIMIT: Duration = Duration::from_secs(60);
/// Instances of a killed node die with it; the kernel needs a moment.
const EMPTY_LIMIT: Duration = Duration::from_secs(5);
/// A cluster at rest writes nothing, so that its replicas meet at one index; a follower that came
/// back late in a soak has some way to go.
const EQUAL_LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_SLOWLY: Duration = Duration::from_millis(200);
/// Until nothing of a fault can be felt: declared down, re-homed, reconciled, and a request that
/// began before has met its deadline.
const FAULT_FELT_NS: u64 = 10_000_000_000;

/// What a trial is made of.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub binary: PathBuf,
    /// Everything the trial leaves behind goes below.
    pub folder: PathBuf,
    pub place: Place,
    pub settings: Settings,
    /// What the nodes find in their environment.
    pub variables: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Trial {
    pub options: Options,
    pub cluster: LocalCluster,
    pub clients: Arc<Clients>,
    pub recorder: Arc<Recorder>,
    /// Where instances write.
    pub ledger: PathBuf,
    pub evidences: Evidences,
    scan: Scan,
    down: BTreeMap<NodeIndex, u64>,
    started: Instant,
    /// After the nodes, which it is declared behind.
    _leftovers: Leftovers,
}

/// Instances that outlive their nodes do not outlive the trial.
#[derive(Debug)]
struct Leftovers(PathBuf);

impl Drop for Leftovers {
    fn drop(&mut self) {
        proc_scan::kill(&self.0, |_| true);
    }
}

/// For nodes: apps write their ledger there, in spite of their isolation.
fn open_to_instances(ledger: &Path) -> anyhow::Result<(String, String)> {
    let ledger = std::path::absolute(ledger)?;
    Ok(("NIHILO_WRITABLE".to_owned(), ledger.display().to_string()))
}

impl Trial {
    /// # Errors
    /// The harness cannot make its cluster: the trial is void.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let folder = &options.folder;
        let nodes = folder.join("nodes");
        let ledger = instance_ledger::below(&nodes);
        std::fs::create_dir_all(&ledger)?;
        let about = serde_json::json!({
            "seed": options.seed,
            "profile": options.settings.profile,
            "machine": crate::probe::machine(&options.binary),
        });
        std::fs::write(folder.join("trial.json"), about.to_string())?;
        let recorder = Arc::new(Recorder::create(folder)?);
        let (binary, settings) = (options.binary.clone(), options.settings);
        let mut variables = options.variables.clone();
        variables.push(open_to_instances(&ledger)?);
        let cluster =
            LocalCluster::start(&nodes, binary, settings, options.place, &variables).await?;
        let adopts =
            settings.on_node_exit == OnNodeExit::Adopt && options.place != Place::Containers;
        let name = format!("{:x}", options.seed & 0xffff_ffff);
        let mut gateways = cluster.gateways();
        gateways.push(cluster.guest_gateway());
        let clients = Clients::new(gateways, recorder.clone(), name);
        clients.use_gateways(&(0..N_NODES).collect::<Vec<_>>());
        Ok(Self {
            scan: Scan::start(&ledger),
            _leftovers: Leftovers(ledger.clone()),
            options,
            cluster,
            clients,
            recorder,
            ledger,
            evidences: Evidences {
                adopts,
                ..Evidences::default()
            },
            down: BTreeMap::new(),
            started: Instant::now(),
        })
    }

    /// Forgets what was seen so far: what comes is judged by itself. Only while nothing runs.
    ///
    /// # Errors
    /// A record cannot be emptied.
    pub fn begin_window(&mut self) -> anyhow::Result<()> {
        for (name, dir) in std::mem::take(&mut self.cluster.retired) {
            self.save_ledgers(name, &dir)?;
            // Nobody looks at the rest again.
            std::fs::remove_dir_all(&dir)?;
        }
        let size = |(_, dir): (String, PathBuf)| {
            let log = std::fs::metadata(log_of(&dir));
            (dir, log.map_or(0, |log| log.len()))
        };
        self.evidences = Evidences {
            since_ns: boottime_ns(),
            adopts: self.evidences.adopts,
            // An epoch may have been booked long before an order under it.
            saved_ledgers: std::mem::take(&mut self.evidences.saved_ledgers),
            log_from: self.nodes().into_iter().map(size).collect(),
            ..Evidences::default()
        };
        // Each was judged in the window in which it was seen.
        self.cluster.ended.clear();
        self.recorder.forget()?;
        self.scan.forget();
        for ledger in std::fs::read_dir(&self.ledger)? {
            std::fs::remove_file(ledger?.path())?;
        }
        Ok(())
    }

    /// Copies what a node's agent and owners have booked to where nothing takes it away.
    fn save_ledgers(&mut self, node: String, from: &Path) -> anyhow::Result<()> {
        let n_saved = self.evidences.saved_ledgers.len();
        let to = self
            .ledger
            .with_file_name("saved")
            .join(n_saved.to_string());
        for ledger in [judge::OWNED, judge::COMMANDS] {
            let (from, to) = (from.join(ledger), to.join(ledger));
            if from.is_file() {
                std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
                std::fs::copy(&from, &to).with_context(|| from.display().to_string())?;
            }
        }
        self.evidences.saved_ledgers.push((node, to));
        Ok(())
    }

    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells the reader how it goes.
    pub fn say(&self, text: &str) {
        eprintln!("{:6.1}s  {text}", self.started.elapsed().as_secs_f64());
    }

    /// A client of all nodes that moves on from one that is gone.
    ///
    /// # Errors
    /// Never with three nodes.
    pub fn admin(&self) -> anyhow::Result<Client> {
        let all: Vec<_> = (0..self.cluster.nodes.len()).collect();
        self.cluster.client(&all)
    }

    /// kill -9 of one node, its instances included where they die with it; new requests go
    /// elsewhere from then on.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(&mut self, node: NodeIndex) -> anyhow::Result<()> {
        self.kill_and(node, || Ok(())).await
    }

    /// As [`Self::kill`], with something to do as soon as the process is gone.
    ///
    /// # Errors
    /// It cannot be killed, or what follows fails.
    pub async fn kill_and(
        &mut self,
        node: NodeIndex,
        then: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let at_ns = self.recorder.fault("kill -9", Some(node));
        self.gone(node, at_ns);
        let childless_ns = self.cluster.kill(node).await?;
        then()?;
        if !self.evidences.adopts {
            self.until_empty(node, childless_ns).await;
        }
        Ok(())
    }

    /// The trial proves nothing unless this fault happens.
    pub fn expect_fault(&mut self, fault: String) {
        self.evidences.coverage.required.push(Required {
            must_hit_leader: fault.ends_with(":leader"),
            fault,
            at_least: 1,
        });
    }

    pub fn fault_happened(&mut self, fault: String, hit_leader: bool) {
        self.evidences.coverage.injected.push(Injected {
            fault,
            at_ns: boottime_ns(),
            result: InjectionResult::Installed,
            hit_leader,
        });
    }

    /// A panic with this text is the trial's own doing.
    pub fn expect_panic(&mut self, text: &str) {
        self.evidences.expected_panics.push(text.to_owned());
    }

    /// SIGTERM; returns when the node has ended.
    ///
    /// # Errors
    /// It does not end within its grace.
    pub async fn terminate(&mut self, node: NodeIndex) -> anyhow::Result<()> {
        self.ends_in_order(node, "terminate");
        let ended = self.cluster.terminate(node).await;
        // Its listener is closed from some moment on; a refused connection is what it owes then.
        self.down.insert(node, boottime_ns());
        ended?;
        self.until_empty(node, None).await;
        Ok(())
    }

    /// Books that a node is about to be told to end; new requests go elsewhere. Returns when.
    pub fn ends_in_order(&mut self, node: NodeIndex, how: &str) -> u64 {
        let at_ns = self.recorder.fault(how, Some(node));
        self.leave(node);
        let grace = u64::from(self.cluster.nodes[node].config.shutdown_grace);
        self.evidences.node_ends.push(NodeEnd {
            node: node_name(node),
            at_ns,
            shutdown_grace_ns: grace * 1_000_000_000,
        });
        self.evidences.faults.push(Fault {
            from_ns: at_ns,
            until_ns: u64::MAX,
            graceful: true,
        });
        at_ns
    }

    /// Waits for the end of a node that was removed at `from_ns` while it served; returns how it was.
    /// The removal is the operator's word that the node is gone: what it still runs is replaced.
    ///
    /// # Errors
    /// It does not end within its grace.
    pub async fn expelled(&mut self, node: NodeIndex, from_ns: u64) -> anyhow::Result<String> {
        let ended = self.cluster.expelled(node).await;
        self.down.insert(node, boottime_ns());
        let how = ended?;
        self.until_empty(node, None).await;
        self.evidences.removed.push(DeclaredDown {
            node: node_name(node),
            at_ns: from_ns,
            // Another of its name may follow.
            heard_again_ns: Some(boottime_ns()),
            adopts: false,
        });
        Ok(how)
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&mut self, node: NodeIndex) -> anyhow::Result<()> {
        let at_ns = self.recorder.fault("pause", Some(node));
        self.gone(node, at_ns);
        self.cluster.nodes[node].pause()
    }

    /// SIGCONT, and waits until the cluster is whole.
    ///
    /// # Errors
    /// It does not run.
    pub async fn resume(&mut self, node: NodeIndex) -> anyhow::Result<()> {
        self.recorder.fault("resume", Some(node));
        self.cluster.nodes[node].resume()?;
        self.whole().await
    }

    /// Books that `nodes` are cut off from now on; new requests go elsewhere.
    pub fn cut_off(&mut self, nodes: &[NodeIndex], how: &str) {
        for node in nodes {
            let at_ns = self.recorder.fault(how, Some(*node));
            self.gone(*node, at_ns);
        }
    }

    /// Cuts one way between two nodes.
    ///
    /// # Errors
    /// The nodes have no network of their own.
    pub fn cut(&self, (from, to): (NodeIndex, NodeIndex), manner: Manner) -> anyhow::Result<()> {
        let network = self.cluster.network()?;
        tokio::task::block_in_place(|| network.cut(from, to, manner))
    }

    /// Undoes one cut.
    ///
    /// # Errors
    /// It was not made.
    pub fn join(&self, (from, to): (NodeIndex, NodeIndex), manner: Manner) -> anyhow::Result<()> {
        let network = self.cluster.network()?;
        tokio::task::block_in_place(|| network.join(from, to, manner))
    }

    /// Undoes every cut, and waits until the cluster is whole.
    ///
    /// # Errors
    /// The nodes have no network of their own.
    pub async fn mend(&mut self) -> anyhow::Result<()> {
        self.recorder.fault("mend", None);
        let network = self.cluster.network()?;
        tokio::task::block_in_place(|| network.mend())?;
        self.whole().await
    }

    /// Books a fault of a node whose gateway owes its clients everything all the same.
    pub fn hurt(&mut self, node: NodeIndex, how: &str) {
        let at_ns = self.recorder.fault(how, Some(node));
        self.evidences.faults.push(Fault {
            from_ns: at_ns,
            until_ns: u64::MAX,
            graceful: false,
        });
    }

    /// The fault is over; waits until the cluster is whole.
    ///
    /// # Errors
    /// It is not, in time.
    pub async fn unhurt(&mut self, node: NodeIndex, how: &str) -> anyhow::Result<()> {
        self.recorder.fault(how, Some(node));
        self.whole().await
    }

    /// What was done to no node in particular is over; waits until the cluster is whole.
    ///
    /// # Errors
    /// It is not, in time.
    pub async fn calm(&mut self, how: &str) -> anyhow::Result<()> {
        self.recorder.fault(how, None);
        self.whole().await
    }

    /// Takes the power from `nodes` at once: their processes end, and what their disks had not
    /// synced is gone.
    ///
    /// # Errors
    /// The nodes have no disks of their own, or the kernel refuses.
    pub async fn lose_power(&mut self, nodes: &[NodeIndex]) -> anyhow::Result<()> {
        for node in nodes {
            let at_ns = self.recorder.fault("power loss", Some(*node));
            self.gone(*node, at_ns);
        }
        for node in nodes {
            // The checkers want what happened, not what the disk remembers of it.
            let data_dir = &self.cluster.nodes[*node].config.data_dir;
            let records = judge::start_stop_records(data_dir)?;
            self.evidences.saved_records.push(NodeRecords {
                node: node_name(*node),
                records,
            });
            let data_dir = data_dir.clone();
            self.save_ledgers(node_name(*node), &data_dir)?;
            let disk = self.cluster.disk(*node)?;
            tokio::task::block_in_place(|| disk.lose_power())?;
        }
        for node in nodes {
            let childless_ns = self.cluster.kill(*node).await?;
            if self.evidences.adopts {
                // They have no more power than their node.
                let name = node_name(*node);
                proc_scan::kill(&self.ledger, |process| process.node == name);
            }
            self.until_empty(*node, childless_ns).await;
        }
        for node in nodes {
            let disk = self.cluster.disk(*node)?;
            tokio::task::block_in_place(|| disk.come_back())?;
        }
        Ok(())
    }

    /// Starts what is down and waits until the cluster is whole.
    ///
    /// # Errors
    /// A process cannot be started: the harness's fault.
    pub async fn heal(&mut self, order: &[NodeIndex]) -> anyhow::Result<Duration> {
        let since = Instant::now();
        for node in order {
            self.recorder.fault("start", Some(*node));
            self.cluster.start_node(*node)?;
        }
        self.whole().await?;
        Ok(since.elapsed())
    }

    async fn whole(&mut self) -> anyhow::Result<()> {
        match self.cluster.until_whole(BACK_LIMIT).await {
            Ok(()) => self.confirm(WHOLE),
            Err(error) => {
                self.find(
                    WHOLE,
                    Evidence::new("cluster", error.to_string()).at(boottime_ns()),
                );
                // Nothing that comes after could be judged.
                return Err(error.context("the cluster is not whole again"));
            }
        }
        let now_ns = boottime_ns();
        for (node, from_ns) in std::mem::take(&mut self.down) {
            self.evidences.gateway_gone.push(GatewayGone {
                node: node_name(node),
                from_ns,
                until_ns: now_ns,
            });
        }
        for fault in &mut self.evidences.faults {
            fault.until_ns = fault
                .until_ns
                .min(now_ns.max(fault.from_ns + FAULT_FELT_NS));
        }
        let all: Vec<_> = (0..self.cluster.nodes.len()).collect();
        self.clients.use_gateways(&all);
        Ok(())
    }

    fn gone(&mut self, node: NodeIndex, at_ns: u64) {
        self.leave(node);
        self.down.insert(node, at_ns);
        self.evidences.faults.push(Fault {
            from_ns: at_ns,
            until_ns: u64::MAX,
            graceful: false,
        });
    }

    fn leave(&self, node: NodeIndex) {
        let mut in_use = self.clients.in_use();
        in_use.retain(|other| *other != node);
        self.clients.use_gateways(&in_use);
    }

    /// A dead node's instances must be gone with it; `childless_ns`: when all that were its
    /// children at its end were gone.
    async fn until_empty(&mut self, node: NodeIndex, childless_ns: Option<u64>) {
        let (name, ledger) = (node_name(node), self.ledger.clone());
        let empty = clock::until(EMPTY_LIMIT, LOOK_EVERY, || {
            let left = instances_of(&ledger, &name);
            std::future::ready(if left.is_empty() {
                Ok(())
            } else {
                Err(left.join(", "))
            })
        });
        match empty.await {
            Ok(()) => {
                let at_ns = childless_ns.unwrap_or_else(boottime_ns);
                self.evidences
                    .seen_empty
                    .push(SeenEmpty { node: name, at_ns });
                self.confirm(DIED);
            }
            Err(left) => self.find(DIED, Evidence::new(name, format!("left behind: {left}"))),
        }
    }

    /// Waits until nothing runs, by the kernel's word and by that of all nodes.
    ///
    /// # Errors
    /// No client.
    pub async fn until_zero(&mut self) -> anyhow::Result<Duration> {
        let since = Instant::now();
        let (client, ledger) = (self.admin()?, self.ledger.clone());
        let zero = clock::until(ZERO_LIMIT, LOOK_SLOWLY, || async {
            let processes = proc_scan::instances(&ledger);
            if !processes.is_empty() {
                let left: Vec<_> = processes.iter().map(|p| p.instance.as_str()).collect();
                return Err(format!("{} processes run: {}", left.len(), left.join(", ")));
            }
            let told = client.instances(Some(NAMESPACE), "").await;
            let told = told.map_err(|error| error.to_string())?;
            let is_left = |state: &str| !matches!(state, "Exited" | "Destroyed");
            let left = told.items.iter().filter(|item| is_left(&item.state));
            let left: Vec<_> = left
                .map(|item| format!("{} {}", item.id, item.state))
                .collect();
            if left.is_empty() && told.unreachable.is_empty() {
                return Ok(());
            }
            Err(format!(
                "told: {left:?}, unreachable: {:?}",
                told.unreachable
            ))
        });
        match zero.await {
            Ok(()) => self.confirm(AT_ZERO),
            Err(why) => {
                let text = format!("not at zero: {why}");
                self.find(AT_ZERO, Evidence::new("instances", text).at(boottime_ns()));
            }
        }
        Ok(since.elapsed())
    }

    /// From now on `service` may refuse what it is asked, explicitly.
    pub fn strain(&mut self, service: &str) {
        self.evidences.strained.push(Strained {
            service: service.to_owned(),
            from_ns: boottime_ns(),
            until_ns: u64::MAX,
        });
    }

    /// Asks a service that was strained until it serves; from then on it owes what all owe.
    pub async fn until_it_serves(&mut self, service: &str, limit: Duration) {
        let services = [service.to_owned()];
        let serves = clock::until(limit, LOOK_SLOWLY, || async {
            let asked = self.ask_everywhere(&services).await;
            let refused = asked.iter().find(|request| !request.outcome.is_good());
            refused.map_or(Ok(()), |request| Err(request.outcome.name()))
        });
        match serves.await {
            Ok(()) => self.confirm(SERVES_AGAIN),
            Err(why) => self.find(SERVES_AGAIN, Evidence::new(service, why).at(boottime_ns())),
        }
        let strained = self.evidences.strained.iter_mut();
        for strained in strained.filter(|strained| strained.service == service) {
            strained.until_ns = strained.until_ns.min(boottime_ns());
        }
    }

    /// Sends one request that may be repeated and one that may not to each service through each
    /// gateway; returns what came of them.
    pub async fn ask_everywhere(&self, services: &[String]) -> Vec<RequestRecord> {
        let mut asked = tokio::task::JoinSet::new();
        for service in services {
            for gateway in self.clients.in_use() {
                for is_post in [false, true] {
                    let wanted = Wanted {
                        service: service.clone(),
                        gateway,
                        is_post,
                        body_bytes: 100,
                        app_ms: 0,
                    };
                    let clients = self.clients.clone();
                    asked.spawn(async move { clients.request(wanted).await });
                }
            }
        }
        let mut over = Vec::new();
        while let Some(one) = asked.join_next().await {
            // A panic of the harness: seen as a request that is in no ledger.
            over.extend(one.ok());
        }
        over
    }

    /// The node that runs most instances of a service, if any does.
    ///
    /// # Errors
    /// No client.
    pub async fn host_of(&self, service: &str) -> anyhow::Result<Option<NodeIndex>> {
        let told = self.admin()?.instances(Some(NAMESPACE), service).await?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for item in told.items.iter().filter(|item| item.state == "Ready") {
            *counts.entry(item.node.clone()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, n)| *n);
        let index = |name: &str| {
            self.cluster
                .nodes
                .iter()
                .position(|node| node.name() == name)
        };
        Ok(most.and_then(|(name, _)| index(&name)))
    }

    /// Looks at all replicas until they are at one index, or for a limit: a checker judges.
    async fn note_digests(&mut self) -> anyhow::Result<()> {
        let client = self.admin()?;
        let deadline = Instant::now() + EQUAL_LIMIT;
        let n_nodes = self.cluster.running().len();
        let mut n_told = 0;
        while Instant::now() < deadline {
            let at_ns = boottime_ns();
            let Ok(told) = client.digests().await else {
                clock::pause(LOOK_SLOWLY).await;
                continue;
            };
            n_told = told.len();
            let indexes: BTreeSet<u64> = told.iter().map(|node| node.applied).collect();
            let are_equal = told.len() == n_nodes && indexes.len() == 1;
            let digests = told.into_iter().map(|node| Digest {
                node: node.node,
                at_ns,
                applied_index: node.applied,
                digest: node.digest,
            });
            self.evidences.digests.extend(digests);
            if are_equal {
                break;
            }
            clock::pause(LOOK_SLOWLY).await;
        }
        if n_told < n_nodes {
            let text = format!("{n_told} of {n_nodes} nodes tell their digests");
            self.find(WHOLE, Evidence::new("cluster", text).at(boottime_ns()));
        }
        Ok(())
    }

    pub fn find(&mut self, checker: &'static str, evidence: Evidence) {
        self.say(&format!("FOUND {checker}: {evidence}"));
        self.evidences.findings.push((checker, evidence));
    }

    pub fn confirm(&mut self, checker: &'static str) {
        *self.evidences.n_confirmed.entry(checker).or_default() += 1;
    }

    /// The verdict on everything so far.
    ///
    /// # Errors
    /// The cluster does not tell which revisions there are.
    pub async fn judge(&mut self) -> anyhow::Result<Report> {
        let revisions = self.admin()?.revisions(None, "").await;
        let revisions = revisions.context("the list of revisions")?.items;
        self.evidences.max_scale = revisions.iter().filter_map(max_scale).collect();
        self.note_digests().await.context("the replicas' digests")?;
        self.cluster.note_crashes();
        self.cluster.save_output()?;
        self.evidences.samples = self.scan.samples();
        let (requests, _) = self.recorder.taken();
        self.evidences.requests = requests;
        let crashes = self.cluster.ended.iter().filter(|ended| !ended.wanted);
        self.evidences.crashes = crashes
            .map(|ended| format!("{}: {}", ended.node, ended.how))
            .collect();
        let nodes: Vec<_> = self.nodes();
        Ok(judge::judge(&self.evidences, &self.ledger, &nodes))
    }

    /// Names and directories of the nodes, those included that were removed in this window: two of
    /// one name have two directories.
    pub fn nodes(&self) -> Vec<(String, PathBuf)> {
        let nodes = self.cluster.nodes.iter();
        nodes
            .map(|node| (node.name().to_owned(), node.config.data_dir.clone()))
            .chain(self.cluster.retired.iter().cloned())
            .collect()
    }
}

fn instances_of(ledger: &Path, node: &str) -> Vec<String> {
    let processes = proc_scan::instances(ledger).into_iter();
    processes
        .filter(|process| process.node == node)
        .map(|process| process.instance)
        .collect()
}

fn max_scale(revision: &Revision) -> Option<(String, u32)> {
    let max = revision
        .metadata
        .annotation("autoscaling.knative.dev/max-scale")?;
    Some((revision.metadata.name.clone(), max.parse().ok()?))
}
