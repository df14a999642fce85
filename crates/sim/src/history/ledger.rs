//! The three ledgers of a request, joined on its id by C10.
//!
//! ```text
//! client    sent    before the first byte leaves     ended    one per sent
//! gateway   received, dispatched per attempt, answered        optional: not in every build
//! instance  started before the handler runs          finished
//! ```
//!
//! Each line is appended with one write below 4 KiB, so that lines of several writers never mix.

use serde::{Deserialize, Serialize};

/// One line of `ledger-client.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ph")]
pub enum ClientRecord {
    /// Written before the request leaves.
    Sent(Sent),
    /// The client knows how it ended.
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    #[serde(rename = "rid")]
    pub request: String,
    #[serde(rename = "t")]
    pub at_ns: u64,
    /// Node whose gateway was asked.
    pub node: String,
    /// May be executed more than once: an idempotent method, or an idempotency key.
    pub may_repeat: bool,
    /// Hash of the body that the right response carries; `None` = not compared here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub want_body: Option<String>,
    /// Longest time that the gateway may take.
    pub deadline_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    #[serde(rename = "rid")]
    pub request: String,
    #[serde(rename = "t")]
    pub at_ns: u64,
    #[serde(flatten)]
    pub outcome: ClientOutcome,
}

/// How a request ended for its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum ClientOutcome {
    /// A whole response of an instance.
    Response {
        status: u16,
        /// Which instance says it answered.
        instance: String,
        /// Request id that the instance echoed; `None` = not compared here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        echoed: Option<String>,
        /// Hash of the body received.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
        /// What the client itself found wrong with it; empty = nothing.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        mistake: String,
    },
    /// A whole response of the gateway itself.
    GatewayError {
        status: u16,
        has_retry_after: bool,
        /// The gateway's word for it, e.g. `queue-full`.
        #[serde(default)]
        cause: String,
    },
    /// The connection ended before the response did.
    Cut { head_seen: bool },
    /// The connection was refused: nothing was accepted.
    NotAccepted,
    /// The client gave up waiting, well past the deadline.
    GaveUp,
}

/// One line of `ledger-gateway-*.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRecord {
    #[serde(rename = "rid")]
    pub request: String,
    #[serde(rename = "t")]
    pub at_ns: u64,
    pub node: String,
    #[serde(flatten)]
    pub step: GatewayStep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ph")]
pub enum GatewayStep {
    Received,
    /// Bytes of it go to an instance.
    Dispatched {
        instance: String,
    },
    /// The one outcome: an instance's response, or an own error if `by_gateway`.
    Answered {
        status: u16,
        by_gateway: bool,
    },
}

/// One line of `ledger-instance-*.jsonl`, written by the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    #[serde(rename = "rid")]
    pub request: String,
    #[serde(rename = "t")]
    pub at_ns: u64,
    pub instance: String,
    #[serde(rename = "ph")]
    pub step: InstanceStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceStep {
    Started,
    Finished,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::json_lines;

    #[test]
    fn the_lines_have_their_documented_form() {
        let client = concat!(
            r#"{"ph":"sent","rid":"r1","t":5,"node":"n1","may_repeat":false,"want_body":"h","deadline_ns":9}"#,
            "\n",
            r#"{"ph":"ended","rid":"r1","t":7,"outcome":"response","status":200,"instance":"i","echoed":"r1","body":"h"}"#,
            "\n",
            r#"{"ph":"ended","rid":"r2","t":7,"outcome":"not-accepted"}"#,
            "\n",
        );
        let records: Vec<(u64, ClientRecord)> = json_lines::read(client.as_bytes()).unwrap();
        let again: Vec<String> = records
            .iter()
            .map(|(_, record)| serde_json::to_string(record).unwrap() + "\n")
            .collect();
        assert_eq!(again.concat(), client);
        let gateway =
            r#"{"rid":"r1","t":6,"node":"n2","ph":"dispatched","instance":"hello-00001-1z-1"}"#;
        let record: GatewayRecord = serde_json::from_str(gateway).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), gateway);
        let instance = r#"{"rid":"r1","t":6,"instance":"i","ph":"started"}"#;
        let record: InstanceRecord = serde_json::from_str(instance).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), instance);
    }
}
