//! Operations on versioned registers, as C1–C4 judge them: typed, or refused.
//!
//! ```text
//! op       in                               out of `ok`
//! get      –                                null, or {"value":V,"version":N}
//! put      {"value":V}                      {"version":N}
//! create   {"value":V}                      {"version":N} or {"conflict":true}
//! cas      {"value":V,"expected":N}         {"version":N} or {"conflict":true}
//! delete   –, or {"expected":N}             {"version":N} or {"conflict":true}
//! ```
//!
//! A value is a string that stands for the whole spec (a nonce in it, or its hash). Version =
//! `resourceVersion` = log index of the write. `conflict` is an answer of the object (the
//! precondition did not hold), `fail` means that the operation was never tried.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::history::operation::{History, HistoryError, Operation, Outcome};
use crate::history::shown::seconds;

/// One operation on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterOperation {
    pub process: u64,
    pub request: Option<String>,
    pub node: Option<String>,
    pub key: String,
    pub action: Action,
    pub answer: Answer,
    pub invoked_ns: u64,
    /// `None` exactly when the answer is unknown.
    pub ended_ns: Option<u64>,
    /// Log index that the answer named beside the version.
    pub log_index: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Get,
    Put { value: String },
    Create { value: String },
    Cas { value: String, expected: u64 },
    Delete { expected: Option<u64> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What a get saw; `None` = no such object.
    Read(Option<Seen>),
    Written {
        version: Option<u64>,
    },
    /// The precondition did not hold.
    Conflict,
    /// Not tried, without effect.
    Failed,
    Unknown,
}

/// A value with the version under which it was read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seen {
    pub value: String,
    #[serde(default)]
    pub version: Option<u64>,
}

impl Action {
    /// Everything but a get.
    pub fn is_write(&self) -> bool {
        !matches!(self, Action::Get)
    }

    /// What the key holds afterwards; `None` inside = nothing. `None` outside = not a write.
    pub fn written_value(&self) -> Option<Option<&str>> {
        match self {
            Action::Get => None,
            Action::Put { value } | Action::Create { value } | Action::Cas { value, .. } => {
                Some(Some(value))
            }
            Action::Delete { .. } => Some(None),
        }
    }
}

impl RegisterOperation {
    /// Version that an acknowledged write was given.
    pub fn acked_version(&self) -> Option<u64> {
        match self.answer {
            Answer::Written { version } => version.or(self.log_index),
            Answer::Read(_) | Answer::Conflict | Answer::Failed | Answer::Unknown => None,
        }
    }

    pub fn is_acked_write(&self) -> bool {
        matches!(self.answer, Answer::Written { .. })
    }
}

#[derive(Debug, Deserialize)]
struct ValueInput {
    value: String,
}

#[derive(Debug, Deserialize)]
struct CasInput {
    value: String,
    expected: u64,
}

#[derive(Debug, Default, Deserialize)]
struct DeleteInput {
    #[serde(default)]
    expected: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct WriteOutput {
    #[serde(default)]
    version: Option<u64>,
    #[serde(default)]
    conflict: bool,
}

/// The register operations of a history, in order of invocation; others are left out.
///
/// # Errors
/// [`HistoryError::Malformed`] when one of them lacks its key, input or output.
pub fn register_operations(history: &History) -> Result<Vec<RegisterOperation>, HistoryError> {
    let mut typed = Vec::new();
    for operation in &history.operations {
        let Some(action) = action(operation)? else {
            continue;
        };
        let Some(key) = operation.key.clone() else {
            return Err(malformed(operation, "no key"));
        };
        typed.push(RegisterOperation {
            process: operation.process,
            request: operation.request.clone(),
            node: operation.node.clone(),
            key,
            answer: answer(operation, &action)?,
            action,
            invoked_ns: operation.invoked_ns,
            ended_ns: operation.ended_ns,
            log_index: operation.log_index,
        });
    }
    Ok(typed)
}

fn action(operation: &Operation) -> Result<Option<Action>, HistoryError> {
    Ok(Some(match operation.op.as_str() {
        "get" => Action::Get,
        "put" => {
            let ValueInput { value } = part(operation, &operation.input, "input")?;
            Action::Put { value }
        }
        "create" => {
            let ValueInput { value } = part(operation, &operation.input, "input")?;
            Action::Create { value }
        }
        "cas" => {
            let CasInput { value, expected } = part(operation, &operation.input, "input")?;
            Action::Cas { value, expected }
        }
        "delete" => {
            let DeleteInput { expected } = match &operation.input {
                Value::Null => DeleteInput::default(),
                input => part(operation, input, "input")?,
            };
            Action::Delete { expected }
        }
        _ => return Ok(None),
    }))
}

fn answer(operation: &Operation, action: &Action) -> Result<Answer, HistoryError> {
    Ok(match (operation.outcome, action) {
        (Outcome::Unknown, _) => Answer::Unknown,
        (Outcome::Fail, _) => Answer::Failed,
        (Outcome::Ok, Action::Get) => Answer::Read(part(operation, &operation.output, "output")?),
        (Outcome::Ok, _) => {
            let output: WriteOutput = match &operation.output {
                Value::Null => WriteOutput::default(),
                output => part(operation, output, "output")?,
            };
            if output.conflict {
                Answer::Conflict
            } else {
                Answer::Written {
                    version: output.version.or(operation.log_index),
                }
            }
        }
    })
}

fn part<T: DeserializeOwned>(
    operation: &Operation,
    value: &Value,
    name: &str,
) -> Result<T, HistoryError> {
    serde_json::from_value(value.clone())
        .map_err(|error| malformed(operation, &format!("a malformed {name}: {error}")))
}

fn malformed(operation: &Operation, what: &str) -> HistoryError {
    HistoryError::Malformed {
        line: operation.line,
        op: operation.op.clone(),
        what: what.to_owned(),
    }
}

impl fmt::Display for RegisterOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{} {}", self.process, self.action)?;
        write!(f, " {} [{}, ", self.key, seconds(self.invoked_ns))?;
        match self.ended_ns {
            Some(ended_ns) => write!(f, "{}]", seconds(ended_ns))?,
            None => f.write_str("never)")?,
        }
        write!(f, " -> {}", self.answer)?;
        if let Some(node) = &self.node {
            write!(f, " (node `{node}`)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Get => f.write_str("get"),
            Action::Put { value } => write!(f, "put `{value}`"),
            Action::Create { value } => write!(f, "create `{value}`"),
            Action::Cas { value, expected } => write!(f, "cas v{expected} -> `{value}`"),
            Action::Delete { expected: None } => f.write_str("delete"),
            Action::Delete {
                expected: Some(expected),
            } => write!(f, "delete v{expected}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Read(None) => f.write_str("nothing there"),
            Answer::Read(Some(seen)) => seen.fmt(f),
            Answer::Written { version: None } => f.write_str("written"),
            Answer::Written {
                version: Some(version),
            } => write!(f, "written v{version}"),
            Answer::Conflict => f.write_str("conflict"),
            Answer::Failed => f.write_str("failed"),
            Answer::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.value)?;
        match self.version {
            Some(version) => write!(f, " v{version}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::event::{Event, Phase};

    fn one(op: &str, input: Value, output: Value) -> Result<Vec<RegisterOperation>, HistoryError> {
        let invoke = Event::invoke(1, 1, op, Some("default/a"), input);
        let ok = invoke.complete(2, Phase::Ok, output);
        register_operations(&History::from_events(vec![invoke, ok])?)
    }

    #[test]
    fn every_form_is_read() {
        let seen = |value: &str, version| {
            Answer::Read(Some(Seen {
                value: String::from(value),
                version: Some(version),
            }))
        };
        let cases = [
            ("get", json!(null), json!(null), Answer::Read(None)),
            (
                "get",
                json!(null),
                json!({"value": "x", "version": 3}),
                seen("x", 3),
            ),
            (
                "put",
                json!({"value": "x"}),
                json!({"version": 3}),
                Answer::Written { version: Some(3) },
            ),
            (
                "cas",
                json!({"value": "x", "expected": 3}),
                json!({"conflict": true}),
                Answer::Conflict,
            ),
            (
                "delete",
                json!(null),
                json!({"version": 9}),
                Answer::Written { version: Some(9) },
            ),
        ];
        for (op, input, output, want) in cases {
            assert_eq!(one(op, input, output).unwrap()[0].answer, want, "{op}");
        }
        assert!(one("list", json!(null), json!([])).unwrap().is_empty());
    }

    #[test]
    fn missing_inputs_and_outputs_are_refused() {
        for (op, input, output) in [
            ("put", json!(null), json!({"version": 1})),
            ("cas", json!({"value": "x"}), json!({"version": 1})),
            ("get", json!(null), json!({"version": 1})),
        ] {
            let error = one(op, input, output).expect_err(op);
            assert!(
                matches!(error, HistoryError::Malformed { .. }),
                "{op}: {error}"
            );
        }
    }
}
