//! Ranges of seeds, as command lines name them.

use std::ops::Range;

/// Reads `A..B`, B not included.
///
/// # Errors
/// Not that form, or not numbers.
pub fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("want A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(from)?..number(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_ends_that_are_numbers() {
        assert_eq!(range("3..7"), Ok(3..7));
        assert!(
            ["7", "..", "a..b", "3.."]
                .iter()
                .all(|text| range(text).is_err())
        );
    }
}
