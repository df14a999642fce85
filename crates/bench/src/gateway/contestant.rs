//! What is measured by `gateway`: the app itself, the proxies before it, and Nihilo, which runs
//! the same app as a service.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;
use tempfile::TempDir;

use super::cell::{Body, Cell};
use super::{GENERATOR_CORE, nihilo, proxies};
use crate::load::{Load, Protocol};
use crate::peers::{HAPROXY, NGINX};
use crate::proc::{CpuTimes, Running};
use crate::report::Report;
use crate::{Common, built};

pub(super) const DIRECT: &str = "no proxy";
const START_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One of them, running, with everything that ends with it.
#[derive(Debug)]
pub(super) struct Contestant {
    pub(super) name: &'static str,
    /// Hosts that it knows; 0 = it does not look at the host.
    pub(super) n_routes: usize,
    /// Where it answers what.
    pub(super) listens: Vec<(Cell, SocketAddr)>,
    /// Name of the threads that carry requests; `None` = all of them do.
    pub(super) data_thread: Option<&'static str>,
    /// Whose CPU time is counted.
    pub(super) pids: Vec<i32>,
    pub(super) processes: Vec<Running>,
    /// Goes last: processes write there until they end.
    pub(super) _dir: Option<TempDir>,
}

impl Contestant {
    pub(super) fn is_proxy(&self) -> bool {
        self.name != DIRECT
    }

    /// `None` = it has no answer of this kind.
    pub(super) fn load(&self, cell: Cell, n_clients: usize, lasts: Duration) -> Option<Load> {
        let listens = self.listens.iter().find(|(own, _)| *own == cell);
        listens.map(|(_, address)| Load {
            protocol: cell.protocol,
            address: *address,
            host: cell.body.host(),
            n_clients,
            lasts,
            core: GENERATOR_CORE,
        })
    }

    /// As a row of a table, and as a part of a key in the JSON.
    pub(super) fn label(&self) -> String {
        match self.n_routes {
            0 => self.name.into(),
            n => format!("{}, {n} routes", self.name),
        }
    }

    pub(super) fn key(&self) -> String {
        match self.n_routes {
            0 => "direct".into(),
            n => format!("{}_{n}", self.name),
        }
    }

    pub(super) fn cpu(&self) -> anyhow::Result<Vec<CpuTimes>> {
        self.pids.iter().map(|pid| CpuTimes::of(*pid)).collect()
    }

    pub(super) fn cpu_us(
        &self,
        before: &[CpuTimes],
        after: &[CpuTimes],
        thread: Option<&str>,
    ) -> f64 {
        let pairs = before.iter().zip(after);
        pairs
            .map(|(before, after)| after.us_since(before, thread))
            .sum()
    }

    /// Milliseconds of CPU per second with nothing to do: what a proxy's process costs besides.
    pub(super) fn idle_cpu_ms(&self, lasts: Duration) -> anyhow::Result<f64> {
        let before = self.cpu()?;
        std::thread::sleep(lasts);
        let us = self.cpu_us(&before, &self.cpu()?, None);
        Ok(us / 1e3 / lasts.as_secs_f64())
    }

    /// Waits until it listens everywhere.
    pub(super) fn listening(mut self) -> anyhow::Result<Self> {
        let deadline = Instant::now() + START_LIMIT;
        for (_, address) in &self.listens {
            while TcpStream::connect(address).is_err() {
                let ended = self.processes.iter_mut().any(Running::has_ended);
                if ended || Instant::now() > deadline {
                    bail!("{} does not listen", self.name);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(self)
    }
}

/// Starts everything that this machine has, once for each number of routes; what is missing is
/// noted in the report.
pub(super) async fn contestants(
    common: &Common,
    routes: &[usize],
    report: &mut Report,
) -> anyhow::Result<Vec<Contestant>> {
    let app = built("nihilo-bench-app")?;
    let direct = direct(&app)?;
    let upstreams: Vec<_> = direct
        .listens
        .iter()
        .map(|(cell, address)| (cell.body, *address))
        .collect();
    let mut all = vec![direct];
    let mut missing = Vec::new();
    for peer in [NGINX, HAPROXY] {
        let Some(program) = peer.find(common.install)? else {
            missing.push(peer.program);
            continue;
        };
        report.setting(peer.program, peer.version(&program));
        for n_routes in routes {
            let plan = proxies::Plan::new(dir(common)?, &upstreams, *n_routes)?;
            all.push(match peer.program {
                "nginx" => proxies::nginx(&program, plan)?,
                _ => proxies::haproxy(&program, plan)?,
            });
        }
    }
    if !missing.is_empty() {
        report.setting("missing", missing.join(", "));
    }
    for (number, n_routes) in (0..).zip(routes) {
        all.push(nihilo::start(common, &app, *n_routes, number, dir(common)?).await?);
    }
    Ok(all)
}

/// The upstream itself: how much of a measurement is the generator's and the app's.
fn direct(app: &Path) -> anyhow::Result<Contestant> {
    let (mut listens, mut processes) = (Vec::new(), Vec::new());
    for body in Body::ALL {
        let address = free_address()?;
        let mut command = Command::new(app);
        command
            .env("PORT", address.port().to_string())
            .env("HOST", address.ip().to_string())
            .env("BODY_BYTES", body.bytes().to_string());
        processes.push(Running::spawn_on(GENERATOR_CORE, &mut command)?);
        let protocol = Protocol::H1;
        listens.push((Cell { protocol, body }, address));
    }
    let direct = Contestant {
        name: DIRECT,
        n_routes: 0,
        listens,
        data_thread: None,
        // Not counted: its threads end with their connections, and their times with them.
        pids: Vec::new(),
        processes,
        _dir: None,
    };
    direct.listening()
}

fn dir(common: &Common) -> anyhow::Result<TempDir> {
    let below = common.work_dir()?;
    std::fs::create_dir_all(&below)?;
    let dir = tempfile::Builder::new().prefix("peer-").tempdir_in(below)?;
    Ok(dir)
}

pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}
