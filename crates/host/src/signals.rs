//! Signals that come while one program takes another's place in the same process: held back in the thread
//! that does it, they wait in the kernel, and the next program hears them once it listens.
//!
//! ```text
//! hold_back ── put_back what was heard too late ── execve ──> listens ── let_through ──> hears them
//! ```

use std::ffi::c_int;

use rustix::process::Signal;

/// `sigset_t` of Linux's C libraries: 1024 bits.
#[repr(C, align(8))]
struct Set([u64; 16]);

const SIG_BLOCK: c_int = 0;
const SIG_UNBLOCK: c_int = 1;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn sigemptyset(set: *mut Set) -> c_int;
    fn sigaddset(set: *mut Set, signal: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const Set, old: *mut Set) -> c_int;
    fn raise(signal: c_int) -> c_int;
}

/// This thread is not interrupted by them any more, nor is what it starts. They are kept for it, or for the
/// program that it becomes, one of each.
pub fn hold_back(signals: &[Signal]) {
    change(SIG_BLOCK, signals);
}

/// This thread takes them again, those that were held back first.
pub fn let_through(signals: &[Signal]) {
    change(SIG_UNBLOCK, signals);
}

/// Sends it to this thread, which holds it back.
#[allow(unsafe_code)]
pub fn put_back(signal: Signal) {
    // SAFETY: it takes a number and touches no memory of ours (raise(3)).
    let _cannot_fail = unsafe { raise(signal.as_raw()) };
}

#[allow(unsafe_code)]
fn change(how: c_int, signals: &[Signal]) {
    let mut set = Set([0; 16]);
    // SAFETY: each is given a set of its own that outlives the call and is as large as the C library's
    // (sigsetops(3), pthread_sigmask(3)); the old one is not asked for.
    unsafe {
        sigemptyset(&raw mut set);
        for signal in signals {
            sigaddset(&raw mut set, signal.as_raw());
        }
        pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `/proc` shows it of this thread.
    fn holds(what: &str, signal: Signal) -> bool {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        let bits = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        bits & (1 << (signal.as_raw() - 1)) != 0
    }

    /// One whose default is to be ignored.
    #[test]
    fn what_is_held_back_waits_until_it_is_let_through() {
        let signal = Signal::URG;
        hold_back(&[signal]);
        assert!(holds("SigBlk:", signal) && !holds("SigPnd:", signal));
        put_back(signal);
        assert!(holds("SigPnd:", signal));
        let_through(&[signal]);
        assert!(!holds("SigBlk:", signal) && !holds("SigPnd:", signal));
    }
}
