//! Which ports a process group listens on: an app that took another port than `$PORT` is the most
//! common reason for one that never becomes ready, and it can be named.

use std::collections::BTreeSet;

use super::stat;

/// Socket states in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Returns the TCP ports that the processes of a group listen on, in order.
pub(super) fn ports_of_group(group: u32) -> Vec<u16> {
    let inodes: BTreeSet<u64> = members(group).into_iter().flat_map(socket_inodes).collect();
    let listening = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|table| parse(&table));
    let ports: BTreeSet<u16> = listening
        .filter(|socket| inodes.contains(&socket.inode))
        .map(|socket| socket.port)
        .collect();
    ports.into_iter().collect()
}

fn members(group: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat::group(*pid) == Some(group))
        .collect()
}

fn socket_inodes(pid: u32) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.ok()?.path()).ok()?;
            let target = target.to_str()?;
            target
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listening {
    /// As the kernel writes it: hexadecimal, in the byte order of the machine.
    pub(crate) address: String,
    pub(crate) port: u16,
    inode: u64,
}

/// Listening sockets of a `/proc/net/tcp` table.
pub(crate) fn parse(table: &str) -> Vec<Listening> {
    let row = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.rsplit_once(':')?;
        if *fields.get(3)? != LISTEN {
            return None;
        }
        Some(Listening {
            address: address.into(),
            port: u16::from_str_radix(port, 16).ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    };
    table.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
                     1: 0100007F:1F91 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1\n";
        let [one] = &parse(table)[..] else {
            panic!("{:?}", parse(table));
        };
        let found = (one.address.as_str(), one.port, one.inode);
        assert_eq!(found, ("0100007F", 8080, 4711));
    }

    #[test]
    fn this_process_is_seen_listening() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let group = stat::group(std::process::id()).unwrap();
        assert!(ports_of_group(group).contains(&port));
    }
}
