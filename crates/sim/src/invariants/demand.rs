//! While requests wait with nothing to serve them, the owner hears of it again and again (03-actors
//! §8, step 2): a signal that was lost costs a period, not the request.

use std::collections::BTreeMap;

use nihilo_types::id::ObjectKey;

use super::Verdict;

/// Two periods of 250 ms, and the way.
const SILENCE_US: u64 = 700_000;

/// By revision and gateway's node: when its owner last heard of requests that wait there.
#[derive(Debug, Default)]
pub(crate) struct DemandHeard(BTreeMap<(ObjectKey, usize), u64>);

impl DemandHeard {
    pub(crate) fn heard(&mut self, revision: &ObjectKey, gateway: usize, now_us: u64) {
        self.0.insert((revision.clone(), gateway), now_us);
    }

    /// Judged in a world without faults: `since_us` is when the oldest request began to wait there.
    pub(crate) fn is_repeated(
        &self,
        revision: &ObjectKey,
        gateway: usize,
        since_us: u64,
        now_us: u64,
    ) -> Verdict {
        let heard = self.0.get(&(revision.clone(), gateway)).copied();
        let last_us = since_us.max(heard.unwrap_or(0));
        if now_us <= last_us + SILENCE_US {
            return Ok(());
        }
        Err(format!(
            "requests for {revision} wait at node {} since {since_us}, the owner last heard at \
             {heard:?}",
            gateway + 1
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_is_told_once_is_found() {
        let (key, mut heard) = (ObjectKey::new("default", "r"), DemandHeard::default());
        heard.heard(&key, 0, 1_000_000);
        assert!(heard.is_repeated(&key, 0, 900_000, 1_600_000).is_ok());
        assert!(heard.is_repeated(&key, 0, 900_000, 1_800_000).is_err());
        assert!(heard.is_repeated(&key, 1, 1_700_000, 1_800_000).is_ok());
    }
}
