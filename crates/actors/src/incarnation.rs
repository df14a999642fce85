//! One actor's resident form: load, turns, sleep.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::supervise::{BACKOFF_MIN, QUARANTINE, Record, Verdict};
use crate::system::{Inner, Shard};
use crate::{Actors, Input, NoRoom, Place, Turn};

/// Inputs of one run before other tasks get their turn.
const MAX_BATCH: usize = 32;
/// An actor with nothing to do goes to sleep after this.
pub(crate) const IDLE: Duration = Duration::from_secs(10);

pub(crate) enum Mail<Message> {
    Message(Message),
    /// Only wakes: the dirty bit says why.
    Look,
    Timer(&'static str),
}

pub(crate) struct Incarnation<A: Actors> {
    pub(crate) inner: Arc<Inner<A>>,
    pub(crate) id: u16,
    pub(crate) epoch: u64,
    pub(crate) shard: Arc<Mutex<Shard<A>>>,
    pub(crate) active: watch::Receiver<bool>,
    pub(crate) key: A::Key,
    pub(crate) inbox: mpsc::Receiver<Mail<A::Message>>,
    pub(crate) dirty: Arc<AtomicBool>,
    pub(crate) reload: Arc<AtomicBool>,
    pub(crate) generation: u64,
    pub(crate) released: Arc<Notify>,
}

/// Why a run of turns ended.
enum End {
    /// The shard was closed.
    Closed,
    Panicked,
    /// An effect found no room.
    NoRoom,
}

// Waiting => Loaded => (Loaded | Waiting after a panic | Asleep | Closed)
impl<A: Actors> Incarnation<A> {
    pub(crate) async fn run(mut self) {
        let mut record = Record::default();
        let mut actor = None;
        if self.active.wait_for(|active| *active).await.is_ok() {
            while self.step(&mut actor, &mut record).await {}
        }
        if let Some(actor) = actor
            && self.shard.lock().closed
        {
            let place = Place {
                shard: self.id,
                epoch: self.epoch,
                key: &self.key,
            };
            self.inner.actors.closed(place, actor, self.inner.now_ms());
        }
        self.inner.counters.resident.fetch_sub(1, Ordering::Relaxed);
    }

    /// One input and whatever else is waiting; `false` = this incarnation has ended.
    async fn step(&mut self, actor: &mut Option<A::Actor>, record: &mut Record) -> bool {
        let first = match self.next().await {
            Next::Mail(mail) => Some(mail),
            Next::Dirty => None,
            Next::Idle => return !self.fell_asleep(actor.as_ref()),
            Next::Closed => return false,
        };
        match self.batch(actor, first) {
            Ok(()) => {
                tokio::task::yield_now().await;
                true
            }
            Err(End::Closed) => false,
            Err(End::Panicked) => {
                *actor = None;
                self.recover(record).await
            }
            Err(End::NoRoom) => {
                *actor = None;
                warn!(key = %self.key, "an effect found no room, the actor is loaded again");
                self.look_again_after(BACKOFF_MIN).await
            }
        }
    }

    async fn next(&mut self) -> Next<A::Message> {
        if self.dirty.load(Ordering::Acquire) && self.inbox.is_empty() {
            return Next::Dirty;
        }
        match tokio::time::timeout(IDLE, self.inbox.recv()).await {
            Ok(Some(mail)) => Next::Mail(mail),
            Ok(None) => Next::Closed,
            Err(_) => Next::Idle,
        }
    }

    fn batch(
        &mut self,
        actor: &mut Option<A::Actor>,
        first: Option<Mail<A::Message>>,
    ) -> Result<(), End> {
        let mut mail = first;
        for _ in 0..MAX_BATCH {
            let input = match mail.take() {
                Some(Mail::Message(message)) => Some(Input::Message(message)),
                Some(Mail::Timer(name)) => Some(Input::Timer(name)),
                Some(Mail::Look) | None => None,
            };
            if self.dirty.swap(false, Ordering::AcqRel) {
                self.turn(actor, Input::Changed)?;
            }
            if let Some(input) = input {
                self.turn(actor, input)?;
            }
            match self.inbox.try_recv() {
                Ok(next) => mail = Some(next),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// One turn and its effects, in one hold of the shard's lock.
    fn turn(&self, actor: &mut Option<A::Actor>, input: Input<A::Message>) -> Result<(), End> {
        let mut shard = self.shard.lock();
        if shard.closed || shard.epoch != self.epoch {
            return Err(End::Closed);
        }
        let now_ms = self.inner.now_ms();
        if self.reload.swap(false, Ordering::AcqRel) {
            *actor = None;
        }
        let actors = &self.inner.actors;
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let actor = actor.get_or_insert_with(|| {
                self.inner.counters.reloads.fetch_add(1, Ordering::Relaxed);
                actors.load(&self.key, &shard.keeper, now_ms)
            });
            actors.turn(actor, &shard.keeper, input, now_ms)
        }));
        self.inner.counters.turns.fetch_add(1, Ordering::Relaxed);
        let Ok(Turn { effects, timers }) = decided else {
            return Err(End::Panicked);
        };
        for effect in effects {
            let place = Place {
                shard: self.id,
                epoch: self.epoch,
                key: &self.key,
            };
            let executed = actors.execute(place, &mut shard.keeper, effect, now_ms);
            executed.map_err(|_: NoRoom| End::NoRoom)?;
        }
        for (name, after_ms) in timers {
            self.set_timer(name, after_ms);
        }
        Ok(())
    }

    fn set_timer(&self, name: &'static str, after_ms: Option<u64>) {
        let Some(after_ms) = after_ms else {
            return self.inner.timers.cancel(self.id, &self.key, name);
        };
        let at = Instant::now() + Duration::from_millis(after_ms);
        if !self.inner.timers.set(self.id, &self.key, name, at) {
            warn!(key = %self.key, name, "too many timers, this one is not set");
        }
    }

    /// Removes the slot under the lock that senders hold too: no message can fall in between.
    fn fell_asleep(&self, actor: Option<&A::Actor>) -> bool {
        let mut shard = self.shard.lock();
        let busy = !self.inbox.is_empty() || self.dirty.load(Ordering::Acquire);
        let needed =
            actor.is_some_and(|actor| !self.inner.actors.may_passivate(actor, &shard.keeper));
        if busy || needed {
            return false;
        }
        let mine = |slot: &crate::system::Slot<A>| slot.generation == self.generation;
        if shard.slots.get(&self.key).is_some_and(mine) {
            shard.slots.remove(&self.key);
        }
        true
    }

    async fn recover(&self, record: &mut Record) -> bool {
        let wait = match record.panicked(Instant::now()) {
            Verdict::ReloadAfter(wait) => {
                error!(key = %self.key, ?wait, "actor panicked, it is loaded again");
                wait
            }
            Verdict::Quarantine => {
                error!(key = %self.key, ?QUARANTINE, "actor panicked repeatedly, quarantined");
                let mut shard = self.shard.lock();
                if let Some(slot) = shard.slots.get_mut(&self.key) {
                    slot.quarantined_until = Some(Instant::now() + QUARANTINE);
                }
                QUARANTINE
            }
        };
        self.look_again_after(wait).await
    }

    /// What it was told may be lost with it: look at everything again.
    async fn look_again_after(&self, pause: Duration) -> bool {
        // Released early, or after its time.
        let _ = tokio::time::timeout(pause, self.released.notified()).await;
        self.dirty.store(true, Ordering::Release);
        true
    }
}

enum Next<Message> {
    Mail(Mail<Message>),
    Dirty,
    Idle,
    Closed,
}
