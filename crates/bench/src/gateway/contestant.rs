//! What is measured by `gateway`: the app itself, the proxies before it, and Nihilo, which runs
//! the same app as a service.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use super::{GENERATOR_CORE, NIHILO, PROXY_CORE};
use crate::cluster::{Cluster, host_of, program, service, with_scale};
use crate::peers::{HAPROXY, NGINX};
use crate::proc::{CpuTimes, Running, children, pin_process};
use crate::report::Report;
use crate::{Common, built};

/// Idle connections to the upstream that a proxy may keep.
const POOL: usize = 1_024;
const START_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const SERVICE: &str = "web";
const DIRECT: &str = "no proxy";

/// One of them, running, with everything that ends with it.
#[derive(Debug)]
pub(super) struct Contestant {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    pub(super) host: String,
    /// Name of the threads that carry requests; `None` = all of them do.
    pub(super) data_thread: Option<&'static str>,
    /// Whose CPU time is counted.
    pids: Vec<i32>,
    _processes: Vec<Running>,
    _cluster: Option<Cluster>,
    _dir: Option<TempDir>,
}

impl Contestant {
    pub(super) fn is_proxy(&self) -> bool {
        self.name != DIRECT
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
}

/// Starts everything that this machine has; what is missing is noted in the report.
pub(super) async fn contestants(
    common: &Common,
    body_bytes: u16,
    report: &mut Report,
) -> anyhow::Result<Vec<Contestant>> {
    let app = built("nihilo-bench-app")?;
    let direct = direct(&app, body_bytes)?;
    let upstream = direct.address;
    let mut all = vec![direct];
    let mut missing = Vec::new();
    for peer in [NGINX, HAPROXY] {
        let Some(program) = peer.find(common.install)? else {
            missing.push(peer.program);
            continue;
        };
        report.setting(peer.program, peer.version(&program));
        all.push(match peer.program {
            "nginx" => nginx(&program, common, upstream)?,
            _ => haproxy(&program, common, upstream)?,
        });
    }
    if !missing.is_empty() {
        report.setting("missing", missing.join(", "));
    }
    all.push(nihilo(common, &app, body_bytes).await?);
    Ok(all)
}

/// The upstream itself: how much of a measurement is the generator's and the app's.
fn direct(app: &Path, body_bytes: u16) -> anyhow::Result<Contestant> {
    let address = free_address()?;
    let mut command = Command::new(app);
    command
        .env("PORT", address.port().to_string())
        .env("HOST", address.ip().to_string())
        .env("BODY_BYTES", body_bytes.to_string());
    let process = Running::spawn_on(GENERATOR_CORE, &mut command)?;
    finish(Contestant {
        name: DIRECT,
        address,
        host: "app".into(),
        data_thread: None,
        // Not counted: its threads end with their connections, and their times with them.
        pids: Vec::new(),
        _processes: vec![process],
        _cluster: None,
        _dir: None,
    })
}

fn nginx(program: &Path, common: &Common, upstream: SocketAddr) -> anyhow::Result<Contestant> {
    let (dir, address) = (dir(common)?, free_address()?);
    let shown = dir.path().display();
    let config = format!(
        "daemon off;
worker_processes 1;
pid {shown}/nginx.pid;
error_log {shown}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {shown}/body;
  proxy_temp_path {shown}/proxy;
  fastcgi_temp_path {shown}/fastcgi;
  uwsgi_temp_path {shown}/uwsgi;
  scgi_temp_path {shown}/scgi;
  upstream app {{ server {upstream}; keepalive {POOL}; keepalive_requests 1000000000; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"
    );
    let file = dir.path().join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&file).arg("-p").arg(dir.path());
    command.arg("-e").arg(dir.path().join("error.log"));
    let process = Running::spawn_on(PROXY_CORE, &mut command)?;
    let mut contestant = finish(Contestant {
        name: "nginx",
        address,
        host: "app".into(),
        data_thread: None,
        pids: vec![process.pid()],
        _processes: vec![process],
        _cluster: None,
        _dir: Some(dir),
    })?;
    // The master forwards nothing; its one worker does.
    let worker = children(contestant.pids[0])?;
    contestant.pids.extend(worker);
    Ok(contestant)
}

fn haproxy(program: &Path, common: &Common, upstream: SocketAddr) -> anyhow::Result<Contestant> {
    let (dir, address) = (dir(common)?, free_address()?);
    let config = format!(
        "global
  nbthread 1
  maxconn 8192
defaults
  mode http
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind {address}
  default_backend app
backend app
  server app {upstream}
"
    );
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&file);
    let process = Running::spawn_on(PROXY_CORE, &mut command)?;
    finish(Contestant {
        name: "haproxy",
        address,
        host: "app".into(),
        data_thread: None,
        pids: vec![process.pid()],
        _processes: vec![process],
        _cluster: None,
        _dir: Some(dir),
    })
}

/// One node, with the app as a service of one instance on the generator's core.
async fn nihilo(common: &Common, app: &Path, body_bytes: u16) -> anyhow::Result<Contestant> {
    let cluster = Cluster::start(common.plan(1)?).await?;
    let web = service(
        SERVICE,
        &program(app),
        &[("BODY_BYTES", body_bytes.to_string())],
    );
    let web = with_scale(web, "min-scale", "1");
    let web = with_scale(web, "max-scale", "1");
    cluster.deploy(&[web]).await?;
    let pids = cluster.pids()?;
    let instances = cluster.client.instances(None, SERVICE).await?.items;
    let instance = instances.iter().find(|i| i.state == "Ready");
    let instance = instance.context("the service has no ready instance")?;
    for pid in &pids {
        pin_process(*pid, PROXY_CORE)?;
    }
    pin_process(instance.pid.cast_signed(), GENERATOR_CORE)?;
    finish(Contestant {
        name: NIHILO,
        address: cluster.gateway(0)?,
        host: host_of(SERVICE),
        data_thread: Some("gateway"),
        pids,
        _processes: Vec::new(),
        _cluster: Some(cluster),
        _dir: None,
    })
}

/// Waits until it listens.
fn finish(mut contestant: Contestant) -> anyhow::Result<Contestant> {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(contestant.address).is_err() {
        let ended = contestant._processes.iter_mut().any(Running::has_ended);
        if ended || Instant::now() > deadline {
            bail!("{} does not listen", contestant.name);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(contestant)
}

fn dir(common: &Common) -> anyhow::Result<TempDir> {
    let below = common.work_dir()?;
    std::fs::create_dir_all(&below)?;
    let dir = tempfile::Builder::new().prefix("peer-").tempdir_in(below)?;
    Ok(dir)
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}
