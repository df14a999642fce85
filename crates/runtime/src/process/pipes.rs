//! Output that outlives the node: two named pipes in the instance's directory.
//!
//! ```text
//! instance  1 ── O_RDWR ──> out ── read ──> the node's reader, or the next node's
//!           2 ── O_RDWR ──> err
//! ```
//!
//! The instance's own end is open for reading too, so its pipe always has a reader: the death of
//! the node raises no SIGPIPE, and what is printed meanwhile waits. A pipe that is full makes the
//! instance wait as well, which bounds what it keeps. It ends for the reader when the last process
//! that has it is gone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::pipe::fcntl_setpipe_size;
use tokio::net::unix::pipe::{self, Receiver};

const OUT: &str = "out";
const ERR: &str = "err";
/// What an instance may print while nobody reads; the most that the kernel grants everybody.
const CAPACITY: usize = 1024 * 1024;

/// An instance's ends of its pipes, to be given to its process and dropped here.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) out: File,
    pub(super) err: File,
}

/// Where its output is read.
#[derive(Debug)]
pub(super) struct Readers {
    pub(super) out: Receiver,
    pub(super) err: Receiver,
}

/// Makes the pipes of an instance that is to be started.
pub(super) fn create(dir: &Path) -> io::Result<(Ends, Readers)> {
    for path in [dir.join(OUT), dir.join(ERR)] {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    }
    let readers = open(dir)?;
    let ends = Ends {
        out: end(dir.join(OUT))?,
        err: end(dir.join(ERR))?,
    };
    Ok((ends, readers))
}

/// Opens the reading side, of a running instance's pipes too.
pub(super) fn open(dir: &Path) -> io::Result<Readers> {
    let reader = |name| pipe::OpenOptions::new().open_receiver(dir.join(name));
    Ok(Readers {
        out: reader(OUT)?,
        err: reader(ERR)?,
    })
}

/// Of an instance that is gone, whose output has been read. There may be none.
pub(super) fn remove(dir: &Path) {
    for name in [OUT, ERR] {
        drop(std::fs::remove_file(dir.join(name)));
    }
}

fn end(path: PathBuf) -> io::Result<File> {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    let end = options.read(true).write(true).custom_flags(no_follow);
    let end = end.open(path)?;
    // A host may grant less, or a user have used up what it grants: then the pipe is smaller.
    let _ = fcntl_setpipe_size(&end, CAPACITY);
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_is_printed_while_nobody_reads_waits_for_the_next_reader() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ends, readers) = create(dir.path()).unwrap();
        drop(readers);
        // Nobody reads, and yet it is no broken pipe.
        ends.out.write_all(b"while away\n").unwrap();
        let mut readers = open(dir.path()).unwrap();
        ends.out.write_all(b"and after\n").unwrap();
        drop(ends);
        let mut read = String::new();
        readers.out.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "while away\nand after\n");
        remove(dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
