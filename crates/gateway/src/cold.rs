//! Where the time of a request went that found nothing ready.

use std::time::Duration;

use nihilo_types::instance::Waking;

/// The parts of it, one after the other; they add up to [`Self::total`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColdStart {
    /// All before the last sending that was not the work of the instance's node: the way to the owner, its
    /// decision, the order to a node, the news of what is ready; and whatever came to nothing before it.
    placed: Duration,
    /// The node made its process.
    spawned: Duration,
    /// The process got ready, or was thawed.
    ready: Duration,
    /// From sending the request to the first byte of its answer.
    first_byte: Duration,
}

/// Names of the parts and of their sum, as in metrics.
pub(crate) const STAGES: [&str; 5] = ["placed", "spawned", "ready", "first_byte", "total"];

impl ColdStart {
    /// Of a request that waited for an instance which its node got ready as `waking` tells.
    pub(crate) fn of(waited: Duration, waking: Waking, first_byte: Duration) -> Self {
        let spawned_us = waking.spawned_us.min(waking.ready_us);
        let booted = Duration::from_micros(waking.ready_us - spawned_us);
        // Who came while it was being started has waited for the rest of that only.
        let ready = booted.min(waited);
        let spawned = Duration::from_micros(spawned_us).min(waited - ready);
        Self {
            placed: waited - ready - spawned,
            spawned,
            ready,
            first_byte,
        }
    }

    pub(crate) fn total(&self) -> Duration {
        self.placed + self.spawned + self.ready + self.first_byte
    }

    /// In the order of [`STAGES`].
    pub(crate) fn stages(&self) -> [(&'static str, Duration); 5] {
        let spent = [
            self.placed,
            self.spawned,
            self.ready,
            self.first_byte,
            self.total(),
        ];
        std::array::from_fn(|i| (STAGES[i], spent[i]))
    }

    /// For the header `nihilo-cold-start`: `placed=0.7;…;total=3.1`, in milliseconds.
    pub(crate) fn header(&self) -> String {
        let part = |(stage, spent)| format!("{}={:.3}", hyphened(stage), milliseconds(spent));
        self.stages().map(part).join(";")
    }

    /// As metrics of the header `Server-Timing` (W3C Server Timing §3).
    pub(crate) fn server_timing(&self) -> String {
        let part = |(stage, spent)| format!("{};dur={:.1}", hyphened(stage), milliseconds(spent));
        self.stages().map(part).join(", ")
    }
}

fn hyphened(stage: &str) -> String {
    stage.replace('_', "-")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn start(waited_ms: u32, spawned_us: u64, ready_us: u64) -> ColdStart {
        let waking = Waking {
            spawned_us,
            ready_us,
        };
        ColdStart::of(waited_ms * MS, waking, MS)
    }

    #[test]
    fn the_parts_of_a_wait_add_up_to_it() {
        let cases = [
            ("all of a start", start(10, 2_000, 7_000), [3, 2, 5]),
            ("it came while it booted", start(4, 2_000, 7_000), [0, 0, 4]),
            (
                "it came while it was spawned",
                start(6, 2_000, 7_000),
                [0, 1, 5],
            ),
            ("a thaw", start(10, 0, 4_000), [6, 0, 4]),
            ("an older node tells nothing", start(10, 0, 0), [10, 0, 0]),
            ("a node tells nonsense", start(10, 9_000, 2_000), [8, 2, 0]),
        ];
        for (what, cold, expected) in cases {
            let parts = [cold.placed, cold.spawned, cold.ready];
            assert_eq!(parts, expected.map(|ms| ms * MS), "{what}");
        }
    }

    #[test]
    fn headers_name_each_part() {
        let cold = start(10, 2_000, 7_000);
        assert_eq!(
            cold.header(),
            "placed=3.000;spawned=2.000;ready=5.000;first-byte=1.000;total=11.000"
        );
        assert_eq!(
            cold.server_timing(),
            "placed;dur=3.0, spawned;dur=2.0, ready;dur=5.0, first-byte;dur=1.0, total;dur=11.0"
        );
    }
}
