//! The instances of one revision as this gateway sees them, and which of them is next
//! (05-gateway §16).

use std::time::Duration;

use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{InstanceId, NodeId, SessionId};
use tokio::time::Instant;

/// An instance that said busy is left alone for this.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// A node that could not be reached is left alone for this, with all its instances: it will be
/// declared down, or it is back.
const UNREACHED_PAUSE: Duration = Duration::from_millis(250);
/// An instance that drains or is not known there any more is left alone for this. The owner's
/// next word removes it; but its drain may have been called off, and that word come already.
const GONE_PAUSE: Duration = Duration::from_millis(250);
/// So many exchanges broken in a row eject an instance, if others are left.
const MAX_FAILURES: u32 = 3;
/// First ejection; doubled by each further one up to thirty times.
const EJECTION: Duration = Duration::from_secs(1);
const MAX_DOUBLINGS: u32 = 5;
const MAX_EJECTION: Duration = Duration::from_secs(30);
/// Another node's instance costs a hop: it is taken when ours has so many requests more.
const HOP_COST: u32 = 2;
/// Up to this containerConcurrency instances are filled one after the other, so that the last
/// ones run empty and can be drained.
const PACKED: u32 = 3;

/// What an instance that cannot take the request showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Busy,
    /// It drains, or is not known there any more.
    Gone,
    /// It broke an exchange off, or refused the connection.
    Broken,
    /// The connection to its node failed.
    Unreached,
}

#[derive(Debug)]
pub(super) struct Places {
    home: NodeId,
    places: Vec<Place>,
    turn: usize,
}

#[derive(Debug)]
struct Place {
    endpoint: Endpoint,
    in_flight: u32,
    n_failures: u32,
    n_ejections: u32,
    /// Until when, and why, it gets nothing.
    left_alone: Option<(Instant, Trouble)>,
}

impl Place {
    fn is_left_alone(&self, now: Instant) -> bool {
        self.left_alone.is_some_and(|(until, _)| now < until)
    }

    fn has_room(&self) -> bool {
        let limit = self.endpoint.container_concurrency;
        limit == 0 || self.in_flight < limit
    }
}

impl Places {
    pub(super) fn of(home: NodeId) -> Self {
        let (places, turn) = (Vec::new(), 0);
        Self { home, places, turn }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Requests that all instances together may run; `None` = no limit.
    pub(super) fn n_slots(&self) -> Option<usize> {
        let limit = |place: &Place| match place.endpoint.container_concurrency {
            0 => None,
            limit => Some(limit as usize),
        };
        self.places.iter().map(limit).sum()
    }

    pub(super) fn update(&mut self, table: EndpointTable) {
        let mut old = std::mem::take(&mut self.places);
        for endpoint in table.instances {
            let known = old
                .iter()
                .position(|place| place.endpoint.id == endpoint.id);
            let place = match known.map(|at| old.swap_remove(at)) {
                Some(known) => Place {
                    endpoint,
                    left_alone: None,
                    ..known
                },
                None => Place {
                    endpoint,
                    in_flight: 0,
                    n_failures: 0,
                    n_ejections: 0,
                    left_alone: None,
                },
            };
            self.places.push(place);
        }
    }

    pub(super) fn session_down(&mut self, session: SessionId) {
        self.places
            .retain(|place| place.endpoint.session != session);
    }

    /// Whether any instance takes requests, if only when it is their turn.
    pub(super) fn has_service(&self, now: Instant) -> bool {
        self.places.iter().any(|place| match place.left_alone {
            Some((until, Trouble::Gone | Trouble::Broken | Trouble::Unreached)) => until <= now,
            Some((_, Trouble::Busy)) | None => true,
        })
    }

    /// Takes a place at the best instance that has one.
    pub(super) fn take(&mut self, now: Instant) -> Option<Endpoint> {
        let n = self.places.len();
        let mut best: Option<(u32, usize)> = None;
        for step in 0..n {
            let at = (self.turn + step) % n;
            let place = &self.places[at];
            if !place.has_room() || place.is_left_alone(now) {
                continue;
            }
            let cost = self.cost(place, at);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, at));
            }
        }
        let (_, at) = best?;
        // Ties go round.
        self.turn = (at + 1) % n;
        let place = &mut self.places[at];
        place.in_flight += 1;
        Some(place.endpoint.clone())
    }

    fn cost(&self, place: &Place, at: usize) -> u32 {
        let is_here = place.endpoint.node == self.home;
        match place.endpoint.container_concurrency {
            1..=PACKED => {
                let far = if is_here { 0 } else { 1 << 16 };
                far + u32::try_from(at).unwrap_or(u32::MAX >> 1)
            }
            _ => place.in_flight + if is_here { 0 } else { HOP_COST },
        }
    }

    pub(super) fn free(&mut self, id: &InstanceId) {
        if let Some(place) = self.find(id) {
            place.in_flight = place.in_flight.saturating_sub(1);
        }
    }

    /// It answered.
    pub(super) fn succeeded(&mut self, id: &InstanceId) {
        if let Some(place) = self.find(id) {
            (place.n_failures, place.n_ejections) = (0, 0);
        }
    }

    fn find(&mut self, id: &InstanceId) -> Option<&mut Place> {
        self.places
            .iter_mut()
            .find(|place| place.endpoint.id == *id)
    }

    /// Leaves it, or its whole node, alone for a while; returns until when.
    pub(super) fn avoid(&mut self, endpoint: &Endpoint, trouble: Trouble, now: Instant) -> Instant {
        let until = now
            + match trouble {
                Trouble::Busy => BUSY_PAUSE,
                Trouble::Gone => GONE_PAUSE,
                Trouble::Unreached => UNREACHED_PAUSE,
                Trouble::Broken => self.ejection(&endpoint.id, now),
            };
        let concerned = |place: &&mut Place| match trouble {
            Trouble::Unreached => place.endpoint.session == endpoint.session,
            Trouble::Busy | Trouble::Gone | Trouble::Broken => place.endpoint.id == endpoint.id,
        };
        for place in self.places.iter_mut().filter(concerned) {
            place.left_alone = Some((until, trouble));
        }
        until
    }

    /// How long one that broke an exchange off is left alone: longer after several in a row, but
    /// never the last, and never more than half of them.
    fn ejection(&mut self, id: &InstanceId, now: Instant) -> Duration {
        let n = self.places.len();
        let n_out = self
            .places
            .iter()
            .filter(|place| place.is_left_alone(now))
            .count();
        let may_eject = n_out < n / 2;
        let Some(place) = self.find(id) else {
            return GONE_PAUSE;
        };
        place.n_failures += 1;
        if place.n_failures < MAX_FAILURES || !may_eject {
            return GONE_PAUSE;
        }
        let doublings = place.n_ejections.min(MAX_DOUBLINGS);
        place.n_ejections += 1;
        place.n_failures = 0;
        (EJECTION * 2_u32.pow(doublings)).min(MAX_EJECTION)
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::autoscaler::DataPath;
    use nihilo_types::id::{Epoch, ObjectKey};

    use super::*;

    const HERE: NodeId = NodeId(1);

    fn places(limit: u32, nodes: &[u64]) -> Places {
        let endpoint = |(n, node): (usize, &u64)| Endpoint {
            id: InstanceId::from(format!("i{n}").as_str()),
            node: NodeId(*node),
            session: SessionId(*node),
            peer_address: "127.0.0.1:1".into(),
            container_concurrency: limit,
            waking: Default::default(),
        };
        let mut places = Places::of(HERE);
        places.update(EndpointTable {
            revision: ObjectKey::new("default", "r"),
            revision_uid: "u".into(),
            epoch: Epoch(1),
            seq: 1,
            data_path: DataPath::Proxy,
            instances: nodes.iter().enumerate().map(endpoint).collect(),
            last_failure: String::new(),
        });
        places
    }

    fn taken(places: &mut Places, n: usize) -> Vec<String> {
        let now = Instant::now();
        let take = |_| {
            places
                .take(now)
                .map(|endpoint| endpoint.id.as_str().to_owned())
        };
        (0..n).filter_map(take).collect()
    }

    #[test]
    fn equal_instances_get_equal_shares() {
        let mut places = places(0, &[1, 1, 1, 1]);
        let mut ids = taken(&mut places, 8);
        ids.sort();
        assert_eq!(ids, ["i0", "i0", "i1", "i1", "i2", "i2", "i3", "i3"]);
        // Even when each request ends before the next comes.
        let mut places = self::places(0, &[1, 1]);
        let now = Instant::now();
        let ids: Vec<_> = (0..4)
            .map(|_| {
                let id = places.take(now).unwrap().id;
                places.free(&id);
                id.as_str().to_owned()
            })
            .collect();
        assert_eq!(ids, ["i0", "i1", "i0", "i1"]);
    }

    #[test]
    fn a_local_instance_is_taken_until_it_has_two_more() {
        let mut places = places(0, &[2, 1]);
        assert_eq!(taken(&mut places, 4), ["i1", "i1", "i0", "i1"]);
    }

    #[test]
    fn small_limits_fill_one_instance_after_the_other() {
        let mut places = places(2, &[1, 1, 2]);
        let ids = taken(&mut places, 9);
        assert_eq!(ids, ["i0", "i0", "i1", "i1", "i2", "i2"]);
        places.free(&InstanceId::from("i0"));
        assert_eq!(taken(&mut places, 2), ["i0"]);
    }

    #[test]
    fn a_failing_instance_is_ejected_for_longer_each_time_but_never_the_last() {
        let mut places = places(0, &[1, 1]);
        let now = Instant::now();
        let first = places.take(now).unwrap();
        let mut pauses = Vec::new();
        let mut at = now;
        for _ in 0..6 {
            let until = places.avoid(&first, Trouble::Broken, at);
            pauses.push(until.duration_since(at).as_millis());
            at = until;
        }
        assert_eq!(pauses, [250, 250, 1_000, 250, 250, 2_000]);
        let mut alone = self::places(0, &[1]);
        let only = alone.take(now).unwrap();
        for _ in 0..10 {
            let until = alone.avoid(&only, Trouble::Broken, now);
            assert_eq!(until.duration_since(now), GONE_PAUSE);
        }
    }
}
