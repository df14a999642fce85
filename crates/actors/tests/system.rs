//! The promises of the actor system, on a counter that can be told to panic.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use nihilo_actors::{Actors, Input, NoRoom, Place, SendError, System, Turn};
use parking_lot::Mutex;

#[derive(Clone, Default)]
struct Counters(Arc<Mutex<Vec<Seen>>>);

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Loaded(u32),
    Got(u32, Message),
    Changed(u32),
    Timer(u32, &'static str),
}

/// An effect that is never taken.
const NO_ROOM: u64 = 404;

#[derive(Debug, Clone, PartialEq)]
enum Message {
    Number(u64),
    Panic,
    SetTimer(u64),
    KeepAwake,
}

struct Actor {
    key: u32,
    awake: bool,
}

impl Actors for Counters {
    type Key = u32;
    type Message = Message;
    type Effect = u64;
    type Keeper = u64;
    type Actor = Actor;

    fn mailbox_capacity(&self, _: &u32) -> usize {
        4
    }

    fn load(&self, key: &u32, _: &u64, _: u64) -> Actor {
        self.0.lock().push(Seen::Loaded(*key));
        Actor {
            key: *key,
            awake: false,
        }
    }

    fn turn(&self, actor: &mut Actor, _: &u64, input: Input<Message>, _: u64) -> Turn<u64> {
        let mut turn = Turn {
            effects: Vec::new(),
            timers: Vec::new(),
        };
        let seen = match input {
            Input::Changed => Seen::Changed(actor.key),
            Input::Timer(name) => Seen::Timer(actor.key, name),
            Input::Message(message) => {
                match &message {
                    Message::Number(n) => turn.effects.push(*n),
                    Message::Panic => panic!("asked to"),
                    Message::SetTimer(ms) => turn.timers.push(("t", Some(*ms))),
                    Message::KeepAwake => actor.awake = true,
                }
                Seen::Got(actor.key, message)
            }
        };
        self.0.lock().push(seen);
        turn
    }

    fn execute(
        &self,
        _: Place<'_, u32>,
        keeper: &mut u64,
        effect: u64,
        _: u64,
    ) -> Result<(), NoRoom> {
        if effect == NO_ROOM {
            return Err(NoRoom);
        }
        *keeper += effect;
        Ok(())
    }

    fn may_passivate(&self, actor: &Actor, _: &u64) -> bool {
        !actor.awake
    }
}

impl Counters {
    fn system(&self) -> System<Counters> {
        let system = System::new(self.clone());
        system.open_shard(1, 10, 0);
        system
    }

    fn count(&self, wanted: impl Fn(&Seen) -> bool) -> usize {
        self.0.lock().iter().filter(|seen| wanted(seen)).count()
    }
}

/// Waits for a level, a millisecond of virtual time a look.
async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if reached() {
            return;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_shard_and_another_epoch_refuse() {
    let seen = Counters::default();
    let system = seen.system();
    assert_eq!(
        system.send(1, 9, &7, Message::Number(1)),
        Err(SendError::Moved)
    );
    assert_eq!(
        system.send(2, 10, &7, Message::Number(1)),
        Err(SendError::Moved)
    );
    system.close_shard(1, 10);
    assert_eq!(
        system.send(1, 10, &7, Message::Number(1)),
        Err(SendError::Moved)
    );
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_activation_and_then_run_in_order() {
    let seen = Counters::default();
    let system = seen.system();
    system.send(1, 10, &7, Message::Number(1)).unwrap();
    system.send(1, 10, &7, Message::Number(2)).unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(seen.0.lock().is_empty());
    system.activate_shard(1, 10);
    until("both", || system.with_keeper(1, 10, |sum| *sum) == Some(3)).await;
    let want = [
        Seen::Loaded(7),
        Seen::Got(7, Message::Number(1)),
        Seen::Got(7, Message::Number(2)),
    ];
    assert_eq!(*seen.0.lock(), want);
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_refuses_but_loses_no_change() {
    let seen = Counters::default();
    let system = seen.system();
    for n in 0..4 {
        system.send(1, 10, &7, Message::Number(n)).unwrap();
    }
    assert_eq!(
        system.send(1, 10, &7, Message::Number(9)),
        Err(SendError::Overloaded)
    );
    system.mark_dirty(1, 10, &7);
    system.mark_dirty(1, 10, &7);
    system.activate_shard(1, 10);
    until("changed", || seen.count(|s| *s == Seen::Changed(7)) == 1).await;
    until("all", || seen.count(|s| matches!(s, Seen::Got(..))) == 4).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_actor_sleeps_and_a_timer_wakes_it() {
    let seen = Counters::default();
    let system = seen.system();
    system.activate_shard(1, 10);
    system.send(1, 10, &7, Message::SetTimer(60_000)).unwrap();
    until("turn", || system.observe().n_turns == 1).await;
    tokio::time::advance(Duration::from_secs(11)).await;
    until("asleep", || system.observe().n_resident == 0).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    until("timer", || seen.count(|s| *s == Seen::Timer(7, "t")) == 1).await;
    assert_eq!(seen.count(|s| *s == Seen::Loaded(7)), 2);
}

#[tokio::test(start_paused = true)]
async fn setting_a_timer_replaces_it() {
    let seen = Counters::default();
    let system = seen.system();
    system.activate_shard(1, 10);
    system.send(1, 10, &7, Message::SetTimer(1_000)).unwrap();
    system.send(1, 10, &7, Message::SetTimer(5_000)).unwrap();
    until("turns", || system.observe().n_turns == 2).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.count(|s| matches!(s, Seen::Timer(..))), 0);
    tokio::time::advance(Duration::from_secs(4)).await;
    until("timer", || {
        seen.count(|s| matches!(s, Seen::Timer(..))) == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_is_needed_stays() {
    let seen = Counters::default();
    let system = seen.system();
    system.activate_shard(1, 10);
    system.send(1, 10, &7, Message::KeepAwake).unwrap();
    until("turn", || system.observe().n_turns == 1).await;
    tokio::time::advance(Duration::from_secs(30)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(system.observe().n_resident, 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_reloads_the_actor_and_leaves_the_keeper_alone() {
    let seen = Counters::default();
    let system = seen.system();
    system.activate_shard(1, 10);
    system.send(1, 10, &7, Message::Number(5)).unwrap();
    system.send(1, 10, &7, Message::Panic).unwrap();
    until("panic", || system.observe().n_turns >= 2).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    until("reload", || seen.count(|s| *s == Seen::Loaded(7)) == 2).await;
    assert_eq!(system.with_keeper(1, 10, |sum| *sum), Some(5));
}

#[tokio::test(start_paused = true)]
async fn an_effect_without_room_reloads_the_actor_and_lets_it_look_again() {
    let seen = Counters::default();
    let system = seen.system();
    system.activate_shard(1, 10);
    system.send(1, 10, &7, Message::Number(NO_ROOM)).unwrap();
    until("reload", || seen.count(|s| *s == Seen::Loaded(7)) == 2).await;
    assert_eq!(seen.count(|s| *s == Seen::Changed(7)), 1);
    system.send(1, 10, &7, Message::Number(3)).unwrap();
    until("the next effect", || {
        system.with_keeper(1, 10, |sum| *sum) == Some(3)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn repeated_panics_quarantine_the_actor_alone() {
    let seen = Counters::default();
    let system = seen.system();
    system.activate_shard(1, 10);
    for n in 0..6 {
        until("accepted", || {
            system.send(1, 10, &7, Message::Panic).is_ok()
        })
        .await;
        until("panic", || system.observe().n_turns > n).await;
        tokio::time::advance(Duration::from_millis(400)).await;
    }
    until("quarantine", || {
        system.send(1, 10, &7, Message::Number(1)) == Err(SendError::Quarantined)
    })
    .await;
    assert_eq!(system.send(1, 10, &8, Message::Number(1)), Ok(()));
    assert_eq!(system.quarantined(), [(1, 7)]);
    // An operator lets it go before its time.
    assert!(!system.release(1, &8), "that one is in none");
    assert!(system.release(1, &7));
    assert_eq!(system.quarantined(), []);
    system.send(1, 10, &7, Message::Number(100)).unwrap();
    until("number", || {
        system.with_keeper(1, 10, |sum| *sum) >= Some(100)
    })
    .await;
}

/// Flat cost: what sleeps has no task, no slot and no timer, however many there are.
#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_sleepers_leave_nothing_behind() {
    let seen = Counters::default();
    let system = seen.system();
    system.activate_shard(1, 10);
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    for batch in 0..10u32 {
        for key in batch * 10_000..(batch + 1) * 10_000 {
            system.send(1, 10, &key, Message::Number(1)).unwrap();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        let all = u64::from(batch + 1) * 10_000;
        until("turns", || system.observe().n_turns == all).await;
        tokio::time::advance(Duration::from_secs(11)).await;
        until("asleep", || system.observe().n_resident == 0).await;
    }
    let observed = system.observe();
    assert_eq!((observed.n_resident, observed.n_timers), (0, 0));
    assert_eq!(system.mailboxes(), []);
    until("tasks ended", || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
            == before
    })
    .await;
    assert_eq!(system.with_keeper(1, 10, |sum| *sum), Some(100_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_accepted_message_is_lost_across_reloads_and_shards() {
    let seen = Counters::default();
    let system = seen.system();
    system.activate_shard(1, 10);
    let mut accepted = 0;
    for n in 0..2_000u32 {
        if system.send(1, 10, &(n % 13), Message::Number(1)).is_ok() {
            accepted += 1;
        }
        if n % 7 == 0 {
            system.reload(1, 10, &(n % 13));
        }
        if n % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let all = async {
        while system.with_keeper(1, 10, |sum| *sum) != Some(accepted) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .unwrap();
}
