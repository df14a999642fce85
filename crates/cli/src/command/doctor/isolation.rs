//! What isolates programs on this machine (docs/limits.md). A node tries it at its start; here it is
//! asked for.

use landlock::{Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr};
use nihilo_types::isolation::Isolation;

use super::finding::Finding;

const CHECK: &str = "isolation";
/// Bit of the capability to mount, `<linux/capability.h>`.
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// What forbids users of one's own, and the value that does.
const FORBIDS: [(&str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ),
];
const NEWER: &str = "use a kernel of version 5.13 or newer, with `landlock` among its `lsm=`; until then \
                     run only programs that you trust";

pub(super) fn examine(wanted: Isolation) -> Finding {
    judge(wanted, &ask_landlock(), &mounts())
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

/// How a program gets a tree of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mounts {
    /// This user may mount.
    Own,
    /// By users of its own.
    Users,
    /// Setting of the kernel that is in the way.
    Forbidden(&'static str),
}

fn mounts() -> Mounts {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    if effective.is_some_and(|capabilities| capabilities & CAP_SYS_ADMIN != 0) {
        return Mounts::Own;
    }
    let is_set = |(file, value): &&(&str, &str)| {
        std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *value)
    };
    match FORBIDS.iter().find(is_set) {
        Some((file, _)) => Mounts::Forbidden(file),
        None => Mounts::Users,
    }
}

fn judge(wanted: Isolation, landlock: &Landlock, mounts: &Mounts) -> Finding {
    if wanted == Isolation::None {
        let found = "off by `process: isolation`: programs see what the node sees";
        return Finding::note(CHECK, found);
    }
    let lacks = match landlock {
        Landlock::Works => None,
        Landlock::Off => Some("landlock is not among the kernel's `lsm=`"),
        Landlock::Absent => Some("the kernel has no landlock"),
        Landlock::Unknown(why) => Some(why.as_str()),
    };
    if let Some(why) = lacks {
        let found = format!("{why}: programs see what the node sees, less some calls");
        return Finding::warn(CHECK, found, NEWER);
    }
    match (wanted, mounts) {
        (Isolation::Full, Mounts::Forbidden(file)) => Finding::warn(
            CHECK,
            format!("landlock and not full: {file} forbids users of one's own"),
            "change that setting, run the node as root, or set `process: {isolation: landlock}`",
        ),
        (Isolation::Full, Mounts::Own) => Finding::ok(CHECK, "full, by this user's own mounts"),
        (Isolation::Full, Mounts::Users) => Finding::ok(CHECK, "full, by users of one's own"),
        (Isolation::Landlock | Isolation::None, _) => Finding::ok(CHECK, "landlock"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::finding::State;

    #[test]
    fn landlock_is_asked_for_and_costs_nobody_anything() {
        // A file is made after the question as before it: only the thread that asked was restricted.
        let dir = tempfile::tempdir().unwrap();
        let finding = examine(Isolation::Full);
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert_ne!(finding.state, State::Fail);
    }

    #[test]
    fn a_node_works_everywhere_and_less_than_was_asked_for_is_told() {
        use Isolation::{Full, None};
        let wanted = Isolation::Landlock;
        let works = Landlock::Works;
        let unknown = Landlock::Unknown("x".into());
        let forbidden = Mounts::Forbidden(FORBIDS[0].0);
        let cases = [
            (None, &Landlock::Absent, &Mounts::Users, State::Note),
            (wanted, &works, &forbidden, State::Ok),
            (wanted, &Landlock::Off, &Mounts::Own, State::Warn),
            (wanted, &unknown, &Mounts::Own, State::Warn),
            (Full, &Landlock::Absent, &Mounts::Own, State::Warn),
            (Full, &works, &forbidden, State::Warn),
            (Full, &works, &Mounts::Users, State::Ok),
            (Full, &works, &Mounts::Own, State::Ok),
        ];
        for (wanted, landlock, mounts, state) in cases {
            let finding = judge(wanted, landlock, mounts);
            assert_eq!(finding.state, state, "{wanted} {landlock:?} {mounts:?}");
        }
    }
}
