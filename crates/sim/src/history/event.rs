//! One line of `history.jsonl`, and the writer of such lines.
//!
//! ```text
//! {"t":1200,"p":3,"ph":"invoke","op":"put","k":"default/a","in":{"value":"v7"},"rid":"r-3-7"}
//! {"t":2900,"p":3,"ph":"ok","op":"put","k":"default/a","out":{"version":41},"node":"n2"}
//! ```
//!
//! The keys are short because trials write millions of lines, and stable because recorded
//! histories are checked again by later builds: fields are added, never renamed.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One step of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Nanoseconds, virtual or of one monotonic clock that all processes share.
    #[serde(rename = "t")]
    pub at_ns: u64,
    /// A single thread of operations. One that got `info` is retired: its client goes on under a
    /// new number.
    #[serde(rename = "p")]
    pub process: u64,
    #[serde(rename = "ph")]
    pub phase: Phase,
    pub op: String,
    /// The object, `namespace/name`; absent for operations on none.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(rename = "in", default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    #[serde(rename = "out", default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
    /// Log index that the answer named.
    #[serde(rename = "idx", default, skip_serializing_if = "Option::is_none")]
    pub log_index: Option<u64>,
    /// Name of the node that was asked (invoke) or that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Idempotency key or request id, unique in the trial.
    #[serde(rename = "rid", default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// About to be sent; written first.
    Invoke,
    /// It happened, and this is what it answered.
    Ok,
    /// It did not happen and never will.
    Fail,
    /// Nobody knows: it may have happened, or may still, at any later time.
    Info,
    /// A remark of the harness; belongs to no operation.
    Note,
}

impl Event {
    /// The beginning of an operation; optional fields are empty.
    pub fn invoke(at_ns: u64, process: u64, op: &str, key: Option<&str>, input: Value) -> Self {
        Self {
            at_ns,
            process,
            phase: Phase::Invoke,
            op: op.to_owned(),
            key: key.map(str::to_owned),
            input,
            output: Value::Null,
            log_index: None,
            node: None,
            request: None,
            epoch: None,
        }
    }

    /// The end of the operation that `self` began: `phase` is ok, fail or info.
    pub fn complete(&self, at_ns: u64, phase: Phase, output: Value) -> Self {
        Self {
            at_ns,
            phase,
            input: Value::Null,
            output,
            ..self.clone()
        }
    }
}

/// Appends events to a history, whole lines only, so that a killed harness leaves a readable file.
#[derive(Debug)]
pub struct Recorder<W> {
    out: W,
}

impl<W: Write> Recorder<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes and flushes one line.
    ///
    /// # Errors
    /// Whatever the writer answers; the trial is then void, since its history is incomplete.
    pub fn record(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }

    pub fn into_inner(self) -> W {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_has_the_documented_keys_and_no_empty_ones() {
        let mut invoke = Event::invoke(1200, 3, "put", Some("default/a"), json!({"value": "v7"}));
        invoke.request = Some("r-3-7".to_owned());
        let mut recorder = Recorder::new(Vec::new());
        recorder.record(&invoke).unwrap();
        let mut ok = invoke.complete(2900, Phase::Ok, json!({"version": 41}));
        ok.log_index = Some(41);
        ok.node = Some("n2".to_owned());
        recorder.record(&ok).unwrap();
        let text = String::from_utf8(recorder.into_inner()).unwrap();
        let want = concat!(
            r#"{"t":1200,"p":3,"ph":"invoke","op":"put","k":"default/a","#,
            r#""in":{"value":"v7"},"rid":"r-3-7"}"#,
            "\n",
            r#"{"t":2900,"p":3,"ph":"ok","op":"put","k":"default/a","#,
            r#""out":{"version":41},"idx":41,"node":"n2","rid":"r-3-7"}"#,
            "\n",
        );
        assert_eq!(text, want);
        let again: Event = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(again, invoke);
    }
}
