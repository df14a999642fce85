//! Snapshots as a logical dump of rows, independent of RocksDB's version.
//!
//! `NHSNAP01`, then per row two big-endian `u32` lengths, key and value, then a trailer: a zero
//! key length, the number of rows as `u64`, and the crc32c of everything before it.

use bytes::Bytes;

const MAGIC: &[u8; 8] = b"NHSNAP01";

/// Key and value of one row.
pub type Row = (Vec<u8>, Vec<u8>);

/// A dump that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged snapshot: {0}")]
pub struct Damaged(&'static str);

/// The dump of one state, and where in the log it stands (in the meta beside it).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump(pub Bytes);

impl Dump {
    pub fn write(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let mut bytes = MAGIC.to_vec();
        let mut n_rows: u64 = 0;
        for (key, value) in rows {
            for part in [&key, &value] {
                let length = u32::try_from(part.len()).expect("rows are at most a few MiB");
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            bytes.extend_from_slice(&key);
            bytes.extend_from_slice(&value);
            n_rows += 1;
        }
        bytes.extend_from_slice(&0u32.to_be_bytes());
        bytes.extend_from_slice(&n_rows.to_be_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        Self(bytes.into())
    }

    /// Reads and proves the whole dump.
    ///
    /// # Errors
    /// Anything missing, cut or changed.
    pub fn rows(&self) -> Result<Vec<Row>, Damaged> {
        let cut = || Damaged("it is cut");
        let (body, crc) = self.0.split_last_chunk::<4>().ok_or_else(cut)?;
        if crc32c::crc32c(body).to_be_bytes() != *crc {
            return Err(Damaged("checksum does not match"));
        }
        let mut rest = body
            .strip_prefix(MAGIC.as_slice())
            .ok_or(Damaged("unknown format"))?;
        let mut rows = Vec::new();
        loop {
            let key_length = take_u32(&mut rest).ok_or_else(cut)?;
            if key_length == 0 {
                break;
            }
            let value_length = take_u32(&mut rest).ok_or_else(cut)?;
            let key = take(&mut rest, key_length).ok_or_else(cut)?;
            let value = take(&mut rest, value_length).ok_or_else(cut)?;
            rows.push((key, value));
        }
        if rest != (rows.len() as u64).to_be_bytes() {
            return Err(Damaged("row count does not match"));
        }
        Ok(rows)
    }
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_be_bytes(*head))
}

fn take(rest: &mut &[u8], length: u32) -> Option<Vec<u8>> {
    let (head, tail) = rest.split_at_checked(length as usize)?;
    *rest = tail;
    Some(head.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump() -> Dump {
        Dump::write([(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), Vec::new())])
    }

    #[test]
    fn a_dump_reads_back() {
        let rows = dump().rows().unwrap();
        assert_eq!(
            rows,
            vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), Vec::new())]
        );
        assert_eq!(Dump::write([]).rows().unwrap(), vec![]);
    }

    #[test]
    fn any_flipped_or_missing_byte_is_found() {
        let whole = dump().0;
        for i in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[i] ^= 1;
            assert!(Dump(flipped.into()).rows().is_err(), "byte {i}");
            assert!(Dump(whole.slice(..i)).rows().is_err(), "cut at {i}");
        }
    }
}
