//! HTTP/1.1: a blocking thread per connection.

use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow};

use super::{Load, Outcome, Pace};
use crate::http::{Connection, get};
use crate::proc;

pub(super) fn run(load: &Load, pace: impl FnOnce(Instant) -> Pace) -> anyhow::Result<Outcome> {
    let connections: Vec<_> = (0..load.n_clients)
        .map(|_| Connection::open(load.address))
        .collect::<Result<_, _>>()
        .with_context(|| format!("connect to {}", load.address))?;
    let request = get(&load.host);
    let start = Instant::now();
    let (pace, end) = (pace(start), start + load.lasts);
    let mut total = Outcome::empty()?;
    thread::scope(|scope| {
        let clients: Vec<_> = connections
            .into_iter()
            .map(|connection| {
                let (request, pace) = (&request, &pace);
                scope.spawn(move || {
                    proc::pin_this_thread(load.core)?;
                    proc::wake_this_thread_on_time();
                    client(connection, request, pace, end)
                })
            })
            .collect();
        for client in clients {
            let outcome = client.join().map_err(|_| anyhow!("a client panicked"))??;
            total.add(outcome)?;
        }
        anyhow::Ok(())
    })?;
    total.elapsed = start.elapsed();
    Ok(total)
}

/// One connection until the end, or until it breaks.
fn client(
    mut connection: Connection,
    request: &[u8],
    pace: &Pace,
    end: Instant,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::empty()?;
    loop {
        let due = pace.take();
        if due >= end {
            return Ok(outcome);
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let status = connection.exchange(request).map(|answer| answer.status);
        if !outcome.file(due, status.map_err(anyhow::Error::from)) {
            return Ok(outcome);
        }
    }
}
