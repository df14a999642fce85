//! Bugs that a proof of the proof switches on: a simulation that does not find them proves nothing.
//!
//! There is none in a release build. In the others one can be switched on only by a call, never by
//! environment or configuration.

use std::sync::OnceLock;

static SWITCHED_ON: OnceLock<&'static str> = OnceLock::new();

/// A leader answers reads without asking whether it still leads.
pub const READ_WITHOUT_QUORUM: &str = "read-without-quorum";
/// An agent obeys owners of the past.
pub const AGENT_IGNORES_EPOCHS: &str = "agent-ignores-epochs";

/// Switches one bug on for the rest of this process.
///
/// # Errors
/// The one that is on already.
pub fn switch_on(bug: &'static str) -> Result<(), &'static str> {
    SWITCHED_ON
        .set(bug)
        .map_err(|_| SWITCHED_ON.get().copied().unwrap_or_default())
}

/// Whether `bug` was switched on.
#[inline]
pub fn is_on(bug: &str) -> bool {
    cfg!(debug_assertions) && SWITCHED_ON.get().is_some_and(|on| *on == bug)
}
