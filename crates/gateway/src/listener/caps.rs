//! How many connections there may be, in all and from one source (05-gateway §20).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::connection::source_of;

const MAX_CONNECTIONS: usize = 65_536;
/// Descriptors kept for everything else of the process.
const SPARE_DESCRIPTORS: usize = 1_024;
/// From one address, or one IPv6 /64.
const MAX_PER_SOURCE: usize = 4_096;

/// Cheap to clone; clones share the seats.
#[derive(Debug, Clone)]
pub(super) struct Caps {
    limit: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    n: usize,
    by_source: HashMap<u128, usize>,
}

/// One connection's; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    source: u128,
    taken: Arc<Mutex<Taken>>,
}

impl Caps {
    /// By what this process may open.
    pub(super) fn of_process() -> Self {
        let limit = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limit
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let soft = line.and_then(|line| line.split_ascii_whitespace().nth(3)?.parse().ok());
        let room = soft
            .unwrap_or(MAX_CONNECTIONS)
            .saturating_sub(SPARE_DESCRIPTORS);
        Self {
            // A small limit still lets half of it be used.
            limit: room.max(soft.unwrap_or(0) / 2).min(MAX_CONNECTIONS),
            taken: Arc::default(),
        }
    }

    /// `None` = full. Who is exempt counts, but is not counted against its source.
    pub(super) fn seat(&self, client: IpAddr, is_exempt: bool) -> Option<Seat> {
        let source = source_of(client.to_canonical());
        let mut taken = self.taken.lock();
        let own = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.n >= self.limit || (own >= MAX_PER_SOURCE && !is_exempt) {
            return None;
        }
        taken.n += 1;
        taken.by_source.insert(source, own + 1);
        let taken = self.taken.clone();
        Some(Seat { source, taken })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.n -= 1;
        if let Some(own) = taken.by_source.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_every_seat() {
        let caps = Caps {
            limit: MAX_PER_SOURCE + 2,
            taken: Arc::default(),
        };
        let (greedy, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let seats: Vec<_> = std::iter::from_fn(|| caps.seat(greedy, false)).collect();
        assert_eq!(seats.len(), MAX_PER_SOURCE);
        let first = caps.seat(other, false);
        let second = caps.seat(greedy, true);
        assert!(first.is_some() && second.is_some());
        assert!(caps.seat(other, true).is_none());
        drop((seats, first, second));
        let taken = caps.taken.lock();
        assert!(taken.n == 0 && taken.by_source.is_empty());
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let of = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
