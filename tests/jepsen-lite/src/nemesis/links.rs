//! Links that are bad, not gone: what the proxies on them do.

use std::fmt;
use std::time::Duration;

use crate::backend::{N_NODES, NodeIndex};
use crate::clock::pause;
use crate::proxy::Shape;
use crate::seed::Random;
use crate::trial::Trial;

const HOLD_MIN_MS: u64 = 4_000;
const HOLD_MAX_MS: u64 = 15_000;

/// On every link between nodes, both ways, unless its name says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// N13: 20 to 40 ms each way, below what any profile's heartbeats bear.
    Latency,
    /// N13: 300 ms each way. Heartbeats come too late for a leader to be sure of itself, so that
    /// nothing is owed meanwhile but the truth.
    HighLatency,
    /// N14: one chunk in twenty waits for a retransmission.
    Loss,
    /// Connections are reset within 64 KiB.
    Resets,
    /// The leader's connections stay open, and nothing passes.
    HalfOpen,
    /// N15: 256 kbit/s.
    Thin,
}

impl LinkFault {
    pub const ALL: [LinkFault; 6] = [
        LinkFault::Latency,
        LinkFault::HighLatency,
        LinkFault::Loss,
        LinkFault::Resets,
        LinkFault::HalfOpen,
        LinkFault::Thin,
    ];

    fn shape(self) -> Shape {
        let ms = Duration::from_millis;
        let plain = Shape::default();
        match self {
            LinkFault::Latency => Shape {
                delay: ms(20),
                jitter: ms(20),
                ..plain
            },
            LinkFault::HighLatency => Shape {
                delay: ms(300),
                ..plain
            },
            LinkFault::Loss => Shape {
                stalls_permille: 50,
                stall: ms(200),
                ..plain
            },
            LinkFault::Resets => Shape {
                reset_within: 64 * 1024,
                ..plain
            },
            LinkFault::HalfOpen => Shape {
                is_half_open: true,
                ..plain
            },
            LinkFault::Thin => Shape {
                bytes_per_second: 32 * 1024,
                ..plain
            },
        }
    }

    /// # Errors
    /// The links have no proxies, or the cluster did not become whole again.
    pub(super) async fn strike(self, trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
        let leader = trial.cluster.leader().await?;
        let ms = random.between(HOLD_MIN_MS, HOLD_MAX_MS);
        trial.say(&format!("{self} for {ms} ms, node{} leads", leader + 1));
        let all: Vec<NodeIndex> = (0..N_NODES).collect();
        match self {
            LinkFault::HalfOpen => trial.cut_off(&[leader], "half-open"),
            LinkFault::HighLatency => trial.cut_off(&all, "high latency"),
            LinkFault::Latency | LinkFault::Loss | LinkFault::Resets | LinkFault::Thin => {
                trial.hurt(leader, &self.to_string());
            }
        }
        let is_hit = |from: NodeIndex, to: NodeIndex| {
            self != LinkFault::HalfOpen || from == leader || to == leader
        };
        trial.cluster.shape(self.shape(), is_hit)?;
        pause(Duration::from_millis(ms)).await;
        trial.cluster.shape(Shape::default(), |_, _| true)?;
        trial.unhurt(leader, "links are as before").await
    }
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkFault::Latency => "latency",
            LinkFault::HighLatency => "high-latency",
            LinkFault::Loss => "loss",
            LinkFault::Resets => "resets",
            LinkFault::HalfOpen => "half-open",
            LinkFault::Thin => "thin-links",
        })
    }
}
