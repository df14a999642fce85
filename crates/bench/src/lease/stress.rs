//! Busy loops: other work on the machine that wants all the CPU it can get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Rounds between two looks at whether it is over.
const ROUNDS: u32 = 1 << 20;

/// Ends its loops when dropped.
#[derive(Debug)]
pub(super) struct Stress {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Stress {
    pub(super) fn start(n_loops: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..n_loops).map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for round in 0..ROUNDS {
                        std::hint::black_box(round);
                    }
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A busy loop has nothing to fail with.
            drop(thread.join());
        }
    }
}
