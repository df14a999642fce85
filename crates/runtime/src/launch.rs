//! `nihilo internal launch`: the last steps before an instance's program runs, in an ordinary
//! single-threaded process of our own binary.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Pid of the node that launches; a launcher whose parent is another one must not start anything.
pub const PARENT_ENV: &str = "NIHILO_LAUNCHER_PARENT";
/// Begins the line on stderr that says why nothing was started.
pub const FAILURE_MARK: &str = "nihilo-launch: ";
/// Exit status of a launcher that started nothing.
pub const FAILED: i32 = 127;

/// Binds the process's life to the node's, then becomes the program. Returns only on failure.
pub fn run(argv: &[String]) -> i32 {
    let failure = launch(argv);
    use std::io::Write;
    // Nobody reading is a state in which nobody needs the text.
    drop(writeln!(std::io::stderr(), "{FAILURE_MARK}{failure}"));
    FAILED
}

fn launch(argv: &[String]) -> String {
    let Some((program, args)) = argv.split_first() else {
        return "no program".into();
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return format!("parent-death signal: {error}");
    }
    let expected = std::env::var(PARENT_ENV)
        .ok()
        .and_then(|pid| pid.parse().ok());
    let parent = getppid().map(Pid::as_raw_nonzero).map(i32::from);
    // The parent may have died before the signal was set.
    if expected.is_some() && parent != expected {
        return "the node that asked for this is gone".into();
    }
    let error = Command::new(program)
        .args(args)
        .env_remove(PARENT_ENV)
        .exec();
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("no such file `{program}`"),
        _ => format!("`{program}`: {error}"),
    }
}
