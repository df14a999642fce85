//! A small actor runtime for entities that are owned, fenced and mostly asleep.
//!
//! An actor is a key in a shard. It is loaded when something is sent to it, runs synchronous
//! turns, and is put to sleep again when nothing is left to do; a sleeping actor has no task, no
//! timer and no memory here. The shard's *keeper* holds what must not be forgotten in between.
//!
//! This crate knows nothing of what the actors do.
#![forbid(unsafe_code)]

mod incarnation;
mod supervise;
mod system;
pub mod task;
mod timer;

use std::fmt::{Debug, Display};
use std::hash::Hash;

pub use system::{Observation, SendError, System};

/// The kinds of actors of one system, and how to run them.
pub trait Actors: Send + Sync + 'static {
    type Key: Clone + Ord + Hash + Debug + Display + Send + Sync + 'static;
    /// Kept small: mailboxes hold it by value.
    type Message: Send + 'static;
    type Effect: Send + 'static;
    /// One per open shard: outlives panics, reloads and sleep.
    type Keeper: Send + 'static;
    type Actor: Send + 'static;

    /// Messages an actor's mailbox holds; beyond, senders are refused.
    fn mailbox_capacity(&self, key: &Self::Key) -> usize;

    /// Builds an actor from what is known elsewhere. Under the shard's lock; must not block.
    fn load(&self, key: &Self::Key, keeper: &Self::Keeper, now_ms: u64) -> Self::Actor;

    /// Decides. Under the shard's lock; must not block, and has no effect but its result.
    fn turn(
        &self,
        actor: &mut Self::Actor,
        keeper: &Self::Keeper,
        input: Input<Self::Message>,
        now_ms: u64,
    ) -> Turn<Self::Effect>;

    /// Takes one effect of a turn, still under the shard's lock: first what the keeper must
    /// remember, then the hand-over, which must not wait.
    ///
    /// # Errors
    /// There is no room for it: the rest of the turn's effects is dropped with it, and the actor
    /// is loaded again after a pause, so that it decides on what stands then.
    fn execute(
        &self,
        place: Place<'_, Self::Key>,
        keeper: &mut Self::Keeper,
        effect: Self::Effect,
        now_ms: u64,
    ) -> Result<(), NoRoom>;

    /// Whether nothing would be lost by putting the actor to sleep.
    fn may_passivate(&self, actor: &Self::Actor, keeper: &Self::Keeper) -> bool;

    /// The shard of a loaded actor was closed: what it knows may be worth handing on. Outside any
    /// lock; must not block.
    fn closed(&self, place: Place<'_, Self::Key>, actor: Self::Actor, now_ms: u64) {
        drop((place, actor, now_ms));
    }
}

/// The executor's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for the effect")]
pub struct NoRoom;

/// Where an effect comes from.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a, Key> {
    pub shard: u16,
    pub epoch: u64,
    pub key: &'a Key,
}

/// One input of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<Message> {
    Message(Message),
    /// A level changed; any number of changes is one input.
    Changed,
    Timer(&'static str),
}

/// What a turn wants.
#[derive(Debug)]
pub struct Turn<Effect> {
    pub effects: Vec<Effect>,
    /// Name, and milliseconds from now; `None` cancels. Setting replaces.
    pub timers: Vec<(&'static str, Option<u64>)>,
}
