//! Places at this node's instances that another gateway asked for and has not used yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::limiter::Admitted;

/// A place that is not used is free again after this: an instance that drains waits for it. Whoever
/// comes later finds another, or is refused.
const TTL: Duration = Duration::from_secs(1);
/// Held for one connection at once, at most.
const MAX_HELD: usize = 4_096;

/// Those of one connection, free again with its end: what a gateway asked for before a link was cut
/// may arrive when it has long given up, followed by its goodbye. Cheap to clone; clones share the
/// places.
#[derive(Debug, Clone, Default)]
pub struct Reservations(Arc<Mutex<HashMap<String, Admitted>>>);

impl Reservations {
    /// Holds a place and names it; `None` when too many are held. Needs a runtime.
    pub fn hold(&self, admitted: Admitted) -> Option<String> {
        let place = format!("{:016x}", rand::random::<u64>());
        {
            let mut held = self.0.lock();
            if held.len() >= MAX_HELD {
                return None;
            }
            held.insert(place.clone(), admitted);
        }
        let (all, unused) = (Arc::downgrade(&self.0), place.clone());
        tokio::spawn(async move {
            tokio::time::sleep(TTL).await;
            drop(all.upgrade().and_then(|all| all.lock().remove(&unused)));
        });
        Some(place)
    }

    /// The place of that name, if it is still held.
    pub fn take(&self, place: &str) -> Option<Admitted> {
        self.0.lock().remove(place)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use nihilo_types::id::InstanceId;

    use super::*;
    use crate::limiter::LocalInstances;

    #[tokio::test(start_paused = true)]
    async fn a_place_that_nobody_uses_does_not_keep_its_instance_from_draining() {
        let (instances, id) = (LocalInstances::default(), InstanceId::from("i"));
        instances.open(&id, SocketAddr::from(([127, 0, 0, 1], 1)), 1, false);
        let reservations = Reservations::default();
        let place = reservations.hold(instances.admit(&id).unwrap()).unwrap();
        instances.close(&id);
        let started = tokio::time::Instant::now();
        instances.drained(&id).await;
        assert!(started.elapsed() <= TTL + Duration::from_secs(1));
        assert!(reservations.take(&place).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_free_when_their_connection_has_ended() {
        let (instances, id) = (LocalInstances::default(), InstanceId::from("i"));
        instances.open(&id, SocketAddr::from(([127, 0, 0, 1], 1)), 1, false);
        let reservations = Reservations::default();
        assert!(reservations.hold(instances.admit(&id).unwrap()).is_some());
        tokio::task::yield_now().await;
        drop(reservations);
        assert_eq!(instances.in_flight(&id), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_used_once() {
        let (instances, id) = (LocalInstances::default(), InstanceId::from("i"));
        instances.open(&id, SocketAddr::from(([127, 0, 0, 1], 1)), 1, false);
        let reservations = Reservations::default();
        let place = reservations.hold(instances.admit(&id).unwrap()).unwrap();
        let admitted = reservations.take(&place);
        assert!(admitted.is_some() && reservations.take(&place).is_none());
        tokio::time::advance(2 * TTL).await;
        assert_eq!(instances.in_flight(&id), 1);
    }
}
