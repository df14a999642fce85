//! Nihilo as a contestant: one node that knows so many routes, with the app as services of one
//! instance each on the generator's core.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use nihilo_client::Client;
use tempfile::TempDir;
use tokio::time::Instant;

use super::cell::{Body, Cell};
use super::contestant::Contestant;
use super::{GENERATOR_CORE, NIHILO, PROXY_CORE};
use crate::cluster::{deploy, program, service, with_scale};
use crate::load::Protocol;
use crate::prefilled::Filling;
use crate::proc::{Running, pin_process};
use crate::{Common, say};

/// Between the ports of one such node and the next.
const PORT_STEP: u16 = 100;
const INSTANCE_PORT_STEP: u16 = 1_000;
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// For a node to have said all that it has to say about what it found in its store.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at a node that has settled.
const FEW_ENTRIES: u64 = 10;

/// `number` tells it from others of its kind.
pub(super) async fn start(
    common: &Common,
    app: &Path,
    n_routes: usize,
    number: u16,
    dir: TempDir,
) -> anyhow::Result<Contestant> {
    let data = dir.path().join("node");
    let offset = common.port_offset + PORT_STEP * number;
    let mut filling = Filling::begin()?;
    filling.add_routes(n_routes.saturating_sub(Body::ALL.len()), &program(app))?;
    let config = filling.write(&data, (offset, INSTANCE_PORT_STEP * number))?;
    let file = data.join("node.yaml");
    std::fs::write(&file, config.to_yaml())?;
    let mut command = Command::new(crate::built("nihilo")?);
    command.args(["node", "start", "--config"]).arg(&file);
    let node = Running::spawn_on(PROXY_CORE, &mut command)?;
    let client = Client::connect_lazy(vec![config.admin_address()])?.with_timeout(CALL_LIMIT);
    let address: SocketAddr = config.gateway_address().parse()?;
    let started = Contestant {
        name: NIHILO,
        n_routes,
        listens: listens(address),
        data_thread: Some("gateway"),
        pids: vec![node.pid()],
        processes: vec![node],
        _dir: Some(dir),
    };
    let started = started.listening()?;
    settled(&client, n_routes).await?;
    serve_apps(&client, app).await?;
    Ok(started)
}

fn listens(address: SocketAddr) -> Vec<(Cell, SocketAddr)> {
    let cells = Cell::all(&[Protocol::H1, Protocol::H2], &Body::ALL);
    cells.into_iter().map(|cell| (cell, address)).collect()
}

/// Waits until the node writes hardly anything.
async fn settled(client: &Client, n_routes: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut before = None;
    while started.elapsed() < SETTLE_LIMIT {
        let status = client.local_status().await;
        let applied = status
            .ok()
            .and_then(|status| Some(status.nodes.first()?.applied));
        let grown = applied.zip(before).map(|(now, before)| now - before);
        if grown.is_some_and(|entries| entries <= FEW_ENTRIES) {
            let took = started.elapsed().as_secs_f64();
            say(format!(
                "{n_routes} routes: quiet {took:.1} s after it listened"
            ));
            return Ok(());
        }
        before = applied;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("the node with {n_routes} routes still writes after {SETTLE_LIMIT:?}");
}

async fn serve_apps(client: &Client, app: &Path) -> anyhow::Result<()> {
    let apps = Body::ALL.map(|body| {
        let bytes = ("BODY_BYTES", body.bytes().to_string());
        let web = service(&body.service(), &program(app), &[bytes]);
        with_scale(with_scale(web, "min-scale", "1"), "max-scale", "1")
    });
    deploy(client, &apps).await?;
    for body in Body::ALL {
        let name = body.service();
        let instances = client.instances(None, &name).await?.items;
        let instance = instances.iter().find(|i| i.state == "Ready");
        let instance = instance.with_context(|| format!("{name} has no ready instance"))?;
        pin_process(instance.pid.cast_signed(), GENERATOR_CORE)?;
    }
    Ok(())
}
