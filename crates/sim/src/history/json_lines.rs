//! Reading any record file: one JSON value a line, blank lines skipped.

use std::io::{self, BufRead};

use serde::de::DeserializeOwned;

/// Longest line that is read: an event is well below 4 KiB, so more is not a record of ours.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// A file that is not a sequence of records.
#[derive(Debug, thiserror::Error)]
pub enum JsonLinesError {
    #[error("line {line} cannot be read")]
    Io { line: u64, source: io::Error },
    #[error("line {line} is longer than {MAX_LINE_BYTES} bytes")]
    TooLong { line: u64 },
    #[error("line {line} is not a record: {source}")]
    NotARecord {
        line: u64,
        source: serde_json::Error,
        /// The file ends within this line.
        is_torn: bool,
    },
}

/// Reads every line with its number, from 1.
///
/// # Errors
/// On the first line that does not decode, a torn last one included.
pub fn read<T: DeserializeOwned>(reader: impl BufRead) -> Result<Vec<(u64, T)>, JsonLinesError> {
    read_whole_lines(reader, false)
}

/// As [`read`], but a last line without its end that does not decode is left out: the writer was
/// killed, or lost power, in the middle of it.
///
/// # Errors
/// On the first other line that does not decode.
pub fn read_torn<T: DeserializeOwned>(
    reader: impl BufRead,
) -> Result<Vec<(u64, T)>, JsonLinesError> {
    read_whole_lines(reader, true)
}

fn read_whole_lines<T: DeserializeOwned>(
    mut reader: impl BufRead,
    may_be_torn: bool,
) -> Result<Vec<(u64, T)>, JsonLinesError> {
    let mut records = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let n_read = io::Read::take(&mut reader, MAX_LINE_BYTES as u64)
            .read_until(b'\n', &mut text)
            .map_err(|source| JsonLinesError::Io { line, source })?;
        if n_read == 0 {
            break;
        }
        let is_torn = text.last() != Some(&b'\n');
        if is_torn && n_read == MAX_LINE_BYTES {
            return Err(JsonLinesError::TooLong { line });
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&text) {
            Ok(record) => records.push((line, record)),
            Err(_) if is_torn && may_be_torn => break,
            Err(source) => {
                return Err(JsonLinesError::NotARecord {
                    line,
                    source,
                    is_torn,
                });
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_are_skipped_and_numbers_are_kept() {
        let read: Vec<(u64, u32)> = read("1\n\n3\n".as_bytes()).unwrap();
        assert_eq!(read, [(1, 1), (3, 3)]);
    }

    #[test]
    fn a_torn_tail_is_refused_unless_it_is_asked_for() {
        let torn = "{\"a\":1}\n{\"a\":";
        let error = read::<serde_json::Value>(torn.as_bytes()).unwrap_err();
        assert!(matches!(
            error,
            JsonLinesError::NotARecord {
                line: 2,
                is_torn: true,
                ..
            }
        ));
        assert_eq!(
            read_torn::<serde_json::Value>(torn.as_bytes())
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn damage_in_the_middle_is_never_taken_for_a_torn_tail() {
        assert!(read_torn::<u32>("1\nx\n3\n".as_bytes()).is_err());
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let long = "1".repeat(MAX_LINE_BYTES + 1);
        let error = read_torn::<serde_json::Value>(long.as_bytes()).unwrap_err();
        assert!(matches!(error, JsonLinesError::TooLong { line: 1 }));
    }
}
