//! Every random number of this process follows from its seed.
//!
//! Libraries draw theirs from the operating system: hash maps their keys, tokio its choices,
//! `rand` the seed of what decides election timeouts. The symbol by which all of them ask is
//! taken over here, in this binary alone, so that no library and no product code has to know.

#![expect(unsafe_code, reason = "the C signature of getrandom(2)")]

use std::cell::Cell;

thread_local! {
    /// One sequence for each thread: what another one draws, and when, must not show in the
    /// simulation's.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Starts this thread's sequence; before it, every thread draws from that of seed 0.
pub(crate) fn seed(seed: u64) {
    STATE.set(seed ^ 0x7f4a_7c15_9e37_79b9);
}

/// SplitMix64, as the rest of the simulation.
fn draw() -> u64 {
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Takes the place of the C library's function.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: by getrandom(2) the caller hands over `length` writable bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for chunk in bytes.chunks_mut(8) {
        let drawn = draw().to_ne_bytes();
        chunk.copy_from_slice(&drawn[..chunk.len()]);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
