//! How long the kernel takes to move a program into its group, which every start waits for.

use super::finding::Finding;

const CHECK: &str = "cold starts";
/// Linux 6.0 (cgroup-v2.rst).
const OPTION: &str = "favordynmods";

pub(super) fn examine() -> Finding {
    judge(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// On version 1 a thread that moves itself waits for nobody.
fn judge(mountinfo: &str) -> Finding {
    let mounts = mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .map(|(_, kind)| kind);
    let is_one = |kind: &&str| kind.starts_with("cgroup ");
    let slow = |kind: &&str| kind.starts_with("cgroup2 ") && !kind.contains(OPTION);
    let (ones, others): (Vec<_>, Vec<_>) = mounts.partition(is_one);
    if ones.is_empty() && others.iter().any(slow) {
        return Finding::warn(
            CHECK,
            "each start waits 5 to 15 ms until the kernel has moved it into its group",
            "from Linux 6.0 on `mount -o remount,favordynmods /sys/fs/cgroup`, with the options that it \
             has: forks cost a little more then",
        );
    }
    Finding::ok(CHECK, "programs join their groups at once")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::finding::State;

    #[test]
    fn only_version_2_without_the_option_makes_starts_wait() {
        let two = "31 1 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        let favored = "31 1 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate,favordynmods";
        let one = "30 1 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids";
        let mixed = format!("{one}\n{two}");
        let cases = [
            (two, State::Warn),
            (favored, State::Ok),
            (one, State::Ok),
            (&mixed, State::Ok),
            ("", State::Ok),
        ];
        for (mounts, state) in cases {
            assert_eq!(judge(mounts).state, state, "{mounts}");
        }
    }
}
