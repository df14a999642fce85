//! Events paired into operations; a history that cannot have happened is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;

use serde_json::Value;

use crate::history::event::{Event, Phase};
use crate::history::json_lines::{self, JsonLinesError};
use crate::history::shown::seconds;

/// An operation with both its ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub process: u64,
    pub op: String,
    pub key: Option<String>,
    pub input: Value,
    pub output: Value,
    pub outcome: Outcome,
    pub invoked_ns: u64,
    /// `None` when the outcome is unknown: it may take effect at any later time.
    pub ended_ns: Option<u64>,
    pub log_index: Option<u64>,
    /// The node that answered, else the one that was asked.
    pub node: Option<String>,
    pub request: Option<String>,
    pub epoch: Option<u64>,
    /// Line of the invocation in the history, from 1.
    pub line: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// Did not and will not happen.
    Fail,
    /// May have happened or may still.
    Unknown,
}

/// A history that no set of single-threaded processes can have produced.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("history: {0}")]
    Lines(#[from] JsonLinesError),
    #[error("history line {line}: time goes back from {before_ns} ns to {at_ns} ns")]
    TimeWentBack {
        line: u64,
        before_ns: u64,
        at_ns: u64,
    },
    #[error(
        "history line {line}: process {process} invokes `{op}` before its operation of line {open_line} ended"
    )]
    DoubleInvoke {
        line: u64,
        process: u64,
        op: String,
        open_line: u64,
    },
    #[error("history line {line}: process {process} ends `{op}`, which it did not invoke")]
    CompletionWithoutInvoke { line: u64, process: u64, op: String },
    #[error(
        "history line {line}: process {process} ends another operation than it invoked in line {open_line}"
    )]
    CompletionOfAnother {
        line: u64,
        process: u64,
        open_line: u64,
    },
    #[error(
        "history line {line}: process {process} goes on after the unknown outcome in line {retired_line}"
    )]
    RetiredProcess {
        line: u64,
        process: u64,
        retired_line: u64,
    },
    #[error("history line {line}: request id `{request}` was used before, in line {first_line}")]
    RequestIdTwice {
        line: u64,
        request: String,
        first_line: u64,
    },
    #[error("history line {line}: `{op}` has {what}")]
    Malformed { line: u64, op: String, what: String },
}

/// All operations of a trial in the order of their invocation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    pub operations: Vec<Operation>,
    pub notes: Vec<Event>,
}

impl History {
    /// Reads `history.jsonl`.
    ///
    /// # Errors
    /// When a line does not decode or the whole cannot have happened; both are harness faults.
    pub fn read(reader: impl BufRead) -> Result<Self, HistoryError> {
        Self::pair(json_lines::read(reader)?)
    }

    /// Pairs events that are already in memory; line numbers count from 1.
    ///
    /// # Errors
    /// As [`History::read`].
    pub fn from_events(events: Vec<Event>) -> Result<Self, HistoryError> {
        Self::pair((1..).zip(events).collect())
    }

    fn pair(lines: Vec<(u64, Event)>) -> Result<Self, HistoryError> {
        let mut pairing = Pairing::default();
        for (line, event) in lines {
            pairing.take(line, event)?;
        }
        Ok(pairing.history)
    }
}

#[derive(Debug, Default)]
struct Pairing {
    history: History,
    now_ns: u64,
    /// Process → position of its open operation.
    open: BTreeMap<u64, usize>,
    /// Process → line of the outcome that retired it.
    retired: BTreeMap<u64, u64>,
    /// Request id → line that used it first.
    requests: BTreeMap<String, u64>,
}

impl Pairing {
    fn take(&mut self, line: u64, event: Event) -> Result<(), HistoryError> {
        if event.at_ns < self.now_ns {
            return Err(HistoryError::TimeWentBack {
                line,
                before_ns: self.now_ns,
                at_ns: event.at_ns,
            });
        }
        self.now_ns = event.at_ns;
        match event.phase {
            Phase::Note => {
                self.history.notes.push(event);
                Ok(())
            }
            Phase::Invoke => self.invoke(line, event),
            Phase::Ok => self.complete(line, event, Outcome::Ok),
            Phase::Fail => self.complete(line, event, Outcome::Fail),
            Phase::Info => self.complete(line, event, Outcome::Unknown),
        }
    }

    fn invoke(&mut self, line: u64, event: Event) -> Result<(), HistoryError> {
        let process = event.process;
        if let Some(&retired_line) = self.retired.get(&process) {
            return Err(HistoryError::RetiredProcess {
                line,
                process,
                retired_line,
            });
        }
        if let Some(&open) = self.open.get(&process) {
            return Err(HistoryError::DoubleInvoke {
                line,
                process,
                op: event.op,
                open_line: self.history.operations[open].line,
            });
        }
        if let Some(request) = &event.request
            && let Some(first_line) = self.requests.insert(request.clone(), line)
        {
            return Err(HistoryError::RequestIdTwice {
                line,
                request: request.clone(),
                first_line,
            });
        }
        self.open.insert(process, self.history.operations.len());
        // Until its end is read the outcome is unknown; an operation that never ends stays so.
        self.history.operations.push(Operation {
            process,
            op: event.op,
            key: event.key,
            input: event.input,
            output: Value::Null,
            outcome: Outcome::Unknown,
            invoked_ns: event.at_ns,
            ended_ns: None,
            log_index: None,
            node: event.node,
            request: event.request,
            epoch: event.epoch,
            line,
        });
        Ok(())
    }

    fn complete(&mut self, line: u64, event: Event, outcome: Outcome) -> Result<(), HistoryError> {
        let process = event.process;
        let Some(open) = self.open.remove(&process) else {
            return Err(HistoryError::CompletionWithoutInvoke {
                line,
                process,
                op: event.op,
            });
        };
        let operation = &mut self.history.operations[open];
        let same_key = event.key.is_none() || event.key == operation.key;
        let same_request = event.request.is_none() || event.request == operation.request;
        if event.op != operation.op || !same_key || !same_request {
            return Err(HistoryError::CompletionOfAnother {
                line,
                process,
                open_line: operation.line,
            });
        }
        operation.outcome = outcome;
        operation.output = event.output;
        operation.log_index = event.log_index;
        operation.node = event.node.or(operation.node.take());
        operation.epoch = event.epoch.or(operation.epoch);
        match outcome {
            Outcome::Unknown => {
                self.retired.insert(process, line);
            }
            Outcome::Ok | Outcome::Fail => operation.ended_ns = Some(event.at_ns),
        }
        Ok(())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: p{} {}", self.line, self.process, self.op)?;
        if let Some(key) = &self.key {
            write!(f, " {key}")?;
        }
        if !self.input.is_null() {
            write!(f, " {}", self.input)?;
        }
        write!(f, " [{}, ", seconds(self.invoked_ns))?;
        match self.ended_ns {
            Some(ended_ns) => write!(f, "{}]", seconds(ended_ns))?,
            None => f.write_str("unknown)")?,
        }
        match self.outcome {
            Outcome::Ok => write!(f, " -> {}", self.output),
            Outcome::Fail => write!(f, " -> refused {}", self.output),
            Outcome::Unknown => f.write_str(" -> unknown"),
        }
    }
}

#[cfg(test)]
#[path = "operation_test.rs"]
mod tests;
