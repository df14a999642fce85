//! Power cuts in the middle of a start: a node whose data lies on an ext4 of its own, on a loop device,
//! is stopped at each step between the intent, the spawn and the handle, loses its power, and boots from
//! what its disk has left.
//!
//! ```text
//! handle.new ─> handle (the intent) ─> spawned ─> handle.new ─> handle (with the pid) ─> ready
//!     ^ cut           ^ cut           cut ^            ^ cut           ^ cut               ^ cut
//! ```
//!
//! Needs root, loop devices and the build with failpoints, which it makes where nothing else has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../crates/runtime/tests/common/leftovers.rs"]
mod leftovers;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nihilo_failpoint::Point;
use nihilo_jepsen_lite::backend::Disk;
use nihilo_jepsen_lite::failpoints::Switchboard;
use nihilo_jepsen_lite::probe::{self, Slot};
use nihilo_types::node_config::{Member, NodeConfig, OnNodeExit, Profile};
use rustix::process::{Pid, Signal, kill_process};

/// Of anything, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of a request that is on its way when the power goes.
const ASK_LIMIT: Duration = Duration::from_secs(60);
/// Files of instances outside of the agent's directory go at the second look of a sweep, 10 s after the
/// first.
const SWEEP_LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "node1";
const N_INSTANCE_PORTS: u16 = 100;

/// What the disk has of the last moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// What was synced.
    Synced,
    /// That, and the names of all files, as the next sync of any file brings them to the disk: what was
    /// written to new ones is not there.
    Names,
    /// Everything.
    Whole,
    /// Everything, but of each file of the agent only a part.
    Torn,
}

/// The steps, with how many come by each before it is the one that is meant.
const STEPS: [(Point, u32); 6] = [
    (Point::HandleWritten, 0),
    (Point::HandleNamed, 0),
    (Point::InstanceSpawned, 0),
    (Point::HandleWritten, 1),
    (Point::HandleNamed, 1),
    (Point::InstanceReady, 0),
];

#[test]
fn a_start_of_which_nothing_reached_the_disk_leaves_nothing() {
    at_each_step(Left::Synced);
}

#[test]
fn a_start_of_which_names_without_content_reached_the_disk_leaves_nothing() {
    at_each_step(Left::Names);
}

#[test]
fn a_start_that_reached_the_disk_is_known_to_have_ended() {
    at_each_step(Left::Whole);
}

#[test]
fn a_start_whose_files_are_torn_leaves_nothing() {
    at_each_step(Left::Torn);
}

fn at_each_step(left: Left) {
    let dir = tempfile::tempdir().unwrap();
    let disk = match Disk::create(dir.path().join("image"), &dir.path().join("data")) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("skipped: {error:#}");
            return;
        }
    };
    let mut machine = Machine::boot_first(dir, disk);
    for (number, (point, n_before)) in STEPS.into_iter().enumerate() {
        let service = format!("cut-{number}");
        machine.cli(&["service", "create", &service, "--image", "demo/hello"]);
        let lasting = match left {
            Left::Whole | Left::Torn => machine.instances(),
            // Words of ends are as new as the instances.
            Left::Synced | Left::Names => BTreeSet::new(),
        };
        machine
            .board
            .arm(point, &format!("stop {n_before}"))
            .unwrap();
        let asking = machine.ask(&service);
        machine.until_stopped_at(point);
        let known = machine.instances();
        machine.lose_power(left);
        // Whoever waited for it has no answer.
        assert!(asking.join().unwrap().is_err());
        let on_disk = machine.on_disk();
        eprintln!("{left:?}, {point} after {n_before}: {on_disk:?}");
        check_disk(left, (point, n_before), &on_disk);

        machine.boot();
        machine.until_served(&service);
        let all = machine.instances_that_run();
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all.is_disjoint(&known), "{all:?} of {known:?}");
        machine.until_ended(&lasting, &known, &all);
        machine.cli(&["service", "delete", &service]);
        leftovers::assert_none(&machine.agent_dir(), machine.instance_ports());
        assert_eq!(machine.starts_without_end(), BTreeSet::new());
    }
    machine.until_nothing_is_outside();
}

/// What of the files of the instance that was cut off has to be there, so that what follows is about what
/// its test says.
fn check_disk(left: Left, step: (Point, u32), on_disk: &[(String, u64)]) {
    let size = |name: &str| {
        let mut found = on_disk.iter().filter(|(file, _)| file == name);
        found.next().map(|(_, size)| *size)
    };
    let (handle, temporary) = (size("handle"), size("handle.new"));
    match (left, step) {
        (Left::Synced, _) => {}
        (Left::Names, (Point::HandleWritten, 0)) => {
            assert_eq!((handle, temporary), (None, Some(0)))
        }
        (Left::Names, (Point::HandleNamed | Point::InstanceSpawned, 0)) => {
            assert_eq!((handle, temporary), (Some(0), None));
        }
        // A file system that is wise to it writes what replaces another file.
        (Left::Names, (Point::HandleWritten, _)) => {
            assert_eq!((handle, temporary), (Some(0), Some(0)))
        }
        (Left::Names, _) => assert!(handle.is_some() && temporary.is_none()),
        (Left::Whole | Left::Torn, (Point::HandleWritten, n_before)) => {
            assert!(temporary.is_some_and(|size| size > 0), "{on_disk:?}");
            assert_eq!(
                handle.is_some_and(|size| size > 0),
                n_before > 0,
                "{on_disk:?}"
            );
        }
        (Left::Whole | Left::Torn, _) => {
            assert!(handle.is_some_and(|size| size > 0), "{on_disk:?}");
        }
    }
}

/// A node and its disk. Nothing of it is left when it is dropped.
struct Machine {
    node: Option<Child>,
    board: Switchboard,
    n_boots: u32,
    binary: PathBuf,
    config: NodeConfig,
    slot: Slot,
    /// Unmounted after the node has ended.
    disk: Disk,
    dir: tempfile::TempDir,
}

impl Machine {
    fn boot_first(dir: tempfile::TempDir, disk: Disk) -> Self {
        let slot = Slot::take().unwrap();
        let mut machine = Self {
            node: None,
            board: Switchboard::create(&dir.path().join("board")).unwrap(),
            n_boots: 0,
            binary: chaos_binary(),
            config: config(&slot, dir.path().join("data")),
            slot,
            disk,
            dir,
        };
        fs::write(machine.config_file(), machine.config.to_yaml()).unwrap();
        machine.boot();
        machine
    }

    fn config_file(&self) -> PathBuf {
        self.dir.path().join("node.yaml")
    }

    fn agent_dir(&self) -> PathBuf {
        self.config.data_dir.join("agent")
    }

    fn instances_dir(&self) -> PathBuf {
        self.agent_dir().join("instances")
    }

    fn instance_ports(&self) -> std::ops::Range<u16> {
        let first = self.slot.instances(0);
        first..first + N_INSTANCE_PORTS
    }

    /// Until it takes part in its cluster.
    fn boot(&mut self) {
        self.n_boots += 1;
        // Of its own, so that no point of an earlier life is taken for one of this.
        let board = self.dir.path().join(format!("board-{}", self.n_boots));
        self.board = Switchboard::create(&board).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let node = Command::new(&self.binary)
            .args(["node", "start", "--config"])
            .arg(self.config_file())
            .args(["--parent", &std::process::id().to_string()])
            .envs([self.board.variable()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.node = Some(node.unwrap());
        self.wait_for("session of the node", |machine| {
            let status = machine.try_cli(&["cluster", "status", "-o", "json"]).ok()?;
            let status: serde_json::Value = serde_json::from_str(&status).ok()?;
            let session = status["nodes"][0]["session"].as_u64()?;
            (session != 0).then_some(())
        });
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("node.log")
    }

    fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        wait_up_to(LIMIT, what, || {
            let found = look(self);
            if found.is_none() && self.node.is_some() && !is_alive(self.pid()) {
                let log = fs::read_to_string(self.log_file()).unwrap_or_default();
                panic!("the node has ended:\n{log}");
            }
            found
        })
    }

    fn pid(&self) -> u32 {
        self.node.as_ref().unwrap().id()
    }

    fn try_cli(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.binary)
            .args(args)
            .args(["--server", &self.config.admin_address()])
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    fn cli(&self, args: &[&str]) -> String {
        self.try_cli(args)
            .unwrap_or_else(|why| panic!("{args:?}: {why}"))
    }

    /// Asks for a service, and waits for the answer in a thread of its own.
    fn ask(&self, service: &str) -> JoinHandle<std::io::Result<String>> {
        let (port, host) = (
            self.config.gateway_port,
            format!("{service}.default.localhost"),
        );
        std::thread::spawn(move || get(port, &host))
    }

    fn until_served(&self, service: &str) {
        self.wait_for("answer after the power cut", |machine| {
            let answer = machine.ask(service).join().unwrap().ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
    }

    /// Until the whole process stands still there.
    fn until_stopped_at(&self, point: Point) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let pid = runtime.block_on(self.board.taken(point, LIMIT)).unwrap();
        assert_eq!(pid, self.pid());
        wait_up_to(LIMIT, "stopped node", || {
            threads(pid).iter().all(|state| *state == 'T').then_some(())
        });
    }

    /// Directories of instances, by their names.
    fn instances(&self) -> BTreeSet<String> {
        names_in(&self.instances_dir())
    }

    /// Files of the instances that have no word of their end, with their sizes.
    fn on_disk(&self) -> Vec<(String, u64)> {
        let dirs = self.instances().into_iter();
        let dirs = dirs.map(|instance| self.instances_dir().join(instance));
        let unended = dirs.filter(|dir| !dir.join("end").exists());
        let files = unended.flat_map(|dir| fs::read_dir(dir).unwrap());
        let files = files.map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, file.metadata().unwrap().len())
        });
        files.collect()
    }

    /// Everything stops at once, and the disk has what `left` says.
    fn lose_power(&mut self, left: Left) {
        match left {
            Left::Synced => {}
            // As any sync of the log does, sooner or later.
            Left::Names => File::open(self.instances_dir())
                .unwrap()
                .sync_all()
                .unwrap(),
            Left::Whole | Left::Torn => {
                rustix::fs::syncfs(File::open(&self.config.data_dir).unwrap()).unwrap();
            }
        }
        let mark = self.mark();
        self.disk.lose_power().unwrap();
        let mut node = self.node.take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
        wait_up_to(LIMIT, "end of what ran", || {
            let running = marked(&mark);
            for (pid, _) in &running {
                // Gone by itself meanwhile is as good.
                let _ = kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL);
            }
            running.is_empty().then_some(())
        });
        remove_groups(&mark);
        self.disk.come_back().unwrap();
        assert_eq!(
            self.mark(),
            mark,
            "what outlives a power cut is found by it"
        );
        if left == Left::Torn {
            self.tear();
        }
    }

    /// Leaves the first part of each file of the agent, by whose names it would go on.
    fn tear(&self) {
        let dirs = self.instances().into_iter();
        let dirs = dirs.map(|instance| self.instances_dir().join(instance));
        let unended = dirs.filter(|dir| !dir.join("end").exists());
        let files = unended.flat_map(|dir| ["handle", "handle.new"].map(|file| dir.join(file)));
        let log = self.agent_dir().join("startstop.log");
        let cut = |file: &Path, n_bytes: u64| {
            let file = File::options().write(true).open(file).unwrap();
            file.set_len(n_bytes).unwrap();
        };
        for file in files.filter(|file| file.exists()) {
            cut(&file, fs::metadata(&file).unwrap().len() / 2);
        }
        // In the middle of its last line.
        cut(&log, fs::metadata(&log).unwrap().len() - 9);
    }

    fn mark(&self) -> String {
        fs::read_to_string(self.agent_dir().join("mark")).unwrap()
    }

    fn instances_that_run(&self) -> BTreeSet<String> {
        let running = marked(&self.mark()).into_iter();
        running.map(|(_, instance)| instance).collect()
    }

    /// By the agent's own log.
    fn starts_without_end(&self) -> BTreeSet<String> {
        let log = fs::read_to_string(self.agent_dir().join("startstop.log")).unwrap();
        let mut open = BTreeSet::new();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        for line in lines.collect::<Vec<serde_json::Value>>() {
            let instance = line["instance"].as_str().unwrap().to_owned();
            match line["event"].as_str().unwrap() {
                "exit" => drop(open.remove(&instance)),
                _ => drop(open.insert(instance)),
            }
        }
        open
    }

    /// Those of earlier steps have ended, and left word of it; so has what was cut off, where its handle could
    /// be read, and otherwise there is nothing of it.
    fn until_ended(
        &self,
        lasting: &BTreeSet<String>,
        known: &BTreeSet<String>,
        running: &BTreeSet<String>,
    ) {
        self.wait_for("word of each end", |machine| {
            let kept: BTreeSet<_> = machine.instances().difference(running).cloned().collect();
            assert!(kept.is_superset(lasting), "{kept:?} of {lasting:?}");
            assert!(kept.is_subset(known), "{kept:?} of {known:?}");
            let word = |instance: &String| machine.instances_dir().join(instance).join("end");
            kept.iter()
                .all(|instance| word(instance).is_file())
                .then_some(())
        });
    }

    /// Temporary files of programs are on another disk, which kept them.
    fn until_nothing_is_outside(&self) {
        let temporary = PathBuf::from(format!("/tmp/nihilo-{}", self.mark()));
        wait_up_to(
            SWEEP_LIMIT,
            "host without temporary files of instances",
            || names_in(&temporary).is_empty().then_some(()),
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log_file()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("the node's last words:\n{}", last.join("\n"));
        }
        if let Some(mut node) = self.node.take() {
            drop(node.kill());
            drop(node.wait());
        }
        let sweep = ["internal", "sweep", "--result", "success", "--config"];
        let mut sweep_it = Command::new(&self.binary);
        drop(sweep_it.args(sweep).arg(self.config_file()).output());
    }
}

fn config(slot: &Slot, data_dir: PathBuf) -> NodeConfig {
    let mut config = NodeConfig::of_one(NAME.into(), 1, data_dir);
    config.gateway_port = slot.gateway(0);
    config.admin_port = slot.admin(0);
    config.peer_port = slot.peer(0);
    config.external_port = Some(slot.gateway(0));
    config.instance_ports = slot.instances(0);
    config.members = vec![Member {
        id: 1,
        name: NAME.into(),
        peer: format!("127.0.0.1:{}", slot.peer(0)),
        admin: format!("127.0.0.1:{}", slot.admin(0)),
    }];
    config.profile = Profile::Calm;
    config.on_node_exit = Some(OnNodeExit::Adopt);
    // Each start is a request's.
    let from_zero = [("allow-zero-initial-scale", "true"), ("initial-scale", "0")];
    let from_zero = from_zero.map(|(key, value)| (key.to_owned(), value.to_owned()));
    config.autoscaler = from_zero.into();
    config
}

/// The build with failpoints, as new as this test: where nobody names one, it is made here.
fn chaos_binary() -> PathBuf {
    if std::env::var_os(probe::CHAOS_BINARY_ENV).is_none() {
        let build = ["build", "--locked", "--package", "nihilo-server"];
        let status = Command::new(env!("CARGO"))
            .args(build)
            .args(["--features", "nihilo-server/chaos", "--bin", "nihilo-chaos"])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "no binary to test"
        );
    }
    probe::chaos_binary().unwrap()
}

fn get(port: u16, host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ASK_LIMIT))?;
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.is_empty() {
        true => Err(std::io::ErrorKind::UnexpectedEof.into()),
        false => Ok(answer),
    }
}

fn wait_up_to<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Processes that carry the mark, with their instances.
fn marked(mark: &str) -> Vec<(i32, String)> {
    let beginning = format!("NIHILO_MARK={mark}.");
    let pids = names_in(Path::new("/proc")).into_iter();
    let pids = pids.filter_map(|name| name.parse::<i32>().ok());
    let with_mark = pids.filter_map(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut entries = environment.split(|byte| *byte == 0);
        let instance = entries.find_map(|entry| entry.strip_prefix(beginning.as_bytes()))?;
        Some((pid, String::from_utf8_lossy(instance).into_owned()))
    });
    with_mark.collect()
}

/// A host that boots has none.
fn remove_groups(mark: &str) {
    wait_up_to(LIMIT, "host without groups", || {
        let groups = leftovers::groups(mark);
        for group in &groups {
            // Still busy for a moment with what was killed.
            drop(fs::remove_dir(group.trim_start_matches("group ")));
        }
        groups.is_empty().then_some(())
    });
}

/// States of a process's threads, as the kernel writes them.
fn threads(pid: u32) -> Vec<char> {
    let tasks = names_in(Path::new(&format!("/proc/{pid}/task"))).into_iter();
    let states = tasks.filter_map(|task| state(&format!("/proc/{pid}/task/{task}/stat")));
    states.collect()
}

fn is_alive(pid: u32) -> bool {
    let state = state(&format!("/proc/{pid}/stat"));
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn state(stat: &str) -> Option<char> {
    let stat = fs::read_to_string(stat).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
