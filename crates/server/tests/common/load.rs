//! Clients that ask without a pause, and remember what was not answered.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{get, wait_for};

/// Requests that are under way at a time.
const N_CLIENTS: usize = 4;
/// So many answers say that a host is served through all gateways in use.
const MANY: u64 = 60;

/// Requests without a pause, host by host and gateway by gateway.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    gateways: Mutex<Vec<u16>>,
    n_answered: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Load {
    pub(crate) fn start(hosts: &'static [&'static str], gateways: Vec<u16>) -> Self {
        let shared = Arc::new(Shared {
            gateways: Mutex::new(gateways),
            ..Shared::default()
        });
        let clients = (0..N_CLIENTS).map(|client| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.ask(hosts, client))
        });
        Self {
            clients: clients.collect(),
            shared,
        }
    }

    /// Answers until now.
    pub(crate) fn n_answered(&self) -> u64 {
        self.shared.n_answered.load(Ordering::Relaxed)
    }

    /// Waits for many answers from now on.
    pub(crate) fn goes_on(&self) {
        let before = self.shared.n_answered.load(Ordering::Relaxed);
        wait_for("many answers", || {
            (self.shared.n_answered.load(Ordering::Relaxed) > before + MANY).then_some(())
        });
    }

    /// Only these gateways from now on; what was asked of others is answered by its return.
    pub(crate) fn use_gateways(&self, gateways: Vec<u16>) {
        *self.shared.gateways.lock().unwrap() = gateways;
        self.goes_on();
    }

    /// What was not answered as it should have been.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        self.shared.over.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        self.shared.failed.lock().unwrap().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn ask(&self, hosts: &[&str], client: usize) {
        for n in client.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let gateways = self.gateways.lock().unwrap().clone();
            let (host, gateway) = (hosts[n % hosts.len()], gateways[n % gateways.len()]);
            match get(gateway, host) {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
                    self.n_answered.fetch_add(1, Ordering::Relaxed);
                }
                other => {
                    let text = format!("{host} by {gateway}: {other:?}");
                    self.failed.lock().unwrap().push(text);
                }
            }
        }
    }
}
