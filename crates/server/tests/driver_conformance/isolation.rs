//! What serves without isolation serves with it: each kind of program, at each level that this host
//! offers.

use std::os::unix::fs::PermissionsExt;

use nihilo_types::isolation::Isolation;

use super::config::{MountPoint, Objects, asks, configured, volumes};
use super::*;

const LEVELS: [Isolation; 3] = [Isolation::None, Isolation::Landlock, Isolation::Full];

/// Of programs, at least: they go before the node where the host's memory ends.
const OOM_SCORE: i32 = 200;

fn config(level: Isolation, adopts: bool) -> DriverConfig {
    DriverConfig::Process {
        first_port: free_ports(),
        settings: ProcessSettings {
            isolation: level,
            ..ProcessSettings::default()
        },
        private: Vec::new(),
        docker: DockerSettings::default(),
        adopts,
    }
}

fn offers(agent: &Agent, level: Isolation) -> bool {
    let offered = agent.isolation();
    let offers = offered.split(' ').next() == Some(level.as_str());
    if !offers {
        eprintln!("not tried: this host offers no `{level}`: {offered}");
    }
    offers
}

/// An agent of each level, whose instances die with it, and one of each whose do not.
fn of_each_level() -> Vec<(Isolation, Harness)> {
    let each = LEVELS.into_iter().flat_map(|level| {
        [false, true].map(|adopts| {
            let dir = Arc::new(tempfile::tempdir().unwrap());
            let harness = Harness::with(dir, config(level, adopts), Objects::some());
            (level, harness)
        })
    });
    each.filter(|(level, harness)| offers(&harness.agent, *level))
        .collect()
}

fn oom_score(pid: u32) -> i32 {
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    score.trim().parse().unwrap()
}

fn said(harness: &Harness, id: &InstanceId) -> Vec<String> {
    let lines = harness.output(id).into_iter();
    lines.map(|line| String::from_utf8(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_apps_serve_and_stop_and_say_their_level() {
    for (level, harness) in of_each_level() {
        for (counter, socket_activation) in [(1, false), (2, true)] {
            let spec = InstanceSpec {
                socket_activation,
                ..spec("demo/hello", counter)
            };
            let mut events = harness.agent.subscribe();
            harness.start(&spec).unwrap();
            let ready = reached(&mut events, &spec.id, InstanceState::Ready).await;
            assert_eq!(ready.isolation, Some(level));
            let address = ready.address.unwrap();
            let served = tokio::task::spawn_blocking(move || answers(address));
            assert!(served.await.unwrap(), "{level}");
            assert!(oom_score(ready.pid.unwrap()) >= OOM_SCORE, "{level}");
            harness.drain(&spec.id);
            let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
            assert_eq!(gone.exit, Some(Exit::Code(0)), "{level}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_somewhere_on_the_host_runs_and_finds_what_programs_need() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("app.sh");
    let text = "#!/bin/sh\necho $0; echo there >> note; cat note; id -u; echo out >/dev/stdout; \
                getent hosts localhost >/dev/null && echo resolved; grep -q MemTotal /proc/meminfo && echo facts\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = script.to_str().unwrap();
    for (level, harness) in of_each_level() {
        let dir = match level {
            // Nobody else's working directory gets a note.
            Isolation::None => dir.path().to_str().unwrap().to_owned(),
            Isolation::Landlock | Isolation::Full => String::new(),
        };
        let spec = InstanceSpec {
            working_dir: dir,
            ..spec(&format!("file://{path}"), 1)
        };
        let report = harness.run(&spec).await;
        let said = said(&harness, &spec.id);
        assert_eq!(report.exit, Some(Exit::Code(0)), "{level}: {said:?}");
        let own = rustix::process::getuid().as_raw().to_string();
        for wanted in [path, "there", &own, "out", "resolved", "facts"] {
            assert!(said.iter().any(|line| line == wanted), "{wanted}: {said:?}");
        }
        drop(std::fs::remove_file(script.with_file_name("note")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_and_commands_inside_see_what_the_instance_sees() {
    for (level, harness) in of_each_level() {
        if level != Isolation::Full && !super::config::may_mount() {
            continue;
        }
        let at = MountPoint::new();
        let mut spec = configured(spec("demo/hello", 1), &volumes(&at));
        // Of the secret's files, and of what only a mount of the instance's own can show.
        let check = format!(
            "[ \"$(cat '{0}/db/password')\" = hunter2 ] && ! echo x > '{0}/db/x' && echo kept > '{0}/disk/f' \
             && echo kept > '{0}/memory/f' && echo mine > \"$HOME/mine\" && [ -d '{0}/both/sub' ]",
            at.path("")
        );
        spec.probes.readiness = Some(Box::new(asks(&check)));
        // Ready by the command alone, so the signal may come before the app expects one.
        let mut events = harness.ready(&spec).await;
        harness.drain(&spec.id);
        reached(&mut events, &spec.id, InstanceState::Destroyed).await;
        for name in ["db", "both", "disk", "memory"] {
            let left = std::fs::read_dir(at.path(name)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{level}: {name}");
        }
    }
}

/// One life of a node's agent.
fn live<T>(dir: &Path, config: DriverConfig, life: impl AsyncFnOnce(&Agent) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = runtime.block_on(async {
        let (agent, _admission) = agent_with(dir, config, Objects::default());
        agent.set_accepting(true);
        life(&agent).await
    });
    runtime.shutdown_timeout(LIMIT);
    done
}

#[test]
fn an_isolated_instance_outlives_its_node_and_keeps_its_home() {
    for level in LEVELS {
        let (dir, config) = (tempfile::tempdir().unwrap(), config(level, true));
        let script = "echo kept > $HOME/kept; trap 'cat $HOME/kept; exit 0' TERM; \
                      while :; do sleep 0.05; done";
        let mut spec = shell(script, 1);
        // Nothing listens: it is ready when its file is there, for a command inside.
        spec.probes.readiness = Some(Box::new(asks("[ -s $HOME/kept ]")));
        let is_left = live(dir.path(), config.clone(), async |agent| {
            if !offers(agent, level) {
                return false;
            }
            let mut events = agent.subscribe();
            agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
            reached(&mut events, &spec.id, InstanceState::Ready).await;
            true
        });
        if !is_left {
            continue;
        }
        live(dir.path(), config, async |agent| {
            let mut events = agent.subscribe();
            let report = || agent.instances()[0].0.clone();
            if report().state != InstanceState::Ready {
                reached(&mut events, &spec.id, InstanceState::Ready).await;
            }
            assert_eq!(report().isolation, Some(level));
            agent.stop(SHARD, EPOCH, 2, &spec.id, "test").unwrap();
            let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
            let said = gone.last_output;
            assert!(said.iter().any(|line| line == "kept"), "{level}: {said:?}");
        });
        drop(end_everything(dir.path()));
        let mark = std::fs::read_to_string(dir.path().join("mark")).unwrap();
        let scratch = format!("/tmp/nihilo-{}", mark.trim());
        assert!(std::fs::metadata(scratch).is_err(), "left behind");
        drop(std::fs::remove_file("/tmp/kept"));
    }
}
