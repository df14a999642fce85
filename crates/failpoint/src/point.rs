//! The points, by the part of a node and the moment.

use std::fmt;
use std::str::FromStr;

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point { $($(#[$doc])* $name,)* }

        impl Point {
            pub const ALL: &'static [Point] = &[$(Point::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Point::$name => $text,)* }
            }
        }
    };
}

points! {
    // The way of a cold start, 03-actors §11.
    /// F1: demand has come to the owner, no actor has seen it.
    DemandReceived = "demand-received",
    /// F2: a start was decided; neither its row stands nor has it been handed over.
    StartDecided = "start-decided",
    /// F3: the agent has the order and has done nothing about it.
    StartReceived = "start-received",
    /// F4: the instance was spawned, nobody was told.
    InstanceSpawned = "instance-spawned",
    /// F5: the owner knows that it boots; it is not ready.
    InstanceBooting = "instance-booting",
    /// F6: the agent knows that it is ready, nobody was told.
    InstanceReady = "instance-ready",
    /// F7: admission is closed, the drain has begun.
    InstanceDraining = "instance-draining",
    /// F8: a turn of a Revision actor with a start in doubt.
    TurnInDoubt = "turn-in-doubt",

    // The owner's other steps.
    /// A call to an agent leaves.
    CallLeaves = "call-leaves",
    /// A list was answered and is not taken in.
    ListAnswered = "list-answered",
    /// Shards were gained, their keepers are about to be made.
    ShardsGained = "shards-gained",
    /// Shards were lost, their actors still run.
    ShardsLost = "shards-lost",
    /// A scale is about to be recorded.
    ScaleRecorded = "scale-recorded",
    /// An actor's command is about to be proposed.
    CommandProposed = "command-proposed",
    /// Endpoints are about to be told to gateways.
    EndpointsPublished = "endpoints-published",

    // Sessions and leadership.
    /// A session is about to be opened.
    SessionOpens = "session-opens",
    /// The session is open in the log, the node does not act on it yet.
    SessionOpened = "session-opened",
    /// The leader is about to declare a node down.
    NodeDeclaredDown = "node-declared-down",
    /// A route table was built and is not swapped in.
    TableSwapped = "table-swapped",
    /// The session is about to be closed in good order.
    SessionCloses = "session-closes",

    // The agent.
    /// A handle is written under a temporary name. By passing: the first is that of the intent, the
    /// second that of the spawned instance.
    HandleWritten = "handle-written",
    /// A handle has its name. After the first one, nothing is spawned yet.
    HandleNamed = "handle-named",
    /// The drain is over, SIGTERM is about to be sent.
    InstanceStops = "instance-stops",
    /// The instance has ended, nobody was told.
    InstanceExited = "instance-exited",
    /// A drain was called off, admission is still closed.
    InstanceReopened = "instance-reopened",

    // The gateway.
    /// A request takes its place in the line.
    RequestQueued = "request-queued",
    /// A request is about to be sent to an instance of this node.
    RequestSentHere = "request-sent-here",
    /// A request is about to be sent to another node.
    RequestSentAway = "request-sent-away",
    /// Another node's request has come for an instance of this one.
    MeshReceived = "mesh-received",
    /// A place was given to another node's request.
    PlaceReserved = "place-reserved",

    // The store.
    /// Entries are handed to the I/O thread.
    LogAppended = "log-appended",
    /// A batch is about to be written and synced.
    BeforeSync = "before-sync",
    /// A batch is durable, nobody was told, the high-water mark is behind.
    AfterSync = "after-sync",
    /// The mark is written, nobody was told.
    AfterMark = "after-mark",
    /// A vote is about to be written.
    VoteSaved = "vote-saved",
    /// A log's tail is about to be discarded.
    LogTruncated = "log-truncated",
    /// Entries are about to be applied.
    BeforeApply = "before-apply",
    /// Entries were applied, their rows are on the way to the disk.
    AfterApply = "after-apply",
    /// A snapshot is being built.
    SnapshotBuilt = "snapshot-built",
    /// A snapshot was received and is about to be installed.
    SnapshotInstalled = "snapshot-installed",
    /// The log is about to be purged.
    LogPurged = "log-purged",
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Point::ALL.iter().find(|point| point.as_str() == text);
        found.copied().ok_or_else(|| {
            let known: Vec<_> = Point::ALL.iter().map(|point| point.as_str()).collect();
            format!("no such failpoint; known: {}", known.join(", "))
        })
    }
}
