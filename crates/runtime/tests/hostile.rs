//! A program that wants out, as an instance at each level of isolation. What each of its attempts comes
//! to is a table of docs/limits.md, which is read here: one that passes and should not fails the test,
//! and so does one that does not pass any more.
//!
//! It runs as the node's own user, which is the worst that there is: root's, where the test is root's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/tenant.rs"]
mod tenant;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::Path;
use std::time::Duration;

use nihilo_runtime::config::Provided;
use nihilo_runtime::driver::{CallOff, Driver, StartError, Started};
use nihilo_runtime::logs::Output;
use nihilo_runtime::process::{Process, ProcessDriver};
use nihilo_types::instance::{Exit, InstanceSpec, stage};
use nihilo_types::isolation::Isolation;
use nihilo_types::node_config::ProcessSettings;
use tenant::shell;

const DOCUMENT: &str = include_str!("../../../docs/limits.md");
const ATTEMPTS: &str = include_str!("hostile/attempts.py");
const PYTHON: &str = "/usr/bin/python3";
/// Far above what any step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const LEVELS: [Isolation; 3] = [Isolation::None, Isolation::Landlock, Isolation::Full];
/// Nobody listens: programs here do something else. Blocks of a level each.
const FIRST_PORT: u16 = 18_000;
const PORTS: u16 = 100;

/// A node of one level, with what it has to keep.
struct House {
    driver: ProcessDriver,
    level: Isolation,
    data: tempfile::TempDir,
    keys: tempfile::TempDir,
    /// Of everybody on this host.
    shared: tempfile::TempDir,
}

impl House {
    /// `None`, and said why, where this host does not offer the level.
    fn new(level: Isolation) -> Option<Self> {
        let (data, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(data.path().join("secret"), "secret").unwrap();
        std::fs::write(keys.path().join("key"), "key").unwrap();
        let settings = ProcessSettings {
            isolation: level,
            ..ProcessSettings::default()
        };
        let first_port = FIRST_PORT + PORTS * (level as u16);
        let private = [keys.path().to_path_buf()];
        let driver = ProcessDriver::new(
            "/bin/false".into(),
            "node1".into(),
            first_port,
            settings,
            (data.path(), &private),
            false,
        );
        let house = Self {
            driver: driver.unwrap(),
            level,
            data,
            keys,
            shared: tempfile::tempdir().unwrap(),
        };
        let offers = house.driver.isolation();
        if offers.split(' ').next() != Some(level.as_str()) {
            println!("not tried: this host offers no `{level}`: {offers}");
            return None;
        }
        println!("{level}: {offers}");
        Some(house)
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(Started<Process>, Output), StartError> {
        let dir = self.data.path().join(spec.id.as_str());
        std::fs::create_dir_all(&dir).unwrap();
        let output = Output::new(dir);
        let never = &mut CallOff::never();
        let started = self.driver.start(spec, Provided::default(), &output, never);
        Ok((started.await?, output))
    }

    async fn run(&self, spec: &InstanceSpec) -> (Exit, Vec<String>) {
        let (mut started, output) = self.start(spec).await.unwrap();
        let exit = tokio::time::timeout(LIMIT, self.driver.wait(&mut started.handle)).await;
        let exit = self.driver.destroy(started.handle, exit.unwrap()).await;
        (exit, output.last_lines(200))
    }

    /// What each attempt came to.
    async fn attempts(&self) -> BTreeMap<String, bool> {
        let sibling = shell(2, "echo mine > $HOME/mine; echo $HOME/mine; exec sleep 300");
        let (mut sibling, said) = self.start(&sibling).await.unwrap();
        until("its file", || !said.last_lines(1).is_empty()).await;
        let node = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let free_port = free.local_addr().unwrap().port();
        drop(free);
        let socket_file = self.shared.path().join("socket");
        let _socket = UnixListener::bind(&socket_file).unwrap();
        let name = format!("nihilo-hostile-{}-{}", std::process::id(), self.level);
        let abstract_name = UnixAddress::from_abstract_name(&name).unwrap();
        let _abstract = UnixListener::bind_addr(&abstract_name).unwrap();
        let own = std::fs::read_link("/proc/self/ns/ipc").unwrap();
        let at = serde_json::json!({
            "data": self.data.path(),
            "key": self.keys.path().join("key"),
            "shared_tmp": self.shared.path(),
            "sibling": sibling.pid,
            "sibling_file": said.last_lines(1)[0],
            "node": std::process::id(),
            "node_port": node.local_addr().unwrap().port(),
            "free_port": free_port,
            "socket_file": socket_file,
            "abstract": name,
            "name": name,
            "namespaces": {"ipc": own},
        });
        let hostile = InstanceSpec {
            image: format!("file://{PYTHON}"),
            args: ["-I", "-B", "-c", ATTEMPTS, &at.to_string()]
                .map(str::to_owned)
                .into(),
            ..shell(1, "")
        };
        let (exit, lines) = self.run(&hostile).await;
        assert_eq!(exit, Exit::Code(0), "{lines:#?}");
        let exit = self.driver.stop(&mut sibling.handle, Duration::ZERO).await;
        self.driver.destroy(sibling.handle, exit).await;
        let told = lines.iter().filter_map(|line| {
            println!("{}: {line}", self.level);
            let (name, came_to) = line.strip_prefix("attempt ")?.split_once(' ')?;
            Some((name.to_owned(), came_to == "passed"))
        });
        let mut told: BTreeMap<_, _> = told.collect();
        // It may have made one that nobody else sees.
        let left = Path::new("/dev/shm").join(&name);
        told.insert(
            "leave-in-shared-memory".into(),
            std::fs::remove_file(left).is_ok(),
        );
        told
    }
}

/// What the document says that an attempt comes to at a level; `None` = it is the host's to say.
fn documented(level: Isolation) -> BTreeMap<String, Option<bool>> {
    let column = 2 + level as usize;
    let rows = DOCUMENT.lines().filter_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
        let [_, _, _, _, _] = cells[..] else {
            return None;
        };
        let comes_to = match cells[column] {
            "passes" => Some(true),
            "–" => Some(false),
            "host" => None,
            _ => return None,
        };
        Some((name.to_owned(), comes_to))
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_comes_to_what_is_documented() {
    if std::fs::metadata(PYTHON).is_err() {
        return println!("skipped: no {PYTHON} on this host, which the attempts are written for");
    }
    let mut wrong = Vec::new();
    for level in LEVELS {
        let Some(house) = House::new(level) else {
            continue;
        };
        let (told, documented) = (house.attempts().await, documented(level));
        let names = |all: Vec<&String>| all.into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(told.keys().collect()),
            names(documented.keys().collect()),
            "each attempt has its row in docs/limits.md"
        );
        for (name, passed) in told {
            if documented[&name].is_some_and(|wanted| wanted != passed) {
                wrong.push(format!("{level}: `{name}` passed: {passed}"));
            }
        }
    }
    assert!(wrong.is_empty(), "not as documented:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_begins_with_a_home_of_its_own_and_leaves_nothing() {
    for level in LEVELS {
        let Some(house) = House::new(level) else {
            continue;
        };
        let (exit, lines) = house.run(&shell(3, "echo $HOME ${TMPDIR-none}; pwd")).await;
        assert_eq!(exit, Exit::Code(0), "{lines:?}");
        let mark = std::fs::read_to_string(house.data.path().join("mark")).unwrap();
        let scratch = format!("/tmp/nihilo-{}", mark.trim());
        let own = format!("{scratch}/{}/home", shell(3, "").id);
        let home = match level {
            Isolation::None => {
                assert_eq!(lines[0], "/tmp none");
                continue;
            }
            Isolation::Landlock => own.as_str(),
            Isolation::Full => "/tmp",
        };
        assert_eq!(lines, [format!("{home} {home}"), home.to_owned()]);
        // Whatever it does there, and however it leaves it.
        let script =
            "mkdir -p $NIHILO_MARK/b; chmod 0 $NIHILO_MARK; ls -A | wc -l; echo $NIHILO_MARK";
        let (exit, lines) = house.run(&shell(4, script)).await;
        assert_eq!((exit, lines[0].as_str()), (Exit::Code(0), "1"), "{lines:?}");
        assert!(std::fs::metadata(scratch).is_err(), "left behind");
        let shared = Path::new("/tmp").join(&lines[1]);
        assert!(std::fs::metadata(shared).is_err(), "in everybody's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_wants_more_than_there_is_is_refused_with_what_is_missing() {
    for (offered, wanted) in [
        (Isolation::None, Isolation::Landlock),
        (Isolation::Landlock, Isolation::Full),
    ] {
        let Some(house) = House::new(offered) else {
            continue;
        };
        let spec = InstanceSpec {
            min_isolation: wanted,
            ..shell(4, "true")
        };
        let refused = house.start(&spec).await.err().unwrap();
        assert_eq!(refused.stage, stage::ISOLATION);
        let words = refused.cause;
        let all = [
            wanted.as_str(),
            offered.as_str(),
            "node1",
            "process: isolation",
        ];
        assert!(all.iter().all(|part| words.contains(part)), "{words}");
        let enough = InstanceSpec {
            min_isolation: offered,
            ..shell(5, "true")
        };
        assert_eq!(house.run(&enough).await.0, Exit::Code(0));
    }
}

/// Looks until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "no {what}");
        tokio::task::yield_now().await;
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
