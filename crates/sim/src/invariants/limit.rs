//! An instance never executes more requests at once than its container concurrency (05-gateway).

use nihilo_types::id::InstanceId;

use super::Verdict;

/// Judged when a request has just been admitted; 0 = no limit.
pub(crate) fn holds(id: &InstanceId, n_running: usize, limit: u32) -> Verdict {
    if limit == 0 || n_running <= limit as usize {
        return Ok(());
    }
    Err(format!(
        "{id} executes {n_running} requests, at most {limit}"
    ))
}
