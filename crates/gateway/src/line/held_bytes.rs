//! The heads of all requests that wait on this node, in bytes, and whose they are.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Heads of waiting requests on one node, at most (05-gateway §13).
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Cheap to clone; clones share the account.
#[derive(Debug, Clone, Default)]
pub struct HeldBytes(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    total: usize,
    by_namespace: HashMap<Arc<str>, usize>,
}

/// Given back when dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "it is there to be dropped")]
pub struct Share(Option<Held>);

#[derive(Debug)]
struct Held {
    held: HeldBytes,
    namespace: Arc<str>,
    bytes: usize,
}

impl Share {
    /// Of who is counted already.
    pub fn none() -> Self {
        Self(None)
    }
}

impl HeldBytes {
    /// `None` = the node holds too much, or this namespace too much of it.
    pub fn hold(&self, namespace: &Arc<str>, bytes: usize) -> Option<Share> {
        let mut account = self.0.lock();
        let total = account.total + bytes;
        let own = account.by_namespace.get(namespace).copied().unwrap_or(0) + bytes;
        let n_active = account.by_namespace.len().max(1);
        // While there is room to spare, nobody's share counts.
        let is_crowded = total > MAX_BYTES / 2;
        if total > MAX_BYTES || (is_crowded && own > MAX_BYTES / n_active) {
            return None;
        }
        account.total = total;
        account.by_namespace.insert(namespace.clone(), own);
        Some(Share(Some(Held {
            held: self.clone(),
            namespace: namespace.clone(),
            bytes,
        })))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut account = self.held.0.lock();
        account.total -= self.bytes;
        if let Some(own) = account.by_namespace.get_mut(&self.namespace) {
            *own -= self.bytes;
            if *own == 0 {
                account.by_namespace.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_namespace_leaves_room_for_others() {
        let (held, greedy, modest) = (HeldBytes::default(), "greedy".into(), "modest".into());
        let part = MAX_BYTES / 16;
        let first = held.hold(&modest, part).unwrap();
        let shares: Vec<_> = std::iter::from_fn(|| held.hold(&greedy, part)).collect();
        assert_eq!(shares.len(), 8);
        let second = held.hold(&modest, part);
        assert!(second.is_some());
        drop((first, second, shares));
        let account = held.0.lock();
        assert!(account.total == 0 && account.by_namespace.is_empty());
    }

    #[test]
    fn the_node_holds_no_more_than_its_limit() {
        let held = HeldBytes::default();
        let all = held.hold(&"a".into(), MAX_BYTES).unwrap();
        assert!(held.hold(&"a".into(), 1).is_none());
        drop(all);
        assert!(held.hold(&"a".into(), 1).is_some());
    }
}
