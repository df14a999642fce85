//! The activator's line of one revision: where a request waits for an instance, the only queue it
//! ever stands in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use nihilo_scale::integrator::Integrator;
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::SessionId;
use nihilo_types::route_table::RevisionTarget;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ports::{DemandSignal, RevisionStat, ScaleUp};

/// Requests that wait per revision and gateway, at most (05-gateway §20).
pub const MAX_WAITING: usize = 10_000;
/// An instance that said busy is left alone for this.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// A node that could not be reached is left alone for this, with all its instances: it will be
/// declared down, or it is back.
const UNREACHED_PAUSE: Duration = Duration::from_millis(250);

/// An instance that drains or is not known there any more is left alone for this. The owner's
/// next word removes it; but its drain may have been called off, and that word come already.
const GONE_PAUSE: Duration = Duration::from_millis(250);

/// What an instance that cannot take the request showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Busy,
    /// It drains, is not known there any more, or broke an exchange off.
    Gone,
    /// The connection to its node failed.
    Unreached,
}

/// Why no instance was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineError {
    Full,
    Deadline { last_failure: String },
}

/// One revision's traffic at this gateway.
pub struct Line {
    pub target: Mutex<Arc<RevisionTarget>>,
    inner: Mutex<Inner>,
    scale_up: Arc<dyn ScaleUp>,
    epoch: Instant,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("revision", &self.target.lock().revision)
            .finish()
    }
}

#[derive(Debug, Default)]
struct Inner {
    integrator: Integrator,
    version: (u64, u64),
    places: Vec<Place>,
    last_failure: String,
    waiters: VecDeque<Waiter>,
    next_waiter: u64,
    /// Length at which demand is raised again.
    next_edge: usize,
    reported_zero: bool,
}

#[derive(Debug)]
struct Place {
    endpoint: Endpoint,
    in_flight: u32,
    /// Until when, and why, it gets nothing.
    left_alone: Option<(Instant, Trouble)>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    since: Instant,
    wake: oneshot::Sender<()>,
}

/// A place at one instance, held until dropped.
#[derive(Debug)]
pub struct Taken {
    line: Arc<Line>,
    pub endpoint: Endpoint,
    /// How long it waited with nothing ready; `None` = something was.
    pub cold_for: Option<Duration>,
}

/// Counts one request from admission to its end.
#[derive(Debug)]
pub struct Counted(Arc<Line>);

impl Line {
    pub fn new(target: Arc<RevisionTarget>, scale_up: Arc<dyn ScaleUp>) -> Self {
        let inner = Inner {
            next_edge: 1,
            ..Inner::default()
        };
        Self {
            target: Mutex::new(target),
            inner: Mutex::new(inner),
            scale_up,
            epoch: Instant::now(),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn count(self: &Arc<Self>) -> Counted {
        let now = self.now_us();
        self.inner.lock().integrator.started(now);
        Counted(self.clone())
    }

    /// Waits for a place until `deadline`. Dropping the future leaves the line.
    ///
    /// # Errors
    /// The line is full, or the deadline has passed.
    pub async fn take(self: &Arc<Self>, deadline: Instant) -> Result<Taken, LineError> {
        let arrived = Instant::now();
        let mut cold = false;
        let mut first_try = true;
        loop {
            let (id, woken) = {
                let mut inner = self.inner.lock();
                if let Some(endpoint) = inner.pick() {
                    let cold_for = cold.then(|| arrived.elapsed());
                    return Ok(Taken {
                        line: self.clone(),
                        endpoint,
                        cold_for,
                    });
                }
                cold |= !inner.has_service();
                if first_try && inner.waiters.len() >= MAX_WAITING {
                    return Err(LineError::Full);
                }
                inner.enqueue(arrived, first_try)
            };
            first_try = false;
            self.raise_demand(false);
            let mut guard = InLine {
                line: self,
                id,
                woken,
            };
            match tokio::time::timeout_at(deadline, &mut guard.woken).await {
                Ok(_) => {}
                Err(_) => {
                    let last_failure = self.inner.lock().last_failure.clone();
                    return Err(LineError::Deadline { last_failure });
                }
            }
        }
    }

    /// Takes the owner's word about instances; an older version is ignored.
    pub fn update(&self, table: EndpointTable) {
        let mut inner = self.inner.lock();
        let version = (table.epoch.0, table.seq);
        if version <= inner.version {
            return;
        }
        inner.version = version;
        inner.last_failure = table.last_failure;
        let mut old = std::mem::take(&mut inner.places);
        for endpoint in table.instances {
            let in_flight = old
                .iter_mut()
                .find(|p| p.endpoint.id == endpoint.id)
                .map_or(0, |p| p.in_flight);
            inner.places.push(Place {
                endpoint,
                in_flight,
                left_alone: None,
            });
        }
        inner.wake_for_free_places();
    }

    /// The node is gone, and its instances with it.
    pub fn session_down(&self, session: SessionId) {
        self.inner
            .lock()
            .places
            .retain(|place| place.endpoint.session != session);
    }

    /// An instance could not take a request: others first.
    pub fn avoid(self: &Arc<Self>, endpoint: &Endpoint, trouble: Trouble) {
        let mut inner = self.inner.lock();
        let pause = match trouble {
            Trouble::Busy => BUSY_PAUSE,
            Trouble::Gone => GONE_PAUSE,
            Trouble::Unreached => UNREACHED_PAUSE,
        };
        let until = Instant::now() + pause;
        let concerned = |place: &&mut Place| match trouble {
            Trouble::Unreached => place.endpoint.session == endpoint.session,
            Trouble::Busy | Trouble::Gone => place.endpoint.id == endpoint.id,
        };
        for place in inner.places.iter_mut().filter(concerned) {
            place.left_alone = Some((until, trouble));
        }
        drop(inner);
        let line = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            line.inner.lock().wake_for_free_places();
        });
    }

    /// Raises demand on an edge: the first waiter with nothing to serve it, each doubling, or when
    /// asked to repeat.
    pub fn raise_demand(&self, repeat: bool) {
        let signal = {
            let mut inner = self.inner.lock();
            let n = inner.waiters.len();
            // The doublings go on over a line that empties now and then while instances serve it.
            let is_edge = n >= inner.next_edge || (n == 1 && !inner.has_service());
            if n == 0 || !(is_edge || repeat) {
                return;
            }
            inner.next_edge = (n * 2).max(2);
            let oldest = inner
                .waiters
                .front()
                .map_or(Duration::ZERO, |w| w.since.elapsed());
            let target = self.target.lock();
            DemandSignal {
                revision: target.revision.clone(),
                uid: target.uid.clone(),
                shard: target.shard,
                n_waiting: n as u64,
                in_flight: inner.integrator.in_flight(),
                oldest_age_ms: u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX),
            }
        };
        self.scale_up.demand(signal);
    }

    /// Waiting with nothing to serve them.
    pub fn is_starved(&self) -> bool {
        let inner = self.inner.lock();
        !inner.waiters.is_empty() && !inner.has_service()
    }

    /// Whether the owner has named instances that serve it.
    pub fn has_places(&self) -> bool {
        !self.inner.lock().places.is_empty()
    }

    /// The report since the last one; `None` while there is nothing to say.
    pub fn report(&self) -> Option<RevisionStat> {
        let now = self.now_us();
        let mut inner = self.inner.lock();
        let report = inner.integrator.report(now);
        let is_zero = report.in_flight == 0 && report.area_us == 0 && report.n_started == 0;
        if is_zero && inner.reported_zero {
            return None;
        }
        inner.reported_zero = is_zero;
        let oldest = inner
            .waiters
            .front()
            .map_or(Duration::ZERO, |w| w.since.elapsed());
        let target = self.target.lock();
        Some(RevisionStat {
            revision: target.revision.clone(),
            uid: target.uid.clone(),
            shard: target.shard,
            area_us: report.area_us,
            used_us: report.used_us,
            n_started: report.n_started,
            in_flight: report.in_flight,
            queued: inner.waiters.len() as u64,
            oldest_ms: u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Place {
    fn is_left_alone(&self, now: Instant) -> bool {
        self.left_alone.is_some_and(|(until, _)| now < until)
    }
}

impl Inner {
    /// Whether any instance takes requests, if only when it is their turn.
    fn has_service(&self) -> bool {
        let now = Instant::now();
        self.places.iter().any(|place| match place.left_alone {
            Some((until, Trouble::Gone | Trouble::Unreached)) => until <= now,
            Some((_, Trouble::Busy)) | None => true,
        })
    }

    /// Least in flight among those with a free place.
    fn pick(&mut self) -> Option<Endpoint> {
        let now = Instant::now();
        let free = |place: &&mut Place| {
            let limit = place.endpoint.container_concurrency;
            (limit == 0 || place.in_flight < limit) && !place.is_left_alone(now)
        };
        let place = self
            .places
            .iter_mut()
            .filter(free)
            .min_by_key(|place| place.in_flight)?;
        place.in_flight += 1;
        Some(place.endpoint.clone())
    }

    /// The newest stands at the end; who was woken in vain goes back to the head.
    fn enqueue(&mut self, since: Instant, at_end: bool) -> (u64, oneshot::Receiver<()>) {
        let (wake, woken) = oneshot::channel();
        let id = self.next_waiter;
        self.next_waiter += 1;
        let waiter = Waiter { id, since, wake };
        match at_end {
            true => self.waiters.push_back(waiter),
            false => self.waiters.push_front(waiter),
        }
        (id, woken)
    }

    fn wake_one(&mut self) {
        while let Some(waiter) = self.waiters.pop_front() {
            if waiter.wake.send(()).is_ok() {
                return;
            }
        }
    }

    fn wake_for_free_places(&mut self) {
        let free: usize = self
            .places
            .iter()
            .map(|place| match place.endpoint.container_concurrency {
                0 => usize::MAX / 1024,
                limit => limit.saturating_sub(place.in_flight) as usize,
            })
            .sum();
        for _ in 0..free.min(self.waiters.len()) {
            self.wake_one();
        }
    }
}

/// A place in the line; leaving it early passes a wake-up on.
struct InLine<'a> {
    line: &'a Arc<Line>,
    id: u64,
    woken: oneshot::Receiver<()>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut inner = self.line.inner.lock();
        let before = inner.waiters.len();
        inner.waiters.retain(|waiter| waiter.id != self.id);
        // Woken, but gone before it could use the place.
        if inner.waiters.len() == before && self.woken.try_recv().is_ok() {
            inner.wake_one();
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut inner = self.line.inner.lock();
        let id = &self.endpoint.id;
        if let Some(place) = inner
            .places
            .iter_mut()
            .find(|place| place.endpoint.id == *id)
        {
            place.in_flight = place.in_flight.saturating_sub(1);
            inner.wake_one();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let now = self.0.now_us();
        self.0.inner.lock().integrator.ended(now);
    }
}

#[cfg(test)]
#[path = "line_test.rs"]
mod tests;
