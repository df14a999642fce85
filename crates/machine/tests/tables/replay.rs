//! Replicas agree: by any order of unrelated commands, by log and by snapshot plus tail.

use nihilo_machine::command::{CloseSession, Envelope, Expect, Reassign, RequestKey};
use nihilo_machine::ownership::next_moves;
use nihilo_machine::{Command, State};
use nihilo_types::condition::types;
use nihilo_types::id::{LogIndex, ObjectKey, SessionId};
use nihilo_types::route::TrafficTarget;
use nihilo_types::shard::shard_of;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

use crate::domains::{HOST, autocreate, claim, map, served, unclaim, unmap};
use crate::world::{
    World, delete, digest, envelope, key, open, put, put_named, put_service, service,
};

const IMAGES: [&str; 4] = ["demo/hello", "demo/echo", "demo/count", "demo/sleep"];
const SERVICES: [&str; 4] = ["hello", "a", "a-b", "other"];

/// Something that anybody may ask for; made into a command on the state as it then is.
#[derive(Debug, Clone)]
enum Ask {
    Put(usize, u8),
    PutNamed(usize, u8, u8),
    Traffic(usize, u8),
    Delete(usize),
    Ready(usize, bool),
    Assign(usize, u8),
    RecordService(usize),
    Scale(usize, i32),
    Open(u64, u8),
    Close(u64),
    Rebalance,
    Map(usize, usize),
    Unmap(usize),
    Claim(usize),
    Unclaim,
    Autocreate(bool),
    Served(usize),
}

const NAMESPACES: [&str; 3] = ["default", "other", "third"];

fn ask() -> impl Strategy<Value = Ask> {
    let which = || 0..SERVICES.len();
    prop_oneof![
        4 => (which(), 0u8..4).prop_map(|(s, image)| Ask::Put(s, image)),
        2 => (which(), 0u8..3, 0u8..3).prop_map(|(s, image, name)| Ask::PutNamed(s, image, name)),
        1 => (which(), 0u8..4).prop_map(|(s, percent)| Ask::Traffic(s, percent)),
        1 => which().prop_map(Ask::Delete),
        3 => (which(), any::<bool>()).prop_map(|(s, ready)| Ask::Ready(s, ready)),
        3 => (which(), 0u8..=100).prop_map(|(s, percent)| Ask::Assign(s, percent)),
        2 => which().prop_map(Ask::RecordService),
        2 => (which(), -1i32..5).prop_map(|(s, desired)| Ask::Scale(s, desired)),
        1 => (1u64..4, 0u8..3).prop_map(|(node, boot)| Ask::Open(node, boot)),
        1 => (1u64..4).prop_map(Ask::Close),
        2 => Just(Ask::Rebalance),
        3 => (0..NAMESPACES.len(), which()).prop_map(|(n, s)| Ask::Map(n, s)),
        1 => (0..NAMESPACES.len()).prop_map(Ask::Unmap),
        1 => (0..NAMESPACES.len()).prop_map(Ask::Claim),
        1 => Just(Ask::Unclaim),
        1 => any::<bool>().prop_map(Ask::Autocreate),
        2 => (0..NAMESPACES.len()).prop_map(Ask::Served),
    ]
}

fn first_and_last(state: &State, service: &ObjectKey) -> Option<(String, String)> {
    let names: Vec<_> = (state.revisions_of(service))
        .map(|revision| revision.metadata.name.clone())
        .collect();
    Some((names.first()?.clone(), names.last()?.clone()))
}

fn command(world: &World, ask: &Ask) -> Option<Command> {
    let name = |s: &usize| SERVICES[*s];
    let exists = |s: &usize| world.state.service(&key(name(s))).is_some();
    Some(match ask {
        Ask::Put(s, image) => put(name(s), Expect::Any, IMAGES[usize::from(*image)]),
        Ask::PutNamed(s, image, own) => {
            // Names that numbers of this or of another Service may run into.
            let own = ["-00002", "-b-00001", "-mine"][usize::from(*own)];
            put_named(
                name(s),
                IMAGES[usize::from(*image)],
                &format!("{}{own}", name(s)),
            )
        }
        Ask::Traffic(s, percent) => {
            let mut service = service(name(s), IMAGES[0]);
            let percent = u32::from(*percent) * 10;
            service.spec.traffic = vec![
                TrafficTarget::latest(100 - percent),
                TrafficTarget::revision(&format!("{}-00001", name(s)), percent),
            ];
            put_service(service, Expect::Any)
        }
        Ask::Delete(s) => delete(name(s), Expect::Any),
        Ask::Ready(s, ready) => {
            let (_, last) = first_and_last(&world.state, &key(name(s)))?;
            Command::RecordRevision(world.record_revision(&last, *ready))
        }
        Ask::Assign(s, percent) => {
            let (first, last) = first_and_last(&world.state, &key(name(s)))?;
            let percent = u32::from(*percent);
            let traffic = vec![
                TrafficTarget::revision(&first, percent),
                TrafficTarget::revision(&last, 100 - percent),
            ];
            Command::AssignTraffic(world.assign(name(s), traffic))
        }
        Ask::RecordService(s) => {
            let (first, _) = first_and_last(&world.state, &key(name(s)))?;
            Command::RecordService(world.record_service(name(s), &first))
        }
        Ask::Scale(s, desired) if exists(s) => {
            let (first, _) = first_and_last(&world.state, &key(name(s)))?;
            Command::RecordScale(world.record_scale(&first, *desired))
        }
        Ask::Scale(..) => return None,
        Ask::Open(node, boot) => open(*node, &format!("boot-{boot}")),
        Ask::Close(node) => {
            let open = world.state.sessions().find(|s| s.opened.node.0 == *node)?;
            Command::CloseSession(CloseSession {
                session: open.id,
                moves: Vec::new(),
                returns: open.id.0.is_multiple_of(2),
            })
        }
        Ask::Map(n, s) => map(NAMESPACES[*n], name(s)),
        Ask::Unmap(n) => unmap(NAMESPACES[*n]),
        Ask::Claim(n) => claim(NAMESPACES[*n]),
        Ask::Unclaim => unclaim(),
        Ask::Autocreate(is_on) => autocreate(*is_on),
        Ask::Served(n) => served(world, NAMESPACES[*n])?,
        Ask::Rebalance => Command::Reassign(Reassign {
            moves: next_moves(&world.state),
        }),
    })
}

/// A log of what was asked, as entries from 1 on. Some requests carry an id, some twice the same.
fn log_of(asks: &[(Ask, u8)]) -> Vec<Envelope> {
    let mut world = World::founded();
    let mut log = Vec::new();
    for (ask, id) in asks {
        let Some(command) = command(&world, ask) else {
            continue;
        };
        let mut entry = envelope(world.index + 1, command);
        if *id > 0 {
            entry.request = RequestKey::new(&format!("r\0{id}"), "put", &[*id % 3]);
        }
        world.index += 1;
        world.state.apply(LogIndex(world.index), &entry);
        log.push(entry);
    }
    log
}

fn apply_from(world: &mut World, log: &[Envelope]) {
    for entry in log {
        world.index += 1;
        world.state.apply(LogIndex(world.index), entry);
    }
}

fn reload(state: &State) -> State {
    let rows = state.rows().into_iter();
    State::from_rows(rows.map(|row| (row.key, row.value.unwrap()))).unwrap()
}

/// What is derived must be what the rows say, too.
fn indexes(state: &State) -> Vec<String> {
    let mut all = Vec::new();
    for service in state.services() {
        let key = service.metadata.key();
        let revisions = state.revisions_of(&key);
        let names: Vec<_> = revisions.map(|r| r.metadata.name.clone()).collect();
        let in_shard = state.services_in(shard_of(&key)).any(|other| *other == key);
        all.push(format!("{key}: {names:?} {in_shard}"));
    }
    let n_in_shards = (0..256).map(|shard| {
        let shard = nihilo_types::id::ShardId(shard);
        state.services_in(shard).count()
    });
    all.push(format!("{}", n_in_shards.sum::<usize>()));
    for mapping in state.domain_mappings() {
        let (key, route) = (mapping.metadata.key(), mapping.route());
        let mut of_route = state.domain_mappings_of(&route);
        let is_of_route = of_route.any(|other| other == mapping);
        let mut awaited = state.domain_mappings_awaited_in(shard_of(&route));
        let is_awaited = awaited.any(|other| other == mapping);
        all.push(format!("{key}: {is_of_route} {is_awaited}"));
    }
    all
}

/// Rules that hold between any two entries.
fn check_invariants(state: &State) -> Result<(), TestCaseError> {
    for revision in state.revisions() {
        let root = revision.root();
        let is_listed = state
            .revisions_of(&root)
            .any(|other| other.metadata.name == revision.metadata.name);
        prop_assert!(is_listed, "{} is not its root's", revision.metadata.name);
        prop_assert!(state.service(&root).is_some(), "{root} is gone");
    }
    for route in state.routes() {
        let sum: u32 = route.status.traffic.iter().map(TrafficTarget::share).sum();
        prop_assert!(sum == 0 || sum == 100, "traffic sums to {sum}");
    }
    let mut nodes: Vec<_> = state
        .sessions()
        .map(|session| session.opened.node)
        .collect();
    let n_open = nodes.len();
    nodes.dedup();
    nodes.sort();
    nodes.dedup();
    prop_assert_eq!(n_open, nodes.len(), "a node has two sessions");
    check_domains(state)?;
    for (shard, owner) in state.owners() {
        let valid = owner.session == SessionId(0) || state.session(owner.session).is_some();
        prop_assert!(valid, "shard {shard} belongs to a closed session");
    }
    Ok(())
}

/// A host has one holder at most, and each mapping says what the state says of it.
fn check_domains(state: &State) -> Result<(), TestCaseError> {
    let claim = state.domain_claim(HOST);
    for mapping in state.domain_mappings() {
        let (meta, conditions) = (&mapping.metadata, &mapping.status.conditions);
        let is_its = claim.is_some_and(|claim| claim.spec.namespace == meta.namespace);
        let is_there = state.route(&mapping.route()).is_some();
        prop_assert_eq!(conditions.is_true(types::DOMAIN_CLAIMED), is_its);
        prop_assert_eq!(conditions.is_true(types::REFERENCE_RESOLVED), is_there);
        prop_assert_eq!(mapping.status.assigned_at > 0, is_its && is_there);
        let is_served = conditions.is_true(types::INGRESS_READY);
        prop_assert_eq!(
            conditions.is_true(types::READY),
            is_served && is_its && is_there
        );
        let waits = claim.is_none() && state.settings().network.autocreate_domain_claims;
        prop_assert!(
            !waits,
            "nobody has the host, and {} waits for it",
            meta.namespace
        );
    }
    Ok(())
}

/// A replica that was given a snapshot of the log's beginning, `cut` of it, and the rest of the log.
fn snapshot_and_tail_agree(
    log: &[Envelope],
    cut: f64,
    by_snapshot: fn(&State) -> State,
) -> Result<(), TestCaseError> {
    let cut = (log.len() as f64 * cut) as usize;
    let mut whole = World::founded();
    for entry in log {
        apply_from(&mut whole, std::slice::from_ref(entry));
        check_invariants(&whole.state)?;
    }
    let mut resumed = World::founded();
    apply_from(&mut resumed, &log[..cut]);
    resumed.state = by_snapshot(&resumed.state);
    apply_from(&mut resumed, &log[cut..]);
    prop_assert_eq!(digest(&whole.state), digest(&resumed.state));
    prop_assert_eq!(indexes(&whole.state), indexes(&resumed.state));
    prop_assert_eq!(indexes(&whole.state), indexes(&reload(&whole.state)));
    Ok(())
}

/// A snapshot without the replies that were given: a repetition after it is applied again.
fn reload_without_replies(state: &State) -> State {
    let rows = state.rows().into_iter();
    let kept = rows.filter(|row| !row.key.starts_with(b"reply\0"));
    State::from_rows(kept.map(|row| (row.key, row.value.unwrap()))).unwrap()
}

#[test]
fn planted_a_snapshot_that_forgets_replies_is_found() {
    let asks = prop::collection::vec((ask(), 0u8..6), 1..40);
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::with_cases(128)
    };
    let mut runner = TestRunner::new(config);
    let found = runner.run(&(asks, 0.0f64..1.0), |(asks, cut)| {
        snapshot_and_tail_agree(&log_of(&asks), cut, reload_without_replies)
    });
    assert!(matches!(found, Err(TestError::Fail(..))), "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn snapshot_and_tail_make_the_same_state_as_the_whole_log(
        asks in prop::collection::vec((ask(), 0u8..6), 1..40), cut in 0.0f64..1.0,
    ) {
        snapshot_and_tail_agree(&log_of(&asks), cut, reload)?;
    }

    #[test]
    fn the_rows_of_each_entry_add_up_to_the_state(
        asks in prop::collection::vec((ask(), 0u8..6), 1..40),
    ) {
        let mut world = World::founded();
        let mut written: std::collections::BTreeMap<Vec<u8>, Vec<u8>> =
            (world.state.rows().into_iter()).map(|row| (row.key, row.value.unwrap())).collect();
        for entry in log_of(&asks) {
            world.index += 1;
            let applied = world.state.apply(LogIndex(world.index), &entry);
            for row in applied.rows {
                match row.value {
                    Some(value) => drop(written.insert(row.key, value)),
                    None => drop(written.remove(&row.key)),
                }
            }
        }
        let stored = State::from_rows(written).unwrap();
        prop_assert_eq!(digest(&stored), digest(&world.state));
    }

    #[test]
    fn commands_of_different_services_do_not_mind_their_order(
        images in prop::collection::vec(0u8..3, 4), swap in any::<prop::sample::Index>(),
    ) {
        let puts: Vec<_> = (SERVICES.iter().zip(&images))
            .map(|(name, image)| put(name, Expect::Any, IMAGES[usize::from(*image)]))
            .collect();
        let mut other = puts.clone();
        other.rotate_left(swap.index(puts.len()));
        let run = |commands: &[Command]| {
            let mut state = World::founded().state;
            for command in commands {
                // The same index and time for each: versions are not what is compared.
                state.apply(LogIndex(9), &envelope(9, command.clone()));
            }
            digest(&state)
        };
        prop_assert_eq!(run(&puts), run(&other));
    }

    #[test]
    fn every_entry_survives_its_own_bytes(
        asks in prop::collection::vec((ask(), 0u8..6), 1..20),
    ) {
        for entry in log_of(&asks) {
            let bytes = serde_json::to_vec(&entry).unwrap();
            let back: Envelope = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(back, entry);
        }
    }
}
