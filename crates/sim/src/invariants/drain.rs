//! No SIGTERM while requests are in flight, and no request after it (P12).

use nihilo_types::id::InstanceId;

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

pub(crate) fn admitted(id: &InstanceId, has_term: bool) -> Verdict {
    if !has_term {
        return Ok(());
    }
    Err(format!("{id} admits a request after SIGTERM"))
}
