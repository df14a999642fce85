//! Rows in memory, compressed. The form is this process's own: it stands in no log, no file and no
//! message, so that it may change with any build.

use std::fmt;
use std::sync::Arc;

use lz4_flex::block;

/// Words that rows are made of: what a row shares with these is not stored again. Rows are the
/// JSON of objects as `apply` writes them, so that the longest matches are whole runs of them.
const WORDS: &[u8] = include_bytes!("packed_words.txt");

/// The bytes of one row; a clone shares them.
#[derive(Clone)]
pub(crate) struct Packed(Arc<[u8]>);

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Packed").field(&self.0.len()).finish()
    }
}

impl Packed {
    pub(crate) fn new(row: &[u8]) -> Self {
        Self(block::compress_prepend_size_with_dict(row, WORDS).into())
    }

    pub(crate) fn unpack(&self) -> Vec<u8> {
        block::decompress_size_prepended_with_dict(&self.0, WORDS).expect("bytes that `new` made")
    }

    /// Whether they are the same bytes, not only equal ones.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number below `n`, the same for as long as the bytes live.
    pub(crate) fn place(&self, n: usize) -> usize {
        // Neighbours lie at least an allocation's alignment apart.
        let address = self.0.as_ptr().addr() >> 4;
        address % n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_row_comes_back() {
        for row in [
            &b""[..],
            b"{}",
            WORDS,
            &[0xff; 3],
            b"{\"metadata\":{\"name\":\"a\"}}",
        ] {
            assert_eq!(Packed::new(row).unpack(), row);
        }
    }
}
