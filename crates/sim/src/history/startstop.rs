//! `startstop.log` of a node agent: what was spawned and what ended, on the host's boot clock.
//!
//! ```text
//! {"boottime_ns":81000,"instance":"hello-00001-1z-1","epoch":71,"event":"spawn","pid":null}
//! {"boottime_ns":83000,"instance":"hello-00001-1z-1","epoch":71,"event":"spawned","pid":4711}
//! {"boottime_ns":99000,"instance":"hello-00001-1z-1","epoch":71,"event":"exit","pid":4711}
//! ```
//!
//! `spawn` is written before the call, so a start that nobody could record the end of is still
//! known to have been tried.

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use nihilo_types::id::{Epoch, InstanceId};

use crate::history::json_lines::{self, JsonLinesError};

/// How far a line may lie before its predecessor: writers read the clock before they queue for
/// the file, so two lines may swap. A bigger step back is another boot or a damaged file.
pub const MAX_SWAP_NS: u64 = 50_000_000;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartStopRecord {
    /// `CLOCK_BOOTTIME`; the same clock for all nodes of one host.
    pub boottime_ns: u64,
    pub instance: String,
    /// Epoch of the owner that ordered the start.
    pub epoch: u64,
    pub event: StartStopEvent,
    #[serde(default)]
    pub pid: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartStopEvent {
    /// About to be started.
    Spawn,
    /// Started, under this pid.
    Spawned,
    /// Gone, or never came to be.
    Exit,
}

/// A file that no agent can have written.
#[derive(Debug, thiserror::Error)]
pub enum StartStopError {
    #[error("start/stop log: {0}")]
    Lines(#[from] JsonLinesError),
    #[error(
        "start/stop log line {line}: boot time goes back from {before_ns} ns to {at_ns} ns: \
         another boot, or a damaged file"
    )]
    TimeWentBack {
        line: u64,
        before_ns: u64,
        at_ns: u64,
    },
}

/// Reads one agent's log (the rotated `startstop.log.1` before the newest, if there is one) in
/// order of time. A torn last line is left out: the agent was killed while writing it, and its
/// `spawn` line precedes every start.
///
/// # Errors
/// When another line does not decode, or time goes back by more than [`MAX_SWAP_NS`].
pub fn read(reader: impl BufRead) -> Result<Vec<StartStopRecord>, StartStopError> {
    let mut records: Vec<StartStopRecord> = Vec::new();
    let mut newest_ns = 0;
    for (line, record) in json_lines::read_torn::<StartStopRecord>(reader)? {
        let at_ns = record.boottime_ns;
        if at_ns + MAX_SWAP_NS < newest_ns {
            return Err(StartStopError::TimeWentBack {
                line,
                before_ns: newest_ns,
                at_ns,
            });
        }
        newest_ns = newest_ns.max(at_ns);
        records.push(record);
    }
    // Stable: lines of one moment keep the order in which they were written.
    records.sort_by_key(|record| record.boottime_ns);
    Ok(records)
}

/// Whether `instance` is one of `revision`, by the way ids are made ([`InstanceId::new`]).
pub fn is_instance_of(instance: &str, revision: &str) -> bool {
    let mut parts = instance.rsplitn(3, '-');
    let (Some(counter), Some(epoch)) = (parts.next(), parts.next()) else {
        return false;
    };
    let number = |text| u64::from_str_radix(text, 36).ok();
    match (number(epoch), number(counter)) {
        (Some(epoch), Some(counter)) => {
            InstanceId::new(revision, Epoch(epoch), counter).as_str() == instance
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAWN: &str = concat!(
        r#"{"boottime_ns":81000,"instance":"hello-00001-1z-1","epoch":71,"#,
        r#""event":"spawn","pid":null}"#,
        "\n"
    );

    #[test]
    fn a_line_of_the_agent_is_read_and_a_torn_tail_left_out() {
        let records = read(format!("{SPAWN}{{\"boottime_ns\":9").as_bytes()).unwrap();
        let [record] = &records[..] else {
            panic!("one whole line");
        };
        assert_eq!(record.event, StartStopEvent::Spawn);
        assert_eq!(
            (record.boottime_ns, record.epoch, record.pid),
            (81000, 71, None)
        );
    }

    #[test]
    fn swapped_lines_are_sorted_and_a_real_step_back_is_refused() {
        let at = |ns: u64| SPAWN.replace("81000", &ns.to_string());
        let swapped = read(format!("{}{}", at(9000), at(8000)).as_bytes()).unwrap();
        assert_eq!(swapped[0].boottime_ns, 8000);
        let text = format!("{}{}", at(MAX_SWAP_NS * 3), at(5));
        let error = read(text.as_bytes()).unwrap_err();
        assert!(matches!(
            error,
            StartStopError::TimeWentBack { line: 2, .. }
        ));
    }

    #[test]
    fn ids_tell_their_revision_also_when_it_was_cut() {
        for revision in ["hello-00001", &"a".repeat(63), "with-dash-00017"] {
            let id = InstanceId::new(revision, Epoch(71), 36);
            assert!(is_instance_of(id.as_str(), revision));
            assert!(!is_instance_of(id.as_str(), "hello-00002"));
        }
        assert!(!is_instance_of("nothing", "nothing"));
    }
}
