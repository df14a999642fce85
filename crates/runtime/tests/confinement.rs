//! What real programs can and cannot do inside the process driver: each limit is reached for, with
//! the kernel's groups where this host has them and without them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/leftovers.rs"]
mod leftovers;
#[path = "common/tenant.rs"]
mod tenant;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nihilo_runtime::config::Provided;
use nihilo_runtime::driver::{CallOff, Driver, StartError, Started};
use nihilo_runtime::logs::Output;
use nihilo_runtime::process::{Process, ProcessDriver};
use nihilo_types::instance::{Exit, InstanceSpec, Limits, RunAs};
use nihilo_types::node_config::{ProcessSettings, RunAsSetting};

/// Far above what any step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1024 * 1024;
/// Nobody listens: programs here do something else.
const FIRST_PORT: u16 = 19_000;
const N_PORTS: u16 = 1_000;

struct Host {
    driver: ProcessDriver,
    dir: Cleared,
}

/// The driver's directory; nothing is left of what was started from it when it is dropped.
struct Cleared(tempfile::TempDir);

impl Cleared {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Cleared {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            leftovers::assert_none(self.path(), FIRST_PORT..FIRST_PORT + N_PORTS);
        }
    }
}

/// How an instance ended, and what it said.
#[derive(Debug)]
struct Ended {
    exit: Exit,
    lines: Vec<String>,
}

impl Host {
    fn new(settings: ProcessSettings) -> Self {
        let dir = Cleared(tempfile::tempdir().unwrap());
        let driver = driver(settings, dir.path(), false).unwrap();
        Self { driver, dir }
    }

    /// The node's next process, after one that is gone.
    fn next(self, settings: ProcessSettings, adopts: bool) -> Self {
        let Host { driver: old, dir } = self;
        drop(old);
        let driver = driver(settings, dir.path(), adopts).unwrap();
        Self { driver, dir }
    }

    /// With the kernel's groups, and without them.
    fn both(settings: ProcessSettings) -> [Self; 2] {
        [true, false].map(|cgroups| {
            Self::new(ProcessSettings {
                cgroups,
                ..settings.clone()
            })
        })
    }

    /// Whether the kernel keeps this limit here: `cpu`, `memory`, `processes`.
    fn keeps(&self, limit: &str) -> bool {
        let keeps = self.driver.limits().contains(&format!("{limit}=cgroup"));
        if !keeps {
            println!("not by the kernel: {limit} ({})", self.driver.limits());
        }
        keeps
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(Started<Process>, Output), StartError> {
        let output = self.output(spec);
        let provided = Provided::default();
        let never = &mut CallOff::never();
        let started = self.driver.start(spec, provided, &output, never).await?;
        Ok((started, output))
    }

    fn output(&self, spec: &InstanceSpec) -> Output {
        let dir = self.dir_of(spec);
        std::fs::create_dir_all(&dir).unwrap();
        Output::new(dir)
    }

    /// Where an agent would have it.
    fn dir_of(&self, spec: &InstanceSpec) -> PathBuf {
        self.dir.path().join("instances").join(spec.id.as_str())
    }

    fn mark(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("mark")).unwrap()
    }

    /// Runs a program to its end, and removes what is left of it.
    async fn run(&self, spec: &InstanceSpec) -> Ended {
        let (mut started, output) = self.start(spec).await.unwrap();
        let exit = tokio::time::timeout(LIMIT, self.driver.wait(&mut started.handle)).await;
        let exit = self.driver.destroy(started.handle, exit.unwrap()).await;
        let lines = output.last_lines(100);
        Ended { exit, lines }
    }

    /// Directories of this host's groups that instances of this driver have.
    fn groups(&self) -> Vec<String> {
        leftovers::groups(&self.mark())
    }

    /// Processes that carry the mark of this driver's directory.
    fn processes(&self) -> usize {
        leftovers::processes(&self.mark()).len()
    }
}

fn driver(settings: ProcessSettings, dir: &Path, adopts: bool) -> std::io::Result<ProcessDriver> {
    ProcessDriver::new(
        "/bin/false".into(),
        "node1".into(),
        FIRST_PORT,
        settings,
        (dir, &[]),
        adopts,
    )
}

fn shell(script: &str) -> InstanceSpec {
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    tenant::shell(COUNTER.fetch_add(1, Ordering::Relaxed), script)
}

fn with_memory(bytes: u64, script: &str) -> InstanceSpec {
    let memory_bytes = Some(bytes);
    let limits = Limits {
        memory_bytes,
        ..Limits::default()
    };
    InstanceSpec {
        limits,
        ..shell(script)
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Signals 32 and 33, which `posix_spawn` leaves ignored and nobody else may set.
const OF_THE_C_LIBRARY: u64 = 0b11 << 31;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_begins_without_what_the_node_had() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // Handed down by mistake, as a library may do.
    rustix::io::fcntl_setfd(file.as_file(), rustix::io::FdFlags::empty()).unwrap();
    assert!(file.as_file().as_raw_fd() > 2);
    for host in Host::both(ProcessSettings::default()) {
        let script = "ulimit -c; ulimit -n; cat /proc/self/oom_score_adj; \
                      grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status; \
                      cut -d' ' -f5,6 /proc/$$/stat; echo $$; ls -l /proc/$$/fd; ulimit -a >/dev/null";
        let ended = host.run(&shell(script)).await;
        assert_eq!(ended.exit, Exit::Code(0), "{ended:?}");
        let said = |n: usize| ended.lines[n].as_str();
        assert_eq!(said(0), "0", "core files");
        let files: u64 = said(1).parse().unwrap();
        assert!((3..=65_536).contains(&files), "{files}");
        assert!(said(2).parse::<i32>().unwrap() >= 200, "{}", said(2));
        // In the order of the kernel's table.
        for (line, want) in ended.lines[3..6]
            .iter()
            .zip(["SigBlk", "SigIgn", "NoNewPrivs"])
        {
            let (key, value) = line.split_once(':').unwrap();
            let value = u64::from_str_radix(value, 16).unwrap() & !OF_THE_C_LIBRARY;
            assert_eq!((key, value), (want, u64::from(want == "NoNewPrivs")));
        }
        // Leader of its group and of its session.
        let (group, session) = said(6).split_once(' ').unwrap();
        assert_eq!((group, session), (said(7), said(7)));
        let inherited = file.path().display().to_string();
        let open = ended.lines[8..].join("\n");
        assert!(
            open.contains(" 1 -> pipe:") && !open.contains(&inherited),
            "{open}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_more_memory_than_it_may_is_told_from_one_that_is_killed() {
    for host in Host::both(ProcessSettings::default()) {
        let by_kernel = host.keeps("memory");
        let hog = "echo hungry; exec perl -e '$x = \"a\" x (400 << 20); sleep 60'";
        let ended = host.run(&with_memory(64 * MIB, hog)).await;
        assert_eq!(ended.exit, Exit::OutOfMemory, "{ended:?}");
        assert_eq!(ended.lines[0], "hungry");
        let sampled = ended
            .lines
            .iter()
            .any(|line| line.contains("64 MiB are the limit (sampled)"));
        assert_eq!(sampled, !by_kernel, "{ended:?}");
        // The same end without the need of memory, and the same need without a limit.
        let killed = host.run(&with_memory(64 * MIB, "kill -9 $$")).await;
        assert_eq!(killed.exit, Exit::Signal(9));
        let fed = "exec perl -e '$x = \"a\" x (100 << 20); print length $x'";
        let fed = host.run(&shell(fed)).await;
        assert_eq!(
            (fed.exit, fed.lines),
            (Exit::Code(0), vec!["104857600".to_owned()])
        );
        assert!(host.groups().is_empty(), "{:?}", host.groups());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_stays_within_its_number_and_nothing_of_it_is_left() {
    let max_processes = 64;
    let settings = ProcessSettings {
        max_processes,
        ..ProcessSettings::default()
    };
    // Each makes two in the background, in sessions of their own, until it cannot: only the kernel
    // holds that. Those that are looked at stay together, and come one by one.
    let wild = "b='(setsid sh -c \"$b\" &) ; (setsid sh -c \"$b\" &) ; exec sleep 300'; export b; \
                sh -c \"$b\"; sleep 300";
    let tame = "while sleep 0.001; do sleep 300 & done";
    for host in Host::both(settings) {
        let by_kernel = host.keeps("processes");
        let bomb = shell(if by_kernel { wild } else { tame });
        let (mut started, output) = host.start(&bomb).await.unwrap();
        if by_kernel {
            let refused = |output: &Output| {
                output
                    .last_lines(100)
                    .iter()
                    .any(|line| line.contains("fork"))
            };
            until("a refused fork", || refused(&output)).await;
            let n = host.processes();
            assert!(
                n <= usize::try_from(max_processes).unwrap(),
                "{n} processes"
            );
            let exit = host.driver.stop(&mut started.handle, Duration::ZERO).await;
            host.driver.destroy(started.handle, exit).await;
        } else {
            let exit = tokio::time::timeout(LIMIT, host.driver.wait(&mut started.handle)).await;
            let exit = host.driver.destroy(started.handle, exit.unwrap()).await;
            assert_eq!(exit, Exit::Signal(9));
            let lines = output.last_lines(100);
            let told = lines
                .iter()
                .any(|line| line.contains("64 are the limit (sampled)"));
            assert!(told, "{lines:?}");
        }
        assert_eq!(host.processes(), 0);
        assert!(host.groups().is_empty(), "{:?}", host.groups());
    }
}

/// An instance with a process that left its session and its environment; the process's number.
async fn with_one_that_got_away(host: &Host) -> (Started<Process>, String) {
    let script = "setsid env -i sh -c 'echo $$; exec sleep 300' & wait";
    let (started, output) = host.start(&shell(script)).await.unwrap();
    until("its pid", || !output.last_lines(1).is_empty()).await;
    let pid = output.last_lines(1).remove(0);
    assert!(is_running(&pid));
    (started, pid)
}

fn is_running(pid: &str) -> bool {
    // Its words are empty while it becomes another program; this is not.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !after_name.is_empty() && !after_name.starts_with(['Z', 'X'])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_its_session_and_its_environment_goes_all_the_same() {
    let host = Host::new(ProcessSettings::default());
    if !host.keeps("processes") {
        return;
    }
    let (mut started, pid) = with_one_that_got_away(&host).await;
    let exit = host.driver.stop(&mut started.handle, Duration::ZERO).await;
    host.driver.destroy(started.handle, exit).await;
    assert!(!is_running(&pid), "{pid} outlived its instance");
    assert!(host.groups().is_empty(), "{:?}", host.groups());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_a_node_that_was_killed_are_swept_by_its_next_start() {
    let host = Host::new(ProcessSettings::default());
    if !host.keeps("processes") {
        return;
    }
    let (started, pid) = with_one_that_got_away(&host).await;
    assert!(!host.groups().is_empty());
    // As the kernel leaves it: the program itself is killed, its group stays.
    drop(started);
    let host = host.next(ProcessSettings::default(), false);
    assert!(!is_running(&pid), "{pid} is left");
    assert!(host.groups().is_empty(), "{:?}", host.groups());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_for_what_outlives_its_node_and_are_watched_by_the_next() {
    for cgroups in [true, false] {
        let settings = ProcessSettings {
            cgroups,
            ..ProcessSettings::default()
        };
        let host = Host::new(settings.clone()).next(settings.clone(), true);
        let flag = host.dir.path().join("hungry");
        let script = format!(
            "cut -d' ' -f5,6 /proc/$$/stat; echo $$; while [ ! -e {} ]; do sleep 0.01; done; \
             exec perl -e '$x = \"a\" x (400 << 20); sleep 300'",
            flag.display()
        );
        let spec = with_memory(64 * MIB, &script);
        let (started, output) = host.start(&spec).await.unwrap();
        until("its first words", || output.last_lines(2).len() == 2).await;
        // Through the launcher, as any other: leader of its group and of its session.
        let said = output.last_lines(2);
        assert_eq!(said[0], format!("{0} {0}", said[1]));
        let (trace, pid) = (started.trace.unwrap(), started.pid.unwrap().to_string());
        let groups = host.groups();
        assert!(!groups.is_empty() || !host.keeps("processes"), "{groups:?}");
        drop(started);
        let host = host.next(settings, true);
        assert!(is_running(&pid), "{pid} went with its node");
        assert_eq!(host.groups(), groups);
        let output = host.output(&spec);
        let mut adopted = host.driver.recover(&spec, &trace, &output).unwrap();
        std::fs::write(flag, "").unwrap();
        let exit = tokio::time::timeout(LIMIT, host.driver.wait(&mut adopted.handle)).await;
        let exit = host.driver.destroy(adopted.handle, exit.unwrap()).await;
        // How it ended is known where it was ended from here. This process is its parent, and whoever
        // asks first is told: the driver, or the runtime that started it.
        let is_told = exit == Exit::OutOfMemory;
        let may_miss = host.keeps("memory") && exit == Exit::Unknown;
        assert!(is_told || may_miss, "{exit:?} {:?}", output.last_lines(100));
        assert_eq!(host.processes(), 0);
        assert!(host.groups().is_empty(), "{:?}", host.groups());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cpu_limit_holds_back_a_program_that_burns() {
    let host = Host::new(ProcessSettings::default());
    if !host.keeps("cpu") {
        return;
    }
    let burn = |milli| InstanceSpec {
        limits: Limits {
            cpu_milli: milli,
            ..Limits::default()
        },
        // Times of the shell itself, in the end: user and system.
        ..shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; times")
    };
    let took = async |milli| {
        let begun = std::time::Instant::now();
        assert_eq!(host.run(&burn(milli)).await.exit, Exit::Code(0));
        begun.elapsed()
    };
    let (free, held) = (took(None).await, took(Some(100)).await);
    assert!(
        held > free * 3,
        "a tenth of a core took {held:?}, a whole one {free:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_runs_as_whom_it_shall_or_not_at_all() {
    if !is_root() {
        let host = Host::new(ProcessSettings::default());
        let spec = InstanceSpec {
            run_as: RunAs {
                user: Some(65_534),
                group: None,
            },
            ..shell("id -u")
        };
        let refused = host.start(&spec).await.err().unwrap();
        assert_eq!(refused.stage, "run-as");
        assert!(refused.cause.contains("needs a node that runs as root"));
        return;
    }
    let run_as = RunAsSetting {
        user: 65_532,
        group: None,
    };
    let host = Host::new(ProcessSettings {
        run_as: Some(run_as),
        ..ProcessSettings::default()
    });
    let script = "id -u; id -g; id -G; grep CapEff /proc/self/status | tr -d '[:space:]'";
    let nodes = host.run(&shell(script)).await;
    assert_eq!(
        nodes.lines,
        ["65532", "65532", "65532", "CapEff:0000000000000000"]
    );
    let own = InstanceSpec {
        run_as: RunAs {
            user: Some(65_534),
            group: Some(7),
        },
        ..shell(script)
    };
    let own = host.run(&own).await;
    assert_eq!(own.lines[..3], ["65534", "7", "7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_of_output_leaves_what_the_bounds_allow() {
    let host = Host::new(ProcessSettings::default());
    let talker = shell("yes 'a line of a program that talks' | head -c 1G; echo done");
    let ended = host.run(&talker).await;
    assert_eq!(ended.exit, Exit::Code(0));
    let told = ended
        .lines
        .iter()
        .rev()
        .take(2)
        .any(|line| line.starts_with("(dropped "));
    assert!(told, "{:?}", ended.lines.last());
    let files = std::fs::read_dir(host.dir_of(&talker)).unwrap();
    let disk: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(disk < 11 * MIB, "{disk} bytes on disk");
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
