//! Who waits, in which order: oldest first within a source, sources in turn (05-gateway §13).

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Lanes that sources are hashed to: one source that sends much stands in its own way.
const LANES: usize = 16;

/// Where one waiter stands. Who comes back stands where it stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    lane: usize,
    since: Instant,
    id: u64,
}

/// A line of `W`; joining, leaving and the next are O(log n).
#[derive(Debug)]
pub(super) struct Waiters<W> {
    lanes: [BTreeMap<(Instant, u64), W>; LANES],
    turn: usize,
    n: usize,
    next_id: u64,
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self {
            lanes: std::array::from_fn(|_| BTreeMap::new()),
            turn: 0,
            n: 0,
            next_id: 0,
        }
    }
}

impl<W> Waiters<W> {
    pub(super) fn len(&self) -> usize {
        self.n
    }

    pub(super) fn is_empty(&self) -> bool {
        self.n == 0
    }

    pub(super) fn join(&mut self, source: u64, since: Instant, waiter: W) -> Spot {
        // The remainder is less than the number of lanes.
        let lane = usize::try_from(source % LANES as u64).unwrap_or(0);
        let id = self.next_id;
        self.next_id += 1;
        self.lanes[lane].insert((since, id), waiter);
        self.n += 1;
        Spot { lane, since, id }
    }

    pub(super) fn leave(&mut self, spot: Spot) -> Option<W> {
        let waiter = self.lanes[spot.lane].remove(&(spot.since, spot.id));
        self.n -= usize::from(waiter.is_some());
        waiter
    }

    /// Takes out who is next: the oldest of the lane whose turn it is.
    pub(super) fn next(&mut self) -> Option<W> {
        for step in 0..LANES {
            let lane = (self.turn + step) % LANES;
            if let Some((_, waiter)) = self.lanes[lane].pop_first() {
                self.turn = (lane + 1) % LANES;
                self.n -= 1;
                return Some(waiter);
            }
        }
        None
    }

    /// Since when the oldest of all waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let first = |lane: &BTreeMap<(Instant, u64), W>| lane.keys().next().map(|key| key.0);
        self.lanes.iter().filter_map(first).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn within_a_source_the_oldest_is_next_and_who_comes_back_stands_where_it_stood() {
        let (mut waiters, start) = (Waiters::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (since, name) in [(20, "b"), (30, "c"), (10, "a")] {
            waiters.join(7, at(since), name);
        }
        assert_eq!(waiters.oldest(), Some(at(10)));
        assert_eq!(waiters.next(), Some("a"));
        waiters.join(7, at(10), "a again");
        let order: Vec<_> = std::iter::from_fn(|| waiters.next()).collect();
        assert_eq!(order, ["a again", "b", "c"]);
        assert!(waiters.is_empty() && waiters.oldest().is_none());
    }

    #[test]
    fn one_of_a_thousand_does_not_wait_for_the_others_sources() {
        let (mut waiters, now) = (Waiters::default(), Instant::now());
        for n in 0..1_000 {
            waiters.join(1, now, n);
        }
        waiters.join(2, now + Duration::from_secs(1), 5_000);
        let first: Vec<_> = (0..2).filter_map(|_| waiters.next()).collect();
        assert!(first.contains(&5_000), "{first:?}");
    }

    #[test]
    fn leaving_is_done_once() {
        let (mut waiters, now) = (Waiters::default(), Instant::now());
        let spots: Vec<_> = (0..3).map(|n| waiters.join(n, now, n)).collect();
        assert_eq!(waiters.leave(spots[1]), Some(1));
        assert_eq!(waiters.leave(spots[1]), None);
        assert_eq!(waiters.len(), 2);
    }
}
