//! What was ever acknowledged, kept beside the database: how a log that has lost its end is told
//! from one whose end was never acknowledged (02-store §6).
//!
//! RocksDB replays its write-ahead log up to the first bad record and says nothing about the rest.
//! That is right for a torn tail and wrong for a damaged middle; only this mark tells them apart.
//!
//! `high-water` holds two slots of 4 KiB, written in turn: a torn write leaves the other one
//! whole. Slot: magic, sequence, flags, vote (term, node), last index, crc32c; big-endian. It is
//! written after the log's own sync and before the callbacks, so it is never ahead of the log. It
//! survives the death of the process at once, and that of the host when the kernel has written it
//! back; only lowering it is synced, because the tail that it stood for is discarded next.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::type_config::{LeaderId, Vote};

const FILE: &str = "high-water";
const MAGIC: &[u8; 8] = b"NHMARK01";
const SLOT_BYTES: u64 = 4_096;
const N_SLOTS: u64 = 2;
/// Magic and six integers, then the checksum.
const BODY_BYTES: usize = 8 + 6 * 8;
const HAS_VOTE: u64 = 1;
const VOTE_COMMITTED: u64 = 2;
const HAS_LAST: u64 = 4;

/// The newest vote and log index that were durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    pub vote: Option<Vote>,
    pub last: Option<u64>,
}

impl Mark {
    pub(crate) fn is_blank(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug)]
pub(crate) struct HighWater {
    file: File,
    sequence: u64,
    mark: Mark,
}

/// What stands in a directory.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    Mark(HighWater),
    /// Neither slot is whole: the file cannot be believed.
    Damaged,
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

impl HighWater {
    /// # Errors
    /// The file is there but cannot be read.
    pub(crate) fn find(dir: &Path) -> io::Result<Found> {
        let file = match OpenOptions::new().read(true).write(true).open(path(dir)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let newest = (0..N_SLOTS)
            .filter_map(|slot| {
                let mut bytes = [0; BODY_BYTES + 4];
                file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
                decode(&bytes)
            })
            .max_by_key(|(sequence, _)| *sequence);
        Ok(match newest {
            Some((sequence, mark)) => Found::Mark(Self {
                file,
                sequence,
                mark,
            }),
            None => Found::Damaged,
        })
    }

    /// Makes a blank mark, durably and whole, with all its blocks: writing it later takes no space.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let temporary = path(dir).with_extension("new");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&temporary)?;
        file.write_all_at(&vec![0; (N_SLOTS * SLOT_BYTES) as usize], 0)?;
        let mut blank = Self {
            file,
            sequence: 0,
            mark: Mark::default(),
        };
        blank.write(Mark::default())?;
        blank.file.sync_all()?;
        std::fs::rename(temporary, path(dir))?;
        File::open(dir)?.sync_all()?;
        Ok(blank)
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Raises the mark to what has just been synced.
    pub(crate) fn write(&mut self, mark: Mark) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let bytes = encode(sequence, &mark);
        self.file
            .write_all_at(&bytes, sequence % N_SLOTS * SLOT_BYTES)?;
        (self.sequence, self.mark) = (sequence, mark);
        Ok(())
    }

    /// Lowers the mark, durably, before the tail above it is discarded: the other order would make
    /// a crash in between look like a lost acknowledged tail.
    pub(crate) fn lower(&mut self, mark: Mark) -> io::Result<()> {
        self.write(mark)?;
        self.file.sync_data()
    }
}

fn encode(sequence: u64, mark: &Mark) -> Vec<u8> {
    let (term, node_id) = mark
        .vote
        .map_or((0, 0), |vote| (vote.leader_id.term, vote.leader_id.node_id));
    let mut flags = 0;
    if mark.vote.is_some() {
        flags |= HAS_VOTE;
    }
    if mark.vote.is_some_and(|vote| vote.committed) {
        flags |= VOTE_COMMITTED;
    }
    if mark.last.is_some() {
        flags |= HAS_LAST;
    }
    let mut bytes = MAGIC.to_vec();
    let fields = [sequence, flags, term, node_id, mark.last.unwrap_or(0), 0];
    fields
        .iter()
        .for_each(|field| bytes.extend_from_slice(&field.to_be_bytes()));
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, Mark)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body).to_be_bytes() != *crc {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC.as_slice())?;
    let mut field = || {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        rest = tail;
        Some(u64::from_be_bytes(*head))
    };
    let (sequence, flags) = (field()?, field()?);
    let (term, node_id, last) = (field()?, field()?, field()?);
    let vote = (flags & HAS_VOTE != 0).then_some(Vote {
        leader_id: LeaderId { term, node_id },
        committed: flags & VOTE_COMMITTED != 0,
    });
    let last = (flags & HAS_LAST != 0).then_some(last);
    Some((sequence, Mark { vote, last }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(term: u64, last: u64) -> Mark {
        Mark {
            vote: Some(Vote {
                leader_id: LeaderId { term, node_id: 2 },
                committed: true,
            }),
            last: Some(last),
        }
    }

    fn read(dir: &Path) -> Option<Mark> {
        match HighWater::find(dir).unwrap() {
            Found::Mark(found) => Some(found.mark()),
            Found::Nothing | Found::Damaged => None,
        }
    }

    #[test]
    fn the_newest_mark_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(HighWater::find(dir.path()), Ok(Found::Nothing)));
        let mut water = HighWater::create(dir.path()).unwrap();
        assert!(read(dir.path()).unwrap().is_blank());
        for last in 1..=5 {
            water.write(mark(3, last)).unwrap();
            assert_eq!(read(dir.path()), Some(mark(3, last)));
        }
        water.lower(mark(4, 2)).unwrap();
        assert_eq!(read(dir.path()), Some(mark(4, 2)));
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before_and_two_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut water = HighWater::create(dir.path()).unwrap();
        water.write(mark(3, 7)).unwrap();
        water.write(mark(3, 8)).unwrap();
        let tear = |sequence: u64| {
            let at = sequence % N_SLOTS * SLOT_BYTES + 20;
            water.file.write_all_at(&[0xff], at).unwrap();
        };
        tear(water.sequence);
        assert_eq!(read(dir.path()), Some(mark(3, 7)));
        tear(water.sequence - 1);
        assert!(matches!(HighWater::find(dir.path()), Ok(Found::Damaged)));
    }
}
