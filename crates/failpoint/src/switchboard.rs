//! What the chaos build does at a point.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::point::Point;

/// Between two looks for the word to go on.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// A test that armed a point and went away leaves nobody waiting for ever.
const GO_LIMIT: Duration = Duration::from_secs(120);

/// What one point does in this process.
struct Slot {
    was_seen: AtomicBool,
    /// How many passed an armed point with a number.
    n_passed: AtomicU32,
}

struct Board {
    dir: PathBuf,
    slots: Vec<Slot>,
}

fn board() -> Option<&'static Board> {
    static BOARD: OnceLock<Option<Board>> = OnceLock::new();
    let board = BOARD.get_or_init(|| {
        let dir = PathBuf::from(std::env::var_os(crate::DIR_ENV)?);
        let slot = |_: &Point| Slot {
            was_seen: AtomicBool::new(false),
            n_passed: AtomicU32::new(0),
        };
        Some(Board {
            dir,
            slots: Point::ALL.iter().map(slot).collect(),
        })
    });
    board.as_ref()
}

/// Whether the step is to fail.
pub(crate) fn hit(point: Point) -> bool {
    let Some(board) = board() else { return false };
    let slot = &board.slots[point as usize];
    if !slot.was_seen.swap(true, Ordering::Relaxed) {
        note_seen(&board.dir, point);
    }
    let pid = getpid().as_raw_nonzero().get();
    let armed = board.dir.join(point.as_str());
    let Ok(text) = fs::read_to_string(&armed) else {
        return false;
    };
    let mut words = text.split_whitespace();
    let (what, number) = (words.next(), words.next());
    let number = number.and_then(|text| text.parse::<u32>().ok());
    let number = number.unwrap_or(0);
    if what != Some("sleep") && slot.n_passed.fetch_add(1, Ordering::Relaxed) < number {
        return false;
    }
    // Exactly one thread of one process takes it.
    let taken = board.dir.join(format!("{point}.{pid}"));
    if fs::rename(&armed, &taken).is_err() {
        return false;
    }
    match what {
        Some("stop") => stop_until(&board.dir.join(format!("{point}.go"))),
        Some("panic") => panic!("failpoint `{point}`"),
        Some("sleep") => std::thread::sleep(Duration::from_millis(number.into())),
        Some("fail") => return true,
        other => panic!("failpoint `{point}` is to do {other:?}, which nobody knows"),
    }
    false
}

/// SIGSTOP stops all threads, this one a moment late at most: it goes on only by the file.
fn stop_until(go: &Path) {
    // A process may always signal itself.
    let _never_refused = kill_process(getpid(), Signal::STOP);
    let mut waited = Duration::ZERO;
    while waited < GO_LIMIT
        && matches!(fs::metadata(go), Err(error) if error.kind() == ErrorKind::NotFound)
    {
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
}

fn note_seen(dir: &Path, point: Point) {
    let seen = dir.join("seen");
    drop(fs::create_dir_all(&seen));
    drop(fs::write(seen.join(point.as_str()), ""));
}
