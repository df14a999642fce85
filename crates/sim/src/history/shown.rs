//! How records and verdicts print times.

/// Nanoseconds as seconds with all nine digits, so that a time can be searched for in a record.
pub(crate) fn seconds(ns: u64) -> String {
    format!("{}.{:09} s", ns / 1_000_000_000, ns % 1_000_000_000)
}
