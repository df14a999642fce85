//! Where a node keeps things: whether it may write there, how fast that is on the disk, and for how long
//! there is room.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{statfs, statvfs};

use super::finding::Finding;

const DIR: &str = "data directory";
const SYNC: &str = "disk writes";
const FREE: &str = "disk space";
/// Writes that are timed; the median of so many is steady.
const N_WRITES: usize = 15;
const WRITE_BYTES: usize = 4096;
/// Above this, elections and every change of the cluster are slow to see.
const SLOW: Duration = Duration::from_millis(20);
const MIB: u64 = 1024 * 1024;
/// Below this a node leads no new writes (`MIN_FREE_BYTES` of the store's crate).
const TOO_LITTLE: u64 = 256 * MIB;
/// Two snapshots, logs of instances and the access log of a day fit in this.
const LITTLE: u64 = 4_096 * MIB;

/// File systems that a node should not live on, by the kernel's number (`statfs(2)`).
const UNFIT: [(u64, &str); 5] = [
    (
        0x0102_1994,
        "tmpfs, which is gone after a restart of the machine",
    ),
    (
        0x8584_58f6,
        "ramfs, which is gone after a restart of the machine",
    ),
    (
        0x794c_7630,
        "a container's own layer, which is gone with the container",
    ),
    (
        0x6969,
        "NFS, whose writes may be lost after they were confirmed",
    ),
    (
        0xff53_4d42,
        "CIFS, whose writes may be lost after they were confirmed",
    ),
];

pub(super) fn examine(dir: &Path) -> Vec<Finding> {
    let there = existing(dir);
    let written = write(&there);
    let kind = statfs(&there).map_or(0, |disk| number(disk.f_type));
    let free = statvfs(&there).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let failed = written.as_ref().err().map(ToString::to_string);
    let mut all = vec![directory(dir, there == dir, failed.as_deref(), kind)];
    all.extend(written.ok().and_then(|took| sync(&took)));
    all.extend(free.ok().map(|bytes| space(&there, bytes)));
    all
}

/// The type of this field differs between machines; what it holds has 32 bits on all of them.
fn number(kind: impl TryInto<i64>) -> u64 {
    const BITS: i64 = 0xffff_ffff;
    kind.try_into()
        .map_or(0, |kind| u64::try_from(kind & BITS).unwrap_or(0))
}

/// The directory, or what it will be made in.
fn existing(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    let found = dir.ancestors().find(|dir| dir.is_dir());
    found.unwrap_or(Path::new("/")).into()
}

/// Writes to the disk itself, and how long each took. The file has no name by then: nothing is left
/// behind, however this ends.
fn write(dir: &Path) -> std::io::Result<Vec<Duration>> {
    let path = dir.join(format!(".nihilo-doctor-{}", std::process::id()));
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    let mut one = || -> std::io::Result<Duration> {
        let begun = Instant::now();
        file.write_all(&[0x5a; WRITE_BYTES])?;
        file.sync_data()?;
        Ok(begun.elapsed())
    };
    (0..N_WRITES).map(|_| one()).collect()
}

fn directory(dir: &Path, is_there: bool, failed: Option<&str>, kind: u64) -> Finding {
    let shown = dir.display();
    let unfit = UNFIT.iter().find(|(number, _)| *number == kind);
    match (failed, is_there, unfit) {
        (Some(why), true, _) => Finding::fail(
            DIR,
            format!("{shown}: {why}"),
            format!("run this as the node's user (sudo -u nihilo), or: chown -R nihilo: {shown}"),
        ),
        (_, _, Some((_, what))) => Finding::warn(
            DIR,
            format!("{shown} is on {what}"),
            "set `data-dir` to a directory of a local disk",
        ),
        (_, false, None) => Finding::note(DIR, format!("{shown} is not there yet")),
        (None, true, None) => Finding::ok(DIR, format!("{shown}, writable")),
    }
}

/// `None` where nothing was written.
fn sync(took: &[Duration]) -> Option<Finding> {
    let mut sorted = took.to_vec();
    sorted.sort();
    let (median, worst) = (sorted.get(sorted.len() / 2)?, sorted.last()?);
    let found = format!(
        "{:.1} ms in the median, {:.1} at worst, of {}",
        median.as_secs_f64() * 1e3,
        worst.as_secs_f64() * 1e3,
        took.len()
    );
    if *median <= SLOW {
        return Some(Finding::ok(SYNC, found));
    }
    Some(Finding::warn(
        SYNC,
        found,
        "use a disk with a faster sync, or `profile: calm`: each change waits for a majority's disks",
    ))
}

fn space(dir: &Path, free: u64) -> Finding {
    let found = format!("{} MiB free in {}", free / MIB, dir.display());
    let fix = "free some, or set `data-dir` to a larger disk";
    match free {
        0..TOO_LITTLE => Finding::fail(FREE, found, fix),
        TOO_LITTLE..LITTLE => Finding::warn(FREE, found, fix),
        LITTLE.. => Finding::ok(FREE, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::finding::State;

    #[test]
    fn a_directory_is_written_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(write(dir.path()).unwrap().len(), N_WRITES);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let below = dir.path().join("not/there");
        assert_eq!(existing(&below), dir.path());
        let states: Vec<_> = examine(&below).iter().map(|f| f.check.clone()).collect();
        assert_eq!(states, [DIR, SYNC, FREE]);
    }

    #[test]
    fn a_directory_must_be_writable_and_lie_on_a_disk() {
        let cases = [
            ("fine", true, None, 0xef53, State::Ok),
            ("absent", false, None, 0xef53, State::Note),
            (
                "absent, above it another's",
                false,
                Some("denied"),
                0xef53,
                State::Note,
            ),
            ("another's", true, Some("denied"), 0xef53, State::Fail),
            ("in memory", true, None, 0x0102_1994, State::Warn),
            ("in memory, absent", false, None, 0x0102_1994, State::Warn),
            ("in a container", true, None, 0x794c_7630, State::Warn),
            (
                "another's network",
                true,
                Some("denied"),
                0x6969,
                State::Fail,
            ),
        ];
        for (name, is_there, failed, kind, state) in cases {
            let finding = directory(Path::new("/d"), is_there, failed, kind);
            assert_eq!(finding.state, state, "{name}: {finding:?}");
            assert!(finding.found.contains("/d"), "{name}: {finding:?}");
        }
    }

    #[test]
    fn the_median_says_whether_a_disk_is_slow() {
        let ms = |all: &[u64]| {
            all.iter()
                .map(|ms| Duration::from_millis(*ms))
                .collect::<Vec<_>>()
        };
        let cases = [
            (ms(&[1, 1, 400]), Some(State::Ok)),
            (ms(&[20]), Some(State::Ok)),
            (ms(&[21, 30, 1]), Some(State::Warn)),
            (ms(&[]), None),
        ];
        for (took, state) in cases {
            assert_eq!(sync(&took).map(|finding| finding.state), state, "{took:?}");
        }
        let found = sync(&ms(&[2, 1, 9])).unwrap().found;
        assert_eq!(found, "2.0 ms in the median, 9.0 at worst, of 3");
    }

    #[test]
    fn a_node_needs_room_and_soon_more() {
        let cases = [
            (0, State::Fail),
            (TOO_LITTLE - 1, State::Fail),
            (TOO_LITTLE, State::Warn),
            (LITTLE, State::Ok),
        ];
        for (free, state) in cases {
            assert_eq!(space(Path::new("/d"), free).state, state, "{free}");
        }
    }
}
