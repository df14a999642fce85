//! What becomes of this node's instances when its process dies: by its configuration, or else by
//! where the process stands.

use std::path::Path;
use std::process::id;

use nihilo_types::node_config::{DriverKind, NodeConfig, OnNodeExit};
use rustix::process::{Pid, getppid};

/// The host's own PID namespace has this number for ever (`PROC_PID_INIT_INO` in `linux/proc_ns.h`).
const HOSTS_NAMESPACE: &str = "pid:[4026531836]";

/// Whether the node's next process takes its instances over; otherwise they end with this one.
pub(crate) fn adopts(config: &NodeConfig) -> bool {
    let by_default = || {
        let parent = getppid().map(pid_number);
        if ends_with_us(id(), parent, &namespace(), is_of_systemd()) {
            OnNodeExit::Kill
        } else {
            OnNodeExit::Adopt
        }
    };
    let is_process = config.driver == DriverKind::Process;
    is_process && config.on_node_exit.unwrap_or_else(by_default) == OnNodeExit::Adopt
}

/// Started by the systemd of this host or container, which starts the node again (systemd.exec(5)
/// `INVOCATION_ID`, sd_booted(3)).
fn is_of_systemd() -> bool {
    let is_below_a_unit = std::env::var_os("INVOCATION_ID").is_some();
    is_below_a_unit && Path::new("/run/systemd/system").is_dir()
}

/// The kernel ends a container with its first process, which ends when its only child does, if it is not
/// systemd.
fn ends_with_us(pid: u32, parent: Option<u32>, namespace: &str, is_of_systemd: bool) -> bool {
    let is_only_child = parent == Some(1) && namespace != HOSTS_NAMESPACE;
    pid == 1 || (is_only_child && !is_of_systemd)
}

fn pid_number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

/// Empty where `/proc` does not tell: taken for a container, as an owner then waits for nobody.
fn namespace() -> String {
    let link = std::fs::read_link("/proc/self/ns/pid");
    link.map_or_else(|_| String::new(), |link| link.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_first_process_and_its_child_take_their_instances_along() {
        let other = "pid:[4026532201]";
        assert!(ends_with_us(1, Some(0), other, false));
        assert!(ends_with_us(7, Some(1), other, false));
        assert!(!ends_with_us(70, Some(7), other, false));
        // In a container that systemd runs it is started again; a first process never is.
        assert!(!ends_with_us(7, Some(1), other, true));
        assert!(ends_with_us(1, Some(0), other, true));
        // On a host, the first process is its service manager.
        assert!(!ends_with_us(7, Some(1), HOSTS_NAMESPACE, false));
    }

    #[test]
    fn simulated_instances_end_with_the_process_that_simulates_them() {
        let mut config = NodeConfig::of_one("node1".into(), 1, "/x".into());
        config.on_node_exit = Some(OnNodeExit::Adopt);
        assert!(adopts(&config));
        config.driver = DriverKind::Fake;
        assert!(!adopts(&config));
    }
}
