//! Seeing at once that a booting instance is ready: close looks, which together stay cheap.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nihilo_host::Net;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Subject;
use super::check::{self, Check, Failure};
use crate::driver::Driver;

/// Shortest pause between two looks at whether the app listens.
const LOOK_MIN: Duration = Duration::from_micros(100);
/// A pause is this part of the time that the boot has taken so far, which bounds what is added to it,
/// up to the longest of its time ([`longest_pause`]).
const LOOK_PART: u32 = 10;
/// For so long a thread looks, since tokio's clock ticks by the millisecond.
const FINE_LOOKS: Duration = Duration::from_secs(1);
/// Boots that are looked at so closely at once, each by a thread.
const MAX_FINE_LOOKS: usize = 16;
/// What each further boot adds to the pauses of all: ten times the cost of a look, so that all of
/// them together take a tenth of a core.
const PAUSE_PER_BOOT: Duration = Duration::from_micros(150);
const LOOK_MAX: Duration = Duration::from_millis(100);
/// On a network that is simulated a look costs what a request does, and nobody waits in earnest.
const SIMULATED_MAX: Duration = Duration::from_millis(10);
/// A loopback dial is answered at once, unless the app's backlog is full.
const LOOK_LIMIT: Duration = Duration::from_millis(10);
/// What accepts and does not answer a question is asked again after this; as Kubernetes's default.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// Longest pause between two questions, and how many times a question's own time a pause is.
const ASK_PAUSE_MAX: Duration = Duration::from_millis(50);
const ASK_PART: u32 = 9;

/// All instances of the agent that are looked at now.
#[derive(Debug, Clone)]
pub(crate) struct Looks {
    fine: Arc<Semaphore>,
    n_boots: Arc<AtomicU32>,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            fine: Arc::new(Semaphore::new(MAX_FINE_LOOKS)),
            n_boots: Arc::default(),
        }
    }
}

/// One of them, until this is dropped.
struct Boot(Arc<AtomicU32>);

impl Looks {
    fn join(&self) -> Boot {
        self.n_boots.fetch_add(1, Ordering::Relaxed);
        Boot(self.n_boots.clone())
    }
}

impl Boot {
    fn pause_after(&self, elapsed: Duration) -> Duration {
        pause_after(elapsed, self.0.load(Ordering::Relaxed))
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Resolves once the check has passed `n_successes` times in a row; tells each failure to `note`.
pub(super) async fn until_it_passes<D: Driver>(
    subject: Subject<'_, D>,
    check: &Check,
    n_successes: u32,
    note: impl Fn(Failure),
) {
    if check.dials() {
        let (net, address) = (&subject.inner.host.net, check.address(subject.address));
        until_something_listens(net, &subject.inner.looks, address).await;
    }
    let boot = subject.inner.looks.join();
    let started = Instant::now();
    // That it listens was seen once already.
    let mut n_passed = u32::from(matches!(check, Check::Listens { .. }));
    while n_passed < n_successes {
        let asked = Instant::now();
        match check::once(subject, check, ASK_LIMIT).await {
            Ok(()) => n_passed += 1,
            Err(failure) => {
                n_passed = 0;
                note(failure);
                let rest = (asked.elapsed() * ASK_PART).min(ASK_PAUSE_MAX);
                tokio::time::sleep(boot.pause_after(started.elapsed()).max(rest)).await;
            }
        }
    }
}

/// Resolves once something accepts on the port.
async fn until_something_listens(net: &Net, looks: &Looks, address: SocketAddr) {
    let boot = looks.join();
    let started = Instant::now();
    // Finer than tokio's clock means a thread, and so the system's own network.
    if net.is_system() && closely(looks, address).await {
        return;
    }
    let address = address.to_string();
    while net.dial(&address).await.is_err() {
        let elapsed = started.elapsed();
        let pause = match net.is_system() {
            true => boot.pause_after(elapsed),
            false => (elapsed / LOOK_PART).clamp(LOOK_MIN, SIMULATED_MAX),
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether it was seen to listen by a thread of its own, where there is one left.
async fn closely(looks: &Looks, address: SocketAddr) -> bool {
    let Ok(permit) = looks.fine.clone().try_acquire_owned() else {
        return false;
    };
    let (asker, n_boots) = (Asker::default(), looks.n_boots.clone());
    let is_gone = asker.0.clone();
    let seen = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        listens_soon(address, &n_boots, &is_gone)
    });
    matches!(seen.await, Ok(true))
}

/// Tells the thread that nobody waits for it any more.
#[derive(Default)]
struct Asker(Arc<AtomicBool>);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn listens_soon(address: SocketAddr, n_boots: &AtomicU32, is_gone: &AtomicBool) -> bool {
    let started = std::time::Instant::now();
    while started.elapsed() < FINE_LOOKS && !is_gone.load(Ordering::Relaxed) {
        if TcpStream::connect_timeout(&address, LOOK_LIMIT)
            .is_ok_and(|stream| is_to_another(&stream))
        {
            return true;
        }
        let n_boots = n_boots.load(Ordering::Relaxed);
        std::thread::sleep(pause_after(started.elapsed(), n_boots));
    }
    false
}

/// A dial of a port that nobody listens on, and that the kernel gives out, may be given that very
/// port to dial from, and so reach itself.
fn is_to_another(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(from), Ok(to)) if from != to)
}

fn pause_after(elapsed: Duration, n_boots: u32) -> Duration {
    let own = (elapsed / LOOK_PART).clamp(LOOK_MIN, longest_pause(elapsed));
    let shared = PAUSE_PER_BOOT * n_boots.saturating_sub(1);
    own.max(shared).min(LOOK_MAX)
}

/// What is added to a boot at most, by how long it has taken (06-runtime §5.1).
fn longest_pause(elapsed: Duration) -> Duration {
    let ms = match elapsed.as_millis() {
        0..=249 => return Duration::from_micros(500),
        250..=999 => 1,
        1_000..=9_999 => 5,
        _ => 20,
    };
    Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_fine_at_first_and_cheap_when_there_are_many() {
        let pause_us = |elapsed_ms, n_boots| {
            let pause = pause_after(Duration::from_millis(elapsed_ms), n_boots);
            u64::try_from(pause.as_micros()).unwrap()
        };
        for (elapsed_ms, n_boots, want_us) in [
            (0, 1, 100),
            (2, 1, 200),
            (100, 1, 500),
            (500, 1, 1_000),
            (5_000, 1, 5_000),
            (60_000, 1, 20_000),
            (100, 4, 500),
            (100, 21, 3_000),
            (60_000, 21, 20_000),
            (0, 10_000, 100_000),
        ] {
            assert_eq!(
                pause_us(elapsed_ms, n_boots),
                want_us,
                "{elapsed_ms} {n_boots}"
            );
        }
    }

    #[tokio::test]
    async fn who_looks_is_counted_as_long_as_it_looks() {
        let looks = Looks::default();
        let n = || looks.n_boots.load(Ordering::Relaxed);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        until_something_listens(&Net::System, &looks, address).await;
        assert_eq!(n(), 0);
        drop(listener);
        let waiting = until_something_listens(&Net::System, &looks, address);
        let given_up = tokio::time::timeout(Duration::from_millis(20), waiting).await;
        assert!(given_up.is_err());
        // The thread that was left behind ends by itself, and gives its place back.
        let all = u32::try_from(MAX_FINE_LOOKS).unwrap();
        let back = tokio::time::timeout(FINE_LOOKS / 2, looks.fine.acquire_many(all)).await;
        assert!(back.is_ok());
        assert_eq!(n(), 0);
    }
}
