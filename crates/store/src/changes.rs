//! The change log: what happened to objects, by log index, for watches (02-store §9).
//!
//! The newest changes are held in memory; the database holds more of them, so that a watch goes on
//! after a restart, after a snapshot install, and on another node. What is too old is dropped in
//! blocks of whole entries, and whoever asks for it is told so.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use nihilo_machine::ObjectEvent;
use nihilo_machine::state::ObjectChange;
use nihilo_types::id::LogIndex;

use crate::disk::Rows;
use crate::keys;

/// Changes held in memory, at most.
pub const MAX_IN_MEMORY: usize = 8_192;
/// Rows and bytes held in the database, at most, give or take one block.
pub const MAX_ROWS: usize = 100_000;
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Rows that are dropped together.
const BLOCK_ROWS: usize = 1_000;
/// Changes handed out in one answer from the database, at most, but for whole entries.
const PAGE_ROWS: usize = 1_024;
/// Changes and bytes of them that a snapshot carries, at most.
const MAX_IN_SNAPSHOT_BYTES: usize = 8 * 1024 * 1024;

/// The version asked for is too old to follow on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("versions up to {oldest} are compacted")]
pub struct Compacted {
    pub oldest: LogIndex,
}

/// One row of the database: key and value.
pub(crate) type ChangeRow = (Vec<u8>, Vec<u8>);

/// Changes in order, and up to where they are all that there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    pub events: Vec<ObjectEvent>,
    pub upto: LogIndex,
}

/// What memory knows of the change log.
#[derive(Debug)]
pub(crate) struct ChangeLog {
    ring: VecDeque<ObjectEvent>,
    /// The ring holds every change after this entry.
    ring_after: LogIndex,
    /// The database holds every change after this entry.
    floor: LogIndex,
    blocks: VecDeque<Block>,
}

/// Rows that follow each other in the database.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    last: LogIndex,
    n_rows: usize,
    n_bytes: usize,
}

/// Where the changes after some entry are.
pub(crate) enum Place {
    Memory(Vec<ObjectEvent>),
    /// In the database, up to this entry; from there on in memory.
    Database {
        upto: LogIndex,
    },
}

impl ChangeLog {
    /// The log as the database has it; nothing is in memory yet.
    pub(crate) fn new(applied: LogIndex, floor: LogIndex, blocks: VecDeque<Block>) -> Self {
        Self {
            ring: VecDeque::new(),
            ring_after: applied,
            floor,
            blocks,
        }
    }

    pub(crate) fn floor(&self) -> LogIndex {
        self.floor
    }

    /// # Errors
    /// Some of the changes after `index` are not kept any more.
    pub(crate) fn find(&self, index: LogIndex) -> Result<Place, Compacted> {
        if index >= self.ring_after {
            let first = self.ring.partition_point(|event| event.index <= index);
            return Ok(Place::Memory(self.ring.range(first..).cloned().collect()));
        }
        if index < self.floor {
            return Err(Compacted { oldest: self.floor });
        }
        Ok(Place::Database {
            upto: self.ring_after,
        })
    }

    /// Takes the changes of applied entries in; returns the rows to write.
    pub(crate) fn push(&mut self, events: Vec<ObjectEvent>) -> Vec<ChangeRow> {
        let rows = encode(&events);
        self.count(&rows, events.last().map(|event| event.index));
        self.ring.extend(events);
        while self.ring.len() > MAX_IN_MEMORY {
            let Some(dropped) = self.ring.pop_front() else {
                break;
            };
            self.ring_after = dropped.index;
            // The rest of that entry's changes go too: all or none of an entry is shown.
            while self
                .ring
                .front()
                .is_some_and(|event| event.index == dropped.index)
            {
                self.ring.pop_front();
            }
        }
        rows
    }

    /// Counts rows that stand in the database already.
    pub(crate) fn count_rows(&mut self, rows: &[ChangeRow]) {
        for row in rows {
            let index = row
                .0
                .first_chunk::<8>()
                .map(|bytes| u64::from_be_bytes(*bytes));
            self.count(std::slice::from_ref(row), index.map(LogIndex));
        }
    }

    pub(crate) fn into_blocks(self) -> VecDeque<Block> {
        self.blocks
    }

    fn count(&mut self, rows: &[ChangeRow], last: Option<LogIndex>) {
        let Some(last) = last else { return };
        if self
            .blocks
            .back()
            .is_none_or(|block| block.n_rows >= BLOCK_ROWS)
        {
            self.blocks.push_back(Block::default());
        }
        if let Some(block) = self.blocks.back_mut() {
            block.last = last;
            block.n_rows += rows.len();
            block.n_bytes += rows
                .iter()
                .map(|row| row.0.len() + row.1.len())
                .sum::<usize>();
        }
    }

    /// Drops the oldest blocks while there is too much; returns the new floor when it has moved.
    pub(crate) fn trim(&mut self) -> Option<LogIndex> {
        let total = |blocks: &VecDeque<Block>| {
            let rows: usize = blocks.iter().map(|block| block.n_rows).sum();
            let bytes: usize = blocks.iter().map(|block| block.n_bytes).sum();
            (rows, bytes)
        };
        let before = self.floor;
        loop {
            let (n_rows, n_bytes) = total(&self.blocks);
            if (n_rows <= MAX_ROWS && n_bytes <= MAX_BYTES) || self.blocks.len() <= 1 {
                break;
            }
            let Some(dropped) = self.blocks.pop_front() else {
                break;
            };
            self.floor = self.floor.max(dropped.last);
        }
        (self.floor > before).then_some(self.floor)
    }

    /// What a snapshot carries: the newest changes in memory, and after which entry they are all.
    pub(crate) fn for_snapshot(&self) -> (LogIndex, Vec<ObjectEvent>) {
        let mut n_bytes = 0;
        let mut after = self.ring_after;
        let mut first = self.ring.len();
        for (i, event) in self.ring.iter().enumerate().rev() {
            n_bytes += encode_value(event).len();
            if n_bytes > MAX_IN_SNAPSHOT_BYTES {
                after = event.index;
                break;
            }
            first = i;
        }
        let kept = self.ring.range(first..).filter(|event| event.index > after);
        (after, kept.cloned().collect())
    }
}

/// Rows of changes, in order: the key is the entry's index and the number within the entry.
pub(crate) fn encode(events: &[ObjectEvent]) -> Vec<ChangeRow> {
    let mut rows: Vec<ChangeRow> = Vec::with_capacity(events.len());
    let (mut index, mut sub) = (LogIndex(0), 0u32);
    for event in events {
        sub = if event.index == index { sub + 1 } else { 0 };
        index = event.index;
        rows.push((key(index, sub), encode_value(event)));
    }
    rows
}

fn encode_value(event: &ObjectEvent) -> Vec<u8> {
    serde_json::to_vec(&event.object).expect("objects hold only string-keyed maps")
}

fn key(index: LogIndex, sub: u32) -> Vec<u8> {
    [&index.0.to_be_bytes()[..], &sub.to_be_bytes()].concat()
}

/// The first key after every row of `index`.
pub(crate) fn key_after(index: LogIndex) -> Vec<u8> {
    key(LogIndex(index.0 + 1), 0)
}

/// # Errors
/// A row that this build cannot read.
pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<ObjectEvent, String> {
    let (index, _) = key
        .split_first_chunk::<8>()
        .ok_or("a change has a malformed key")?;
    let object: ObjectChange = serde_json::from_slice(value)
        .map_err(|error| format!("change {index:?} does not decode: {error}"))?;
    Ok(ObjectEvent {
        index: LogIndex(u64::from_be_bytes(*index)),
        object,
    })
}

/// Reads one page of the changes after `from` and up to `upto` out of the database.
///
/// # Errors
/// The database cannot be read, in words.
pub(crate) fn read_page(
    rows: &(impl Rows + ?Sized),
    from: LogIndex,
    upto: LogIndex,
) -> Result<Changes, String> {
    let mut page = Changes {
        events: Vec::new(),
        upto,
    };
    rows.scan(keys::CHANGES, &key_after(from), &mut |key, value| {
        let event = decode(key, value)?;
        if event.index > upto {
            return Ok(ControlFlow::Break(()));
        }
        let last = page.events.last().map(|last| last.index);
        if last != Some(event.index) && page.events.len() >= PAGE_ROWS {
            page.upto = last.unwrap_or(from);
            return Ok(ControlFlow::Break(()));
        }
        page.events.push(event);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(page)
}

/// Counts what the database holds.
///
/// # Errors
/// It cannot be read, in words.
pub(crate) fn load_blocks(rows: &(impl Rows + ?Sized)) -> Result<VecDeque<Block>, String> {
    let mut counted = ChangeLog::new(LogIndex(0), LogIndex(0), VecDeque::new());
    rows.scan(keys::CHANGES, &[], &mut |key, value| {
        let index = key
            .first_chunk::<8>()
            .ok_or("a change has a malformed key")?;
        let index = LogIndex(u64::from_be_bytes(*index));
        counted.count(&[(key.to_vec(), value.to_vec())], Some(index));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(counted.blocks)
}

#[cfg(test)]
mod tests {
    use nihilo_types::id::ObjectKey;

    use super::*;

    fn event(index: u64) -> ObjectEvent {
        let revision = ObjectKey::new("default", format!("r-{index}"));
        ObjectEvent {
            index: LogIndex(index),
            object: ObjectChange::Scale { revision },
        }
    }

    fn log() -> ChangeLog {
        ChangeLog::new(LogIndex(0), LogIndex(0), VecDeque::new())
    }

    #[test]
    fn rows_read_back_and_sort_by_entry_and_number() {
        let events = [event(7), event(7), event(300)];
        let rows = encode(&events);
        assert!(rows.is_sorted());
        assert!(rows[1].0 < key_after(LogIndex(7)) && key_after(LogIndex(7)) < rows[2].0);
        let again: Vec<_> = rows.iter().map(|(k, v)| decode(k, v).unwrap()).collect();
        assert_eq!(again, events);
    }

    #[test]
    fn memory_keeps_whole_entries_and_says_where_older_ones_are() {
        let mut log = log();
        let n = MAX_IN_MEMORY as u64;
        // Two changes an entry.
        log.push((0..n).map(|i| event(1 + i / 2)).collect());
        log.push(vec![event(n)]);
        assert_eq!(log.ring_after, LogIndex(1));
        assert!(
            matches!(log.find(LogIndex(1)), Ok(Place::Memory(events)) if events[0].index.0 == 2)
        );
        let upto = LogIndex(1);
        assert!(matches!(log.find(LogIndex(0)), Ok(Place::Database { upto: at }) if at == upto));
        assert!(matches!(log.find(LogIndex(n)), Ok(Place::Memory(events)) if events.is_empty()));
    }

    #[test]
    fn what_is_too_much_goes_in_blocks_and_is_told() {
        let mut log = log();
        for i in 0..=(MAX_ROWS as u64) {
            log.push(vec![event(i + 1)]);
        }
        assert_eq!(log.trim(), Some(LogIndex(BLOCK_ROWS as u64)));
        assert_eq!(log.trim(), None);
        let oldest = LogIndex(BLOCK_ROWS as u64);
        assert_eq!(log.find(LogIndex(5)).err(), Some(Compacted { oldest }));
        assert!(log.find(oldest).is_ok());
    }

    #[test]
    fn a_snapshot_carries_whole_entries() {
        let mut log = log();
        log.push(vec![event(1), event(2), event(2), event(3)]);
        let (after, events) = log.for_snapshot();
        assert_eq!((after, events.len()), (LogIndex(0), 4));
    }
}
