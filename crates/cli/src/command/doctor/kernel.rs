//! What the kernel must have.

use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::finding::Finding;

const PIDFD: &str = "processes by descriptor";

pub(super) fn examine() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let refused = pidfd_open(getpid(), PidfdFlags::empty()).err();
    pidfd(release.trim(), refused)
}

fn pidfd(release: &str, refused: Option<Errno>) -> Finding {
    match refused {
        None => Finding::ok(PIDFD, format!("Linux {release}")),
        Some(Errno::NOSYS) => Finding::fail(
            PIDFD,
            format!("Linux {release} has no pidfd_open"),
            "use a kernel of version 5.3 or newer",
        ),
        Some(error) => Finding::fail(
            PIDFD,
            format!("Linux {release} refuses pidfd_open: {error}"),
            "let the container's seccomp profile allow pidfd_open and pidfd_send_signal",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::finding::State;

    #[test]
    fn a_kernel_without_process_descriptors_cannot_hold_a_node() {
        let cases = [
            (None, State::Ok, ""),
            (Some(Errno::NOSYS), State::Fail, "5.3"),
            (Some(Errno::PERM), State::Fail, "seccomp"),
        ];
        for (refused, state, fix) in cases {
            let finding = pidfd("5.2.0", refused);
            assert_eq!(finding.state, state, "{refused:?}");
            assert!(finding.found.contains("5.2.0"));
            assert!(finding.fix.unwrap_or_default().contains(fix));
        }
    }
}
