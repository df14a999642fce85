//! An allocator that counts what is in use.
#![expect(unsafe_code, reason = "an allocator's signature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that each allocation takes in glibc's heap: its header and its alignment with it.
const HEADER: usize = 8;
const ALIGNMENT: usize = 16;
const LEAST: usize = 32;

#[derive(Debug)]
pub(crate) struct Counted {
    n_bytes: AtomicUsize,
}

impl Counted {
    pub(crate) const fn new() -> Self {
        Self {
            n_bytes: AtomicUsize::new(0),
        }
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes.load(Ordering::Relaxed)
    }
}

fn room(size: usize) -> usize {
    (size + HEADER).next_multiple_of(ALIGNMENT).max(LEAST)
}

// SAFETY: everything is the system's, counted.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.n_bytes
            .fetch_add(room(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.n_bytes
            .fetch_sub(room(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}
