//! What clients do while the cluster is hurt.

pub mod chains;
pub mod counters;
pub mod from_zero;
pub mod load;
pub mod register;
pub mod revisions;
pub mod services;
pub mod silence;
pub mod split;
pub mod stages;
pub mod watch;

use std::fmt;
use std::time::Duration;

use nihilo_sim::checker::Report;

use crate::nemesis::faults::Nemesis;
use crate::seed::Random;
use crate::trial::Trial;

/// The workloads by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// W4.
    FromZero,
    /// W5.
    Steps,
    /// W1.
    Register,
    /// W2.
    Revisions,
    /// W3.
    Split,
    /// W7.
    Watch,
    /// W8.
    Counters,
}

impl Workload {
    pub const ALL: [Workload; 7] = [
        Workload::FromZero,
        Workload::Steps,
        Workload::Register,
        Workload::Revisions,
        Workload::Split,
        Workload::Watch,
        Workload::Counters,
    ];

    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|workload| workload.to_string() == text)
    }

    /// Whether clients send requests through gateways.
    pub fn makes_requests(self) -> bool {
        matches!(self, Workload::FromZero | Workload::Steps | Workload::Split)
    }

    /// Runs for `length` while `nemesis` strikes; returns what the workload judges by itself.
    ///
    /// # Errors
    /// The harness broke, or the cluster did not become whole again.
    pub async fn run(
        self,
        trial: &mut Trial,
        nemesis: Nemesis,
        length: Duration,
        random: &mut Random,
    ) -> anyhow::Result<Report> {
        let kind = match self {
            Workload::FromZero => from_zero::Kind::FromZero,
            Workload::Steps => from_zero::Kind::Steps,
            Workload::Register => return register::run(trial, nemesis, length, random).await,
            Workload::Revisions => return revisions::run(trial, nemesis, length, random).await,
            Workload::Split => return split::run(trial, nemesis, length, random).await,
            Workload::Watch => return watch::run(trial, nemesis, length, random).await,
            Workload::Counters => return chains::run(trial, nemesis, length, random).await,
        };
        from_zero::run(trial, kind, nemesis, length, random).await?;
        Ok(Report::default())
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Workload::FromZero => "from-zero",
            Workload::Steps => "steps",
            Workload::Register => "register",
            Workload::Revisions => "revisions",
            Workload::Split => "split",
            Workload::Watch => "watch",
            Workload::Counters => "counters",
        })
    }
}
