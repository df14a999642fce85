//! What the service manager hears of this node: systemd's notify protocol (`sd_notify(3)`), a datagram
//! of `KEY=VALUE` lines to the socket that the environment names.
//!
//! The watchdog is fed from the runtime that the actors run on, by a task that on its way takes the
//! locks of the parts it speaks of: a node that is stuck in one of them starves it.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use nihilo_control::Control;
use nihilo_gateway::Gateway;
use nihilo_raft::RaftNode;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::admin::cluster::is_stale;
use crate::restart;

/// Of the watchdog during a restart in place, which may read a large store; as the unit's start.
const PATIENCE: Duration = Duration::from_secs(600);
/// What a person reads is renewed this often at least; feeding may want it more often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So many times per watchdog period is it fed (`sd_watchdog_enabled(3)` asks for two).
const MEALS: u32 = 3;

/// The socket of the service manager that started this process.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// It ends this process unless fed so often.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// `None` where nobody wants to be told.
    pub(crate) fn of_environment() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        let manager = Self::at(&name, watchdog);
        let complaint =
            |error: std::io::Error| warn!(%error, ?name, "no word to the service manager");
        manager.map_err(complaint).ok()
    }

    fn at(name: &OsStr, watchdog: Option<Duration>) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read is its own trouble.
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address: address(name)?,
            watchdog,
        })
    }

    /// After a restart in place the watchdog watches as closely as before.
    fn patience_over(&self) -> String {
        let period = self.watchdog.filter(|_| restart::is_next());
        let line = period.map(|period| format!("\nWATCHDOG_USEC={}", period.as_micros()));
        line.unwrap_or_default()
    }

    pub(crate) fn tell(&self, words: &str) {
        if let Err(error) = self.socket.send_to_addr(words.as_bytes(), &self.address) {
            debug!(%error, words, "not told to the service manager");
        }
    }

    /// Tells of the node, and feeds the watchdog, until the node stops.
    pub(crate) fn follow(self, node: Parts) -> Following {
        let manager = Arc::new(self);
        let telling = manager.clone();
        let task = nihilo_actors::task::spawn("service-manager", async move {
            telling.keep_telling(node).await;
        });
        Following { manager, task }
    }

    async fn keep_telling(&self, node: Parts) {
        self.tell("STATUS=waiting for its cluster");
        node.gateway.opened().await;
        let mut told = node.status();
        self.tell(&format!("READY=1\nSTATUS={told}{}", self.patience_over()));
        let every = self
            .watchdog
            .map_or(LOOK_EVERY, |period| LOOK_EVERY.min(period / MEALS));
        let mut tick = tokio::time::interval(every);
        loop {
            tick.tick().await;
            let status = node.status();
            self.tell("WATCHDOG=1");
            if status != told {
                self.tell(&format!("STATUS={status}"));
                told = status;
            }
        }
    }
}

/// A service manager that is being told.
#[derive(Debug)]
pub(crate) struct Following {
    manager: Arc<ServiceManager>,
    task: JoinHandle<()>,
}

impl Following {
    /// The last that is told: the watchdog does not watch a unit that stops.
    pub(crate) fn node_stops(self) {
        self.task.abort();
        self.manager
            .tell("STOPPING=1\nSTATUS=draining, and stopping instances");
    }

    /// The same process goes on with another program, which tells when it is ready. A large store is read
    /// before that: the watchdog waits for it.
    pub(crate) fn node_restarts(self, answers_within: Duration) {
        self.task.abort();
        let watchdog = match self.manager.watchdog {
            Some(_) => format!("\nWATCHDOG=1\nWATCHDOG_USEC={}", PATIENCE.as_micros()),
            None => String::new(),
        };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        let limit_s = answers_within.as_secs();
        self.manager.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=restarting in place, once what is under way is \
             answered, or {limit_s} s have passed{watchdog}"
        ));
    }
}

/// A path, or after `@` a name that no file has.
fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::Unsupported,
            "neither a path nor an abstract name",
        )),
    }
}

/// `None` = nobody watches this process: the variables were another one's, or there are none.
fn watchdog(microseconds: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid.parse::<u32>() == Ok(own));
    let period = microseconds?
        .parse::<u64>()
        .ok()
        .filter(|period| *period > 0)?;
    is_ours.then(|| Duration::from_micros(period))
}

/// Whether what this process says goes to a journal, and not to a file or a terminal after all.
pub(crate) fn journal_reads_stderr() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let stderr = rustix::fs::fstat(std::io::stderr());
    let place = stderr.ok().map(|stat| (stat.st_dev, stat.st_ino));
    is_journal(named.as_deref(), place)
}

/// `named` is device and inode of the journal's stream, as `8:1234` (`systemd.exec(5)`).
fn is_journal(named: Option<&str>, stderr: Option<(u64, u64)>) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    let named = named.and_then(|text| text.split_once(':'));
    let named = named.and_then(|(device, inode)| Some((number(device)?, number(inode)?)));
    named.is_some() && named == stderr
}

/// What is spoken of.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) raft: RaftNode,
    pub(crate) control: Control,
    pub(crate) gateway: Gateway,
}

impl Parts {
    fn status(&self) -> String {
        let failure = self.raft.failure().borrow().clone();
        let n_shards = self.control.n_owned_shards();
        let role = self.raft.status().role.as_str();
        let is_stale = is_stale(&self.raft, &self.control);
        status(failure.as_deref(), is_stale, role, n_shards)
    }
}

/// One line for people; the first thing that is wrong is all of it.
fn status(failure: Option<&str>, is_stale: bool, role: &str, n_shards: usize) -> String {
    if let Some(cause) = failure {
        let cause = cause.replace('\n', " ");
        return format!("store failed, traffic goes on; mend it and restart: {cause}");
    }
    if is_stale {
        return "serving the last route table: no leader answers".into();
    }
    format!("serving; {role}, {n_shards} shards")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@nihilo-test-{}", std::process::id());
        let hidden = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        for (listener, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str()),
            (UnixDatagram::bind_addr(&hidden).unwrap(), OsStr::new(&name)),
        ] {
            let manager = ServiceManager::at(name, None).unwrap();
            manager.tell("READY=1");
            let mut words = [0; 64];
            let n = listener.recv(&mut words).unwrap();
            assert_eq!(&words[..n], b"READY=1");
        }
    }

    #[test]
    fn a_manager_that_is_gone_or_elsewhere_harms_nobody() {
        let gone = ServiceManager::at(OsStr::new("/nonexistent/notify"), None).unwrap();
        gone.tell("READY=1");
        assert!(ServiceManager::at(OsStr::new("vsock:2:1234"), None).is_err());
    }

    #[test]
    fn the_watchdog_is_fed_where_it_watches_this_process() {
        let s = |s| Some(Duration::from_secs(s));
        let cases = [
            (Some("10000000"), Some("7"), s(10)),
            (Some("10000000"), None, s(10)),
            (Some("10000000"), Some("8"), None),
            (Some("0"), Some("7"), None),
            (Some("soon"), None, None),
            (None, Some("7"), None),
        ];
        for (period, pid, want) in cases {
            assert_eq!(watchdog(period, pid, 7), want, "{period:?} {pid:?}");
        }
    }

    #[test]
    fn a_journal_is_known_by_its_stream() {
        let cases = [
            (Some("8:12"), Some((8, 12)), true),
            (Some("8:12"), Some((8, 13)), false),
            (Some("8:12"), None, false),
            (Some("8"), None, false),
            (None, None, false),
            (None, Some((8, 12)), false),
        ];
        for (named, stderr, want) in cases {
            assert_eq!(is_journal(named, stderr), want, "{named:?} {stderr:?}");
        }
    }

    #[test]
    fn the_status_is_one_line_with_the_worst_in_it() {
        let failed = status(Some("disk\nfull"), true, "unreachable", 3);
        assert!(failed.contains("disk full") && failed.contains("restart"));
        assert!(status(None, true, "follower", 0).contains("no leader"));
        let serving = status(None, false, "leader", 64);
        assert_eq!(serving, "serving; leader, 64 shards");
    }
}
