//! A bound on what stands before a file of a tar: names and records of any length, which the `tar` crate
//! reads into memory before anybody can look at their sizes.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

/// Of one entry: its names, of which a long one has 1 KiB, and extended attributes, which Linux bounds by
/// 64 KiB each.
pub(super) const MAX_HEAD_BYTES: u64 = 1024 * 1024;

/// A tar that is read within its [`Bound`].
#[derive(Debug)]
pub(super) struct Bounded<R> {
    tar: R,
    bound: Bound,
}

/// How many bytes may be read from now on.
#[derive(Debug, Clone)]
pub(super) struct Bound(Rc<Cell<u64>>);

impl Bound {
    /// What follows is the next entry's head.
    pub(super) fn begin_head(&self) {
        self.0.set(MAX_HEAD_BYTES);
    }

    /// What follows is something else, whose size its reader bounds.
    pub(super) fn end_head(&self) {
        self.0.set(u64::MAX);
    }
}

impl<R> Bounded<R> {
    /// Begins with the first head.
    pub(super) fn new(tar: R) -> (Self, Bound) {
        let bound = Bound(Rc::new(Cell::new(MAX_HEAD_BYTES)));
        let bounded = Self {
            tar,
            bound: bound.clone(),
        };
        (bounded, bound)
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bound.0.get();
        if left == 0 {
            return Err(io::Error::other(format!(
                "what stands before a file has more than {MAX_HEAD_BYTES} bytes"
            )));
        }
        let n_wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n_read = self.tar.read(&mut buffer[..n_wanted])?;
        self.bound.0.set(left - n_read as u64);
        Ok(n_read)
    }
}

impl<R: Seek> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.tar.seek(to)
    }
}
