//! What a node takes from the machine under it: sockets, threads, the boot clock.
//!
//! The system's own everywhere but in simulations, which give theirs. The choice is made when a
//! process runs, not when it is built: one build serves both, and what is simulated is what ships.
//! `System` variants come first and cost one branch.

mod clock;
pub mod net;
pub mod planted;
pub mod signals;
pub mod sockets;
mod threads;

pub use clock::BootClock;
pub use net::{Listener, Net, Stream};
pub use threads::Threads;

/// The machine under one node; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Host {
    pub net: Net,
    pub threads: Threads,
    pub clock: BootClock,
}
