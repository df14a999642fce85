//! Everything that one run records, and its trace.

use std::sync::atomic::{AtomicU64, Ordering};

use nihilo_sim::checker::Evidence;
use nihilo_sim::checker::coverage::Injected;
use nihilo_sim::checker::instance_bound::{DeclaredDown, SeenEmpty};
use nihilo_sim::checker::monotonic::Sample;
use nihilo_sim::checker::no_lost_ack::Add;
use nihilo_sim::checker::request_ledger::GatewayGone;
use nihilo_sim::checker::single_owner::AgentCommand;
use nihilo_sim::history::Event;
use nihilo_sim::history::ledger::{ClientRecord, InstanceRecord};
use parking_lot::Mutex;

/// Virtual nanoseconds since the simulation began.
pub(crate) fn now_ns() -> u64 {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) history: Mutex<Vec<Event>>,
    pub(crate) adds: Mutex<Vec<Add>>,
    pub(crate) client: Mutex<Vec<ClientRecord>>,
    pub(crate) instance: Mutex<Vec<InstanceRecord>>,
    pub(crate) commands: Mutex<Vec<AgentCommand>>,
    pub(crate) samples: Mutex<Vec<Sample>>,
    pub(crate) injected: Mutex<Vec<Injected>>,
    pub(crate) gateway_gone: Mutex<Vec<GatewayGone>>,
    pub(crate) declared_down: Mutex<Vec<DeclaredDown>>,
    pub(crate) seen_empty: Mutex<Vec<SeenEmpty>>,
    /// What the run itself saw and a promise forbids.
    pub(crate) findings: Mutex<Vec<Evidence>>,
    /// What kept the run from being one.
    pub(crate) harness_faults: Mutex<Vec<String>>,
    trace: Mutex<Vec<String>>,
    pub(crate) next_process: AtomicU64,
    pub(crate) next_value: AtomicU64,
}

impl Book {
    /// Writes one step of an operation, stamped now.
    pub(crate) fn event(&self, mut event: Event) -> Event {
        event.at_ns = now_ns();
        self.trace(format_args!(
            "{:?} {} {} {}",
            event.phase,
            event.op,
            event.key.as_deref().unwrap_or_default(),
            event.output
        ));
        self.history.lock().push(event.clone());
        event
    }

    pub(crate) fn process(&self) -> u64 {
        self.next_process.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn value(&self) -> String {
        format!("v{}", self.next_value.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn found(&self, object: &str, what: impl Into<String>) {
        let what = what.into();
        self.trace(format_args!("FOUND {object}: {what}"));
        let evidence = Evidence::new(object, what).at(now_ns());
        self.findings.lock().push(evidence);
    }

    pub(crate) fn trace(&self, what: std::fmt::Arguments<'_>) {
        self.trace_at(now_ns(), what);
    }

    /// From outside the simulation, which has no time there.
    pub(crate) fn trace_at(&self, at_ns: u64, what: std::fmt::Arguments<'_>) {
        let at = at_ns as f64 / 1e9;
        self.trace.lock().push(format!("{at:10.6} {what}"));
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut *self.trace.lock())
    }
}
