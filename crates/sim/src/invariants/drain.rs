//! No SIGTERM while requests are in flight, and no request after it (P12).

use nihilo_types::id::InstanceId;
use nihilo_types::instance::InstanceState;

use super::Verdict;

/// `overdue`: the drain's own deadline, or a boot that was called off, ended the wait.
pub(crate) fn term_sent(id: &InstanceId, n_running: usize, overdue: bool) -> Verdict {
    if n_running == 0 || overdue {
        return Ok(());
    }
    Err(format!(
        "{id} is sent SIGTERM with {n_running} requests in flight"
    ))
}

/// A drain can be called off until SIGTERM is sent, and not after it (03-actors §7.2).
pub(crate) fn told(id: &InstanceId, state: InstanceState, has_term: bool) -> Verdict {
    if !(has_term && state == InstanceState::Ready) {
        return Ok(());
    }
    Err(format!("{id} is told to be ready again after SIGTERM"))
}

pub(crate) fn admitted(id: &InstanceId, has_term: bool) -> Verdict {
    if !has_term {
        return Ok(());
    }
    Err(format!("{id} admits a request after SIGTERM"))
}
