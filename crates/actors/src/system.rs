//! The directory: shards, slots, and the rules of sending.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::incarnation::{self, Mail};
use crate::timer::Timers;
use crate::{Actors, task};

/// Resident actors of a system, at most (03-actors §5).
const MAX_RESIDENT: usize = 50_000;

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the shard is not open here under this epoch")]
    Moved,
    #[error("the mailbox, or the node, is full")]
    Overloaded,
    #[error("the actor is quarantined after repeated panics")]
    Quarantined,
}

/// What a system holds, for status and tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Open shards with their epochs.
    pub shards: BTreeMap<u16, u64>,
    pub n_resident: usize,
    pub n_turns: u64,
    pub n_reloads: u64,
    pub n_refused: u64,
    /// Messages that found a full mailbox, a part of the refused ones.
    pub n_mailbox_full: u64,
    /// Timers that are set; none for an actor that sleeps with nothing to do.
    pub n_timers: usize,
}

/// A running actor system; cheap to clone.
pub struct System<A: Actors>(pub(crate) Arc<Inner<A>>);

impl<A: Actors> Clone for System<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Actors> std::fmt::Debug for System<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System")
            .field("observation", &self.observe())
            .finish()
    }
}

pub(crate) struct Inner<A: Actors> {
    pub(crate) actors: A,
    shards: Mutex<HashMap<u16, Arc<Mutex<Shard<A>>>>>,
    pub(crate) timers: Timers<A::Key>,
    pub(crate) counters: Counters,
    pub(crate) runtime: Handle,
    started: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) resident: AtomicUsize,
    pub(crate) turns: AtomicU64,
    pub(crate) reloads: AtomicU64,
    refused: AtomicU64,
    mailbox_full: AtomicU64,
    generation: AtomicU64,
}

/// One shard under one epoch. Everything in it happens under its lock.
pub(crate) struct Shard<A: Actors> {
    pub(crate) epoch: u64,
    pub(crate) keeper: A::Keeper,
    /// Turns run only once it is true; until then mailboxes collect.
    pub(crate) active: watch::Sender<bool>,
    pub(crate) slots: HashMap<A::Key, Slot<A>>,
    /// Closed while an incarnation held on to it.
    pub(crate) closed: bool,
}

pub(crate) struct Slot<A: Actors> {
    pub(crate) mail: mpsc::Sender<Mail<A::Message>>,
    pub(crate) dirty: Arc<AtomicBool>,
    pub(crate) reload: Arc<AtomicBool>,
    /// An incarnation removes only the slot of its own generation.
    pub(crate) generation: u64,
    pub(crate) quarantined_until: Option<Instant>,
    /// Ends a quarantine early.
    pub(crate) released: Arc<Notify>,
}

impl<A: Actors> System<A> {
    /// Starts the system on the present runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(actors: A) -> Self {
        let system = Self(Arc::new(Inner {
            actors,
            shards: Mutex::default(),
            timers: Timers::new(),
            counters: Counters::default(),
            runtime: Handle::current(),
            started: Instant::now(),
        }));
        let inner = Arc::downgrade(&system.0);
        task::spawn("actor-timers", async move {
            while let Some(inner) = inner.upgrade() {
                let next = inner.timers.next();
                // Looks up from time to time so that a dropped system ends its task.
                if let Ok((shard, key, name)) =
                    tokio::time::timeout(Duration::from_secs(60), next).await
                {
                    System(inner).fire(shard, key, name);
                }
            }
        });
        system
    }

    pub fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    /// Opens a shard: messages collect, turns wait for [`Self::activate_shard`]. A shard open
    /// under another epoch is closed first.
    pub fn open_shard(&self, shard: u16, epoch: u64, keeper: A::Keeper) {
        self.0.drop_shard(shard, None);
        let opened = Shard {
            epoch,
            keeper,
            active: watch::Sender::new(false),
            slots: HashMap::new(),
            closed: false,
        };
        self.0
            .shards
            .lock()
            .insert(shard, Arc::new(Mutex::new(opened)));
    }

    pub fn activate_shard(&self, shard: u16, epoch: u64) {
        self.locked(shard, epoch, |shard| shard.active.send_replace(true));
    }

    /// Ends everything of the shard: messages, timers, keeper. Effects of a turn under way are
    /// the last ones.
    pub fn close_shard(&self, shard: u16, epoch: u64) {
        self.0.drop_shard(shard, Some(epoch));
    }

    /// Looks at, or writes, a shard's keeper; `None` when it is not open under this epoch.
    pub fn with_keeper<T>(
        &self,
        shard: u16,
        epoch: u64,
        look: impl FnOnce(&mut A::Keeper) -> T,
    ) -> Option<T> {
        self.locked(shard, epoch, |shard| look(&mut shard.keeper))
    }

    /// Sends without waiting; loads the actor if it sleeps.
    ///
    /// # Errors
    /// The message was not taken.
    pub fn send(
        &self,
        shard: u16,
        epoch: u64,
        key: &A::Key,
        message: A::Message,
    ) -> Result<(), SendError> {
        self.deliver(shard, epoch, key, Mail::Message(message))
    }

    /// Tells the actor that a level changed. Any number of calls before its next turn is one
    /// input, and none can be lost to a full mailbox.
    pub fn mark_dirty(&self, shard: u16, epoch: u64, key: &A::Key) {
        // Closed or quarantined: there is nobody to look.
        let _ = self.deliver(shard, epoch, key, Mail::Look);
    }

    /// Makes the actor forget what it keeps and load again.
    pub fn reload(&self, shard: u16, epoch: u64, key: &A::Key) {
        self.locked(shard, epoch, |open| {
            if let Some(slot) = open.slots.get(key) {
                slot.reload.store(true, Ordering::Release);
            }
        });
        self.mark_dirty(shard, epoch, key);
    }

    /// Ends the quarantine of an actor; `false` when it is in none.
    pub fn release(&self, shard: u16, key: &A::Key) -> bool {
        let open = self.0.shards.lock().get(&shard).cloned();
        let Some(open) = open else { return false };
        let mut open = open.lock();
        let Some(slot) = open.slots.get_mut(key) else {
            return false;
        };
        let was_in = slot.quarantined_until.take().is_some();
        if was_in {
            slot.released.notify_one();
        }
        was_in
    }

    /// Actors that are in quarantine, with their shards.
    pub fn quarantined(&self) -> Vec<(u16, A::Key)> {
        let now = Instant::now();
        let shards: Vec<_> = {
            let shards = self.0.shards.lock();
            shards
                .iter()
                .map(|(id, shard)| (*id, shard.clone()))
                .collect()
        };
        let mut found = Vec::new();
        for (id, shard) in shards {
            let shard = shard.lock();
            let is_in = |slot: &Slot<A>| slot.quarantined_until.is_some_and(|until| until > now);
            let keys = shard.slots.iter().filter(|(_, slot)| is_in(slot));
            found.extend(keys.map(|(key, _)| (id, key.clone())));
        }
        found.sort();
        found
    }

    /// Resident actors with the messages that wait for each, largest first.
    pub fn mailboxes(&self) -> Vec<(u16, A::Key, usize)> {
        let shards: Vec<_> = {
            let shards = self.0.shards.lock();
            shards
                .iter()
                .map(|(id, shard)| (*id, shard.clone()))
                .collect()
        };
        let mut found = Vec::new();
        for (id, shard) in shards {
            let shard = shard.lock();
            let waiting = |slot: &Slot<A>| slot.mail.max_capacity() - slot.mail.capacity();
            let all = shard.slots.iter();
            found.extend(all.map(|(key, slot)| (id, key.clone(), waiting(slot))));
        }
        found.sort_by(|a, b| (b.2, &a.1).cmp(&(a.2, &b.1)));
        found
    }

    pub fn observe(&self) -> Observation {
        let shards = self.0.shards.lock();
        let counters = &self.0.counters;
        Observation {
            shards: shards
                .iter()
                .map(|(id, shard)| (*id, shard.lock().epoch))
                .collect(),
            n_resident: counters.resident.load(Ordering::Relaxed),
            n_turns: counters.turns.load(Ordering::Relaxed),
            n_reloads: counters.reloads.load(Ordering::Relaxed),
            n_refused: counters.refused.load(Ordering::Relaxed),
            n_mailbox_full: counters.mailbox_full.load(Ordering::Relaxed),
            n_timers: self.0.timers.len(),
        }
    }

    fn locked<T>(&self, shard: u16, epoch: u64, act: impl FnOnce(&mut Shard<A>) -> T) -> Option<T> {
        let shard = self.0.shards.lock().get(&shard).cloned()?;
        let mut shard = shard.lock();
        (!shard.closed && shard.epoch == epoch).then(|| act(&mut shard))
    }

    fn fire(&self, shard: u16, key: A::Key, name: &'static str) {
        let open = self.0.shards.lock().get(&shard).cloned();
        let Some(open) = open else { return };
        let epoch = open.lock().epoch;
        if self.deliver(shard, epoch, &key, Mail::Timer(name)) == Err(SendError::Overloaded) {
            // A timer is a promise: a full mailbox only makes it late.
            let soon = Instant::now() + Duration::from_millis(10);
            self.0.timers.set(shard, &key, name, soon);
        }
    }

    fn deliver(
        &self,
        shard: u16,
        epoch: u64,
        key: &A::Key,
        mail: Mail<A::Message>,
    ) -> Result<(), SendError> {
        let open = self
            .0
            .shards
            .lock()
            .get(&shard)
            .cloned()
            .ok_or(SendError::Moved)?;
        let result = {
            let mut locked = open.lock();
            if locked.closed || locked.epoch != epoch {
                return Err(SendError::Moved);
            }
            self.put(shard, &open, &mut locked, key, mail)
        };
        if result.is_err() {
            self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Under the shard's lock: finds or makes the slot, then hands over without waiting.
    fn put(
        &self,
        id: u16,
        shard: &Arc<Mutex<Shard<A>>>,
        locked: &mut Shard<A>,
        key: &A::Key,
        mail: Mail<A::Message>,
    ) -> Result<(), SendError> {
        if !locked.slots.contains_key(key) {
            let slot = self.spawn(id, shard, locked, key)?;
            locked.slots.insert(key.clone(), slot);
        }
        let Some(slot) = locked.slots.get_mut(key) else {
            return Err(SendError::Overloaded);
        };
        if slot
            .quarantined_until
            .is_some_and(|until| until > Instant::now())
        {
            return Err(SendError::Quarantined);
        }
        if matches!(mail, Mail::Look) {
            // Full is fine: the incarnation looks at the bit before it sleeps.
            if !slot.dirty.swap(true, Ordering::AcqRel) {
                drop(slot.mail.try_send(mail));
            }
            return Ok(());
        }
        slot.mail.try_send(mail).map_err(|_| {
            self.0.counters.mailbox_full.fetch_add(1, Ordering::Relaxed);
            SendError::Overloaded
        })
    }

    fn spawn(
        &self,
        id: u16,
        shard: &Arc<Mutex<Shard<A>>>,
        locked: &Shard<A>,
        key: &A::Key,
    ) -> Result<Slot<A>, SendError> {
        let counters = &self.0.counters;
        if counters.resident.load(Ordering::Relaxed) >= MAX_RESIDENT {
            return Err(SendError::Overloaded);
        }
        counters.resident.fetch_add(1, Ordering::Relaxed);
        let (mail, inbox) = mpsc::channel(self.0.actors.mailbox_capacity(key));
        let slot = Slot {
            mail,
            dirty: Arc::default(),
            reload: Arc::default(),
            generation: counters.generation.fetch_add(1, Ordering::Relaxed),
            quarantined_until: None,
            released: Arc::default(),
        };
        let run = incarnation::Incarnation {
            inner: self.0.clone(),
            id,
            epoch: locked.epoch,
            shard: shard.clone(),
            active: locked.active.subscribe(),
            key: key.clone(),
            inbox,
            dirty: slot.dirty.clone(),
            reload: slot.reload.clone(),
            generation: slot.generation,
            released: slot.released.clone(),
        };
        task::spawn_on(&self.0.runtime, "actor", run.run());
        Ok(slot)
    }
}

impl<A: Actors> Inner<A> {
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn drop_shard(&self, id: u16, only_epoch: Option<u64>) {
        let mut shards = self.shards.lock();
        let Some(shard) = shards.get(&id) else { return };
        {
            let mut shard = shard.lock();
            if only_epoch.is_some_and(|epoch| epoch != shard.epoch) {
                return;
            }
            shard.closed = true;
            // Their senders go, so the incarnations end.
            shard.slots.clear();
        }
        shards.remove(&id);
        self.timers.drop_shard(id);
    }
}
