//! Ports for instances on the host's loopback.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::driver::StartError;

/// A port is not given out again for this long.
const QUARANTINE: Duration = Duration::from_secs(5);
/// Ports of a node, from its first one.
const N_PORTS: u16 = 1_000;

#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    next: u16,
    /// In use (`None`), or free again since.
    taken: BTreeMap<u16, Option<Instant>>,
}

impl Ports {
    pub(super) fn new(first: u16) -> Self {
        Self {
            first,
            next: 0,
            taken: BTreeMap::new(),
        }
    }

    pub(super) fn take(&mut self) -> Result<SocketAddr, StartError> {
        self.taken
            .retain(|_, freed| freed.is_none_or(|at| at.elapsed() < QUARANTINE));
        for _ in 0..N_PORTS {
            let port = self.first.saturating_add(self.next);
            self.next = (self.next + 1) % N_PORTS;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            // Somebody else on the host may listen there.
            if !self.taken.contains_key(&port) && TcpListener::bind(address).is_ok() {
                self.taken.insert(port, None);
                return Ok(address);
            }
        }
        Err(StartError::not_started(
            "port",
            format!(
                "no free port in {}..{}; set another `instance-ports` in the node's configuration",
                self.first,
                self.first.saturating_add(N_PORTS)
            ),
        ))
    }

    /// An instance that was found again has it.
    pub(super) fn taken(&mut self, port: u16) {
        self.taken.insert(port, None);
    }

    pub(super) fn give_back(&mut self, port: u16) {
        self.taken.insert(port, Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_others_use_and_one_just_freed_are_passed_over() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().port();
        let mut ports = Ports::new(taken);
        let first = ports.take().unwrap().port();
        assert_ne!(first, taken);
        ports.give_back(first);
        ports.next = first - taken;
        assert_ne!(ports.take().unwrap().port(), first);
    }
}
