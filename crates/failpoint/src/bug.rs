//! Bugs that a test can plant in the running product: those whose way leads through parts that the
//! simulated world does not have.

use std::fmt;
use std::str::FromStr;

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug { $($(#[$doc])* $name,)* }

        impl Bug {
            pub const ALL: &'static [Bug] = &[$(Bug::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Bug::$name => $text,)* }
            }
        }
    };
}

bugs! {
    /// An appended entry is acknowledged before it is durable.
    AckBeforeSync = "ack-before-sync",
    /// A read is answered from the node's own state without asking a quorum.
    ReadWithoutQuorum = "read-without-quorum",
    /// A request that is not idempotent is sent again after it may have arrived.
    PostRetried = "post-retried",
    /// A start takes its place under max-scale only when it is answered.
    RowAfterStart = "row-after-start",
    /// Streams to a node that was declared down are left hanging.
    StreamsHang = "streams-hang",
    /// A node that leaves closes its session first and drains then.
    LeavesFirst = "leaves-first",
    /// Scale-down does not wait for requests in flight.
    DrainCutsRequests = "drain-cuts-requests",
}

/// The bug of this process, by its environment.
#[cfg(feature = "on")]
pub(crate) fn of_process() -> Option<Bug> {
    static BUG: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    *BUG.get_or_init(|| {
        let name = std::env::var(crate::BUG_ENV).ok()?;
        // A canary that plants nothing would prove nothing.
        Some(name.parse().unwrap_or_else(|text: String| panic!("{text}")))
    })
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Bug::ALL.iter().find(|bug| bug.as_str() == text);
        found.copied().ok_or_else(|| {
            let known: Vec<_> = Bug::ALL.iter().map(|bug| bug.as_str()).collect();
            format!("no such planted bug; known: {}", known.join(", "))
        })
    }
}
