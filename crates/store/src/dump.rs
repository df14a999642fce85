//! A state in one file: what a snapshot is, on disk, on the wire and in a backup. It does not depend
//! on RocksDB's version.
//!
//! `NHSNAP02`, then frames of at most about [`FRAME_BYTES`]: length and crc32c of the payload as
//! big-endian `u32`, then the payload. The first frame is the header message; the last one the
//! trailer: a zero byte, the number of rows and the crc32c over the payloads of all frames before
//! it. Each frame between holds whole rows: family, lengths of key and value, key, value.
//!
//! A file is read front to back, frame by frame, and never held in memory as a whole.

use std::io::{self, Read, Write};

use nihilo_wire::internal as pb;
use prost::Message;

const MAGIC: &[u8; 8] = b"NHSNAP02";
/// Rows are collected to frames of this size; a single large row makes a larger frame.
pub const FRAME_BYTES: usize = 64 * 1024;
/// Far above any row: an object has at most a mebibyte.
const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
const TRAILER: u8 = 0;

/// What a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    State = 1,
    /// The newest changes, for watches that go on after an install.
    Changes = 2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub family: Family,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// A file that is not a whole dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("cannot be read")]
    Io(#[from] io::Error),
    #[error("damaged: {0}")]
    Damaged(&'static str),
    #[error("unknown format; it was not written by `nihilo`, or by a newer one")]
    Format,
}

/// Writes a dump, frame by frame.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    frame: Vec<u8>,
    n_rows: u64,
    crc: u32,
}

impl<W: Write> Writer<W> {
    /// # Errors
    /// The output cannot be written.
    pub fn new(mut out: W, header: &pb::DumpHeader) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        let mut writer = Self {
            out,
            frame: Vec::with_capacity(FRAME_BYTES * 2),
            n_rows: 0,
            crc: 0,
        };
        writer.frame = header.encode_to_vec();
        writer.end_frame()?;
        Ok(writer)
    }

    /// # Errors
    /// The output cannot be written.
    pub fn row(&mut self, family: Family, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.frame.push(family as u8);
        for part in [key, value] {
            let length = u32::try_from(part.len()).map_err(io::Error::other)?;
            self.frame.extend_from_slice(&length.to_be_bytes());
        }
        self.frame.extend_from_slice(key);
        self.frame.extend_from_slice(value);
        self.n_rows += 1;
        if self.frame.len() >= FRAME_BYTES {
            self.end_frame()?;
        }
        Ok(())
    }

    /// Writes the trailer and hands the output back; it is not synced here.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.frame.is_empty() {
            self.end_frame()?;
        }
        self.frame.push(TRAILER);
        self.frame.extend_from_slice(&self.n_rows.to_be_bytes());
        self.frame.extend_from_slice(&self.crc.to_be_bytes());
        self.end_frame()?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.frame.len()).map_err(io::Error::other)?;
        let crc = crc32c::crc32c(&self.frame);
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&crc.to_be_bytes())?;
        self.out.write_all(&self.frame)?;
        self.crc = crc32c::crc32c_append(self.crc, &self.frame);
        self.frame.clear();
        Ok(())
    }
}

/// Reads a dump, frame by frame; every byte is proven before it is handed out.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    pub header: pb::DumpHeader,
    n_rows: u64,
    crc: u32,
    /// The trailer was read, and was right.
    is_ended: bool,
}

impl<R: Read> Reader<R> {
    /// # Errors
    /// Not a dump, or its header is damaged.
    pub fn new(mut input: R) -> Result<Self, DumpError> {
        let mut magic = [0; MAGIC.len()];
        read_whole(&mut input, &mut magic)?;
        if &magic != MAGIC {
            return Err(DumpError::Format);
        }
        let mut reader = Self {
            input,
            header: pb::DumpHeader::default(),
            n_rows: 0,
            crc: 0,
            is_ended: false,
        };
        let frame = reader.frame()?;
        reader.crc = crc32c::crc32c_append(reader.crc, &frame);
        let header = pb::DumpHeader::decode(frame.as_slice());
        reader.header = header.map_err(|_| DumpError::Damaged("its header does not decode"))?;
        Ok(reader)
    }

    /// The rows of the next frame; `None` after the trailer, which proves that nothing is missing.
    ///
    /// # Errors
    /// Anything missing, cut or changed.
    pub fn rows(&mut self) -> Result<Option<Vec<Row>>, DumpError> {
        if self.is_ended {
            return Ok(None);
        }
        let frame = self.frame()?;
        if frame.first() == Some(&TRAILER) {
            return self.end(&frame).map(|()| None);
        }
        self.crc = crc32c::crc32c_append(self.crc, &frame);
        let mut rest = frame.as_slice();
        let mut rows = Vec::new();
        while !rest.is_empty() {
            rows.push(row(&mut rest).ok_or(DumpError::Damaged("a row is cut"))?);
        }
        self.n_rows += rows.len() as u64;
        Ok(Some(rows))
    }

    /// Reads to the end without keeping anything: is it whole?
    ///
    /// # Errors
    /// Anything missing, cut or changed.
    pub fn prove(mut self) -> Result<pb::DumpHeader, DumpError> {
        while self.rows()?.is_some() {}
        Ok(self.header)
    }

    fn end(&mut self, trailer: &[u8]) -> Result<(), DumpError> {
        let mut wanted = vec![TRAILER];
        wanted.extend_from_slice(&self.n_rows.to_be_bytes());
        wanted.extend_from_slice(&self.crc.to_be_bytes());
        if trailer != wanted {
            return Err(DumpError::Damaged("rows are missing"));
        }
        let mut more = [0];
        match self.input.read(&mut more)? {
            0 => {
                self.is_ended = true;
                Ok(())
            }
            _ => Err(DumpError::Damaged("something follows its end")),
        }
    }

    fn frame(&mut self) -> Result<Vec<u8>, DumpError> {
        let mut head = [0; 8];
        read_whole(&mut self.input, &mut head)?;
        let [a, b, c, d, crc @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length == 0 || length > MAX_FRAME_BYTES {
            return Err(DumpError::Damaged("a frame has no possible length"));
        }
        let mut frame = vec![0; length];
        read_whole(&mut self.input, &mut frame)?;
        if crc32c::crc32c(&frame) != u32::from_be_bytes(crc) {
            return Err(DumpError::Damaged("a checksum does not match"));
        }
        Ok(frame)
    }
}

fn read_whole(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), DumpError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => DumpError::Damaged("it is cut"),
        _ => DumpError::Io(error),
    })
}

fn row(rest: &mut &[u8]) -> Option<Row> {
    let family = match take(rest, 1)? {
        [1] => Family::State,
        [2] => Family::Changes,
        _ => return None,
    };
    let mut length = || {
        let bytes = take(rest, 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?) as usize)
    };
    let (key_length, value_length) = (length()?, length()?);
    let key = take(rest, key_length)?.to_vec();
    let value = take(rest, value_length)?.to_vec();
    Some(Row { family, key, value })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> pb::DumpHeader {
        pb::DumpHeader {
            cluster_id: "test".into(),
            ..pb::DumpHeader::default()
        }
    }

    fn dump(n_rows: u64) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        for n in 0..n_rows {
            let family = if n % 2 == 0 {
                Family::State
            } else {
                Family::Changes
            };
            writer
                .row(family, &n.to_be_bytes(), &vec![7; 1_000])
                .unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(pb::DumpHeader, Vec<Row>), DumpError> {
        let mut reader = Reader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(rows) = reader.rows()? {
            all.extend(rows);
        }
        assert!(reader.rows()?.is_none(), "an end stays an end");
        Ok((reader.header, all))
    }

    #[test]
    fn a_dump_reads_back_in_frames() {
        let (found, rows) = read(&dump(200)).unwrap();
        assert_eq!((found, rows.len()), (header(), 200));
        assert_eq!(rows[3].family, Family::Changes);
        assert_eq!(rows[199].key, 199u64.to_be_bytes());
        assert!(read(&dump(0)).unwrap().1.is_empty());
    }

    #[test]
    fn any_flipped_missing_or_added_byte_is_found() {
        let whole = dump(3);
        for i in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[i] ^= 1;
            assert!(read(&flipped).is_err(), "byte {i}");
            assert!(read(&whole[..i]).is_err(), "cut at {i}");
        }
        assert!(read(&[&whole[..], &[0]].concat()).is_err());
        // A frame that is whole by itself, in a dump that it does not belong to.
        let (two, three) = (dump(70), dump(140));
        let mut spliced = two.clone();
        spliced.truncate(two.len() - 100);
        spliced.extend_from_slice(&three[spliced.len()..]);
        assert!(read(&spliced).is_err());
    }
}
