//! What a trial recorded: operation history, request ledgers, start/stop records.
//!
//! One format for all tiers, JSON Lines, one record a line. A record that contradicts another is
//! refused here, so that checkers judge the product and never the harness.
//!
//! ```text
//! history.jsonl        Event            every tier      read by  History::read
//! ledger-client.jsonl  ClientRecord     the load        read by  json_lines::read
//! ledger-*.jsonl       GatewayRecord, InstanceRecord             json_lines::read
//! startstop.log        StartStopRecord  node agents              startstop::read
//! ```

pub mod event;
pub mod json_lines;
pub mod ledger;
pub mod operation;
pub mod register;
pub(crate) mod shown;
pub mod startstop;

pub use event::{Event, Phase, Recorder};
pub use operation::{History, HistoryError, Operation, Outcome};
