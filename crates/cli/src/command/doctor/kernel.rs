//! What the kernel must have, and what it may.

use landlock::{Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::finding::Finding;

const PIDFD: &str = "processes by descriptor";
const LANDLOCK: &str = "landlock";

pub(super) fn examine() -> Vec<Finding> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let refused = pidfd_open(getpid(), PidfdFlags::empty()).err();
    vec![pidfd(release.trim(), refused), landlock(&ask_landlock())]
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Landlock {
    Works,
    /// Compiled in, and not among those that were chosen when the kernel was started.
    Off,
    Absent,
    Unknown(String),
}

/// In a thread of its own: to ask is to be restricted.
fn ask_landlock() -> Landlock {
    let ask = || -> Result<LandlockStatus, landlock::RulesetError> {
        let rules = Ruleset::default().handle_access(AccessFs::from_all(landlock::ABI::V1))?;
        Ok(rules.create()?.restrict_self()?.landlock)
    };
    match std::thread::spawn(ask).join() {
        Ok(Ok(LandlockStatus::Available { .. })) => Landlock::Works,
        Ok(Ok(LandlockStatus::NotEnabled)) => Landlock::Off,
        Ok(Ok(LandlockStatus::NotImplemented)) => Landlock::Absent,
        Ok(Err(error)) => Landlock::Unknown(error.to_string()),
        Err(_panic) => Landlock::Unknown("it could not be asked for".into()),
    }
}

/// Of no consequence yet: no version confines the files of a program.
fn landlock(found: &Landlock) -> Finding {
    match found {
        Landlock::Works => Finding::ok(LANDLOCK, "there; not used by this version"),
        Landlock::Off => Finding::note(LANDLOCK, "not among the kernel's `lsm=`; not used yet"),
        Landlock::Absent => Finding::note(LANDLOCK, "not in this kernel; not used yet"),
        Landlock::Unknown(why) => Finding::note(LANDLOCK, format!("{why}; not used yet")),
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

    #[test]
    fn landlock_is_asked_for_and_costs_nobody_anything() {
        // A file is made after the question as before it: only the thread that asked was restricted.
        let dir = tempfile::tempdir().unwrap();
        let answer = ask_landlock();
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert_ne!(landlock(&answer).state, State::Fail);
    }

    #[test]
    fn without_landlock_nothing_is_wrong() {
        for found in [
            Landlock::Off,
            Landlock::Absent,
            Landlock::Unknown("x".into()),
        ] {
            assert_eq!(landlock(&found).state, State::Note, "{found:?}");
        }
        assert_eq!(landlock(&Landlock::Works).state, State::Ok);
    }
}
