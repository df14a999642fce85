//! Quantities as Kubernetes writes them: `500m` of a cpu, `128Mi` of memory.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Longer texts are nobody's limit.
const MAX_CHARS: usize = 32;
/// Everything is counted in these parts of one, so that nothing is rounded on the way.
const NANO: u128 = 1_000_000_000;

/// A decimal number with an optional suffix, kept as it was written.
///
/// Suffixes: `n`, `u`, `m`, `k`, `M`, `G`, `T`, `P`, `E`, their powers of 1,024 `Ki` to `Ei`, or an
/// exponent such as `e3`. Negative ones are never valid here.
///
/// Source: k8s.io/apimachinery, `resource.Quantity`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

impl Quantity {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whole units, rounded up; `None` where the text is none or too large.
    pub fn units(&self) -> Option<u64> {
        u64::try_from(self.nano()?.div_ceil(NANO)).ok()
    }

    /// Thousandths, rounded up; `None` where the text is none or too large.
    pub fn milli(&self) -> Option<u64> {
        u64::try_from(self.nano()?.div_ceil(NANO / 1_000)).ok()
    }

    fn nano(&self) -> Option<u128> {
        if self.0.len() > MAX_CHARS {
            return None;
        }
        let end = self.0.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, suffix) = self.0.split_at(end.unwrap_or(self.0.len()));
        let (numerator, denominator) = scale(suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
        let places = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let parts = digits.checked_mul(numerator)?.checked_mul(NANO)?;
        Some(parts.div_ceil(denominator.checked_mul(places)?))
    }
}

/// What a suffix multiplies by, as a fraction.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1 << (10 * power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => Some((1_000, 1)),
        "M" => Some((1_000_000, 1)),
        "G" => Some((NANO, 1)),
        "T" => Some((NANO * 1_000, 1)),
        "P" => Some((NANO * 1_000_000, 1)),
        "E" => Some((NANO * NANO, 1)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number is a quantity too: `cpu: 2` and `cpu: 0.5` are what people write.
impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as `500m` or `128Mi`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_comes_to_units_and_thousandths() {
        let cases = [
            ("1", Some(1), Some(1_000)),
            ("0.5", Some(1), Some(500)),
            (".5", Some(1), Some(500)),
            ("5.", Some(5), Some(5_000)),
            ("250m", Some(1), Some(250)),
            ("100u", Some(1), Some(1)),
            ("128Mi", Some(128 << 20), Some(128_000 << 20)),
            ("1.5Gi", Some(3 << 29), Some(3_000 << 29)),
            ("128974848", Some(128_974_848), Some(128_974_848_000)),
            ("129M", Some(129_000_000), Some(129_000_000_000)),
            ("1e3", Some(1_000), Some(1_000_000)),
            ("0", Some(0), Some(0)),
            ("15E", Some(15_000_000_000_000_000_000), None),
            ("16Ei", None, None),
            ("", None, None),
            (".", None, None),
            ("-1", None, None),
            ("1mi", None, None),
            ("1.2.3", None, None),
            ("1 Gi", None, None),
            ("99999999999999999999999999999999999", None, None),
        ];
        for (text, units, milli) in cases {
            let quantity = Quantity::new(text);
            assert_eq!(
                (quantity.units(), quantity.milli()),
                (units, milli),
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_are_quantities_and_are_written_as_text() {
        for (json, text) in [("2", "\"2\""), ("0.5", "\"0.5\""), ("\"1Gi\"", "\"1Gi\"")] {
            let read: Quantity = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        assert!(serde_json::from_str::<Quantity>("true").is_err());
    }
}
