//! One queue of timers for all actors of a system, keyed (actor, name).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Timers of a system, at most; beyond, the farthest wishes are refused.
pub(crate) const MAX_TIMERS: usize = 1_000_000;

/// Fewer void entries than this are not worth a walk over the heap.
const MIN_VOID: usize = 1_024;

type Id<Key> = (u16, Key, &'static str);

/// Deadline, stamp, and whose it is; ordered by the deadline.
type Due<Key> = (Instant, u64, u16, Key, &'static str);

#[derive(Debug)]
pub(crate) struct Timers<Key> {
    queue: Mutex<Queue<Key>>,
    changed: Notify,
}

#[derive(Debug)]
struct Queue<Key> {
    /// Deadline and stamp; an entry whose stamp is not the current one of its id is void.
    due: BinaryHeap<Reverse<Due<Key>>>,
    current: HashMap<Id<Key>, u64>,
    next_stamp: u64,
}

impl<Key: Clone + Ord + Hash> Timers<Key> {
    pub(crate) fn new() -> Self {
        let queue = Queue {
            due: BinaryHeap::new(),
            current: HashMap::new(),
            next_stamp: 0,
        };
        Self {
            queue: Mutex::new(queue),
            changed: Notify::new(),
        }
    }

    /// Sets, replacing; `false` when there are too many.
    pub(crate) fn set(&self, shard: u16, key: &Key, name: &'static str, at: Instant) -> bool {
        let mut queue = self.queue.lock();
        if queue.current.len() >= MAX_TIMERS {
            return false;
        }
        queue.drop_void();
        queue.next_stamp += 1;
        let stamp = queue.next_stamp;
        queue.current.insert((shard, key.clone(), name), stamp);
        queue
            .due
            .push(Reverse((at, stamp, shard, key.clone(), name)));
        drop(queue);
        self.changed.notify_one();
        true
    }

    pub(crate) fn cancel(&self, shard: u16, key: &Key, name: &'static str) {
        self.queue
            .lock()
            .current
            .remove(&(shard, key.clone(), name));
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.lock().current.len()
    }

    pub(crate) fn drop_shard(&self, shard: u16) {
        self.queue
            .lock()
            .current
            .retain(|(of, _, _), _| *of != shard);
    }

    /// Waits for the next timer that is due.
    pub(crate) async fn next(&self) -> Id<Key> {
        loop {
            let wait_until = {
                let mut queue = self.queue.lock();
                match queue.pop_due(Instant::now()) {
                    Ok(id) => return id,
                    Err(next) => next,
                }
            };
            let changed = self.changed.notified();
            match wait_until {
                // A new timer may be earlier than the one waited for.
                Some(at) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }
}

impl<Key: Clone + Ord + Hash> Queue<Key> {
    /// Replaced and cancelled entries stay in the heap until they are due; when they outnumber
    /// the real ones they go, or a timer that is set anew each second for an hour ahead would
    /// leave thousands behind.
    fn drop_void(&mut self) {
        if self.due.len() < MIN_VOID.max(2 * self.current.len()) {
            return;
        }
        let current = &self.current;
        self.due.retain(|Reverse((_, stamp, shard, key, name))| {
            current.get(&(*shard, key.clone(), *name)) == Some(stamp)
        });
    }

    /// The next due timer, or when to look again.
    fn pop_due(&mut self, now: Instant) -> Result<Id<Key>, Option<Instant>> {
        while let Some(Reverse((at, stamp, shard, key, name))) = self.due.peek() {
            let id = (*shard, key.clone(), *name);
            let is_current = self.current.get(&id) == Some(stamp);
            if is_current && *at > now {
                return Err(Some(*at));
            }
            self.due.pop();
            if is_current {
                self.current.remove(&id);
                return Ok(id);
            }
        }
        Err(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_set_anew_leaves_no_heap_of_old_ones() {
        let timers = Timers::new();
        let at = Instant::now() + Duration::from_secs(3_600);
        for _ in 0..5 * MIN_VOID {
            assert!(timers.set(1, &7_u64, "t", at));
        }
        assert_eq!(timers.len(), 1);
        let n_held = timers.queue.lock().due.len();
        assert!(n_held <= MIN_VOID, "{n_held}");
        assert_eq!(timers.next().await, (1, 7, "t"));
    }
}
