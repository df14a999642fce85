//! Bundles: tags move, revisions pin, and what is pinned is never forgotten.

use std::collections::BTreeSet;

use nihilo_machine::bundles::{BundleKey, KEEP_NEW_MS, MAX_TAGGED_PER_NAME};
use nihilo_machine::command::{DeleteBundle, Expect, PutBundle};
use nihilo_machine::{Command, State};
use nihilo_types::bundle::{Blob, BundleKind, BundleVersion, Digest, Manifest, Platform, SCHEMA};
use nihilo_types::id::LogIndex;
use nihilo_types::image::Image;
use nihilo_types::template::PullPolicy;
use proptest::prelude::*;

use crate::world::{Case, World, check, delete, digest, envelope, key, put, put_named};

pub(crate) fn manifest(n: u8) -> Manifest {
    Manifest {
        schema: SCHEMA,
        kind: BundleKind::Binary,
        platform: Platform::linux("amd64"),
        entrypoint: Vec::new(),
        blob: Blob {
            digest: Digest::of(&[n]),
            size: 1,
            chunks: vec![Digest::of(&[n])],
        },
        image_id: None,
    }
}

fn archive(n: u8) -> Manifest {
    Manifest {
        kind: BundleKind::DockerArchive,
        image_id: Some(Digest::of(&[n, n])),
        ..manifest(n)
    }
}

/// The image `team/app`, as `nihilo image push` makes it known.
fn push_image(n: u8, tag: &str) -> Command {
    put_under("image/team/app", archive(n), tag)
}

fn put_under(name: &str, manifest: Manifest, tag: &str) -> Command {
    Command::PutBundle(Box::new(PutBundle {
        namespace: "default".into(),
        name: name.into(),
        tag: tag.into(),
        digest: manifest.digest(),
        manifest,
        must_be_known: false,
    }))
}

pub(crate) fn put_bundle(n: u8, tag: &str) -> Command {
    Command::PutBundle(Box::new(PutBundle {
        namespace: "default".into(),
        name: "app".into(),
        tag: tag.into(),
        digest: manifest(n).digest(),
        manifest: manifest(n),
        must_be_known: false,
    }))
}

pub(crate) fn delete_bundle(version: Option<BundleVersion>) -> Command {
    Command::DeleteBundle(DeleteBundle {
        namespace: "default".into(),
        name: "app".into(),
        version,
    })
}

fn tag(tag: &str) -> Option<BundleVersion> {
    Some(BundleVersion::Tag(tag.into()))
}

fn of(n: u8) -> Option<BundleVersion> {
    Some(BundleVersion::Digest(manifest(n).digest()))
}

fn pinned(n: u8) -> String {
    format!("bundle/app@{}", manifest(n).digest())
}

fn image_of(state: &State, revision: &str) -> String {
    let revision = state.revision(&key(revision)).unwrap();
    revision.spec.container().unwrap().image.clone()
}

fn known(state: &State) -> BTreeSet<Digest> {
    state.kept_bundles()
}

/// A day later, by an entry that changes nothing.
fn a_day_later(world: &mut World) {
    world.index += 1;
    let mut entry = envelope(world.index, delete("nobody", Expect::Any));
    entry.log_ms += KEEP_NEW_MS;
    world.state.apply(LogIndex(world.index), &entry);
}

#[test]
fn a_revision_names_the_digest_that_the_tag_had() {
    let mut world = World::founded();
    world.must(put_bundle(1, "v1"));
    world.must(put("hello", Expect::Absent, "bundle/app:v1"));
    assert_eq!(image_of(&world.state, "hello-00001"), pinned(1));
    // The tag moves; what runs does not, and the same template makes no new revision.
    world.must(put_bundle(2, "v1"));
    world.must(put("hello", Expect::Any, "bundle/app:v1"));
    assert_eq!(image_of(&world.state, "hello-00001"), pinned(1));
    assert!(world.state.revision(&key("hello-00002")).is_none());
    world.must(put("hello", Expect::Any, &pinned(2)));
    assert_eq!(image_of(&world.state, "hello-00002"), pinned(2));
    let service = world.state.service(&key("hello")).unwrap();
    let written = &service.spec.template.spec.containers[0].image;
    assert_eq!(*written, pinned(2));
}

#[test]
fn an_own_named_revision_is_found_again_by_what_its_tag_means() {
    let mut world = World::founded();
    world.must(put_bundle(1, "v1"));
    world.must(put_named("hello", "bundle/app:v1", "hello-one"));
    world.must(put("hello", Expect::Any, "demo/hello"));
    world.must(put_named("hello", "bundle/app:v1", "hello-one"));
    world.must(put("hello", Expect::Any, "demo/hello"));
    world.must(put_bundle(2, "v1"));
    let taken = world.apply(put_named("hello", "bundle/app:v1", "hello-one"));
    assert!(taken.reply.result.is_err());
}

#[test]
fn a_revision_names_the_image_that_was_pushed_under_its_tag() {
    let mut world = World::founded();
    let pushed = |n| format!("bundle/image/team/app@{}", archive(n).digest());
    // Before anybody has pushed it, it is a registry's.
    world.must(put("early", Expect::Absent, "team/app:v1"));
    assert_eq!(image_of(&world.state, "early-00001"), "team/app:v1");
    world.must(push_image(1, "v1"));
    for (name, image) in [("short", "team/app:v1"), ("long", "docker.io/team/app:v1")] {
        world.must(put(name, Expect::Absent, image));
        assert_eq!(image_of(&world.state, &format!("{name}-00001")), pushed(1));
    }
    world.must(put("other", Expect::Absent, "team/app:v2"));
    assert_eq!(image_of(&world.state, "other-00001"), "team/app:v2");
    // The tag moves: what runs does not, and its archive is kept for as long as it does.
    world.must(push_image(2, "v1"));
    a_day_later(&mut world);
    world.must(put_bundle(9, "v9"));
    assert!(known(&world.state).contains(&archive(1).digest()));
    let by_name = "bundle/image/team/app:v1";
    world.must(put("new", Expect::Absent, by_name));
    assert_eq!(image_of(&world.state, "new-00001"), pushed(2));
    let missing = world.apply(put("none", Expect::Absent, "bundle/image/team/none:v1"));
    let why = missing.reply.result.unwrap_err().to_string();
    let hint = "push it from a node that has it: `nihilo image push team/none:v1 -n default`";
    assert!(why.contains(hint), "{why}");
}

#[test]
fn a_policy_of_always_means_the_registry() {
    let mut world = World::founded();
    world.must(push_image(1, "v1"));
    let mut always = put("hello", Expect::Absent, "team/app:v1");
    let Command::PutService(service) = &mut always else {
        panic!("{always:?}");
    };
    service.service.spec.template.spec.containers[0].image_pull_policy = PullPolicy::Always;
    world.must(always);
    assert_eq!(image_of(&world.state, "hello-00001"), "team/app:v1");
}

#[test]
fn an_image_and_a_program_cannot_take_each_others_names() {
    let mut world = World::founded();
    let refused = |world: &mut World, name: &str, manifest: Manifest| {
        let applied = world.apply(put_under(name, manifest, "v1"));
        applied.reply.result.unwrap_err().to_string()
    };
    let why = refused(&mut world, "image/team/app", manifest(1));
    assert!(why.contains("are for container images"), "{why}");
    let why = refused(&mut world, "app", archive(1));
    assert!(why.contains("nihilo image push"), "{why}");
}

#[test]
fn refusals_name_the_next_command() {
    let mut world = World::founded();
    world.must(put_bundle(1, "v1"));
    let mut used = world.clone();
    used.must(put("hello", Expect::Absent, "bundle/app:v1"));
    let unknown = "refused: namespace `default` has no bundle `app:v2`; see `nihilo bundle list -n \
                   default`, or push it: `nihilo bundle push PATH --name app:v2 -n default`";
    let in_use = format!(
        "refused: bundle `app@{}` is run by a revision of service `hello`; delete what runs it first: `nihilo service delete hello -n default`",
        manifest(1).digest()
    );
    let in_use: &'static str = in_use.leak();
    let mut wrong = manifest(1);
    wrong.blob.size = 0;
    let case = |name, given: &World, when, reply| Case {
        name,
        given: given.clone(),
        when,
        reply,
        rows: &[],
        events: &[],
    };
    let wrong = Command::PutBundle(Box::new(PutBundle {
        namespace: "default".into(),
        name: "app".into(),
        tag: String::new(),
        digest: wrong.digest(),
        manifest: wrong,
        must_be_known: false,
    }));
    check(vec![
        case(
            "a service of an unknown tag",
            &world,
            put("hello", Expect::Absent, "bundle/app:v2"),
            unknown,
        ),
        case("an unknown tag", &world, delete_bundle(tag("v2")), unknown),
        case("a pinned digest", &used, delete_bundle(of(1)), in_use),
        case("a pinned name", &used, delete_bundle(None), in_use),
        case(
            "a manifest without a blob",
            &world,
            wrong,
            "refused: malformed manifest: its blob is empty",
        ),
    ]);
}

#[test]
fn a_bundle_goes_with_its_last_tag_unless_a_revision_runs_it() {
    let mut world = World::founded();
    world.must(put_bundle(1, "v1"));
    world.must(put("hello", Expect::Absent, "bundle/app:v1"));
    world.must(put_bundle(2, "v2"));
    world.must(delete_bundle(tag("v2")));
    assert_eq!(known(&world.state), [manifest(1).digest()].into());
    world.must(delete_bundle(tag("v1")));
    a_day_later(&mut world);
    assert_eq!(known(&world.state), [manifest(1).digest()].into());
    world.must(delete("hello", Expect::Any));
    assert_eq!(known(&world.state), BTreeSet::new());
    // The next write forgets it, and a service can have it no more.
    let gone = world.apply(put("again", Expect::Absent, &pinned(1)));
    assert!(gone.reply.result.is_err());
    world.must(put_bundle(3, "v3"));
    let forgotten = BundleKey::new("default", "app", manifest(1).digest());
    assert_eq!(world.state.bundle(&forgotten), None);
}

#[test]
fn what_has_no_tag_any_more_is_kept_for_a_day() {
    let mut world = World::founded();
    world.must(put_bundle(1, "v1"));
    world.must(put_bundle(2, "v1"));
    let both = [manifest(1).digest(), manifest(2).digest()];
    assert_eq!(known(&world.state), both.into());
    a_day_later(&mut world);
    assert_eq!(known(&world.state), [manifest(2).digest()].into());
}

#[test]
fn of_a_name_only_the_newest_keep_their_tags() {
    let mut world = World::founded();
    let n = u8::try_from(MAX_TAGGED_PER_NAME).unwrap();
    (0..=n).for_each(|n| drop(world.must(put_bundle(n, &format!("v{n}")))));
    a_day_later(&mut world);
    let newest: BTreeSet<_> = (1..=n).map(|n| manifest(n).digest()).collect();
    assert_eq!(known(&world.state), newest);
}

/// Something that anybody may ask for.
#[derive(Debug, Clone)]
enum Ask {
    Put(u8, u8),
    DeleteTag(u8),
    DeleteDigest(u8),
    DeleteAll,
    Serve(u8, u8),
    Unserve(u8),
    Day,
}

fn ask() -> impl Strategy<Value = Ask> {
    let (bundle, tag, service) = (0_u8..4, 0_u8..2, 0_u8..3);
    prop_oneof![
        4 => (bundle.clone(), tag.clone()).prop_map(|(n, tag)| Ask::Put(n, tag)),
        2 => tag.clone().prop_map(Ask::DeleteTag),
        2 => bundle.prop_map(Ask::DeleteDigest),
        1 => Just(Ask::DeleteAll),
        4 => (service.clone(), tag).prop_map(|(service, tag)| Ask::Serve(service, tag)),
        2 => service.prop_map(Ask::Unserve),
        1 => Just(Ask::Day),
    ]
}

fn asked(world: &mut World, ask: &Ask) {
    let command = match ask {
        Ask::Put(n, tag) => put_bundle(*n, &format!("t{tag}")),
        Ask::DeleteTag(n) => delete_bundle(tag(&format!("t{n}"))),
        Ask::DeleteDigest(n) => delete_bundle(of(*n)),
        Ask::DeleteAll => delete_bundle(None),
        Ask::Serve(service, tag) => {
            let image = format!("bundle/app:t{tag}");
            put(&format!("s{service}"), Expect::Any, &image)
        }
        Ask::Unserve(service) => delete(&format!("s{service}"), Expect::Any),
        Ask::Day => return a_day_later(world),
    };
    world.apply(command);
}

proptest! {
    /// Every digest that a revision pins is a root of the collection, and can be fetched by its
    /// manifest; after any history, and after a restart from rows.
    #[test]
    fn a_pinned_digest_is_always_kept(asks in prop::collection::vec(ask(), 0..40)) {
        let mut world = World::founded();
        for one in &asks {
            asked(&mut world, one);
            let kept = known(&world.state);
            for revision in world.state.revisions() {
                let image = &revision.spec.container().unwrap().image;
                let pinned = Image::bundle(image).unwrap().digest().unwrap();
                prop_assert!(kept.contains(&pinned), "{image} after {one:?}");
                let key = BundleKey::new("default", "app", pinned);
                prop_assert!(world.state.bundle(&key).is_some());
            }
        }
        let rows = digest(&world.state).into_iter();
        let rows = rows.map(|(key, value)| (key.into_bytes(), value.into_bytes()));
        let again = State::from_rows(rows).unwrap();
        prop_assert_eq!(known(&again), known(&world.state));
        prop_assert_eq!(digest(&again), digest(&world.state));
    }
}
