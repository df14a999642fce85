//! Start of a node whose store holds many services, until it answers a linearizable read.
//!
//! The state is made by the commands that make services, written down as a restored backup is, and
//! copied for each start: what a node does once it serves changes nothing for the next one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use nihilo_machine::command::{
    CLUSTER_VERSION, Envelope, Expect, InitCluster, PutService, RequestKey, Uids,
};
use nihilo_machine::{Command as Entry, State};
use nihilo_raft::{anew, backup::Backup};
use nihilo_types::id::LogIndex;
use nihilo_types::node_config::{Member, NodeConfig};
use nihilo_wire::serving::GetRequest;
use nihilo_wire::serving::serving_service_client::ServingServiceClient;
use tokio::time::Instant;

use crate::cluster::{NAMESPACE, program, service, with_scale};
use crate::figures::Samples;
use crate::proc::{Memory, Running};
use crate::report::{Report, Table, spread_text};
use crate::{Common, built, say};

const CLUSTER: &str = "bench";
const GOAL_MS: f64 = 3_000.0;
const GOAL_KIB_PER_SERVICE: f64 = 3.0;
/// The goals are for this many services.
const GOAL_SERVICES: usize = 100_000;
const START_LIMIT: Duration = Duration::from_secs(120);
/// Between two tries to read from a node that starts.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    #[arg(long, default_value_t = GOAL_SERVICES)]
    services: usize,
    #[arg(long, default_value_t = 5)]
    starts: usize,
}

pub(crate) async fn run(common: &Common, args: &RestartArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("restart");
    report.setting("services", args.services);
    report.setting("starts", args.starts);
    let below = common.work_dir()?;
    std::fs::create_dir_all(&below)?;
    let dir = tempfile::Builder::new()
        .prefix("restart-")
        .tempdir_in(below)?;
    let nihilo = built("nihilo")?;
    let (full, empty) = (dir.path().join("full"), dir.path().join("empty"));
    let config = prepare(&full, common, args.services)?;
    let config_empty = prepare(&empty, common, 0)?;
    let (mut starts, mut rss, mut rss_empty) = (Vec::new(), Vec::new(), Vec::new());
    for n in 1..=args.starts {
        let (lasted, kib) = start(&nihilo, &full, dir.path(), &config).await?;
        let (_, kib_empty) = start(&nihilo, &empty, dir.path(), &config_empty).await?;
        say(format!(
            "start {n} of {}: {lasted:?}, {kib} KiB",
            args.starts
        ));
        starts.push(lasted);
        rss.push(kib);
        rss_empty.push(kib_empty);
    }
    fill(&mut report, args, &starts, &rss, &rss_empty);
    Ok(report)
}

fn fill(report: &mut Report, args: &RestartArgs, starts: &[Duration], rss: &[u64], empty: &[u64]) {
    let starts = Samples::of_ms(starts.iter().copied());
    let per_service = rss.iter().zip(empty).map(|(full, empty)| {
        let kib = full.saturating_sub(*empty) as f64;
        kib / (args.services.max(1) as f64)
    });
    let per_service = Samples::new(per_service);
    let columns = ["services", "start → read, ms", "resident KiB a service"];
    let mut table = Table::new("Start of one node, medians (min–max)", &columns);
    table.row([
        args.services.to_string(),
        spread_text(starts.spread(), 0),
        spread_text(per_service.spread(), 2),
    ]);
    report.tables.push(table);
    report.figure("start_ms", serde_json::json!(starts.spread()));
    report.figure("kib_per_service", serde_json::json!(per_service.spread()));
    if args.services != GOAL_SERVICES {
        return;
    }
    let median = starts.spread().median;
    report.verdict(
        "restart with 100,000 services ≤ 3 s (goal P23)",
        format!("{median:.0} ms"),
        median <= GOAL_MS,
    );
    let median = per_service.spread().median;
    report.verdict(
        "≤ 3 KiB resident a service, right after the start (goal P16)",
        format!("{median:.2} KiB"),
        median <= GOAL_KIB_PER_SERVICE,
    );
}

/// Writes the store of one node with so many services.
fn prepare(dir: &Path, common: &Common, n_services: usize) -> anyhow::Result<NodeConfig> {
    std::fs::create_dir_all(dir)?;
    let mut config = NodeConfig::of_one("node1".into(), 0, dir.to_owned());
    config.cluster = CLUSTER.into();
    config.joined = true;
    config.gateway_port += common.port_offset;
    config.admin_port += common.port_offset;
    config.peer_port += common.port_offset;
    let no_instances = ("allow-zero-initial-scale".to_owned(), "true".to_owned());
    config.autoscaler = BTreeMap::from([no_instances]);
    let (state, index) = state_of(n_services)?;
    let backup = Backup::of(state, CLUSTER, index);
    let place = anew::Place {
        name: config.name.clone(),
        peer_address: config.peer_address(),
        admin_address: config.admin_address(),
    };
    config.node_id = anew::restore(dir, backup, CLUSTER, place)?.node_id;
    config.members = vec![Member {
        id: config.node_id,
        name: config.name.clone(),
        peer: config.peer_address(),
        admin: config.admin_address(),
    }];
    Ok(config)
}

fn state_of(n_services: usize) -> anyhow::Result<(State, u64)> {
    let app = built("nihilo-bench-app")?;
    let init = Entry::InitCluster(InitCluster {
        cluster_id: CLUSTER.into(),
        name: CLUSTER.into(),
        domain: "localhost".into(),
        external_port: 80,
        autoscaler: BTreeMap::new(),
    });
    let put = |n: usize| {
        let idle = service(&format!("idle-{n}"), &program(&app), &[]);
        Entry::PutService(Box::new(PutService {
            service: with_scale(idle, "initial-scale", "0"),
            expect: Expect::Absent,
            uids: Uids::default(),
            user: "bench".into(),
        }))
    };
    let mut state = State::default();
    let mut index = 0;
    for command in std::iter::once(init).chain((0..n_services).map(put)) {
        index += 1;
        let envelope = Envelope {
            cluster_version: CLUSTER_VERSION,
            log_ms: index,
            wall_ms: index,
            request: RequestKey::default(),
            command,
        };
        if let Err(rejection) = state.apply(LogIndex(index), &envelope).reply.result {
            bail!("entry {index}: {rejection}");
        }
    }
    Ok((state, index))
}

/// Starts a node on a copy of `from`; returns the time to its first answer, and its memory then.
async fn start(
    nihilo: &Path,
    from: &Path,
    below: &Path,
    config: &NodeConfig,
) -> anyhow::Result<(Duration, u64)> {
    let dir = tempfile::Builder::new().prefix("node-").tempdir_in(below)?;
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(dir.path())
        .status()?;
    if !copied.success() {
        bail!("cannot copy {}", from.display());
    }
    let config = NodeConfig {
        data_dir: dir.path().to_owned(),
        ..config.clone()
    };
    let file = dir.path().join("node.yaml");
    std::fs::write(&file, config.to_yaml())?;
    let mut command = Command::new(nihilo);
    command.args(["node", "start", "--config"]).arg(&file);
    let started = Instant::now();
    let mut running = Running::spawn(&mut command)?;
    let address = format!("http://{}", config.admin_address());
    loop {
        if read(&address).await {
            let lasted = started.elapsed();
            let memory = Memory::of(running.pid())?;
            return Ok((lasted, memory.rss));
        }
        if running.has_ended() {
            bail!("the node has ended; its words are above");
        }
        if started.elapsed() > START_LIMIT {
            bail!("no answer in {START_LIMIT:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Any answer that a linearizable read gives: that there is no such service is one.
async fn read(address: &str) -> bool {
    let Ok(mut client) = ServingServiceClient::connect(address.to_owned()).await else {
        return false;
    };
    let name = format!("namespaces/{NAMESPACE}/services/nobody");
    match client.get_service(GetRequest { name }).await {
        Ok(_) => true,
        Err(status) => status.code() == tonic::Code::NotFound,
    }
}
