//! An instance's probes as they are asked: the template's, read once.

use std::time::Duration;

use nihilo_types::instance::InstanceSpec;
use nihilo_types::probe::{Probe, ProbeKind};

use super::check::Check;
use super::schedule::{Rhythm, Rhythms};

/// What is asked, and when it has failed for want of an answer.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) check: Check,
    pub(super) timeout: Duration,
}

#[derive(Debug)]
struct Written {
    question: Question,
    rhythm: Rhythm,
}

#[derive(Debug)]
pub(super) struct Plan {
    startup: Option<Written>,
    liveness: Option<Written>,
    readiness: Option<Written>,
    /// Where the template has no readiness probe.
    listening: Written,
}

impl Plan {
    pub(super) fn of(spec: &InstanceSpec) -> Self {
        let probes = &spec.probes;
        let read = |probe: &Option<Box<Probe>>| probe.as_deref().map(|probe| written(probe, spec));
        let readiness = read(&probes.readiness).map(|mut written| {
            let probe = probes.readiness.as_deref();
            written.rhythm.is_aggressive = probe.is_some_and(Probe::is_aggressive);
            written
        });
        Self {
            startup: read(&probes.startup),
            liveness: read(&probes.liveness),
            readiness,
            listening: listening(),
        }
    }

    pub(super) fn rhythms(&self) -> Rhythms {
        Rhythms {
            startup: self.startup.as_ref().map(|written| written.rhythm),
            liveness: self.liveness.as_ref().map(|written| written.rhythm),
            readiness: self.of_readiness().rhythm,
        }
    }

    /// Of a kind that the rhythms have.
    pub(super) fn question(&self, kind: ProbeKind) -> &Question {
        let written = match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => Some(self.of_readiness()),
        };
        &written.expect("only what has a rhythm is asked").question
    }

    pub(super) fn is_written(&self, kind: ProbeKind) -> bool {
        match kind {
            ProbeKind::Startup => self.startup.is_some(),
            ProbeKind::Liveness => self.liveness.is_some(),
            ProbeKind::Readiness => self.readiness.is_some(),
        }
    }

    fn of_readiness(&self) -> &Written {
        self.readiness.as_ref().unwrap_or(&self.listening)
    }
}

/// Ready as soon as something accepts on the port. What stops to listen later refuses connections,
/// which the gateway sees by itself.
fn listening() -> Written {
    Written {
        question: Question {
            check: Check::Listens { port: None },
            timeout: seconds(Probe::DEFAULT_TIMEOUT_SECONDS),
        },
        rhythm: Rhythm {
            initial_delay: Duration::ZERO,
            period: None,
            is_aggressive: true,
            n_successes: 1,
            n_failures: Probe::DEFAULT_FAILURE_THRESHOLD,
        },
    }
}

fn written(probe: &Probe, spec: &InstanceSpec) -> Written {
    let or = |value: Option<u32>, default: u32| value.filter(|n| *n != 0).unwrap_or(default);
    let period = or(probe.period_seconds, Probe::DEFAULT_PERIOD_SECONDS);
    let timeout = or(probe.timeout_seconds, Probe::DEFAULT_TIMEOUT_SECONDS);
    Written {
        question: Question {
            check: Check::of(probe, spec),
            timeout: seconds(timeout),
        },
        rhythm: Rhythm {
            initial_delay: seconds(probe.initial_delay_seconds.unwrap_or(0)),
            period: Some(seconds(period)),
            is_aggressive: false,
            n_successes: or(probe.success_threshold, 1),
            n_failures: or(probe.failure_threshold, Probe::DEFAULT_FAILURE_THRESHOLD),
        },
    }
}

fn seconds(n: u32) -> Duration {
    Duration::from_secs(n.into())
}
