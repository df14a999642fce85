//! A group without cpu, whose processes keep their memory and see nothing of it.
//!
//! ```text
//! version 2:  cgroup.freeze = 1 | 0          until `frozen 1` in cgroup.events
//! version 1:  freezer.state = FROZEN | THAWED   until it reads so
//! ```

use std::time::{Duration, Instant};

use super::group::{Group, Part};
use super::{Version, write};

/// A process that the kernel cannot interrupt keeps its group from being frozen: it is let run again.
const FREEZE_LIMIT: Duration = Duration::from_millis(100);
/// Between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Group {
    /// Freezes everything in it, by this version; `None` where no hierarchy of it can. Blocks until it
    /// is so, 100 ms at most.
    ///
    /// # Errors
    /// Why it is not frozen; it runs on.
    pub(in crate::process) fn freeze(&self) -> Result<Option<Version>, String> {
        let able = self.parts.iter().filter(|part| part.freezes);
        let Some(part) = able.max_by_key(|part| part.version == Version::Two) else {
            return Ok(None);
        };
        let deadline = Instant::now() + FREEZE_LIMIT;
        loop {
            // Again each time: version 1 takes in only then what was forked meanwhile.
            part.set_frozen(true)?;
            if part.is_frozen() {
                return Ok(Some(part.version));
            }
            if Instant::now() >= deadline {
                part.set_frozen(false)?;
                let dir = part.dir.display();
                return Err(format!("`{dir}` is not frozen within {FREEZE_LIMIT:?}"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Lets everything in it run, whether it was frozen or not.
    pub(in crate::process) fn thaw(&self) {
        for part in &self.parts {
            // A group that is gone holds nobody.
            let _or_gone = part.set_frozen(false);
        }
    }
}

impl Part {
    /// Nothing where it cannot.
    pub(super) fn set_frozen(&self, frozen: bool) -> Result<(), String> {
        let (file, value) = match (self.version, frozen) {
            (Version::One, true) => ("freezer.state", "FROZEN"),
            (Version::One, false) => ("freezer.state", "THAWED"),
            (Version::Two, true) => ("cgroup.freeze", "1"),
            (Version::Two, false) => ("cgroup.freeze", "0"),
        };
        match self.freezes {
            true => write(&self.dir, file, value),
            false => Ok(()),
        }
    }

    fn is_frozen(&self) -> bool {
        let read = |file: &str| std::fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        match self.version {
            Version::One => read("freezer.state").trim() == "FROZEN",
            Version::Two => read("cgroup.events").lines().any(|line| line == "frozen 1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nihilo_types::id::InstanceId;
    use nihilo_types::instance::Limits;

    use super::super::{Cgroups, Place};
    use super::*;

    /// A neighbour's work, during which what is not frozen gets its part of two cores.
    const SPAN: Duration = Duration::from_millis(100);

    fn burning() -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]).spawn().unwrap()
    }

    /// Nanoseconds that it has had a processor.
    fn cpu_ns(child: &Child) -> u64 {
        let file = format!("/proc/{}/schedstat", child.id());
        let text = std::fs::read_to_string(file).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    fn work() {
        let until = Instant::now() + SPAN;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    /// Where this host and this user have one that freezes; a node makes its groups in it.
    fn each_place(check: impl Fn(&Place, Group)) {
        let cgroups = Cgroups::detect(&format!("test-freezer-{}", std::process::id()));
        for place in cgroups.places.iter().filter(|place| place.freezes) {
            let mut group = Group::default();
            let id = InstanceId::from("hello-1-1");
            group.add(place, &id, &Limits::default(), 64).unwrap();
            check(place, group);
        }
    }

    #[test]
    fn a_frozen_group_gets_no_cpu_runs_on_when_thawed_and_is_killed_while_frozen() {
        each_place(|place, group| {
            let mut child = burning();
            write(&group.parts[0].dir, "cgroup.procs", &child.id().to_string()).unwrap();
            assert_eq!(group.freeze(), Ok(Some(place.version)));
            let before = cpu_ns(&child);
            work();
            assert_eq!(cpu_ns(&child), before, "{place:?}");
            assert_eq!(group.freeze(), Ok(Some(place.version)), "again");
            group.thaw();
            let deadline = Instant::now() + Duration::from_secs(10);
            while cpu_ns(&child) == before {
                assert!(
                    Instant::now() < deadline,
                    "{place:?}: it does not run again"
                );
            }
            group.freeze().unwrap();
            group.kill();
            assert!(!child.wait().unwrap().success(), "{place:?}");
            group.remove();
            assert!(std::fs::metadata(&group.parts[0].dir).is_err());
        });
    }

    #[test]
    fn a_group_that_nothing_freezes_says_so() {
        assert_eq!(Group::default().freeze(), Ok(None));
    }
}
