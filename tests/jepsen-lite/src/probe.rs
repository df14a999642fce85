//! What this machine gives a trial: the binary under test, and ports that nobody uses.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Listeners of all slots lie below Linux' ephemeral ports (32768), so that no client's own port
/// is ever in the way of a node that comes back.
const FIRST_PORT: u16 = 30_000;
const PORTS_PER_SLOT: u16 = 20;
const N_SLOTS: u16 = 100;
/// First port of instances, and how many a slot uses: the driver looks for free ones itself.
const FIRST_INSTANCE_PORT: u16 = 33_000;
const INSTANCE_PORTS_PER_NODE: u16 = 1_000;
const INSTANCE_SLOTS: u16 = 10;
/// The binary under test, if it is not beside this one.
pub const BINARY_ENV: &str = "NIHILO_BIN";
/// The build with failpoints, if it is not beside this one.
pub const CHAOS_BINARY_ENV: &str = "NIHILO_CHAOS_BIN";

/// Ports of one cluster, reserved as long as this lives.
#[derive(Debug)]
pub struct Slot {
    first: u16,
    first_instance: u16,
    /// Held so that another trial on this machine takes another slot.
    _lock: TcpListener,
}

impl Slot {
    /// # Errors
    /// All slots are in use.
    pub fn take() -> anyhow::Result<Self> {
        for number in 0..N_SLOTS {
            let first = FIRST_PORT + number * PORTS_PER_SLOT;
            let Ok(lock) = TcpListener::bind(("127.0.0.1", first)) else {
                continue;
            };
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if (first + 1..first + PORTS_PER_SLOT).all(is_free) {
                let per_slot = 3 * INSTANCE_PORTS_PER_NODE;
                let first_instance = FIRST_INSTANCE_PORT + number % INSTANCE_SLOTS * per_slot;
                return Ok(Self {
                    first,
                    first_instance,
                    _lock: lock,
                });
            }
        }
        bail!("no {PORTS_PER_SLOT} free ports in a row from {FIRST_PORT} on")
    }

    pub fn gateway(&self, node: u16) -> u16 {
        self.first + 1 + node
    }

    pub fn admin(&self, node: u16) -> u16 {
        self.first + 6 + node
    }

    pub fn peer(&self, node: u16) -> u16 {
        self.first + 11 + node
    }

    pub fn instances(&self, node: u16) -> u16 {
        self.first_instance + node * INSTANCE_PORTS_PER_NODE
    }
}

/// Finds the `nihilo` binary: `NIHILO_BIN`, else the one that was built beside this program.
///
/// # Errors
/// There is none; with the command that makes one.
pub fn binary() -> anyhow::Result<PathBuf> {
    find("nihilo", BINARY_ENV)
}

/// Finds the build with failpoints: `NIHILO_CHAOS_BIN`, else the one beside this program.
///
/// # Errors
/// There is none; with the command that makes one.
pub fn chaos_binary() -> anyhow::Result<PathBuf> {
    find("nihilo-chaos", CHAOS_BINARY_ENV)
}

fn find(name: &str, variable: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        let absolute = path.canonicalize();
        return absolute.with_context(|| format!("{variable}={}", path.display()));
    }
    let own = std::env::current_exe()?;
    // Tests lie one directory below programs.
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `{name}` beside {}: cargo xtask jepsen builds it",
                own.display()
            )
        })
}

/// What a trial's record says about the machine.
pub fn machine(binary: &Path) -> serde_json::Value {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let size = binary.metadata().map_or(0, |metadata| metadata.len());
    serde_json::json!({
        "cpus": cpus,
        "kernel": release.trim(),
        "binary": binary.file_name().map(|name| name.to_string_lossy()),
        "binary_bytes": size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_trials_at_once_share_no_port() {
        let (one, other) = (Slot::take().unwrap(), Slot::take().unwrap());
        assert_ne!(one.gateway(0), other.gateway(0));
        let ports = |slot: &Slot| [slot.gateway(2), slot.admin(0), slot.admin(2), slot.peer(0)];
        assert!(ports(&one).windows(2).all(|pair| pair[0] < pair[1]));
        assert!(one.peer(2) < one.first + PORTS_PER_SLOT);
    }
}
