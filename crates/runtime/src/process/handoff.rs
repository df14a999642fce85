//! A socket that listens before its program runs: the kernel queues who dials meanwhile, and nobody
//! is refused (06-runtime §2.3; sd_listen_fds(3)).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use nihilo_types::instance::stage;
use tokio::time::Instant;

use super::launcher::Launcher;
use crate::driver::StartError;

/// Connections that wait until they are accepted; the host's own limit may be lower
/// (`net.core.somaxconn`).
const BACKLOG: i32 = 4_096;

/// A launcher that takes longer is left to the boot's deadline.
const LAUNCH_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// What the launcher is given as its standard input. This process keeps no copy: where the program
/// ends, who waits is told so at once.
pub(super) fn listening(address: SocketAddr) -> Result<Stdio, StartError> {
    let socket = open(address).map_err(|error| {
        StartError::not_started(
            stage::SOCKET,
            format!("{address} cannot be listened on: {error}"),
        )
    })?;
    Ok(Stdio::from(socket))
}

/// Until the launcher has become the program, or has ended. Before that whoever looks would take the
/// socket for a program that serves.
pub(super) async fn until_it_runs(pid: u32) {
    let deadline = Instant::now() + LAUNCH_LIMIT;
    let program = format!("/proc/{pid}/exe");
    while std::fs::read_link(&program).is_ok_and(|path| Launcher::is_at(&path)) {
        if Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn open(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}
