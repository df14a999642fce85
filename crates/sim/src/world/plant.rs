//! Bugs that are planted on purpose, to prove that the invariants see.
//!
//! They live here, in the world's mirror of the shells and in wrappers around the real parts: the
//! code that is shipped has no switch for them.

use std::fmt;
use std::str::FromStr;

macro_rules! plants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Plant { $($(#[$doc])* $name,)* }

        impl Plant {
            pub const ALL: &'static [Plant] = &[$(Plant::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Plant::$name => $text,)* }
            }
        }
    };
}

plants! {
    /// The agent obeys any epoch.
    EpochIgnored = "epoch-ignored",
    /// The agent obeys calls that were sent before an answered list.
    SeqIgnored = "seq-ignored",
    /// After a restart the agent does not take its floors from the applied owner table.
    FloorForgotten = "floor-forgotten",
    /// One reported instance of each list is not taken over.
    AdoptionForgets = "adoption-forgets",
    /// A new owner starts without waiting for agents.
    KeeperDoesNotWait = "keeper-does-not-wait",
    /// A reload throws away starts in doubt.
    ReloadForgetsStarts = "reload-forgets-starts",
    /// A reload sets the instance-id counter back.
    ReloadResetsCounter = "reload-resets-counter",
    /// A new session leaves the node's old one open.
    SecondSession = "second-session",
    /// An agent that joins is not listed.
    NoListOnJoin = "no-list-on-join",
    /// A drain is called off after SIGTERM.
    ReopenAfterSigterm = "reopen-after-sigterm",
    /// Scale-down does not wait for requests in flight.
    DrainCutsRequests = "drain-cuts-requests",
    /// A gateway takes an older endpoint table.
    StaleEndpoints = "stale-endpoints",
    /// A request that is not idempotent is sent again after it may have arrived.
    PostRetried = "post-retried",
    /// A Route does not wait for the gateways of other nodes.
    ReadyTooEarly = "ready-too-early",
    /// A replica skips one entry.
    EntrySkipped = "entry-skipped",
    /// Streams to a node that was declared down are left hanging.
    StreamsHang = "streams-hang",
    /// A request that was woken in vain is dropped from the line.
    WaiterLost = "waiter-lost",
    /// The end of a request frees no place at its instance.
    PlaceLeaks = "place-leaks",
    /// Demand is not repeated while requests wait.
    DemandOnce = "demand-once",
    /// A start takes its place in the keeper's table only when it is answered.
    RowAfterStart = "row-after-start",
    /// The log accepts an owner's command under any epoch.
    FenceIgnored = "fence-ignored",
    /// A node opens its session before its route table has caught up.
    OpensBehind = "opens-behind",
    /// A node that leaves closes its session first and drains then.
    LeavesFirst = "leaves-first",
    /// A snapshot says that it holds one entry more than it does.
    SnapshotShort = "snapshot-short",
    /// The index of the applied entries is not written with what they changed.
    IndexBehind = "index-behind",
    /// Applying an entry looks at the node's clock.
    ApplyReadsClock = "apply-reads-clock",
    /// Now and then an answer goes to another request of the same gateway.
    WrongWaiter = "wrong-waiter",
    /// Who waits is dropped when the places in front of the line change.
    ResizeDrops = "resize-drops",
    /// An instance takes more requests at once than its limit.
    LimitIgnored = "limit-ignored",
    /// A place that was reserved and not used is never free again.
    ReservationLeaks = "reservation-leaks",
    /// The agent obeys a start that was sent to an earlier life of its node.
    SessionIgnored = "session-ignored",
    /// What is frozen takes requests.
    FreezesOpen = "freezes-open",
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Plant::ALL.iter().find(|plant| plant.as_str() == text);
        found.copied().ok_or_else(|| {
            let known: Vec<_> = Plant::ALL.iter().map(|plant| plant.as_str()).collect();
            format!("no such planted bug; known: {}", known.join(", "))
        })
    }
}
