//! The activator's line of one revision: where a request waits for an instance, the only queue it
//! ever stands in.
//!
//! A free place is handed to who waits, never left for whoever comes by: arrivals cannot pass
//! those in line.

mod budget;
mod held_bytes;
mod out_of_reach;
mod places;
mod service_times;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use nihilo_failpoint::{Point, hit};
use nihilo_scale::integrator::Integrator;
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{NodeId, SessionId};
use nihilo_types::instance::Waking;
use nihilo_types::route_table::RevisionTarget;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use held_bytes::HeldBytes;
pub use out_of_reach::OutOfReach;
pub use places::Trouble;

use self::budget::RetryBudget;
use self::held_bytes::Share;
use self::out_of_reach::{Asked, retry_after};
use self::places::Places;
use self::service_times::ServiceTimes;
use self::waiters::{Spot, Waiters};
use crate::metrics::{Meters, Metrics};
use crate::ports::{DemandSignal, RevisionStat, ScaleUp};

/// Requests that wait per revision and gateway, at most (05-gateway §20); a revision may set less.
pub const MAX_WAITING: usize = 10_000;

/// Why no instance was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineError {
    /// Of requests, or of their bytes.
    Full {
        retry_after: u32,
    },
    /// It would not be served before its deadline.
    Overloaded {
        retry_after: u32,
    },
    Deadline {
        last_failure: String,
    },
    /// Nothing serves it, and whoever could start something cannot be asked.
    OutOfReach {
        retry_after: u32,
    },
    /// Of probes: nothing serves it, and nothing is woken for them.
    Asleep,
    /// Of probes: nothing serves it, and its last start has failed.
    Broken,
}

/// One request's claim.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    pub arrived: Instant,
    pub deadline: Instant,
    /// Who asks, hashed: sources take turns.
    pub source: u64,
    /// What it holds in memory while it waits.
    pub n_bytes: usize,
    /// It was let in before, and what it was given refused it: it keeps its place.
    pub is_back: bool,
    /// It only asks how the service is, and raises no demand.
    pub is_probe: bool,
}

/// What all lines of a gateway share.
#[derive(Clone)]
pub struct Surroundings {
    pub home: NodeId,
    pub scale_up: Arc<dyn ScaleUp>,
    pub held: HeldBytes,
    pub out_of_reach: OutOfReach,
    pub metrics: Metrics,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// One revision's traffic at this gateway.
pub struct Line {
    pub target: Mutex<Arc<RevisionTarget>>,
    pub meters: Meters,
    inner: Mutex<Inner>,
    around: Surroundings,
    epoch: Instant,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("revision", &self.target.lock().revision)
            .finish()
    }
}

#[derive(Debug)]
struct Inner {
    integrator: Integrator,
    version: (u64, u64),
    places: Places,
    last_failure: String,
    waiters: Waiters<Waiter>,
    service: ServiceTimes,
    retries: RetryBudget,
    /// Length at which demand is raised again.
    next_edge: usize,
    asked: Asked,
    reported_zero: bool,
}

#[derive(Debug)]
struct Waiter {
    deadline: Instant,
    is_cold: bool,
    /// No instance was known when it came: the one that it gets has been woken since.
    is_first: bool,
    wake: oneshot::Sender<Result<Taken, LineError>>,
    share: Share,
}

/// A place at one instance, held until dropped.
#[derive(Debug)]
pub struct Taken {
    line: Arc<Line>,
    pub endpoint: Endpoint,
    /// Whether it waited with nothing ready.
    pub is_cold: bool,
    since: Instant,
    /// Its time says how long requests take.
    is_answered: bool,
}

impl Taken {
    /// The instance answered: it is well.
    pub fn answered(&mut self) {
        self.is_answered = true;
        self.line.inner.lock().places.succeeded(&self.endpoint.id);
    }
}

/// Counts one request from admission to its end.
#[derive(Debug)]
pub struct Counted(Arc<Line>);

impl Line {
    pub fn new(target: Arc<RevisionTarget>, around: Surroundings) -> Self {
        let inner = Inner {
            integrator: Integrator::default(),
            version: (0, 0),
            places: Places::of(around.home),
            last_failure: String::new(),
            waiters: Waiters::default(),
            service: ServiceTimes::default(),
            retries: RetryBudget::new(Instant::now()),
            next_edge: 1,
            asked: Asked::default(),
            // Until a request has counted there is nothing to say: a probe alone says nothing.
            reported_zero: true,
        };
        Self {
            meters: around.metrics.revision(&target),
            target: Mutex::new(target),
            inner: Mutex::new(inner),
            around,
            epoch: Instant::now(),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn count(self: &Arc<Self>) -> Counted {
        let now = self.now_us();
        let mut inner = self.inner.lock();
        inner.integrator.started(now);
        inner.retries.request();
        drop(inner);
        Counted(self.clone())
    }

    /// Whether one more request of this revision may be sent again.
    pub fn may_retry(&self) -> bool {
        let may = self.inner.lock().retries.retry(Instant::now());
        if !may {
            self.around.metrics.hit("retries");
        }
        may
    }

    /// Waits for a place until the deadline. Dropping the future leaves the line.
    ///
    /// # Errors
    /// The line is full or too long for the deadline, the deadline has passed, or nobody can be
    /// asked to serve it.
    pub async fn take(self: &Arc<Self>, wish: &Wish) -> Result<Taken, LineError> {
        let (spot, woken) = {
            let mut inner = self.inner.lock();
            let now = Instant::now();
            // Nobody passes those who wait.
            let endpoint = match inner.waiters.is_empty() {
                true => inner.places.take(now),
                false => None,
            };
            if let Some(endpoint) = endpoint {
                return Ok(self.taken(endpoint, now, false));
            }
            if wish.is_probe && inner.waiters.is_empty() && !inner.places.has_service(now) {
                self.around.metrics.probe_answered();
                return Err(match inner.last_failure.is_empty() {
                    true => LineError::Asleep,
                    false => LineError::Broken,
                });
            }
            if self.is_out_of_reach(&inner, now) {
                drop(inner);
                return Err(self.turn_away(now));
            }
            let share = self.admit(&inner, wish, now)?;
            let (wake, woken) = oneshot::channel();
            let waiter = Waiter {
                deadline: wish.deadline,
                is_cold: !inner.places.has_service(now),
                is_first: inner.places.is_empty(),
                wake,
                share,
            };
            (inner.waiters.join(wish.source, wish.arrived, waiter), woken)
        };
        let mut in_line = InLine {
            line: self,
            spot,
            woken,
        };
        hit(Point::RequestQueued);
        if !wish.is_probe {
            self.raise_demand(false);
        }
        // A place may be free that nobody was there to take.
        self.serve();
        match tokio::time::timeout_at(wish.deadline, &mut in_line.woken).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(_)) | Err(_) => {
                let last_failure = self.inner.lock().last_failure.clone();
                Err(LineError::Deadline { last_failure })
            }
        }
    }

    fn taken(self: &Arc<Self>, endpoint: Endpoint, since: Instant, is_cold: bool) -> Taken {
        Taken {
            line: self.clone(),
            endpoint,
            is_cold,
            since,
            is_answered: false,
        }
    }

    /// Whether one more may wait.
    fn admit(&self, inner: &Inner, wish: &Wish, now: Instant) -> Result<Share, LineError> {
        let target = self.target.lock().clone();
        if wish.is_back {
            return Ok(Share::none());
        }
        let n = inner.waiters.len();
        let retry_after = || inner.service.retry_after(now, n, rand::random());
        let limit = match target.queue_depth {
            0 => MAX_WAITING,
            depth => (depth as usize).min(MAX_WAITING),
        };
        if n >= limit {
            self.around.metrics.hit("waiting_requests");
            return Err(LineError::Full {
                retry_after: retry_after(),
            });
        }
        if inner.cannot_meet(wish.deadline, n, target.max_scale, now) {
            self.around.metrics.hit("queue_deadline");
            return Err(LineError::Overloaded {
                retry_after: retry_after(),
            });
        }
        let share = self
            .around
            .held
            .hold(&target.revision.namespace, wish.n_bytes);
        share.ok_or_else(|| {
            self.around.metrics.hit("waiting_bytes");
            LineError::Full {
                retry_after: retry_after(),
            }
        })
    }

    /// Hands free places to those who wait, one each.
    fn serve(self: &Arc<Self>) {
        let now = Instant::now();
        loop {
            // Given away without the lock: one that is refused comes back through it.
            let (wake, answer) = {
                let mut inner = self.inner.lock();
                if inner.waiters.is_empty() {
                    return;
                }
                let Some(mut endpoint) = inner.places.take(now) else {
                    return;
                };
                let p50 = inner.service.p50();
                let Some(waiter) = inner.waiters.next() else {
                    inner.places.free(&endpoint.id);
                    return;
                };
                drop(waiter.share);
                if waiter.deadline < now + p50 {
                    inner.places.free(&endpoint.id);
                    let n = inner.waiters.len();
                    let retry_after = inner.service.retry_after(now, n, rand::random());
                    (waiter.wake, Err(LineError::Overloaded { retry_after }))
                } else {
                    if !waiter.is_first {
                        endpoint.waking = Waking::default();
                    }
                    let taken = self.taken(endpoint, now, waiter.is_cold);
                    (waiter.wake, Ok(taken))
                }
            };
            drop(wake.send(answer));
        }
    }

    /// Takes the owner's word about instances; an older version is ignored.
    pub fn update(self: &Arc<Self>, table: EndpointTable) {
        {
            let mut inner = self.inner.lock();
            let version = (table.epoch.0, table.seq);
            if version <= inner.version {
                return;
            }
            inner.version = version;
            inner.last_failure.clone_from(&table.last_failure);
            inner.places.update(table);
        }
        self.serve();
    }

    /// The node is gone, and its instances with it.
    pub fn session_down(&self, session: SessionId) {
        self.inner.lock().places.session_down(session);
    }

    /// An instance could not take a request: others first.
    pub fn avoid(self: &Arc<Self>, endpoint: &Endpoint, trouble: Trouble) {
        let now = Instant::now();
        let until = self.inner.lock().places.avoid(endpoint, trouble, now);
        let line = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            line.serve();
        });
    }

    /// Raises demand on an edge: the first waiter with nothing to serve it, each doubling, or when
    /// asked to repeat.
    pub fn raise_demand(&self, repeat: bool) {
        let signal = {
            let mut inner = self.inner.lock();
            let n = inner.waiters.len();
            let now = Instant::now();
            // The doublings go on over a line that empties now and then while instances serve it.
            let is_edge = n >= inner.next_edge || (n == 1 && !inner.places.has_service(now));
            if n == 0 || !(is_edge || repeat) {
                return;
            }
            inner.next_edge = (n * 2).max(2);
            self.signal(&inner, n as u64, inner.oldest_ms(now))
        };
        self.around.scale_up.demand(signal);
    }

    fn signal(&self, inner: &Inner, n_waiting: u64, oldest_age_ms: u64) -> DemandSignal {
        let target = self.target.lock();
        DemandSignal {
            revision: target.revision.clone(),
            uid: target.uid.clone(),
            shard: target.shard,
            n_waiting,
            in_flight: inner.integrator.in_flight(),
            oldest_age_ms,
        }
    }

    /// Nothing serves it, and nobody can be asked to start something.
    fn is_out_of_reach(&self, inner: &Inner, now: Instant) -> bool {
        let shard = self.target.lock().shard;
        self.around.out_of_reach.holds(shard) && !inner.places.has_service(now)
    }

    /// Refuses one request at once. Its owner is asked all the same, now and then: it may be in reach
    /// again before there is a leader, and then requests wait again.
    fn turn_away(&self, now: Instant) -> LineError {
        let signal = {
            let mut inner = self.inner.lock();
            let is_due = inner.asked.is_due(now);
            is_due.then(|| self.signal(&inner, 1, 0))
        };
        if let Some(signal) = signal {
            self.around.scale_up.demand(signal);
        }
        LineError::OutOfReach {
            retry_after: retry_after(),
        }
    }

    /// Refuses all who wait, if nothing serves them and nobody can be asked.
    pub fn refuse_out_of_reach(&self) {
        let refused: Vec<Waiter> = {
            let mut inner = self.inner.lock();
            if inner.waiters.is_empty() || !self.is_out_of_reach(&inner, Instant::now()) {
                return;
            }
            std::iter::from_fn(|| inner.waiters.next()).collect()
        };
        for waiter in refused {
            let retry_after = retry_after();
            drop(waiter.wake.send(Err(LineError::OutOfReach { retry_after })));
        }
    }

    /// Waiting with nothing to serve them.
    pub fn is_starved(&self) -> bool {
        let inner = self.inner.lock();
        !inner.waiters.is_empty() && !inner.places.has_service(Instant::now())
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
        let queued = inner.waiters.len() as u64;
        let oldest_ms = inner.oldest_ms(Instant::now());
        drop(inner);
        self.meters
            .report(queued, report.in_flight, report.area_us, report.used_us);
        let target = self.target.lock();
        Some(RevisionStat {
            revision: target.revision.clone(),
            uid: target.uid.clone(),
            shard: target.shard,
            area_us: report.area_us,
            used_us: report.used_us,
            n_started: report.n_started,
            in_flight: report.in_flight,
            queued,
            oldest_ms,
        })
    }
}

impl Inner {
    fn oldest_ms(&self, now: Instant) -> u64 {
        let oldest = self
            .waiters
            .oldest()
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether an arrival behind `n_ahead` would be answered too late: for certain, or, once no
    /// further instance may come, by what the last ones took.
    fn cannot_meet(&self, deadline: Instant, n_ahead: usize, max_scale: u32, now: Instant) -> bool {
        let p50 = self.service.p50();
        let left = deadline.saturating_duration_since(now);
        if p50 > left {
            return true;
        }
        let is_at_max = max_scale > 0 && self.places.len() >= max_scale as usize;
        let Some(n_slots) = self.places.n_slots().filter(|n| is_at_max && *n > 0) else {
            return false;
        };
        p50.mul_f64(n_ahead as f64 / n_slots as f64) > left
    }
}

/// A place in the line; left when dropped.
struct InLine<'a> {
    line: &'a Arc<Line>,
    spot: Spot,
    woken: oneshot::Receiver<Result<Taken, LineError>>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        // What was handed over just now is given back by its own end.
        drop(self.line.inner.lock().waiters.leave(self.spot));
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        {
            let mut inner = self.line.inner.lock();
            inner.places.free(&self.endpoint.id);
            if self.is_answered {
                let now = Instant::now();
                let took = now.saturating_duration_since(self.since);
                inner.service.add(now, took);
            }
        }
        self.line.serve();
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
