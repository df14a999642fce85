//! What is frozen hears nothing: no request is sent to it (06-runtime §1.2).

use nihilo_types::id::InstanceId;
use nihilo_types::instance::InstanceState;

use super::Verdict;

/// A request has come to an instance in this state.
pub(crate) fn reached(id: &InstanceId, state: InstanceState) -> Verdict {
    match state {
        InstanceState::Frozen => Err(format!("{id} is frozen, and a request is sent to it")),
        _ => Ok(()),
    }
}
