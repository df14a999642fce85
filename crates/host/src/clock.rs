//! The clock that goes on while the host sleeps, and that all nodes of one host share.

use std::fmt;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the host's boot.
#[derive(Clone, Default)]
pub enum BootClock {
    /// `CLOCK_BOOTTIME`.
    #[default]
    System,
    Given(Arc<dyn Fn() -> u64 + Send + Sync>),
}

impl BootClock {
    pub fn now_ns(&self) -> u64 {
        match self {
            Self::System => {
                let now = clock_gettime(ClockId::Boottime);
                let (s, ns) = (now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned());
                s * 1_000_000_000 + ns
            }
            Self::Given(now) => now(),
        }
    }
}

impl fmt::Debug for BootClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Given(_) => "Given",
        })
    }
}
