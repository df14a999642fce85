//! By signals, where there is no group: what the kernel's groups do is in `cgroup/freezer.rs`.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::process::mark::MARK_ENV;

/// Far above what a scheduler takes.
const LIMIT: Duration = Duration::from_secs(10);

/// A shell and what it starts, marked as an instance.
struct Program {
    child: Child,
    members: Members,
    _dir: tempfile::TempDir,
}

impl Program {
    fn start(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::of(dir.path()).unwrap();
        let id = InstanceId::from("hello-1-1");
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::null());
        let child = command.env(MARK_ENV, mark.of_instance(&id)).spawn();
        Self {
            child: child.unwrap(),
            members: Members {
                id,
                group: Group::default(),
                mark,
            },
            _dir: dir,
        }
    }

    fn has(&self, n: usize) -> Stopped {
        until("its processes are there", || self.members.find().len() == n);
        self.members.find()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.members.mark.kill_instance(&self.members.id);
        drop(self.child.wait());
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

#[test]
fn every_process_of_it_is_stopped_wherever_it_went_and_runs_again() {
    let program = Program::start("setsid sh -c 'while :; do :; done' & while :; do :; done");
    let all = program.has(2);
    let frozen = program.members.freeze().unwrap();
    assert_eq!(frozen.by(), Freezer::Signal);
    assert!(all.keys().all(|pid| stat::is_stopped(*pid)), "{all:?}");
    let Frozen::Signal(stopped) = &frozen else {
        panic!("{frozen:?}")
    };
    assert_eq!(*stopped, all);
    program.members.thaw(&frozen);
    until("all run", || !all.keys().any(|pid| stat::is_stopped(*pid)));
}

#[test]
fn one_that_was_frozen_by_an_earlier_process_of_the_node_can_be_thawed_by_this_one() {
    let program = Program::start("sleep 300 & wait");
    let all = program.has(2);
    drop(program.members.freeze().unwrap());
    let again = program.members.freeze().unwrap();
    program.members.thaw(&again);
    until("all run", || !all.keys().any(|pid| stat::is_stopped(*pid)));
}

#[test]
fn what_was_left_frozen_is_let_run_without_knowing_of_it() {
    let program = Program::start("sleep 300 & wait");
    let all = program.has(2);
    drop(program.members.freeze().unwrap());
    program.members.let_run(Some(program.child.id()));
    until("all run", || !all.keys().any(|pid| stat::is_stopped(*pid)));
}

#[test]
fn what_is_stopped_can_be_killed_and_no_other_process_is_signalled() {
    let mut program = Program::start("while :; do :; done");
    let (pid, ticks) = program.has(1).into_iter().next().unwrap();
    let mut frozen = program.members.freeze().unwrap();
    // As of a process whose number is another's by now.
    let Frozen::Signal(stopped) = &mut frozen else {
        panic!("{frozen:?}")
    };
    stopped.insert(pid, ticks - 1);
    program.members.thaw(&frozen);
    assert!(stat::is_stopped(pid), "it was somebody else's");
    program.members.mark.kill_instance(&program.members.id);
    assert!(!program.child.wait().unwrap().success());
}
