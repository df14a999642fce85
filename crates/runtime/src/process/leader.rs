//! The first process of an instance: our own child, or one that an earlier process of this node
//! has started.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nihilo_types::instance::Exit;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, kill_process_group,
    pidfd_open, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use super::stat;
use crate::driver::Trace;

#[derive(Debug)]
pub(super) enum Leader {
    Child(Box<Child>),
    Adopted(Adopted),
}

/// A process that an earlier program started. Where that was this very process, before it became
/// another program, it is a child still, and its end is told; otherwise somebody else reaps it, and only
/// that it has ended is seen.
#[derive(Debug)]
pub(super) struct Adopted {
    trace: Trace,
    descriptor: AsyncFd<OwnedFd>,
}

impl Adopted {
    /// Finds the process that left `trace`, if it runs and `is_marked` as its instance's. A child of
    /// ours that has ended meanwhile is found too: it has lost its mark, but nobody else can have got
    /// its number.
    pub(super) fn find(trace: Trace, is_marked: impl FnOnce(Pid) -> bool) -> Option<Self> {
        let pid = pid_of(trace.pid)?;
        // First, so that what is looked at next cannot be another process than this one.
        let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        let is_it = stat::start_ticks(trace.pid) == Some(trace.start_ticks)
            && match stat::is_zombie(trace.pid) {
                true => stat::is_child_of_ours(trace.pid),
                false => is_marked(pid),
            };
        let descriptor = is_it.then(|| watch(descriptor))?.ok()?;
        Some(Self { trace, descriptor })
    }

    async fn wait(&self) -> Exit {
        if self.descriptor.readable().await.is_err() {
            // The runtime ends, and so does whoever waits.
            std::future::pending::<()>().await;
        }
        // Left as it is: its group is found by a number that stays its own, as a child's does.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::PidFd(self.descriptor.get_ref().as_fd()), options) {
            Ok(Some(status)) => exit_of_status(&status),
            Ok(None) | Err(_) => Exit::Unknown,
        }
    }

    /// Its number is its own until somebody has reaped it.
    fn holds_its_number(&self) -> bool {
        stat::start_ticks(self.trace.pid) == Some(self.trace.start_ticks)
    }
}

impl Leader {
    /// How it ended, once it has; may be dropped and called again.
    pub(super) async fn wait(&mut self) -> Exit {
        match self {
            Leader::Child(child) => exit_of(child.wait().await),
            Leader::Adopted(adopted) => adopted.wait().await,
        }
    }

    /// Signals its group, or itself while its launcher has made none; only as long as its number is
    /// certain to be its own.
    pub(super) fn signal_group(&self, signal: Signal) {
        let pid = match self {
            Leader::Child(child) => child.id(),
            Leader::Adopted(adopted) => adopted.holds_its_number().then_some(adopted.trace.pid),
        };
        if let Some(pid) = pid.and_then(pid_of)
            && kill_process_group(pid, signal).is_err()
        {
            let _or_gone = kill_process(pid, signal);
        }
    }

    /// Its group, which may outlive it. A child's number stays taken while its group has members;
    /// an adopted one's group is found by its mark alone.
    pub(super) fn kill_group_of_ended(&self, pid: Option<u32>) {
        match self {
            Leader::Child(_) => signal_group(pid, Signal::KILL),
            Leader::Adopted(_) => self.signal_group(Signal::KILL),
        }
    }
}

impl Drop for Adopted {
    /// Nobody asks for it any more: where it is ours, its number is free from here on.
    fn drop(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _unless_not_ours = waitid(WaitId::PidFd(self.descriptor.get_ref().as_fd()), options);
    }
}

/// Waits for the end of a child that an earlier program has started and nobody here asks for: until somebody
/// does, it keeps its number.
pub(crate) async fn reap(pid: u32) {
    let found = pid_of(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
    let Some(Ok(descriptor)) = found.map(watch) else {
        return;
    };
    if descriptor.readable().await.is_ok() {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _unless_gone = waitid(WaitId::PidFd(descriptor.get_ref().as_fd()), options);
    }
}

fn exit_of_status(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}

/// A process's descriptor becomes readable with its end.
#[allow(unsafe_code)]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one and the same open descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

pub(super) fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// An empty group is what is wanted.
pub(super) fn signal_group(pid: Option<u32>, signal: Signal) {
    if let Some(pid) = pid.and_then(pid_of) {
        let _ = kill_process_group(pid, signal);
    }
}

pub(super) fn exit_of(status: std::io::Result<std::process::ExitStatus>) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        },
        Err(_) => Exit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A child of this test that outlives what is checked of it.
    struct Sleeper(std::process::Child);

    impl Sleeper {
        fn start() -> (Self, Trace) {
            let child = std::process::Command::new("sleep").arg("300").spawn();
            let child = child.unwrap();
            let pid = child.id();
            let start_ticks = stat::start_ticks(pid).unwrap();
            let port = 1;
            let trace = Trace {
                pid,
                start_ticks,
                port,
            };
            (Self(child), trace)
        }

        fn kill(&mut self) {
            self.0.kill().unwrap();
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[tokio::test]
    async fn a_pid_that_is_another_process_by_now_is_gone() {
        let (_sleeper, trace) = Sleeper::start();
        assert!(Adopted::find(trace, |_| true).is_some());
        assert!(Adopted::find(trace, |_| false).is_none(), "mark");
        let earlier = Trace {
            start_ticks: trace.start_ticks - 1,
            ..trace
        };
        assert!(Adopted::find(earlier, |_| true).is_none(), "start");
    }

    #[tokio::test]
    async fn the_end_of_a_child_of_an_earlier_program_is_told_as_often_as_one_asks() {
        let (mut sleeper, trace) = Sleeper::start();
        let mut leader = Leader::Adopted(Adopted::find(trace, |_| true).unwrap());
        sleeper.kill();
        for _ in 0..2 {
            assert_eq!(leader.wait().await, Exit::Signal(9));
        }
        // Its environment is gone, and its number is its own.
        let again = Adopted::find(trace, |_| false).unwrap();
        assert_eq!(again.wait().await, Exit::Signal(9));
        drop(leader);
        drop(again);
        assert_eq!(stat::start_ticks(trace.pid), None, "it was reaped");
    }

    #[tokio::test]
    async fn a_child_that_nobody_asks_for_is_reaped_once_it_has_ended() {
        let (mut sleeper, trace) = Sleeper::start();
        let reaping = tokio::spawn(reap(trace.pid));
        tokio::task::yield_now().await;
        assert!(!reaping.is_finished());
        sleeper.kill();
        reaping.await.unwrap();
        assert_eq!(stat::start_ticks(trace.pid), None);
        // Nobody's child here, and nobody at all.
        reap(1).now_or_never();
        reap(trace.pid).await;
    }

    /// What is nobody's child here is reaped by somebody else.
    #[tokio::test]
    async fn the_end_of_anothers_child_is_seen_and_not_told() {
        let script = "sleep 300 & echo $!; read end; kill -9 $!; wait $!; read end";
        let mut parent = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = std::io::BufReader::new(parent.stdout.take().unwrap());
        let mut pid = String::new();
        std::io::BufRead::read_line(&mut said, &mut pid).unwrap();
        let pid = pid.trim().parse().unwrap();
        let start_ticks = stat::start_ticks(pid).unwrap();
        let port = 1;
        let trace = Trace {
            pid,
            start_ticks,
            port,
        };
        let mut leader = Leader::Adopted(Adopted::find(trace, |_| true).unwrap());
        let mut commands = parent.stdin.take().unwrap();
        std::io::Write::write_all(&mut commands, b"end\n").unwrap();
        assert_eq!(leader.wait().await, Exit::Unknown);
        assert!(Adopted::find(trace, |_| true).is_none());
        drop(commands);
        parent.wait().unwrap();
    }
}
