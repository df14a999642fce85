//! The last steps before an instance's program runs, in a process of its own.
//!
//! This file and those below it are also a whole program, so they need nothing but the standard
//! library: every start goes through it, and ours takes ten times as long to start as this one does
//! (decision 0011).

// Found from here by both crates that have this file.
#[path = "launch/filter.rs"]
mod filter;
#[path = "launch/landlock.rs"]
mod landlock;
#[path = "launch/mounts.rs"]
mod mounts;
#[path = "launch/plan.rs"]
mod plan;
#[path = "launch/root.rs"]
mod root;
#[path = "launch/steps.rs"]
mod steps;
#[path = "launch/syscalls.rs"]
mod syscalls;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

#[allow(unused_imports, reason = "the launcher itself only keeps to it")]
pub(crate) use landlock::FIRST_WITH_SCOPES;
pub use plan::Plan;
#[allow(unused_imports, reason = "the launcher itself only reads plans")]
pub use plan::{Access, Grant, PlannedMount, PlannedSource};

/// Begins the line on stderr that says why nothing was started.
pub const FAILURE_MARK: &str = "nihilo-launch: ";
/// Begins, after that, what says that volumes could not be mounted.
pub const MOUNT_MARK: &str = "volumes: ";
/// And what says that it could not be isolated.
pub const ISOLATION_MARK: &str = "isolation: ";
/// Begins what a trial says that went well: the version of the kernel's rules.
pub const TRIAL_MARK: &str = "landlock ";
/// Exit status of a launcher that started nothing.
pub const FAILED: i32 = 127;

/// Confines this process, then becomes the program. Returns only on
/// failure.
///
/// `args`: the plan ([`Plan::to_args`]), the program, its arguments.
pub fn run(args: &[OsString]) -> i32 {
    let failure = launch(args);
    use std::io::Write;
    // Nobody reading is a state in which nobody needs the text.
    drop(writeln!(std::io::stderr(), "{FAILURE_MARK}{failure}"));
    FAILED
}

/// By which a program knows the socket for its own: `exec` keeps the process (sd_listen_fds(3)).
fn socket_environment() -> [(&'static str, String); 3] {
    [
        ("LISTEN_FDS", "1".into()),
        ("LISTEN_PID", std::process::id().to_string()),
        ("LISTEN_FDNAMES", "http".into()),
    ]
}

fn launch(args: &[OsString]) -> String {
    let (plan, program, args) = match Plan::parse(args) {
        Ok((plan, [program, args @ ..])) => (plan, program, args),
        Ok(_) => return "no program".into(),
        Err(why) => return why,
    };
    if let Err(why) = steps::take(&plan, std::path::Path::new(program)) {
        return why;
    }
    if plan.trial {
        println!("{TRIAL_MARK}{}", landlock::version().unwrap_or_default());
        std::process::exit(0);
    }
    let mut command = Command::new(program);
    command.args(args);
    if plan.socket {
        command.envs(socket_environment());
    }
    let error = command.exec();
    let program = program.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("no such file `{program}`"),
        _ => format!("`{program}`: {error}"),
    }
}
