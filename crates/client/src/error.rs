//! What went wrong with a call, and what that means for a command's exit code.

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A call that failed for good: refused, or still failing when its time was over.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: Code,
    /// `ErrorInfo.reason`, such as `ETAG_MISMATCH`; ours are `UNREACHABLE`, `TIMEOUT` and
    /// `BAD_ANSWER`. Empty when the server gave none.
    pub reason: String,
    pub message: String,
    /// One next command.
    pub hint: Option<String>,
    /// The connection failed, so the server may never have seen the call.
    transport: bool,
}

impl Error {
    pub fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            hint: hint(code, reason).map(Into::into),
            transport: false,
        }
    }

    pub(crate) fn from_status(status: &Status, server: &str) -> Self {
        // A status that was made here, not read from the wire, has its cause attached.
        if let Some(cause) = std::error::Error::source(status) {
            let why = innermost(cause);
            let error = Self::new(
                Code::Unavailable,
                "UNREACHABLE",
                format!("server {server} cannot be reached: {why}"),
            );
            return Self {
                transport: true,
                ..error
            };
        }
        let info = status.get_details_error_info();
        let reason = info.map(|info| info.reason).unwrap_or_default();
        Self::new(status.code(), &reason, status.message())
    }

    pub(crate) fn timed_out(server: &str) -> Self {
        let text = format!("server {server} did not answer in time; repeating is safe");
        let error = Self::new(Code::DeadlineExceeded, "TIMEOUT", text);
        Self {
            transport: true,
            ..error
        }
    }

    pub(crate) fn bad_answer(why: impl std::fmt::Display) -> Self {
        Self::new(
            Code::Internal,
            "BAD_ANSWER",
            format!("the server's answer is not understood: {why}"),
        )
    }

    /// Whether another server, or this one later, may answer the same call.
    pub fn is_retriable(&self) -> bool {
        self.transport
            || self.code == Code::Unavailable
            || (self.code == Code::DeadlineExceeded && self.reason == "OUTCOME_UNKNOWN")
    }

    /// Whether no connection came about at all.
    pub fn is_unreachable(&self) -> bool {
        self.reason == "UNREACHABLE"
    }

    /// Whether the server is of a build that does not know the call.
    pub fn is_unknown_call(&self) -> bool {
        self.code == Code::Unimplemented
    }

    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// The object changed since it was read.
    pub fn is_conflict(&self) -> bool {
        self.code == Code::Aborted && self.reason == "ETAG_MISMATCH"
    }

    /// Exit code of a command that ends with this error (07-cli-api-observability §1.3).
    pub fn exit_code(&self) -> i32 {
        exit_code(self.code)
    }
}

fn exit_code(code: Code) -> i32 {
    match code {
        Code::Ok => 0,
        Code::InvalidArgument => 2,
        Code::NotFound => 3,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => 4,
        Code::Unavailable | Code::DeadlineExceeded => 7,
        Code::Unauthenticated | Code::PermissionDenied => 8,
        Code::ResourceExhausted => 9,
        Code::Cancelled => 130,
        Code::Unknown
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => 1,
    }
}

fn hint(code: Code, reason: &str) -> Option<&'static str> {
    match (code, reason) {
        (_, "UNREACHABLE") => Some("nihilo dev --nodes 3 --detach, or name servers with --server"),
        (_, "NO_QUORUM" | "NO_LEADER" | "TIMEOUT" | "STORE_FAILED" | "DISK_LOW") => {
            Some("nihilo cluster status")
        }
        (_, "OUTCOME_UNKNOWN") => Some("repeat the command"),
        (_, "ETAG_MISMATCH") => Some("read the object again and repeat the command"),
        (Code::NotFound, _) => Some("nihilo service list"),
        _ => None,
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn the_reason_and_the_code_survive() {
        let details = ErrorDetails::with_error_info("ETAG_MISMATCH", "nihilo.dev", HashMap::new());
        let status = Status::with_error_details(Code::Aborted, "have 7, want 5", details);
        let error = Error::from_status(&status, "a:1");
        assert!(error.is_conflict() && !error.is_retriable());
        assert_eq!(
            (error.exit_code(), error.to_string().as_str()),
            (4, "have 7, want 5")
        );
    }

    #[test]
    fn exit_codes_are_those_of_the_table() {
        let cases = [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::AlreadyExists, 4),
            (Code::FailedPrecondition, 4),
            (Code::Unavailable, 7),
            (Code::DeadlineExceeded, 7),
            (Code::PermissionDenied, 8),
            (Code::ResourceExhausted, 9),
            (Code::Cancelled, 130),
            (Code::Internal, 1),
        ];
        for (code, want) in cases {
            assert_eq!(Error::new(code, "", "").exit_code(), want, "{code:?}");
        }
    }

    #[test]
    fn only_an_unknown_outcome_of_a_deadline_is_repeated() {
        let unknown = Error::new(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", "");
        assert!(unknown.is_retriable());
        assert!(!Error::new(Code::DeadlineExceeded, "", "").is_retriable());
        assert!(!Error::new(Code::InvalidArgument, "", "").is_retriable());
    }
}
