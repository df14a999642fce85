//! Sealing: AES-256-GCM under the cluster's key, bound to the place that a value is for.
//!
//! Pure: keys and nonces come as arguments. Decision 0093 says who holds the key, and where.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::secret_value::SecretValue;

pub const KEY_BYTES: usize = 32;
pub const NONCE_BYTES: usize = NONCE_LEN;
/// Sealed is longer than open by so much: the nonce, and the tag.
const OVERHEAD: usize = NONCE_BYTES + 16;
/// Hexadecimal digits of a key's id.
const ID_DIGITS: usize = 16;
const FILE_VERSION: &str = "nihilo-secrets-key-v1";

/// A key and its id, which tells it from others and nothing about it.
#[derive(Clone)]
pub struct SealingKey {
    bytes: SecretValue,
    id: String,
}

/// What a sealed text was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("not a sealed value")]
    Malformed,
    /// Another key, another place, or changed.
    #[error("it was sealed by another key or for another place, or it was changed")]
    Refused,
}

/// A text that holds no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secrets key; its one line looks like `{FILE_VERSION} <64 hexadecimal digits>`")]
pub struct NoKey;

impl SealingKey {
    /// `bytes` are random.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let digest = Sha256::new()
            .chain_update("nihilo secrets key id")
            .chain_update(bytes)
            .finalize();
        let mut id = hex(&digest);
        id.truncate(ID_DIGITS);
        let bytes = SecretValue::new(bytes);
        Self { bytes, id }
    }

    /// The key that a newcomer and whoever lets it in have in common: out of its token's secret,
    /// for one node of one cluster.
    ///
    /// # Panics
    /// Never: the length that is asked for is one that HKDF has.
    pub fn of_join_token(secret: &str, cluster_id: &str, node_id: u64) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, cluster_id.as_bytes());
        let secret = salt.extract(secret.as_bytes());
        let node = node_id.to_string();
        let info = [b"nihilo join: secrets key\0".as_slice(), node.as_bytes()];
        let derived = secret.expand(&info, hkdf::HKDF_SHA256);
        let mut bytes = [0; KEY_BYTES];
        derived
            .and_then(|derived| derived.fill(&mut bytes))
            .expect("32 bytes are less than HKDF gives");
        let key = Self::new(bytes);
        bytes.zeroize();
        key
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The one line that [`FromStr`] reads.
    pub fn to_line(&self) -> SecretValue {
        let mut digits = hex(self.bytes.expose());
        let line = format!("{FILE_VERSION} {digits}\n");
        digits.zeroize();
        line.into()
    }

    /// Seals `value` for `place`: its parts hold no zero byte. `nonce` is random, and new each time.
    ///
    /// # Panics
    /// Never: the key has the cipher's length, and the value is far below its bound.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], place: &[&str], value: &[u8]) -> String {
        let mut sealed = value.to_vec();
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.join("\0")),
                &mut sealed,
            )
            .expect("a value of less than 64 GiB");
        let whole: Vec<u8> = nonce.into_iter().chain(sealed).collect();
        STANDARD.encode(whole)
    }

    /// # Errors
    /// It was not sealed by this key for this place.
    pub fn open(&self, place: &[&str], sealed: &str) -> Result<SecretValue, OpenError> {
        let mut whole = STANDARD.decode(sealed).map_err(|_| OpenError::Malformed)?;
        let (nonce, body) = whole
            .split_first_chunk_mut::<NONCE_BYTES>()
            .ok_or(OpenError::Malformed)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let aad = Aad::from(place.join("\0"));
        let opened = self.cipher().open_in_place(nonce, aad, body);
        let value = opened.map(|value| SecretValue::new(&*value));
        whole.zeroize();
        value.map_err(|_| OpenError::Refused)
    }

    /// A fingerprint of `bytes` that only holders of the key can make: from one without a key, a
    /// short value could be guessed.
    pub fn fingerprint(&self, bytes: &[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.bytes.expose());
        hmac::sign(&key, bytes).as_ref().to_vec()
    }

    /// The key itself, sealed under another one.
    pub fn sealed_under(&self, other: &Self, nonce: [u8; NONCE_BYTES], place: &[&str]) -> String {
        other.seal(nonce, place, self.bytes.expose())
    }

    /// # Errors
    /// As [`Self::open`], or what was sealed is no key.
    pub fn from_sealed(other: &Self, place: &[&str], sealed: &str) -> Result<Self, OpenError> {
        let bytes = other.open(place, sealed)?;
        let bytes = bytes.expose().try_into();
        bytes.map(Self::new).map_err(|_| OpenError::Malformed)
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, self.bytes.expose());
        LessSafeKey::new(key.expect("the key has 32 bytes"))
    }
}

/// Bytes of the value inside; `None` where the text cannot be a sealed one.
pub fn n_bytes_inside(sealed: &str) -> Option<usize> {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if !sealed.len().is_multiple_of(4) || !sealed.bytes().all(is_base64) {
        return None;
    }
    let n_padded = sealed
        .bytes()
        .rev()
        .take_while(|byte| *byte == b'=')
        .count();
    (sealed.len() / 4 * 3)
        .checked_sub(n_padded)?
        .checked_sub(OVERHEAD)
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl FromStr for SealingKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let digits = text.trim().strip_prefix(FILE_VERSION).ok_or(NoKey)?.trim();
        if digits.len() != KEY_BYTES * 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NoKey);
        }
        let mut bytes = [0; KEY_BYTES];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(2 * i..2 * i + 2).ok_or(NoKey)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoKey)?;
        }
        let key = Self::new(bytes);
        bytes.zeroize();
        Ok(key)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: [&str; 3] = ["default", "db", "password"];

    fn key(byte: u8) -> SealingKey {
        SealingKey::new([byte; KEY_BYTES])
    }

    #[test]
    fn a_value_comes_back_with_its_key_and_for_its_place_only() {
        let sealed = key(1).seal([7; NONCE_BYTES], &PLACE, b"hunter2");
        assert_eq!(
            key(1).open(&PLACE, &sealed),
            Ok(SecretValue::new("hunter2"))
        );
        assert_eq!(n_bytes_inside(&sealed), Some(7));
        let elsewhere = ["default", "db", "user"];
        for refused in [
            key(2).open(&PLACE, &sealed),
            key(1).open(&elsewhere, &sealed),
            key(1).open(&["default", "db\0password"], &sealed[..sealed.len() - 4]),
        ] {
            assert_eq!(refused, Err(OpenError::Refused));
        }
        for malformed in ["", "x", "AAAA", "????"] {
            assert_eq!(
                key(1).open(&PLACE, malformed),
                Err(OpenError::Malformed),
                "{malformed}"
            );
            assert_eq!(n_bytes_inside(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn two_nonces_make_two_texts() {
        let seal = |nonce| key(1).seal([nonce; NONCE_BYTES], &PLACE, b"");
        assert_ne!(seal(1), seal(2));
        assert_eq!(n_bytes_inside(&seal(1)), Some(0));
    }

    #[test]
    fn a_key_is_read_back_from_its_line_and_not_shown() {
        let line = key(0xab).to_line();
        let text = std::str::from_utf8(line.expose()).unwrap();
        let read: SealingKey = text.parse().unwrap();
        assert_eq!(read.id(), key(0xab).id());
        assert_eq!(read.bytes, key(0xab).bytes);
        assert!(!format!("{read:?}").contains("abab"));
        for bad in [
            "",
            FILE_VERSION,
            &text[..text.len() - 2],
            &format!("{}0", text.trim()),
        ] {
            assert!(bad.parse::<SealingKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_newcomer_opens_what_was_sealed_for_it() {
        let at_server = SealingKey::of_join_token("token", "dev", 4);
        let sealed = key(9).sealed_under(&at_server, [3; NONCE_BYTES], &["dev"]);
        let opened = |key| SealingKey::from_sealed(&key, &["dev"], &sealed);
        let here = opened(SealingKey::of_join_token("token", "dev", 4)).unwrap();
        assert_eq!(here.id(), key(9).id());
        for other in [
            SealingKey::of_join_token("other", "dev", 4),
            SealingKey::of_join_token("token", "prod", 4),
            SealingKey::of_join_token("token", "dev", 5),
        ] {
            assert!(opened(other).is_err());
        }
    }

    #[test]
    fn a_fingerprint_needs_the_key() {
        assert_eq!(key(1).fingerprint(b"a"), key(1).fingerprint(b"a"));
        assert_ne!(key(1).fingerprint(b"a"), key(2).fingerprint(b"a"));
        assert_ne!(key(1).fingerprint(b"a"), key(1).fingerprint(b"b"));
    }
}
