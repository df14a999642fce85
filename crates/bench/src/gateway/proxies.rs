//! nginx and HAProxy, each with one worker, which choose the upstream by a table of hosts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::PROXY_CORE;
use super::cell::{Body, Cell};
use super::contestant::{Contestant, free_address};
use crate::load::Protocol;
use crate::proc::{Running, children};

/// Idle connections to an upstream that nginx may keep.
const POOL: usize = 1_024;
/// Where the hosts lead that nobody asks for.
const NOWHERE: &str = "127.0.0.1:9";

/// What one of them is started with.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    dir: TempDir,
    upstreams: &'a [(Body, SocketAddr)],
    n_routes: usize,
    h1: SocketAddr,
    h2: SocketAddr,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        dir: TempDir,
        upstreams: &'a [(Body, SocketAddr)],
        n_routes: usize,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            dir,
            upstreams,
            n_routes,
            h1: free_address()?,
            h2: free_address()?,
        })
    }

    /// `HOST UPSTREAM` lines: those that are asked for, and others up to the number.
    fn routes(&self, end_of_line: &str) -> String {
        let mut lines = String::new();
        let mut line = |host: &str, upstream: &str| {
            lines.push_str(&format!("{host} {upstream}{end_of_line}\n"));
        };
        for (body, _) in self.upstreams {
            line(&body.host(), &body.service());
        }
        for n in self.upstreams.len()..self.n_routes {
            line(&format!("idle-{n}.idle.localhost"), "nowhere");
        }
        lines
    }

    fn listens(&self) -> Vec<(Cell, SocketAddr)> {
        let mut listens = Vec::new();
        for (body, _) in self.upstreams {
            for (protocol, address) in [(Protocol::H1, self.h1), (Protocol::H2, self.h2)] {
                let body = *body;
                listens.push((Cell { protocol, body }, address));
            }
        }
        listens
    }

    fn started(self, name: &'static str, command: &mut Command) -> anyhow::Result<Contestant> {
        let process = Running::spawn_on(PROXY_CORE, command)?;
        let started = Contestant {
            name,
            n_routes: self.n_routes,
            listens: self.listens(),
            data_thread: None,
            pids: vec![process.pid()],
            processes: vec![process],
            _dir: Some(self.dir),
        };
        started.listening()
    }
}

pub(super) fn nginx(program: &Path, plan: Plan<'_>) -> anyhow::Result<Contestant> {
    let dir = plan.dir.path().to_owned();
    std::fs::write(dir.join("routes"), plan.routes(";"))?;
    let file = dir.join("nginx.conf");
    std::fs::write(&file, nginx_config(&plan))?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&file).arg("-p").arg(&dir);
    command.arg("-e").arg(dir.join("error.log"));
    let mut contestant = plan.started("nginx", &mut command)?;
    // The master forwards nothing; its one worker does.
    let worker = children(contestant.pids[0])?;
    contestant.pids.extend(worker);
    Ok(contestant)
}

fn nginx_config(plan: &Plan<'_>) -> String {
    let shown = plan.dir.path().display();
    let upstreams: String = plan
        .upstreams
        .iter()
        .map(|(body, address)| {
            let name = body.service();
            format!(
                "  upstream {name} {{
    server {address};
    keepalive {POOL};
    keepalive_requests 1000000000;
  }}
"
            )
        })
        .collect();
    let (h1, h2) = (plan.h1, plan.h2);
    format!(
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
  map_hash_max_size 524288;
  map_hash_bucket_size 128;
  map $host $app {{ include {shown}/routes; }}
{upstreams}  upstream nowhere {{ server {NOWHERE}; }}
  server {{
    listen {h1};
    listen {h2} http2;
    location / {{
      proxy_pass http://$app;
      proxy_http_version 1.1;
      proxy_buffers 16 8k;
      proxy_max_temp_file_size 0;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"
    )
}

pub(super) fn haproxy(program: &Path, plan: Plan<'_>) -> anyhow::Result<Contestant> {
    let dir = plan.dir.path().to_owned();
    std::fs::write(dir.join("routes"), plan.routes(""))?;
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, haproxy_config(&plan))?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&file);
    plan.started("haproxy", &mut command)
}

fn haproxy_config(plan: &Plan<'_>) -> String {
    let shown = plan.dir.path().display();
    let upstreams: String = plan
        .upstreams
        .iter()
        .map(|(body, address)| format!("backend {}\n  server app {address}\n", body.service()))
        .collect();
    let (h1, h2) = (plan.h1, plan.h2);
    format!(
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
  bind {h1}
  bind {h2} proto h2
  use_backend %[req.hdr(host),field(1,:),lower,map({shown}/routes)]
{upstreams}backend nowhere
  server app {NOWHERE}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_so_many_hosts_and_those_that_are_asked_for_among_them() {
        let app: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let upstreams = Body::ALL.map(|body| (body, app));
        let plan = Plan::new(tempfile::tempdir().unwrap(), &upstreams, 10).unwrap();
        let table = plan.routes(";");
        assert_eq!(table.lines().count(), 10);
        assert!(table.starts_with("web-1k.default.localhost web-1k;\n"));
        assert!(table.ends_with("idle-9.idle.localhost nowhere;\n"));
        assert_eq!(plan.listens().len(), 4);
    }
}
