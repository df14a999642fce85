//! Counts of a run that is too long to keep: operations by kind and outcome, faults by class, and
//! how long nothing was acknowledged under each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::clock::boottime_ns;

/// The class of time in which nothing is wrong.
pub const QUIET: &str = "quiet";

#[derive(Debug)]
pub struct Tally {
    n_acked: AtomicU64,
    operations: Mutex<BTreeMap<(&'static str, String), u64>>,
    outage: Mutex<Outage>,
}

/// What is known about acknowledgements, whoever got them.
#[derive(Debug)]
struct Outage {
    class: String,
    /// The fault is over, and what comes after the next acknowledgement is not its any more.
    healed: bool,
    last_ack_ns: u64,
    /// Until writers are let on again their silence says nothing.
    held: bool,
    by_class: BTreeMap<String, ClassTally>,
}

/// One class of faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ClassTally {
    pub n: u64,
    /// Longest time without an acknowledged write.
    pub longest_without_ack_ms: u64,
    /// Slowest answered request that may be repeated, through a gateway that lived.
    pub slowest_get_ms: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            n_acked: AtomicU64::new(0),
            operations: Mutex::default(),
            outage: Mutex::new(Outage {
                class: QUIET.into(),
                healed: false,
                last_ack_ns: boottime_ns(),
                held: true,
                by_class: BTreeMap::new(),
            }),
        }
    }
}

impl Tally {
    /// Counts operations of one kind with one outcome.
    pub fn count(&self, kind: &'static str, outcome: impl Into<String>, n: u64) {
        let mut operations = locked(&self.operations);
        *operations.entry((kind, outcome.into())).or_default() += n;
    }

    /// A write was acknowledged just now.
    pub fn acked(&self) {
        self.n_acked.fetch_add(1, Ordering::Relaxed);
        self.outage().acked(boottime_ns());
    }

    pub fn n_acked(&self) -> u64 {
        self.n_acked.load(Ordering::Relaxed)
    }

    /// A fault of `class` begins.
    pub fn fault(&self, class: &str) {
        let mut outage = self.outage();
        outage.class = class.to_owned();
        outage.healed = false;
        outage.by_class.entry(class.to_owned()).or_default().n += 1;
    }

    /// It is over, and the cluster whole; the silence before the next acknowledgement is still its.
    pub fn healed(&self) {
        self.outage().healed = true;
    }

    /// Writers rest from now on, or no longer.
    pub fn hold(&self, held: bool) {
        let mut outage = self.outage();
        if held {
            outage.settle(boottime_ns());
        }
        outage.held = held;
        outage.last_ack_ns = boottime_ns();
    }

    pub fn got(&self, class: &str, took_ms: u64) {
        let mut outage = self.outage();
        let slowest = &mut outage
            .by_class
            .entry(class.to_owned())
            .or_default()
            .slowest_get_ms;
        *slowest = took_ms.max(*slowest);
    }

    pub fn classes(&self) -> BTreeMap<String, ClassTally> {
        self.outage().by_class.clone()
    }

    pub fn n_faults(&self) -> u64 {
        self.outage().by_class.values().map(|class| class.n).sum()
    }

    /// Kind → outcome → number.
    pub fn operations(&self) -> BTreeMap<&'static str, BTreeMap<String, u64>> {
        let mut all: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for ((kind, outcome), n) in locked(&self.operations).iter() {
            all.entry(*kind).or_default().insert(outcome.clone(), *n);
        }
        all
    }

    fn outage(&self) -> MutexGuard<'_, Outage> {
        locked(&self.outage)
    }
}

impl Outage {
    fn acked(&mut self, now_ns: u64) {
        self.settle(now_ns);
        self.last_ack_ns = now_ns;
        if self.healed {
            self.class = QUIET.into();
            self.healed = false;
        }
    }

    /// Books the silence until now on the class of now.
    fn settle(&mut self, now_ns: u64) {
        if self.held {
            return;
        }
        let ms = now_ns.saturating_sub(self.last_ack_ns) / 1_000_000;
        let class = self.by_class.entry(self.class.clone()).or_default();
        class.longest_without_ack_ms = class.longest_without_ack_ms.max(ms);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_belongs_to_the_fault_under_which_it_was() {
        let mut outage = Outage {
            class: "kill".into(),
            healed: false,
            last_ack_ns: 1_000_000_000,
            held: false,
            by_class: BTreeMap::new(),
        };
        outage.acked(1_900_000_000);
        outage.acked(1_901_000_000);
        outage.healed = true;
        outage.acked(3_000_000_000);
        outage.acked(3_049_000_000);
        let silence = |class: &str| outage.by_class[class].longest_without_ack_ms;
        assert_eq!((silence("kill"), silence(QUIET)), (1_099, 49));
    }

    #[test]
    fn writers_that_rest_are_not_an_outage() {
        let tally = Tally::default();
        tally.hold(true);
        tally.acked();
        assert!(tally.classes().is_empty());
        tally.hold(false);
        tally.fault("kill");
        tally.acked();
        assert_eq!(tally.classes()["kill"].n, 1);
        assert_eq!((tally.n_acked(), tally.n_faults()), (2, 1));
    }
}
