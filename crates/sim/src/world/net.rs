//! Links between nodes: directed, with delays, cuts and losses.

use std::collections::BTreeMap;

use super::World;
use super::event::{Address, Event};
use super::plan::MS;

/// One-way delay inside a node: a channel and a task switch.
const LOCAL_DELAY_US: (u64, u64) = (5, 120);
const MIN_DELAY_US: u64 = 60;
/// A message that is late in earnest: behind a full buffer, or a paused process.
const LATE_US: (u64, u64) = (200 * MS, 3_000 * MS);

/// Cuts and slow-downs in force.
#[derive(Debug, Default)]
pub(crate) struct Net {
    /// Directed pair → number of faults that cut it.
    cuts: BTreeMap<(usize, usize), u32>,
    slow: BTreeMap<(usize, usize), u64>,
    /// Newest delivery on an ordered stream.
    streams: BTreeMap<(usize, usize), u64>,
}

impl Net {
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        *self.cuts.entry((from, to)).or_insert(0) += 1;
    }

    pub(crate) fn heal(&mut self, from: usize, to: usize) {
        if let Some(n) = self.cuts.get_mut(&(from, to)) {
            *n -= 1;
            if *n == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    pub(crate) fn slow_down(&mut self, from: usize, to: usize, by_us: u64) {
        self.slow.insert((from, to), by_us);
    }

    pub(crate) fn speed_up(&mut self, from: usize, to: usize) {
        self.slow.remove(&(from, to));
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        from != to && self.cuts.contains_key(&(from, to))
    }

    /// Both ways.
    pub(crate) fn is_linked(&self, a: usize, b: usize) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }
}

impl World {
    pub(crate) fn delay(&mut self, from: usize, to: usize) -> u64 {
        if from == to {
            return self.random.between(LOCAL_DELAY_US.0, LOCAL_DELAY_US.1);
        }
        let slow = self.net.slow.get(&(from, to)).copied().unwrap_or(0);
        let slow = self.random.below(slow + 1);
        slow + self.random.skewed(MIN_DELAY_US, self.plan.max_delay_us)
    }

    pub(crate) fn address(&self, node: usize) -> Address {
        (node, self.nodes[node].life)
    }

    pub(crate) fn at_node(&mut self, node: usize, after_us: u64, event: Event) {
        let to = self.address(node);
        self.agenda.add(self.now_us + after_us, Some(to), event);
    }

    pub(crate) fn in_world(&mut self, after_us: u64, event: Event) {
        self.agenda.add(self.now_us + after_us, None, event);
    }

    /// A message of its own: it may be lost or late. `false` = certainly lost.
    pub(crate) fn send(&mut self, from: usize, to: Address, event: Event) -> bool {
        let remote = from != to.0;
        if remote && self.net.is_cut(from, to.0) {
            return false;
        }
        if remote && self.random.chance(self.plan.faults.drop) {
            self.counters.n_lost += 1;
            return false;
        }
        let mut delay = self.delay(from, to.0);
        if remote && self.random.chance(self.plan.faults.late) {
            delay += self.random.between(LATE_US.0, LATE_US.1);
        }
        self.agenda.add(self.now_us + delay, Some(to), event);
        true
    }

    /// Whether the next message should arrive twice; the caller sends the copy.
    pub(crate) fn doubles(&mut self) -> bool {
        self.random.chance(self.plan.faults.double)
    }

    /// A message on an ordered stream (one HTTP/2 stream): never overtakes the one before it.
    /// `false` = the stream broke.
    pub(crate) fn send_in_order(&mut self, from: usize, to: Address, event: Event) -> bool {
        if self.net.is_cut(from, to.0) {
            return false;
        }
        let breaks = self.plan.faults.broken_streams && from != to.0;
        if breaks && self.random.chance(5) {
            return false;
        }
        let at = self.now_us + self.delay(from, to.0);
        let newest = self.net.streams.entry((from, to.0)).or_insert(0);
        *newest = (*newest + 1).max(at);
        let at = *newest;
        self.agenda.add(at, Some(to), event);
        true
    }
}
