//! What a soak came to, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde_json::json;

use super::observe::{Observed, Usage};
use crate::tally::{QUIET, Tally};

#[derive(Debug)]
pub(super) struct Summary<'a> {
    pub(super) n_windows: usize,
    pub(super) length: Duration,
    /// Faults that this machine does not allow, with the reason.
    pub(super) skipped: &'a [String],
    /// Acknowledged writes of the chains, and those found again.
    pub(super) proven: (u64, u64),
    pub(super) tally: &'a Tally,
    pub(super) observed: &'a Observed,
}

impl Summary<'_> {
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&json!({
            "seconds": self.length.as_secs(),
            "windows": self.n_windows,
            "skipped": self.skipped,
            "acknowledged": self.proven.0,
            "found-again": self.proven.1,
            "operations": self.tally.operations(),
            "faults": self.tally.classes(),
            "observed": self.observed,
        }))
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n_acked, n_proven) = self.proven;
        let (seconds, n_windows) = (self.length.as_secs(), self.n_windows);
        writeln!(f, "\n{seconds} s in {n_windows} windows")?;
        writeln!(
            f,
            "writes in chains: {n_acked} acknowledged ({}/s), {n_proven} found again, {} not",
            n_acked / seconds.max(1),
            n_acked.saturating_sub(n_proven)
        )?;
        for (kind, outcomes) in self.tally.operations() {
            let outcomes = outcomes.iter().map(|(outcome, n)| format!("{n} {outcome}"));
            writeln!(f, "{kind}: {}", outcomes.collect::<Vec<_>>().join(", "))?;
        }
        writeln!(f, "faults: {}", self.tally.n_faults())?;
        for (class, of_class) in self.tally.classes() {
            let n = if class == QUIET {
                String::new()
            } else {
                format!(" × {}", of_class.n)
            };
            let (ack, get) = (of_class.longest_without_ack_ms, of_class.slowest_get_ms);
            writeln!(
                f,
                "  {class}{n}: at most {ack} ms without an acknowledged write, slowest GET {get} ms"
            )?;
        }
        for skipped in self.skipped {
            writeln!(f, "  skipped {skipped}")?;
        }
        let (n, term) = (self.observed.n_leader_changes, self.observed.last_term);
        writeln!(f, "leader changes: {n}; last term {term}")?;
        let usage = &self.observed.usage;
        for (name, usage) in [("first", usage.first()), ("last", usage.last())] {
            if let Some(usage) = usage {
                writeln!(f, "three nodes after the {name} window: {usage}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rss, disk) = (self.rss_kib / 1024, self.disk_kib / 1024);
        let (threads, fds) = (self.n_threads, self.n_fds);
        write!(
            f,
            "{rss} MiB resident, {threads} threads, {fds} open files, {disk} MiB on disk"
        )
    }
}
