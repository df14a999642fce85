//! A socket that listens before its program runs: the kernel queues who dials meanwhile, and nobody
//! is refused (06-runtime §2.3; sd_listen_fds(3)).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::driver::StartError;

/// Connections that wait until they are accepted; the host's own limit may be lower
/// (`net.core.somaxconn`).
const BACKLOG: i32 = 4_096;

/// What the launcher is given as its standard input. This process keeps no copy: where the program
/// ends, who waits is told so at once.
pub(super) fn listening(address: SocketAddr) -> Result<Stdio, StartError> {
    let socket = open(address).map_err(|error| {
        StartError::not_started(
            "socket",
            format!("{address} cannot be listened on: {error}"),
        )
    })?;
    Ok(Stdio::from(socket))
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
