//! The instances of this node: the only way to them, and the limit of each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use nihilo_types::id::InstanceId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::pool::Pool;

/// Why a request was not admitted. Nothing of it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// containerConcurrency is reached.
    Busy,
    Draining,
    Gone,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Busy => "busy",
            Refusal::Draining => "draining",
            Refusal::Gone => "gone",
        }
    }

    pub fn parse(text: &str) -> Self {
        match text {
            "busy" => Refusal::Busy,
            "draining" => Refusal::Draining,
            _ => Refusal::Gone,
        }
    }
}

/// Limiters of all local instances; shared by agent and data plane.
#[derive(Debug, Clone, Default)]
pub struct LocalInstances(Arc<Mutex<HashMap<InstanceId, Arc<LocalInstance>>>>);

#[derive(Debug)]
pub struct LocalInstance {
    pub address: SocketAddr,
    pub h2c: bool,
    /// 0 = none.
    limit: u32,
    gate: Mutex<Gate>,
    changed: Notify,
    pub(crate) pool: Pool,
}

#[derive(Debug)]
struct Gate {
    is_open: bool,
    in_flight: u32,
}

/// One admitted request; frees its place when dropped.
#[derive(Debug)]
pub struct Admitted(pub Arc<LocalInstance>);

impl LocalInstances {
    pub fn open(&self, id: &InstanceId, address: SocketAddr, limit: u32, h2c: bool) {
        let instance = LocalInstance::new(address, limit, h2c, true);
        self.0.lock().insert(id.clone(), Arc::new(instance));
    }

    /// As [`Self::open`] and closed at once, with no moment between. Connections that were kept are
    /// let go: an app that has slept closes them when it wakes, and a request might meet that.
    pub fn hold(&self, id: &InstanceId, address: SocketAddr, limit: u32, h2c: bool) {
        let instance = LocalInstance::new(address, limit, h2c, false);
        let before = self.0.lock().insert(id.clone(), Arc::new(instance));
        if let Some(before) = before {
            before.pool.clear();
        }
    }

    /// After this returns nothing new is admitted.
    pub fn close(&self, id: &InstanceId) {
        self.set_open(id, false);
    }

    pub fn reopen(&self, id: &InstanceId) {
        self.set_open(id, true);
    }

    fn set_open(&self, id: &InstanceId, open: bool) {
        if let Some(instance) = self.get(id) {
            instance.gate.lock().is_open = open;
            instance.changed.notify_waiters();
        }
    }

    pub fn forget(&self, id: &InstanceId) {
        if let Some(instance) = self.0.lock().remove(id) {
            instance.gate.lock().is_open = false;
            instance.pool.clear();
        }
    }

    pub fn in_flight(&self, id: &InstanceId) -> u32 {
        self.get(id)
            .map_or(0, |instance| instance.gate.lock().in_flight)
    }

    /// Resolves once nothing is in flight, or the instance is gone.
    pub fn drained(&self, id: &InstanceId) -> impl Future<Output = ()> + Send + use<> {
        let instance = self.get(id);
        async move {
            let Some(instance) = instance else { return };
            loop {
                let changed = instance.changed.notified();
                if instance.gate.lock().in_flight == 0 {
                    return;
                }
                changed.await;
            }
        }
    }

    /// Resolves once nothing is in flight at any instance that is there now.
    pub async fn all_drained(&self) {
        let ids: Vec<InstanceId> = self.0.lock().keys().cloned().collect();
        for id in ids {
            self.drained(&id).await;
        }
    }

    /// Requests in flight at all instances.
    pub fn n_in_flight(&self) -> u32 {
        let instances: Vec<_> = self.0.lock().values().cloned().collect();
        let in_flight = instances.iter().map(|one| one.gate.lock().in_flight);
        in_flight.sum()
    }

    /// Admits one request, atomically with [`Self::close`] and with every other.
    pub fn admit(&self, id: &InstanceId) -> Result<Admitted, Refusal> {
        let instance = self.get(id).ok_or(Refusal::Gone)?;
        {
            let mut gate = instance.gate.lock();
            if !gate.is_open {
                return Err(Refusal::Draining);
            }
            if instance.limit > 0 && gate.in_flight >= instance.limit {
                return Err(Refusal::Busy);
            }
            gate.in_flight += 1;
        }
        Ok(Admitted(instance))
    }

    fn get(&self, id: &InstanceId) -> Option<Arc<LocalInstance>> {
        self.0.lock().get(id).cloned()
    }
}

impl LocalInstance {
    fn new(address: SocketAddr, limit: u32, h2c: bool, is_open: bool) -> Self {
        Self {
            address,
            h2c,
            limit,
            gate: Mutex::new(Gate {
                is_open,
                in_flight: 0,
            }),
            changed: Notify::new(),
            pool: Pool::default(),
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let left = {
            let mut gate = self.0.gate.lock();
            gate.in_flight -= 1;
            gate.in_flight
        };
        // Who waits, waits for none to be left.
        if left == 0 {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(limit: u32) -> (LocalInstances, InstanceId) {
        let (instances, id) = (LocalInstances::default(), InstanceId::from("i"));
        instances.open(&id, SocketAddr::from(([127, 0, 0, 1], 1)), limit, false);
        (instances, id)
    }

    #[test]
    fn the_limit_holds_and_a_dropped_request_frees_its_place() {
        let (instances, id) = one(2);
        let first = instances.admit(&id).unwrap();
        let _second = instances.admit(&id).unwrap();
        assert_eq!(instances.admit(&id).unwrap_err(), Refusal::Busy);
        drop(first);
        assert!(instances.admit(&id).is_ok());
    }

    #[test]
    fn a_closed_instance_admits_nothing_until_reopened() {
        let (instances, id) = one(0);
        instances.close(&id);
        assert_eq!(instances.admit(&id).unwrap_err(), Refusal::Draining);
        instances.reopen(&id);
        assert!(instances.admit(&id).is_ok());
        instances.forget(&id);
        assert_eq!(instances.admit(&id).unwrap_err(), Refusal::Gone);
    }

    #[test]
    fn one_that_is_held_admits_nothing_before_it_is_opened() {
        let (instances, id) = (LocalInstances::default(), InstanceId::from("i"));
        instances.hold(&id, SocketAddr::from(([127, 0, 0, 1], 1)), 1, false);
        assert_eq!(instances.admit(&id).unwrap_err(), Refusal::Draining);
        instances.reopen(&id);
        let _first = instances.admit(&id).unwrap();
        assert_eq!(instances.admit(&id).unwrap_err(), Refusal::Busy);
    }

    #[tokio::test]
    async fn all_are_drained_when_the_last_request_of_any_has_ended() {
        let (instances, first) = one(0);
        let second = InstanceId::from("j");
        instances.open(&second, SocketAddr::from(([127, 0, 0, 1], 2)), 0, false);
        let running = [&first, &second].map(|id| instances.admit(id).unwrap());
        let all = instances.clone();
        let drained = tokio::spawn(async move { all.all_drained().await });
        for (n_left, one) in [2, 1].into_iter().zip(running) {
            tokio::task::yield_now().await;
            assert!(!drained.is_finished());
            assert_eq!(instances.n_in_flight(), n_left);
            drop(one);
        }
        drained.await.unwrap();
    }

    #[tokio::test]
    async fn draining_ends_with_the_last_request() {
        let (instances, id) = one(0);
        let running = instances.admit(&id).unwrap();
        instances.close(&id);
        let drained = tokio::spawn(instances.drained(&id));
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        drop(running);
        drained.await.unwrap();
    }
}
