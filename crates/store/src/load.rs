//! Reads the rows of the state out of the database, while other threads prove them: each row must
//! be one that this build can read, which takes most of the time of a start.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use nihilo_host::Threads;
use nihilo_machine::State;
use nihilo_machine::rows::{ReadRows, RowError};
use parking_lot::Mutex;

use crate::disk::Rows;

/// Rows that a thread takes at a time.
const BATCH_ROWS: usize = 512;
/// Batches that wait for a thread, at most.
const MAX_WAITING: usize = 8;
/// Threads that prove rows, at most: one reads for all of them.
const MAX_WORKERS: usize = 8;

/// # Errors
/// The database cannot be read, or a row is one that this build does not know, in words.
pub(crate) fn load_state(
    rows: &(impl Rows + ?Sized),
    family: &str,
    threads: Threads,
) -> Result<State, String> {
    let parts = match threads {
        Threads::Own => read_with_workers(rows, family)?,
        Threads::Callers => vec![read_alone(rows, family)?],
    };
    State::from_read(parts).map_err(|error| error.to_string())
}

fn read_alone(rows: &(impl Rows + ?Sized), family: &str) -> Result<ReadRows, String> {
    let mut read = ReadRows::default();
    rows.scan(family, &[], &mut |key, value| {
        let added = read.add(key, value);
        added.map_err(|error| describe(&error))?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(read)
}

fn read_with_workers(rows: &(impl Rows + ?Sized), family: &str) -> Result<Vec<ReadRows>, String> {
    let n_workers = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS));
    let (sender, receiver) = sync_channel(MAX_WAITING);
    let receiver = Arc::new(Mutex::new(receiver));
    let mut parts = Vec::new();
    thread::scope(|scope| {
        let worker = || {
            let receiver = receiver.clone();
            scope.spawn(move || prove_all(&receiver))
        };
        let workers: Vec<_> = (0..n_workers).map(|_| worker()).collect();
        // With the last worker the channel is gone: were they all to panic, nobody would be waited for.
        drop(receiver);
        let scanned = send_all(rows, family, sender);
        for worker in workers {
            parts.extend(worker.join().expect("reading rows does not panic"));
        }
        scanned
    })?;
    parts.sort_by_key(|(number, _)| *number);
    let parts = parts.into_iter().map(|(_, part)| part);
    parts
        .collect::<Result<_, _>>()
        .map_err(|error| describe(&error))
}

fn send_all(
    rows: &(impl Rows + ?Sized),
    family: &str,
    sender: SyncSender<Batch>,
) -> Result<(), String> {
    let mut batch = Batch::default();
    // Fails only if a worker panicked, which is told when it is joined.
    let send = |batch| drop(sender.send(batch));
    rows.scan(family, &[], &mut |key, value| {
        batch.push(key, value);
        if batch.ends.len() >= BATCH_ROWS {
            let next = batch.next();
            send(std::mem::replace(&mut batch, next));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    send(batch);
    Ok(())
}

type Part = (usize, Result<ReadRows, RowError>);

/// Goes on after an error: the reader would wait for ever otherwise.
fn prove_all(receiver: &Mutex<Receiver<Batch>>) -> Vec<Part> {
    // One waits for a batch, the others for the lock.
    let next = || receiver.lock().recv().ok();
    std::iter::from_fn(next)
        .map(|batch| (batch.number, batch.read()))
        .collect()
}

fn describe(error: &RowError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Rows that follow each other, in one piece of memory.
#[derive(Debug, Default)]
struct Batch {
    number: usize,
    bytes: Vec<u8>,
    /// Where each key and each value ends.
    ends: Vec<(usize, usize)>,
}

impl Batch {
    /// The empty one that follows it, with as much room.
    fn next(&self) -> Self {
        Self {
            number: self.number + 1,
            bytes: Vec::with_capacity(self.bytes.len()),
            ends: Vec::with_capacity(self.ends.len()),
        }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let end_of_key = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((end_of_key, self.bytes.len()));
    }

    fn read(&self) -> Result<ReadRows, RowError> {
        let mut read = ReadRows::default();
        let mut begin = 0;
        for &(end_of_key, end) in &self.ends {
            read.add(&self.bytes[begin..end_of_key], &self.bytes[end_of_key..end])?;
            begin = end;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::disk::Visit;

    /// Rows of one family.
    struct Table(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Rows for Table {
        fn get(&self, _: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(&self, _: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String> {
            for (key, value) in self.0.range(from.to_vec()..) {
                if row(key, value)?.is_break() {
                    break;
                }
            }
            Ok(())
        }

        fn has_family(&self, _: &str) -> bool {
            true
        }
    }

    fn services(n: usize) -> Table {
        let row = |n: usize| {
            let key = format!("service\0default\0s-{n:06}").into_bytes();
            let value = format!(
                r#"{{"apiVersion":"serving.knative.dev/v1","kind":"Service","metadata":{{"name":"s-{n:06}","namespace":"default"}},"spec":{{"template":{{"spec":{{"containers":[]}}}}}}}}"#
            );
            (key, value.into_bytes())
        };
        Table((0..n).map(row).collect())
    }

    #[test]
    fn many_batches_make_the_state_that_one_thread_makes() {
        let table = services(MAX_WAITING * BATCH_ROWS * 3 + 7);
        let state = load_state(&table, "state", Threads::Own).unwrap();
        assert_eq!(state.n_services(), table.0.len());
        let alone = load_state(&table, "state", Threads::Callers).unwrap();
        assert_eq!(state.digest(), alone.digest());
    }

    #[test]
    fn one_row_that_cannot_be_read_refuses_all_and_is_named() {
        let mut table = services(MAX_WAITING * BATCH_ROWS * 3);
        *table.0.values_mut().next().unwrap() = b"{}".to_vec();
        for threads in [Threads::Own, Threads::Callers] {
            let text = load_state(&table, "state", threads).unwrap_err();
            assert!(
                text.contains("s-000000") && text.contains("apiVersion"),
                "{text}"
            );
        }
    }
}
