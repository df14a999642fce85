//! The actor runtime with the entities in it, in control's own types.

use nihilo_actors::{Actors, Input, NoRoom, Place, SendError, Turn};
use nihilo_entity::keeper::Keeper;
use nihilo_entity::reconcile::AnyActor;
use nihilo_entity::{Effect, EntityKey, Event};
use nihilo_types::id::{Epoch, ShardId};

use crate::adapter::Entities;

/// Mailboxes of actors that get requests, and of those that mostly get levels (03-actors §5).
const BUSY_MAILBOX: usize = 128;
const QUIET_MAILBOX: usize = 32;

#[derive(Debug, Clone)]
pub(crate) struct System(nihilo_actors::System<Entities>);

impl System {
    pub(crate) fn new(entities: Entities) -> Self {
        Self(nihilo_actors::System::new(entities))
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    pub(crate) fn open_shard(&self, shard: ShardId, epoch: Epoch, keeper: Keeper) {
        self.0.open_shard(shard.0, epoch.0, keeper);
    }

    pub(crate) fn activate_shard(&self, shard: ShardId, epoch: Epoch) {
        self.0.activate_shard(shard.0, epoch.0);
    }

    pub(crate) fn close_shard(&self, shard: ShardId, epoch: Epoch) {
        self.0.close_shard(shard.0, epoch.0);
    }

    pub(crate) fn with_keeper<T>(
        &self,
        shard: ShardId,
        epoch: Epoch,
        look: impl FnOnce(&mut Keeper) -> T,
    ) -> Option<T> {
        self.0.with_keeper(shard.0, epoch.0, look)
    }

    pub(crate) fn send(
        &self,
        shard: ShardId,
        epoch: Epoch,
        key: &EntityKey,
        event: Event,
    ) -> Result<(), SendError> {
        self.0.send(shard.0, epoch.0, key, event)
    }

    pub(crate) fn mark_dirty(&self, shard: ShardId, epoch: Epoch, key: &EntityKey) {
        self.0.mark_dirty(shard.0, epoch.0, key);
    }

    pub(crate) fn reload(&self, shard: ShardId, epoch: Epoch, key: &EntityKey) {
        self.0.reload(shard.0, epoch.0, key);
    }
}

impl Actors for Entities {
    type Key = EntityKey;
    type Message = Event;
    type Effect = Effect;
    type Keeper = Keeper;
    type Actor = AnyActor;

    fn mailbox_capacity(&self, key: &EntityKey) -> usize {
        match key {
            EntityKey::Revision(_) | EntityKey::Autoscaler(_) => BUSY_MAILBOX,
            EntityKey::Service(_) | EntityKey::Route(_) => QUIET_MAILBOX,
        }
    }

    fn load(&self, key: &EntityKey, keeper: &Keeper, now_ms: u64) -> AnyActor {
        Entities::load(self, key, keeper, now_ms)
    }

    fn turn(
        &self,
        actor: &mut AnyActor,
        keeper: &Keeper,
        input: Input<Event>,
        now_ms: u64,
    ) -> Turn<Effect> {
        let event = match input {
            Input::Message(event) => event,
            Input::Changed => Event::Changed,
            Input::Timer(name) => Event::Timer { name },
        };
        let outputs = Entities::turn(self, actor, keeper, &event, now_ms);
        let timers = outputs
            .timers
            .into_iter()
            .map(|timer| (timer.name, timer.after_ms));
        Turn {
            effects: outputs.effects,
            timers: timers.collect(),
        }
    }

    fn execute(
        &self,
        place: Place<'_, EntityKey>,
        keeper: &mut Keeper,
        effect: Effect,
        now_ms: u64,
    ) -> Result<(), NoRoom> {
        let (shard, epoch) = (ShardId(place.shard), Epoch(place.epoch));
        Entities::execute(self, shard, epoch, place.key, keeper, effect, now_ms)
    }

    fn closed(&self, place: Place<'_, EntityKey>, actor: AnyActor, now_ms: u64) {
        Entities::closed(self, ShardId(place.shard), &actor, now_ms);
    }

    fn may_passivate(&self, actor: &AnyActor, keeper: &Keeper) -> bool {
        Entities::may_passivate(self, actor, keeper)
    }
}
