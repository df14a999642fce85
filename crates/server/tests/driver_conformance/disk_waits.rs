//! No start waits for the disk: what it writes down, the page cache keeps over the death of the node, and
//! a power cut takes the instance along.
//!
//! Seen by strace, which has to see the two files that the test itself syncs before and after.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Whatever waits for a disk, or makes a file whose writes do.
const CALLS: &str = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync,openat,openat2";
const OPENED_SYNCED: [&str; 2] = ["O_SYNC", "O_DSYNC"];

/// An strace of all threads of this process, and of what they start.
struct Strace {
    child: Child,
    output: PathBuf,
}

impl Strace {
    /// `None`, with a printed reason, where it cannot be.
    fn attach(dir: &Path) -> Option<Self> {
        let output = dir.join("strace");
        let said = dir.join("strace.said");
        let pid = std::process::id().to_string();
        let spawned = Command::new("strace")
            .args(["-f", "-y", "-e", CALLS, "-p", &pid, "-o"])
            .arg(&output)
            .stdin(Stdio::null())
            .stderr(File::create(&said).unwrap())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: strace: {error}");
                return None;
            }
        };
        let deadline = std::time::Instant::now() + LIMIT;
        while !all_traced_by(child.id()) {
            if child.try_wait().unwrap().is_some() {
                let said = std::fs::read_to_string(&said).unwrap();
                eprintln!("skipped: strace may not look at this process: {said}");
                return None;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "strace does not attach"
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Some(Self { child, output })
    }

    /// What it has written of this process.
    fn detach(mut self) -> Vec<String> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        self.child.wait().unwrap();
        let text = std::fs::read_to_string(&self.output).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn all_traced_by(tracer: u32) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let mut threads = threads.filter_map(Result::ok);
    threads.all(|thread| {
        // One that has ended meanwhile starts nothing.
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let traced = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        traced.is_none_or(|pid| pid.trim() == tracer.to_string())
    })
}

/// A sync that is there to be seen.
fn sync_a_file(path: &Path) {
    File::create(path).unwrap().sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_start_and_no_stop_waits_for_the_disk() {
    for harness in Harness::of_programs() {
        let traces = tempfile::tempdir().unwrap();
        let Some(strace) = Strace::attach(traces.path()) else {
            return;
        };
        let (begin, end) = (traces.path().join("begin"), traces.path().join("end"));
        sync_a_file(&begin);
        let spec = spec("demo/hello", 1);
        let mut events = harness.ready(&spec).await;
        harness.drain(&spec.id);
        reached(&mut events, &spec.id, InstanceState::Destroyed).await;
        sync_a_file(&end);
        let lines = strace.detach();

        let place = |mark: &Path| {
            let mark = mark.display().to_string();
            let synced = |line: &String| line.contains("fsync(") && line.contains(&mark);
            let found = lines.iter().position(synced);
            found.unwrap_or_else(|| panic!("no sync of {mark} in {lines:#?}"))
        };
        let between = &lines[place(&begin) + 1..place(&end)];
        // It was looked at: the handle, the log of starts, or the output at the least.
        let own = harness.dir.path().display().to_string();
        assert!(between.iter().any(|line| line.contains(&own)), "{lines:#?}");
        let waits = |line: &&String| match line.contains("open") {
            true => OPENED_SYNCED.iter().any(|flag| line.contains(flag)),
            false => line.contains("sync"),
        };
        // Where other tests run in this process, theirs are elsewhere.
        let marks = std::fs::read_to_string(harness.dir.path().join("mark")).unwrap();
        let is_ours = |line: &&String| {
            line.contains(&own) || line.contains(marks.trim()) || !line.contains("</")
        };
        let found: Vec<_> = between.iter().filter(waits).filter(is_ours).collect();
        assert!(found.is_empty(), "{found:#?}");
    }
}
