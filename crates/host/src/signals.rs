//! Signals that come while one program takes another's place in the same process: held back in the thread
//! that does it, they wait in the kernel, and the next program hears them once it listens.
//!
//! ```text
//! gather ── put_back what was heard too late ── execve ──> listens ── let_through ──> hears them
//! ```

use std::ffi::{c_int, c_ulong};
use std::sync::atomic::{AtomicU64, Ordering};

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
    fn signal(signal: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn pthread_self() -> c_ulong;
    fn pthread_kill(thread: c_ulong, signal: c_int) -> c_int;
}

/// The thread to which the others pass on what they are given.
static HOLDER: AtomicU64 = AtomicU64::new(0);

#[allow(unsafe_code)]
extern "C" fn pass_on(signal: c_int) {
    // SAFETY: the holder lives until the process is another program, and the call may be made by a handler
    // (signal-safety(7)).
    unsafe { pthread_kill(HOLDER.load(Ordering::Relaxed), signal) };
}

/// This thread is not interrupted by them any more, nor is what it starts. They are kept for it, or for the
/// program that it becomes, one of each.
pub fn hold_back(signals: &[Signal]) {
    change(SIG_BLOCK, signals);
}

/// As [`hold_back`], for good: a thread of this process that holds nothing back, and so is given one of them,
/// passes it on to this thread. Whoever listened to them does not any more.
#[allow(unsafe_code)]
pub fn gather(signals: &[Signal]) {
    hold_back(signals);
    // SAFETY: both take numbers and an address, and the handler calls nothing but what a handler may call.
    unsafe {
        HOLDER.store(pthread_self(), Ordering::Relaxed);
        for one in signals {
            signal(one.as_raw(), pass_on);
        }
    }
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

    #[test]
    fn what_another_thread_is_given_is_passed_on_to_the_one_that_gathers() {
        let signal = Signal::WINCH;
        gather(&[signal]);
        // It inherits what is held back.
        std::thread::spawn(move || {
            let_through(&[signal]);
            put_back(signal);
        })
        .join()
        .unwrap();
        assert!(holds("SigPnd:", signal));
    }
}
