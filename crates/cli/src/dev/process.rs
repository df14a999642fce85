//! Processes of a local cluster, found by their pid files and known by their command lines.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::layout;
use crate::failure::{Failure, Result, exit};
use crate::output;

/// Written by the node itself.
const PID_FILE: &str = "nihilo.pid";
/// Time on top of a node's own shutdown grace before it is killed.
const EXTRA_GRACE: Duration = Duration::from_secs(5);
/// A process that was killed is gone by then, unless the kernel is stuck.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A process of ours that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub name: String,
    pub pid: i32,
    node_dir: PathBuf,
    grace: Duration,
}

/// Returns the process that runs the node of `node_dir`; `None` for a stale pid file. One that is
/// ending is waited for, [`KILL_LIMIT`] at most: whoever hears `None` may use its ports.
pub(crate) fn running(node_dir: &Path) -> Option<Running> {
    let text = std::fs::read_to_string(node_dir.join(PID_FILE)).ok()?;
    let pid = text.trim().parse().ok()?;
    let deadline = Instant::now() + KILL_LIMIT;
    while is_ending(pid) && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
    }
    let name = node_dir.file_name()?.to_string_lossy().into_owned();
    let own = layout::config_file(node_dir);
    let grace = crate::command::node::read(&own).map_or(30, |config| config.shutdown_grace);
    let running = Running {
        name,
        pid,
        node_dir: node_dir.into(),
        grace: Duration::from_secs(grace.into()) + EXTRA_GRACE,
    };
    running.is_alive().then_some(running)
}

pub(crate) fn any_running(dir: &Path) -> bool {
    node_dirs(dir)
        .iter()
        .any(|node_dir| running(node_dir).is_some())
}

/// Ends every node of `dir`: asks, waits as long as its configuration says, then kills.
///
/// # Errors
/// A process cannot be signalled or outlives being killed.
pub(crate) fn stop(dir: &Path) -> Result<()> {
    let node_dirs = node_dirs(dir);
    let all: Vec<_> = node_dirs
        .iter()
        .filter_map(|node_dir| running(node_dir))
        .collect();
    if all.is_empty() {
        output::note(&format!("nothing runs in {}", dir.display()));
    }
    for running in &all {
        running.signal(Signal::TERM)?;
    }
    let asked = Instant::now();
    for running in &all {
        let in_time = running.wait(asked + running.grace);
        if !in_time {
            let seconds = running.grace.as_secs();
            output::note(&format!(
                "{} did not stop within {seconds} s: killing it",
                running.name
            ));
            running.kill()?;
        }
        output::note(&format!("{} stopped", running.name));
    }
    for node_dir in &node_dirs {
        remove_pid_file(node_dir)?;
    }
    Ok(())
}

fn node_dirs(dir: &Path) -> Vec<PathBuf> {
    // A broken configuration must not keep its process alive: only the directory counts.
    (1..=5)
        .map(|node| layout::node_dir(dir, node))
        .filter(|node_dir| node_dir.is_dir())
        .collect()
}

fn remove_pid_file(node_dir: &Path) -> Result<()> {
    let file = node_dir.join(PID_FILE);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::io(
            format!("cannot remove {}", file.display()),
            &error,
        )),
        _ => Ok(()),
    }
}

impl Running {
    /// A process that is ending has no command line any more; see [`is_ending`].
    pub(crate) fn is_alive(&self) -> bool {
        let Some((arguments, cwd)) = command_line(self.pid) else {
            return false;
        };
        runs_node(&arguments, &cwd, &self.node_dir)
    }

    /// Whether the process runs this very binary.
    pub(crate) fn is_this_binary(&self) -> bool {
        let theirs = std::fs::read_link(format!("/proc/{}/exe", self.pid));
        let ours = std::env::current_exe();
        matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs == ours)
    }

    /// SIGKILL, then waits until it is gone.
    ///
    /// # Errors
    /// It cannot be signalled, or is still there after [`KILL_LIMIT`].
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if self.wait(Instant::now() + KILL_LIMIT) {
            return Ok(());
        }
        let (name, pid) = (&self.name, self.pid);
        Err(Failure::new(
            exit::OTHER,
            format!("{name} (process {pid}) cannot be killed"),
        ))
    }

    /// Checked right before: a pid may have been given to somebody else.
    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) else {
            return Ok(());
        };
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Failure::io(
                format!("cannot stop {}", self.name),
                &error.into(),
            )),
        }
    }

    /// Returns whether it was gone before `deadline`.
    fn wait(&self, deadline: Instant) -> bool {
        while self.is_alive() || is_ending(self.pid) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }
}

/// Whether a process is on its way out. It has no memory any more by which it could be known, and
/// still holds its ports until the last of its threads has returned, from an fsync for example.
fn is_ending(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| is_ending_by(&stat) == Some(true))
}

/// The name in it is in parentheses and may hold anything.
fn is_ending_by(stat: &str) -> Option<bool> {
    const EXITING: u64 = 0x4;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let state = fields.next()?;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    let n_threads: u64 = fields.nth(10)?.parse().ok()?;
    // A zombie that is alone has given back everything; it only waits for its parent.
    let has_ended = matches!(state, "Z" | "X") && n_threads <= 1;
    Some(flags & EXITING != 0 && !has_ended)
}

/// Arguments and working directory of a process; `None` if it is gone or not ours to see.
fn command_line(pid: i32) -> Option<(Vec<String>, PathBuf)> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let arguments = text.split_terminator('\0').map(Into::into).collect();
    Some((
        arguments,
        std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?,
    ))
}

/// Whether a command line is `node start` with the configuration in `node_dir`, or `dev` on the
/// directory above it.
fn runs_node(arguments: &[String], cwd: &Path, node_dir: &Path) -> bool {
    let has = |word: &str| arguments.iter().skip(1).any(|argument| argument == word);
    let path_of = |flag: &str, default: &str| {
        same_file(&cwd.join(option(arguments, flag).unwrap_or(default)))
    };
    if has("node") && has("start") {
        return path_of("--config", "node.yaml") == same_file(&layout::config_file(node_dir));
    }
    let above = node_dir.parent().map(same_file);
    has("dev") && Some(path_of("--data-dir", crate::context::DEFAULT_DATA_DIR)) == above
}

fn option<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == flag {
            return arguments.next().map(String::as_str);
        }
        if let Some(value) = argument
            .strip_prefix(flag)
            .and_then(|rest| rest.strip_prefix('='))
        {
            return Some(value);
        }
    }
    None
}

/// One spelling for one file, whether it still exists or not.
fn same_file(path: &Path) -> PathBuf {
    let spelled = || path.components().collect();
    std::fs::canonicalize(path).unwrap_or_else(|_| spelled())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(line: &str, cwd: &str, node_dir: &str) -> bool {
        let arguments: Vec<_> = line.split(' ').map(Into::into).collect();
        runs_node(&arguments, Path::new(cwd), Path::new(node_dir))
    }

    #[test]
    fn only_the_nodes_own_command_line_counts() {
        let ours = "/none/d/node1";
        assert!(runs(
            "nihilo node start --config /none/d/node1/node.yaml",
            "/",
            ours
        ));
        assert!(runs(
            "nihilo node start --config=d/node1/node.yaml",
            "/none",
            ours
        ));
        assert!(runs("nihilo dev --data-dir ./d", "/none", ours));
        assert!(runs("nihilo dev", "/none", "/none/.nihilo/node1"));
        assert!(!runs(
            "nihilo node start --config /none/d/node2/node.yaml",
            "/",
            ours
        ));
        assert!(!runs("nihilo dev --data-dir ./e", "/none", ours));
        assert!(!runs("vi /none/d/node1/node.yaml", "/", ours));
    }

    #[test]
    fn a_process_is_ending_until_its_last_thread_is_gone() {
        let stat = |state: &str, flags: u32, n_threads: u32| {
            let counts = "0 0 0 0 0 0 0 0 20 0";
            format!("7 (a) b) c) {state} 1 7 7 0 -1 {flags} {counts} {n_threads} 0 99")
        };
        let ending = |state, flags, n| is_ending_by(&stat(state, flags, n));
        assert_eq!(ending("S", 0x0040_0040, 9), Some(false));
        assert_eq!(ending("R", 0x0040_0044, 9), Some(true));
        assert_eq!(ending("Z", 0x0040_0044, 2), Some(true));
        assert_eq!(ending("Z", 0x0040_0044, 1), Some(false));
        assert_eq!(is_ending_by("7 (a"), None);
        assert!(!is_ending(std::process::id().cast_signed()));
    }

    #[test]
    fn a_stale_pid_file_is_removed_and_its_pid_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let node_dir = layout::node_dir(dir.path(), 1);
        std::fs::create_dir(&node_dir).unwrap();
        // This test's own process: alive, but no node.
        let pid_file = node_dir.join(PID_FILE);
        std::fs::write(&pid_file, std::process::id().to_string()).unwrap();
        assert_eq!(running(&node_dir), None);
        stop(dir.path()).unwrap();
        assert!(!pid_file.exists());
    }
}
