//! The nemesis: which fault comes next, and how each ends.

use super::World;
use super::event::Event;
use super::plan::{MS, SECOND};

/// A fault in force that has an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Cut(usize, usize),
    Isolation(usize),
    /// One node and whoever led just then do not hear each other.
    FromLeader(usize, usize),
    /// One node hears everybody late.
    Slow(usize),
    Lag(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Crash,
    Pause,
    Cut,
    Isolate,
    FromLeader,
    Leave,
    StaleOwner,
    LeaderChange,
    Slow,
    Lag,
    Reload,
}

impl World {
    pub(crate) fn next_fault(&mut self) {
        if self.is_settling() {
            return;
        }
        let mean = self.plan.fault_pause_us;
        let after = self.random.between(mean / 4, mean * 2);
        self.in_world(after, Event::NextFault);
        let faults = self.plan.faults;
        let mut kinds = Vec::new();
        for (on, kind) in [
            (faults.crash, Kind::Crash),
            (faults.pause, Kind::Pause),
            (faults.cut, Kind::Cut),
            (faults.isolate, Kind::Isolate),
            (faults.cut, Kind::FromLeader),
            (faults.leave, Kind::Leave),
            (faults.stale_owner, Kind::StaleOwner),
            (faults.leader_change, Kind::LeaderChange),
            (faults.slow_link, Kind::Slow),
            (faults.lagging_replica, Kind::Lag),
            (faults.reload, Kind::Reload),
        ] {
            if on {
                kinds.push(kind);
            }
        }
        if !kinds.is_empty() {
            let kind = kinds[self.random.index(kinds.len())];
            self.strike(kind);
        }
    }

    fn strike(&mut self, kind: Kind) {
        let n = self.victim();
        let m = (n + 1 + self.random.index(self.nodes.len() - 1)) % self.nodes.len();
        self.counters.n_faults += 1;
        let numbers = [10, kind as u64, n as u64, m as u64];
        self.trace.add(self.now_us, &numbers, || {
            format!("fault {kind:?} at node {} (and {})", n + 1, m + 1)
        });
        match kind {
            Kind::Crash => self.strike_down(n),
            Kind::Pause => {
                let until = self.now_us + self.random.skewed(30 * MS, 6 * SECOND);
                let node = &mut self.nodes[n];
                node.paused_until_us = node.paused_until_us.max(until);
            }
            Kind::Cut => {
                self.net.cut(n, m);
                let after = self.random.skewed(50 * MS, 6 * SECOND);
                self.in_world(after, Event::EndFault(Fault::Cut(n, m)));
            }
            Kind::Isolate => {
                self.isolate(n, true);
                let after = self.random.skewed(50 * MS, 6 * SECOND);
                self.in_world(after, Event::EndFault(Fault::Isolation(n)));
            }
            Kind::FromLeader => self.cut_from_leader(n, (SECOND, 8 * SECOND)),
            Kind::Leave => self.begin_to_leave(n),
            Kind::StaleOwner => self.stale_owner(n, m),
            Kind::LeaderChange => {
                let pause = self.random.skewed(50 * MS, 3 * SECOND);
                self.depose_leader(pause);
            }
            Kind::Slow => {
                let by = self.random.skewed(5 * MS, 400 * MS);
                for from in 0..self.nodes.len() {
                    self.net.slow_down(from, m, by);
                }
                let after = self.random.between(SECOND, 6 * SECOND);
                self.in_world(after, Event::EndFault(Fault::Slow(m)));
            }
            Kind::Lag => {
                self.nodes[n].extra_lag_us = self.random.between(10 * MS, 800 * MS);
                let after = self.random.between(SECOND, 6 * SECOND);
                self.in_world(after, Event::EndFault(Fault::Lag(n)));
            }
            Kind::Reload => self.reload_somebody(n),
        }
    }

    /// Any node, the leader more often than others.
    fn victim(&mut self) -> usize {
        match self.raft.leader {
            Some(leader) if self.random.chance(300) => leader,
            _ => self.random.index(self.nodes.len()),
        }
    }

    fn strike_down(&mut self, n: usize) {
        let n_down = self.nodes.iter().filter(|node| !node.up).count();
        let keeps_quorum = (n_down + 1) * 2 < self.nodes.len();
        if !self.nodes[n].up || !(keeps_quorum || self.random.chance(150)) {
            return;
        }
        self.crash_node(n);
        if self.raft.leader == Some(n) {
            let patience = self.plan.election_max_ms * MS;
            let pause = self.random.between(patience / 2, patience * 2);
            self.depose_leader(pause);
        }
        let after = self.random.skewed(40 * MS, 9 * SECOND);
        self.in_world(after, Event::Restart { node: n });
    }

    /// An owner cut from the leader, but not from the agents: it goes on acting while its shards
    /// move.
    fn cut_from_leader(&mut self, n: usize, (low, high): (u64, u64)) {
        let Some(leader) = self.raft.leader.filter(|leader| *leader != n) else {
            return;
        };
        self.net.cut(n, leader);
        self.net.cut(leader, n);
        let after = self.random.between(low, high);
        let fault = Fault::FromLeader(n, leader);
        self.in_world(after, Event::EndFault(fault));
    }

    /// `n` loses its shards without hearing of it, as it hears of nothing from the leader; then `m`,
    /// which `n` reaches, is killed and back at once: what it knew of epochs is in the log only.
    fn stale_owner(&mut self, n: usize, m: usize) {
        if self.raft.leader == Some(m) {
            return;
        }
        self.cut_from_leader(n, (4 * SECOND, 9 * SECOND));
        let after = self.random.between(1_200 * MS, 3 * SECOND);
        self.in_world(after, Event::QuickRestart { node: m });
    }

    pub(crate) fn quick_restart(&mut self, n: usize) {
        if self.is_settling() || self.raft.leader == Some(n) || !self.nodes[n].up {
            return;
        }
        self.crash_node(n);
        let after = self.random.between(20 * MS, 300 * MS);
        self.in_world(after, Event::Restart { node: n });
    }

    fn isolate(&mut self, n: usize, cut: bool) {
        for m in (0..self.nodes.len()).filter(|m| *m != n) {
            for (a, b) in [(n, m), (m, n)] {
                match cut {
                    true => self.net.cut(a, b),
                    false => self.net.heal(a, b),
                }
            }
        }
    }

    /// As after a panic, or a proposal of unknown outcome.
    fn reload_somebody(&mut self, n: usize) {
        let mut residents = Vec::new();
        for (shard, open) in &self.nodes[n].control.shards {
            residents.extend(
                open.residents()
                    .map(|key| (*shard, open.epoch, key.clone())),
            );
        }
        if residents.is_empty() {
            return;
        }
        let (shard, epoch, key) = residents[self.random.index(residents.len())].clone();
        self.reload(n, shard, epoch, &key);
    }

    pub(crate) fn end_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(a, b) => self.net.heal(a, b),
            Fault::Isolation(n) => self.isolate(n, false),
            Fault::FromLeader(n, leader) => {
                self.net.heal(n, leader);
                self.net.heal(leader, n);
            }
            Fault::Slow(to) => {
                for from in 0..self.nodes.len() {
                    self.net.speed_up(from, to);
                }
            }
            Fault::Lag(n) => self.nodes[n].extra_lag_us = 0,
        }
    }
}
