//! gRPC statuses of the admin API (07-cli-api-observability §3).

use std::collections::HashMap;

use nihilo_machine::Rejection;
use nihilo_raft::{Outcome, ProposeError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const DOMAIN: &str = "nihilo.dev";

fn status(code: Code, reason: &str, text: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, text, details)
}

pub fn invalid(reason: &str, text: impl Into<String>) -> Status {
    status(Code::InvalidArgument, reason, text)
}

pub fn not_found(kind: &str, name: &str) -> Status {
    status(
        Code::NotFound,
        "NOT_FOUND",
        format!("{kind} `{name}` not found"),
    )
}

pub fn unavailable(reason: &str, text: impl Into<String>) -> Status {
    status(Code::Unavailable, reason, text)
}

pub fn exhausted(reason: &str, text: impl Into<String>) -> Status {
    status(Code::ResourceExhausted, reason, text)
}

pub fn precondition(reason: &str, text: impl Into<String>) -> Status {
    status(Code::FailedPrecondition, reason, text)
}

pub fn watch_ended(reason: &str, text: impl Into<String>) -> Status {
    status(Code::OutOfRange, reason, text)
}

/// A refusal by the state machine: certain, and the same on every node.
pub fn rejected(rejection: &Rejection) -> Status {
    let (code, reason) = match rejection {
        Rejection::Invalid(_) => (Code::InvalidArgument, "INVALID_FIELD"),
        Rejection::AlreadyExists(_) => (Code::AlreadyExists, "ALREADY_EXISTS"),
        Rejection::NotFound(_) => (Code::NotFound, "NOT_FOUND"),
        Rejection::Conflict { .. } => (Code::Aborted, "ETAG_MISMATCH"),
        Rejection::Fenced { .. } | Rejection::StaleMove => (Code::Aborted, "FENCED"),
        Rejection::RequestIdReused => (Code::InvalidArgument, "REQUEST_ID_REUSED"),
        Rejection::SessionClosed(_) => (Code::Aborted, "FENCED"),
        Rejection::StoreReplaced(_) => (Code::FailedPrecondition, "STORE_REPLACED"),
        Rejection::AlreadyInitialised => (Code::AlreadyExists, "ALREADY_EXISTS"),
        Rejection::RevisionNameTaken(_) => (Code::FailedPrecondition, "NAME_TAKEN"),
        Rejection::LimitReached(_) => (Code::ResourceExhausted, "QUOTA"),
        Rejection::TokenRefused { .. } => (Code::PermissionDenied, "TOKEN_REFUSED"),
        Rejection::NodeTaken(_) => (Code::AlreadyExists, "ALREADY_EXISTS"),
        Rejection::NoSuchNode(_) => (Code::NotFound, "NOT_FOUND"),
        Rejection::NodeRemoved { .. } => (Code::FailedPrecondition, "NODE_REMOVED"),
        Rejection::LastVoter(_) => (Code::FailedPrecondition, "LAST_VOTER"),
        Rejection::UnknownBundle(_) => (Code::FailedPrecondition, "UNKNOWN_BUNDLE"),
        Rejection::BundleInUse(_) => (Code::FailedPrecondition, "BUNDLE_IN_USE"),
        Rejection::WrongVersion { .. } => (Code::FailedPrecondition, "VERSION_SKEW"),
    };
    status(code, reason, rejection.to_string())
}

/// A write without an answer: what is certain about it decides the code.
pub fn not_proposed(error: &ProposeError) -> Status {
    match error {
        ProposeError::DiskLow(_) => {
            return status(Code::ResourceExhausted, "DISK_LOW", error.to_string());
        }
        ProposeError::Stopped => return unavailable("STORE_FAILED", error.to_string()),
        ProposeError::Split { .. } => {
            return status(Code::FailedPrecondition, "DIVERGED", error.to_string());
        }
        ProposeError::TooNew { .. } => {
            return precondition("CLUSTER_VERSION", error.to_string());
        }
        ProposeError::Refused(text) => return precondition("REFUSED", text.clone()),
        ProposeError::TooLarge { .. }
        | ProposeError::Overloaded
        | ProposeError::NoLeader
        | ProposeError::Unanswered(_) => {}
    }
    match error.outcome() {
        Outcome::Rejected => status(Code::InvalidArgument, "MALFORMED", error.to_string()),
        Outcome::NotApplied => status(Code::Unavailable, "NO_QUORUM", error.to_string()),
        Outcome::MaybeApplied => {
            let text = format!("{error}; the outcome is unknown, repeating it is safe");
            status(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", text)
        }
    }
}
