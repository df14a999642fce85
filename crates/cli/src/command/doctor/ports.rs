//! Addresses that a node listens on, and ports that it gives to instances.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;

use super::finding::Finding;

const INSTANCES: &str = "instance ports";
/// A node uses as many, by turns, however few run at a time.
const N_INSTANCE_PORTS: u32 = 1_000;
const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The process that runs the node of `data_dir`, where there is one.
pub(super) fn running(data_dir: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data_dir.join("nihilo.pid")).ok()?;
    let pid = text.trim().parse().ok()?;
    Path::new(&format!("/proc/{pid}")).is_dir().then_some(pid)
}

/// `key` of the configuration chooses `address`; `pid` runs this machine's node.
pub(super) fn examine(key: &str, address: &str, pid: Option<i32>) -> Finding {
    let refused = TcpListener::bind(address).err();
    judge(key, address, refused.map(|error| error.kind()), pid)
}

fn judge(key: &str, address: &str, refused: Option<ErrorKind>, pid: Option<i32>) -> Finding {
    let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
    let check = format!("port {port}");
    match (refused, pid) {
        (None, _) => Finding::ok(check, format!("free ({key})")),
        (Some(ErrorKind::AddrInUse), Some(pid)) => Finding::ok(
            check,
            format!("in use while the node runs, pid {pid} ({key})"),
        ),
        (Some(ErrorKind::AddrInUse), None) => Finding::fail(
            check,
            format!("in use by another program ({key})"),
            format!("see which with `ss -ltnp 'sport = :{port}'`, or set another `{key}`"),
        ),
        (Some(ErrorKind::PermissionDenied), _) => Finding::fail(
            check,
            format!("only root may listen on it ({key})"),
            format!("sysctl -w net.ipv4.ip_unprivileged_port_start={port}, or another `{key}`"),
        ),
        (Some(ErrorKind::AddrNotAvailable), _) => Finding::fail(
            check,
            format!("{address} is not an address of this machine ({key})"),
            "set `listen` to one of `ip -brief address`, or to 0.0.0.0",
        ),
        (Some(other), _) => Finding::fail(
            check,
            format!("{address}: {other} ({key})"),
            format!("correct `listen` and `{key}`"),
        ),
    }
}

/// Those from `first` on that instances are given.
pub(super) fn examine_instances(first: u16) -> Finding {
    let range = std::fs::read_to_string(LOCAL_RANGE).unwrap_or_default();
    judge_instances(&range, first)
}

/// `range` as the kernel writes it. It gives ports of it to connections that this machine opens: one that
/// has an instance's port by then keeps the instance from starting.
fn judge_instances(range: &str, first: u16) -> Finding {
    let (first, last) = (u32::from(first), u32::from(first) + N_INSTANCE_PORTS - 1);
    let found = format!("{first} to {last}");
    if last > u32::from(u16::MAX) {
        let fix = "set a lower `instance-ports`";
        return Finding::fail(INSTANCES, format!("{found} are more than there are"), fix);
    }
    let mut bounds = range
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok());
    match (bounds.next(), bounds.next()) {
        (Some(lowest), Some(highest)) if first <= highest && lowest <= last => Finding::warn(
            INSTANCES,
            format!("{found} overlap with those of outgoing connections, {lowest} to {highest}"),
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}"),
        ),
        _ => Finding::ok(INSTANCES, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::finding::State;

    #[test]
    fn a_port_is_free_or_says_who_is_in_the_way() {
        use ErrorKind::{AddrInUse, AddrNotAvailable, Other, PermissionDenied};
        let cases = [
            (None, None, State::Ok, "free", ""),
            (None, Some(7), State::Ok, "free", ""),
            (Some(AddrInUse), Some(7), State::Ok, "pid 7", ""),
            (
                Some(AddrInUse),
                None,
                State::Fail,
                "another program",
                "ss -ltnp 'sport = :80'",
            ),
            (
                Some(PermissionDenied),
                None,
                State::Fail,
                "root",
                "port_start=80",
            ),
            (
                Some(AddrNotAvailable),
                Some(7),
                State::Fail,
                "10.0.0.1:80",
                "`listen`",
            ),
            (
                Some(Other),
                None,
                State::Fail,
                "10.0.0.1:80",
                "`gateway-port`",
            ),
        ];
        for (refused, pid, state, found, fix) in cases {
            let finding = judge("gateway-port", "10.0.0.1:80", refused, pid);
            assert_eq!((finding.state, finding.check.as_str()), (state, "port 80"));
            assert!(finding.found.contains(found), "{finding:?}");
            assert!(finding.fix.unwrap_or_default().contains(fix), "{refused:?}");
        }
    }

    #[test]
    fn a_port_is_really_tried() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        assert_eq!(examine("admin-port", &address, None).state, State::Fail);
        drop(taken);
        assert_eq!(examine("admin-port", &address, None).state, State::Ok);
        assert_eq!(examine("admin-port", "nonsense", None).state, State::Fail);
    }

    #[test]
    fn only_a_pid_of_a_living_process_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(running(dir.path()), None);
        let own = std::process::id();
        std::fs::write(dir.path().join("nihilo.pid"), format!("{own}\n")).unwrap();
        assert_eq!(running(dir.path()), i32::try_from(own).ok());
        // Above what the kernel gives to anybody.
        std::fs::write(dir.path().join("nihilo.pid"), "2147483646\n").unwrap();
        assert_eq!(running(dir.path()), None);
    }

    #[test]
    fn instances_and_outgoing_connections_share_no_port() {
        let cases = [
            ("32768\t60999\n", 20_000, State::Ok),
            ("20999 60999", 20_000, State::Warn),
            ("21000 60999", 20_000, State::Ok),
            ("1024 20000", 20_000, State::Warn),
            ("1024 19999", 20_000, State::Ok),
            ("", 20_000, State::Ok),
            ("32768 60999", 65_000, State::Fail),
        ];
        for (range, first, state) in cases {
            let finding = judge_instances(range, first);
            assert_eq!(finding.state, state, "{range:?} {first}: {finding:?}");
        }
    }
}
