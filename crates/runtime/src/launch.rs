//! The last steps before an instance's program runs, in a process of its own.
//!
//! This file is also a whole program, so it needs nothing but the standard library: every start goes
//! through it, and ours takes ten times as long to start as this one does (decision 0011).

use std::ffi::{OsString, c_int, c_ulong};
use std::os::unix::process::{CommandExt, parent_id};
use std::process::Command;

/// Begins the line on stderr that says why nothing was started.
pub const FAILURE_MARK: &str = "nihilo-launch: ";
/// Exit status of a launcher that started nothing.
pub const FAILED: i32 = 127;

/// `<linux/prctl.h>`
const PR_SET_PDEATHSIG: c_int = 1;
const SIGKILL: c_ulong = 9;

/// Binds the process's life to the node's, then becomes the program. Returns only on failure.
///
/// `args`: the node's pid, the program, its arguments.
pub fn run(args: &[OsString]) -> i32 {
    let failure = launch(args);
    use std::io::Write;
    // Nobody reading is a state in which nobody needs the text.
    drop(writeln!(std::io::stderr(), "{FAILURE_MARK}{failure}"));
    FAILED
}

fn launch(args: &[OsString]) -> String {
    let [node, program, args @ ..] = args else {
        return "no program".into();
    };
    if let Err(error) = die_with_parent() {
        return format!("parent-death signal: {error}");
    }
    // The parent may have died before the signal was set.
    if node.to_str() != Some(&parent_id().to_string()) {
        return "the node that asked for this is gone".into();
    }
    let error = Command::new(program).args(args).exec();
    let program = program.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("no such file `{program}`"),
        _ => format!("`{program}`: {error}"),
    }
}

#[allow(unsafe_code)]
fn die_with_parent() -> std::io::Result<()> {
    unsafe extern "C" {
        fn prctl(option: c_int, ...) -> c_int;
    }
    // SAFETY: this option takes one number and touches no memory (prctl(2)).
    match unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
