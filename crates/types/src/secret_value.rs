//! A value that is nobody's to read but its instance's: it is shown nowhere, and overwritten when
//! it is dropped.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroize;

/// Bytes of a Secret, or of anything that may hold one.
///
/// It has no `Serialize` and a `Debug` that says nothing, so that it cannot get into a log, an error
/// or an answer by way of a derive: who needs the bytes says [`Self::expose`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// # Errors
    /// Not base64; of the text nothing is told.
    pub fn from_base64(text: &str) -> Result<Self, NotBase64> {
        STANDARD.decode(text).map(Self).map_err(|_| NotBase64)
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes in base64, as a value of their own.
    #[must_use]
    pub fn to_base64(&self) -> Self {
        Self(STANDARD.encode(&self.0).into_bytes())
    }

    pub fn n_bytes(&self) -> usize {
        self.0.len()
    }
}

/// A text that should be base64 and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not base64")]
pub struct NotBase64;

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

impl From<String> for SecretValue {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

/// From text. What is none is refused without being repeated, as serde's own words would.
impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        const REFUSAL: &str = "a value must be text: put it in quotes";

        impl<'de> Visitor<'de> for Text {
            type Value = SecretValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SecretValue, E> {
                Ok(SecretValue(text.into()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<SecretValue, E> {
                Ok(text.into())
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<SecretValue, E> {
                Err(E::custom(REFUSAL))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<SecretValue, E> {
                Err(E::custom(REFUSAL))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<SecretValue, E> {
                Err(E::custom(REFUSAL))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<SecretValue, E> {
                Err(E::custom(REFUSAL))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_not_shown() {
        let value = SecretValue::new("hunter2");
        assert!(!format!("{value:?} {:#?}", Some(&value)).contains("hunter2"));
        assert_eq!(value.to_base64().expose(), b"aHVudGVyMg==");
        assert_eq!(SecretValue::from_base64("aHVudGVyMg=="), Ok(value));
        assert_eq!(SecretValue::from_base64("hunter2!"), Err(NotBase64));
    }

    #[test]
    fn what_is_no_text_is_refused_and_not_repeated() {
        for json in ["4711", "-4711", "47.11", "true"] {
            let error = serde_json::from_str::<SecretValue>(json).unwrap_err();
            assert!(!error.to_string().contains(json), "{error}");
        }
        assert_eq!(
            serde_json::from_str::<SecretValue>("\"x\"").unwrap(),
            SecretValue::new("x")
        );
    }
}
