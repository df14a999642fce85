//! Join tokens: `v1.<id>.<secret>.<pin>`, for one node and for a while (08-reliability §12.2).
//!
//! The cluster keeps only a hash of the secret. The pin names the cluster, and a server must prove
//! that it knows the hash before a newcomer sends the secret: a stranger who answers in its place
//! learns nothing that would let it in.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

const VERSION: &str = "v1";
/// Bytes of a secret.
pub const SECRET_BYTES: usize = 32;
/// Bytes of a token's id.
pub const ID_BYTES: usize = 5;
/// What the key of the cluster's Secrets is sealed for, when a newcomer is given it.
pub const KEY_PLACE: &str = "nihilo join 1";
/// Hexadecimal digits of the pin: 128 bits.
const PIN_DIGITS: usize = 32;

#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub id: String,
    pub secret: String,
    /// Beginning of the SHA-256 of the cluster's id, hexadecimal.
    pub pin: String,
}

/// A text that is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token; one looks like `v1.<id>.<secret>.<pin>`, from `nihilo cluster token create`"
)]
pub struct Malformed;

impl JoinToken {
    /// `id` and `secret` are random bytes.
    pub fn new(id: [u8; ID_BYTES], secret: [u8; SECRET_BYTES], cluster_id: &str) -> Self {
        Self {
            id: hex(&id),
            secret: hex(&secret),
            pin: pin(cluster_id),
        }
    }

    pub fn is_for(&self, cluster_id: &str) -> bool {
        self.pin == pin(cluster_id)
    }
}

/// The secret is no matter for logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}.{}", self.id, self.secret, self.pin)
    }
}

impl FromStr for JoinToken {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [VERSION, id, secret, pin] = parts[..] else {
            return Err(Malformed);
        };
        let is_hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let is_whole =
            is_hex(id, ID_BYTES * 2) && is_hex(secret, SECRET_BYTES * 2) && is_hex(pin, PIN_DIGITS);
        if !is_whole {
            return Err(Malformed);
        }
        Ok(Self {
            id: id.into(),
            secret: secret.into(),
            pin: pin.into(),
        })
    }
}

/// What the cluster keeps of a secret.
pub fn secret_hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// Shows who knows `secret_hash` that the prover does too, for this cluster and this nonce.
///
/// Hashed twice, so that nothing can be appended to what was hashed.
pub fn proof(secret_hash: &str, nonce: &[u8], cluster_id: &str) -> [u8; 32] {
    let inner = Sha256::new()
        .chain_update(secret_hash)
        .chain_update(nonce)
        .chain_update(cluster_id)
        .finalize();
    Sha256::new()
        .chain_update(secret_hash)
        .chain_update(inner)
        .finalize()
        .into()
}

fn pin(cluster_id: &str) -> String {
    let mut digits = hex(&Sha256::digest(cluster_id.as_bytes()));
    digits.truncate(PIN_DIGITS);
    digits
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new([1; ID_BYTES], [7; SECRET_BYTES], "dev")
    }

    #[test]
    fn a_token_reads_back_and_shows_no_secret_in_logs() {
        let text = token().to_string();
        assert_eq!(text.parse::<JoinToken>(), Ok(token()));
        assert!(token().is_for("dev") && !token().is_for("dev+1"));
        assert!(!format!("{:?}", token()).contains(&token().secret));
    }

    #[test]
    fn anything_else_is_refused() {
        let text = token().to_string();
        let cases = [
            "",
            "v1",
            &text.replace("v1", "v2"),
            &text[..text.len() - 1],
            &format!("{text}0"),
            &text.replace("07", "0x"),
            &format!("{text}.x"),
        ];
        for case in cases {
            assert_eq!(case.parse::<JoinToken>(), Err(Malformed), "{case}");
        }
    }

    #[test]
    fn a_proof_is_for_one_secret_one_nonce_and_one_cluster() {
        let hash = secret_hash("a");
        let right = proof(&hash, b"0123", "dev");
        assert_eq!(right, proof(&hash, b"0123", "dev"));
        for other in [
            proof(&secret_hash("b"), b"0123", "dev"),
            proof(&hash, b"0124", "dev"),
            proof(&hash, b"0123", "prod"),
        ] {
            assert_ne!(right, other);
        }
    }
}
