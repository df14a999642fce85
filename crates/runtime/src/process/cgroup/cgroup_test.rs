//! Which hierarchies are used for what, and what is said of those that cannot be: in directories
//! that look like them. What the kernel does with real ones is in `tests/confinement.rs`.

use super::mounts::Mount;
use super::*;

fn place(name: &str, version: Version, controllers: Controllers) -> Place {
    Place {
        version,
        controllers,
        dir: name.into(),
        kills: version == Version::Two,
        freezes: name == "freezer" || version == Version::Two,
    }
}

const NONE: Controllers = Controllers {
    cpu: false,
    memory: false,
    pids: false,
};

fn host_of_version_1() -> Cgroups {
    let (cpu, memory, pids) = (true, true, true);
    Cgroups {
        places: vec![
            place("freezer", Version::One, NONE),
            place("cpu", Version::One, Controllers { cpu, ..NONE }),
            place("memory", Version::One, Controllers { memory, ..NONE }),
            place("pids", Version::One, Controllers { pids, ..NONE }),
            place("unified", Version::Two, NONE),
        ],
        reasons: Vec::new(),
    }
}

/// Names of the hierarchies that an instance with these limits joins.
fn joined(cgroups: &Cgroups, limits: &Limits) -> Vec<String> {
    let places = cgroups.wanted_places(limits).into_iter();
    places
        .map(|place| place.dir.display().to_string())
        .collect()
}

#[test]
fn only_what_does_something_for_an_instance_is_joined() {
    let (none, memory) = (
        Limits::default(),
        Limits {
            memory_bytes: Some(1),
            ..Limits::default()
        },
    );
    let share = Limits {
        cpu_request_milli: Some(1),
        ..Limits::default()
    };
    let one = host_of_version_1();
    assert_eq!(joined(&one, &none), ["pids"]);
    assert_eq!(joined(&one, &memory), ["memory", "pids"]);
    assert_eq!(joined(&one, &share), ["cpu", "pids"]);
    // Nothing counts processes: at least they are all found.
    let mut uncounted = host_of_version_1();
    uncounted.places.retain(|place| !place.controllers.pids);
    assert_eq!(joined(&uncounted, &none), ["freezer"]);
    let all = Controllers {
        cpu: true,
        memory: true,
        pids: true,
    };
    let two = Cgroups {
        places: vec![place("top", Version::Two, all)],
        reasons: Vec::new(),
    };
    assert_eq!(joined(&two, &none), ["top"]);
    assert!(joined(&Cgroups::none("off"), &memory).is_empty());
}

#[test]
fn each_limit_is_offered_by_the_hierarchy_that_has_it() {
    let offer = host_of_version_1().offer();
    let one = Some(Version::One);
    assert_eq!((offer.cpu, offer.memory, offer.pids), (one, one, one));
    assert_eq!(offer.freeze, None, "what counts its processes cannot");
    let mut uncounted = host_of_version_1();
    uncounted.places.retain(|place| !place.controllers.pids);
    assert_eq!(uncounted.offer().freeze, one);
    let two = Cgroups {
        places: vec![place("top", Version::Two, NONE)],
        reasons: Vec::new(),
    };
    assert_eq!(two.offer().freeze, Some(Version::Two));
    let none = Cgroups::none("off").offer();
    assert_eq!((none.cpu, none.reasons), (None, vec!["off".to_owned()]));
}

/// A directory with files of a group of version 2.
fn group_of_version_2(files: &[(&str, &str)]) -> (tempfile::TempDir, Mount) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let mount = Mount {
        version: Version::Two,
        controllers: Vec::new(),
        top: dir.path().into(),
        own: dir.path().into(),
        is_read_only: false,
    };
    (dir, mount)
}

#[test]
fn a_group_shared_with_others_hands_nothing_down_and_is_told() {
    let (_dir, mount) = group_of_version_2(&[
        ("cgroup.controllers", "cpu memory pids"),
        ("cgroup.subtree_control", ""),
        ("cgroup.type", "domain"),
        ("cgroup.procs", "1\n2\n"),
    ]);
    let (place, reason) = Place::open(&mount, "nihilo-x").unwrap();
    assert_eq!(place.controllers, NONE);
    let reason = reason.unwrap();
    assert!(reason.contains("2 other processes are in"), "{reason}");
    assert!(reason.contains("Delegate=yes"), "{reason}");
}

#[test]
fn a_node_alone_in_its_group_moves_aside() {
    let me = format!("{}\n", std::process::id());
    let (dir, mount) = group_of_version_2(&[
        ("cgroup.controllers", "cpu memory pids"),
        ("cgroup.subtree_control", ""),
        ("cgroup.type", "domain"),
        ("cgroup.procs", &me),
    ]);
    // The kernel makes these in a new group.
    for name in ["node", "nihilo-x"] {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        for file in ["cgroup.procs", "cgroup.subtree_control"] {
            std::fs::write(dir.join(file), "").unwrap();
        }
    }
    let (place, reason) = Place::open(&mount, "nihilo-x").unwrap();
    assert_eq!(reason, None);
    assert!(place.controllers.cpu && place.controllers.memory && place.controllers.pids);
    let written = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    assert_eq!(written("node/cgroup.procs"), me.trim());
    assert_eq!(written("cgroup.subtree_control"), "+cpu +memory +pids");
    assert_eq!(
        written("nihilo-x/cgroup.subtree_control"),
        "+cpu +memory +pids"
    );
    // The next start is in `node`, and its place is above that.
    let again = Mount {
        own: dir.path().join("node"),
        ..mount
    };
    std::fs::write(dir.path().join("cgroup.subtree_control"), "cpu memory pids").unwrap();
    let (again, _) = Place::open(&again, "nihilo-x").unwrap();
    assert_eq!(again.dir, place.dir);
}

#[test]
fn a_tree_that_cannot_be_written_says_why() {
    let mount = Mount {
        version: Version::One,
        controllers: vec!["pids".into()],
        top: "/proc/none".into(),
        own: "/proc/none".into(),
        is_read_only: true,
    };
    let reason = Place::open(&mount, "nihilo-x").unwrap_err();
    assert_eq!(reason, "`/proc/none` is mounted read-only");
}
