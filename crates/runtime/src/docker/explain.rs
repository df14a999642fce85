//! Why a container that runs is not ready: where it listens instead, where this host can see that.

use crate::process::listening::{Listening, parse};

/// As the kernel writes addresses on a machine of this byte order.
const ANY_V4: u32 = 0;
/// The engine's own name server in a container.
const RESOLVER: u32 = u32::from_be_bytes([127, 0, 0, 11]);
const ANY_V6: &str = "00000000000000000000000000000000";

/// `None` where `pid` is not the container's in this process's eyes.
pub(super) fn not_ready(container: &str, pid: u32, wanted: u16) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    if !groups.contains(container) {
        return None;
    }
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{pid}/net/{table}"));
    let tables = tables
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok());
    let sockets: Vec<_> = tables.flat_map(|table| parse(&table)).collect();
    Some(explain(&sockets, wanted))
}

fn explain(sockets: &[Listening], wanted: u16) -> String {
    let sockets: Vec<_> = sockets
        .iter()
        .filter(|socket| address_of(socket) != Reach::Resolver)
        .collect();
    let on_wanted = sockets.iter().find(|socket| socket.port == wanted);
    match (on_wanted, sockets.first()) {
        (Some(socket), _) if address_of(socket) == Reach::Loopback => format!(
            "the app listens on port {wanted} of its container's loopback only, where nobody else \
             reaches it: let it listen on 0.0.0.0"
        ),
        (Some(_), _) => format!(
            "the app listens on $PORT ({wanted}), but this node does not reach its address: \
             `docker: {{network: NAME}}` in the node's configuration names a network that it does"
        ),
        (None, Some(other)) => format!(
            "the app listens on port {}, not on $PORT ({wanted}): name it as containerPort, or let \
             the app read $PORT",
            other.port
        ),
        (None, None) => format!("nothing listens on $PORT ({wanted})"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Reach {
    Everybody,
    Loopback,
    Resolver,
}

fn address_of(socket: &Listening) -> Reach {
    if socket.address.len() == ANY_V6.len() {
        return match socket.address.as_str() {
            // `::1`
            "00000000000000000000000001000000" => Reach::Loopback,
            _ => Reach::Everybody,
        };
    }
    let written = u32::from_str_radix(&socket.address, 16).unwrap_or(ANY_V4);
    match u32::from_be(written) {
        RESOLVER => Reach::Resolver,
        address if address >> 24 == 127 => Reach::Loopback,
        _ => Reach::Everybody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn explained(addresses: &[&str]) -> String {
        let rows = addresses.iter().map(|address| {
            format!("   0: {address} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n")
        });
        let table = HEAD.to_owned() + &rows.collect::<String>();
        explain(&parse(&table), 8080)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_usual_mistakes_are_named() {
        // 127.0.0.11:40000, the engine's resolver, never counts.
        let resolver = "0B00007F:9C40";
        assert_eq!(explained(&[resolver]), "nothing listens on $PORT (8080)");
        let loopback = explained(&[resolver, "0100007F:1F90"]);
        assert!(loopback.contains("loopback only"), "{loopback}");
        let loopback = explained(&["00000000000000000000000001000000:1F90"]);
        assert!(loopback.contains("loopback only"), "{loopback}");
        let elsewhere = explained(&["00000000:0050"]);
        assert!(
            elsewhere.contains("listens on port 80, not on $PORT (8080)"),
            "{elsewhere}"
        );
        let unreached = explained(&["00000000:1F90"]);
        assert!(unreached.contains("does not reach"), "{unreached}");
    }
}
