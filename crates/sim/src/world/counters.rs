//! What a run has seen, so that a quiet world is not taken for a proof.

use super::requests::Outcome;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) n_turns: u64,
    pub(crate) n_passivations: u64,
    pub(crate) n_instances: u64,
    pub(crate) n_frozen: u64,
    pub(crate) n_faults: u64,
    pub(crate) n_lost: u64,
    pub(crate) n_refused: u64,
    pub(crate) n_writes: u64,
    pub(crate) n_service_writes: u64,
    n_ok: u64,
    n_failed: u64,
}

/// Sums over runs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    pub n_events: u64,
    pub n_entries: u64,
    pub n_turns: u64,
    pub n_passivations: u64,
    pub n_instances: u64,
    pub n_frozen: u64,
    pub n_faults: u64,
    pub n_lost_messages: u64,
    pub n_refused: u64,
    pub n_writes: u64,
    pub n_requests_ok: u64,
    pub n_requests_failed: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.n_ok += 1,
            _ => self.n_failed += 1,
        }
    }

    pub(crate) fn totals(&self, n_events: u64, n_entries: u64) -> Totals {
        Totals {
            n_events,
            n_entries,
            n_turns: self.n_turns,
            n_passivations: self.n_passivations,
            n_instances: self.n_instances,
            n_frozen: self.n_frozen,
            n_faults: self.n_faults,
            n_lost_messages: self.n_lost,
            n_refused: self.n_refused,
            n_writes: self.n_writes,
            n_requests_ok: self.n_ok,
            n_requests_failed: self.n_failed,
        }
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.n_events += other.n_events;
        self.n_entries += other.n_entries;
        self.n_turns += other.n_turns;
        self.n_passivations += other.n_passivations;
        self.n_instances += other.n_instances;
        self.n_frozen += other.n_frozen;
        self.n_faults += other.n_faults;
        self.n_lost_messages += other.n_lost_messages;
        self.n_refused += other.n_refused;
        self.n_writes += other.n_writes;
        self.n_requests_ok += other.n_requests_ok;
        self.n_requests_failed += other.n_requests_failed;
    }
}
