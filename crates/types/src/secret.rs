//! Secret in its three forms: as its owner writes it ([`Secret`]), as the log, the state and
//! snapshots hold it ([`SealedSecret`]), and as it is shown ([`SecretOutline`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config_map::check_key;
use crate::id::ObjectKey;
use crate::meta::{DEFAULT_NAMESPACE, ObjectMeta};
use crate::names::{check_dns1123, check_dns1123_subdomain};
use crate::sealing::{NONCE_BYTES, OpenError, SealingKey, n_bytes_inside};
use crate::secret_value::SecretValue;
use crate::service::is_default;

/// Keys and values of one Secret together, at most. Kubernetes has 1 MiB; sealed and in base64 it
/// must fit a log entry of 1 MiB here, beside its metadata.
pub const MAX_BYTES: usize = 720 * 1024;
/// Keys of one Secret, at most.
pub const MAX_KEYS: usize = 1_000;

pub const OPAQUE: &str = "Opaque";
pub const TLS: &str = "kubernetes.io/tls";
pub const DOCKER_CONFIG: &str = "kubernetes.io/dockerconfigjson";
/// Types and the keys that each must have.
const TYPES: [(&str, &[&str]); 3] = [
    (OPAQUE, &[]),
    (TLS, &["tls.crt", "tls.key"]),
    (DOCKER_CONFIG, &[".dockerconfigjson"]),
];
/// In it `kubectl` keeps the whole manifest, values included.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Begins the place that a value is sealed for.
const PLACE: &str = "nihilo secret 1";

/// With its values in the clear: of a manifest, or on its way from the client to the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Secret {
    pub metadata: ObjectMeta,
    /// One of [`OPAQUE`] (where none was written), [`TLS`], [`DOCKER_CONFIG`].
    pub secret_type: String,
    /// `data` and `stringData` together; the latter wins.
    pub values: BTreeMap<String, SecretValue>,
    pub immutable: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default, rename = "apiVersion")]
    _api_version: String,
    #[serde(default, rename = "kind")]
    _kind: String,
    metadata: ObjectMeta,
    #[serde(default, rename = "type")]
    secret_type: String,
    /// Base64.
    #[serde(default)]
    data: BTreeMap<String, SecretValue>,
    #[serde(default)]
    string_data: BTreeMap<String, SecretValue>,
    #[serde(default)]
    immutable: bool,
}

impl TryFrom<Written> for Secret {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for (key, encoded) in written.data {
            let text = std::str::from_utf8(encoded.expose()).unwrap_or_default();
            // As folded YAML and `base64` write it.
            let mut text: String = text.split_ascii_whitespace().collect();
            let decoded = SecretValue::from_base64(&text);
            zeroize::Zeroize::zeroize(&mut text);
            let value = decoded
                .map_err(|why| format!("data[{key}]: {why}; plain text goes into `stringData`"))?;
            values.insert(key, value);
        }
        values.extend(written.string_data);
        Ok(Self {
            metadata: written.metadata,
            secret_type: written.secret_type,
            values,
            immutable: written.immutable,
        })
    }
}

impl Secret {
    pub fn default_fields(&mut self) {
        if self.secret_type.is_empty() {
            self.secret_type = OPAQUE.into();
        }
        if self.metadata.namespace.is_empty() {
            self.metadata.namespace = DEFAULT_NAMESPACE.into();
        }
    }

    /// # Errors
    /// The first thing that is wrong with it; of a value nothing but its key is told.
    pub fn check(&self) -> Result<(), String> {
        let keys = self.values.iter();
        check_outside(
            &self.metadata,
            &self.secret_type,
            keys.map(|(key, value)| (key.as_str(), value.n_bytes())),
        )?;
        if self.secret_type == DOCKER_CONFIG {
            let value = self.values.get(".dockerconfigjson");
            let bytes = value.map(SecretValue::expose).unwrap_or_default();
            if serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(bytes).is_err() {
                return Err("invalid value: not a JSON object: data[.dockerconfigjson]".into());
            }
        }
        Ok(())
    }

    /// The JSON of a manifest, **with its values**: for the way to the server, and nothing else.
    ///
    /// # Panics
    /// Never: its maps have text keys.
    pub fn expose_json(&self) -> SecretValue {
        let mut text = format!(
            r#"{{"apiVersion":"v1","kind":"Secret","metadata":{},"type":{},"immutable":{},"data":{{"#,
            json(&self.metadata),
            json(&self.secret_type),
            self.immutable,
        )
        .into_bytes();
        for (i, (key, value)) in self.values.iter().enumerate() {
            if i > 0 {
                text.push(b',');
            }
            text.extend(json(key).into_bytes());
            text.extend(b":\"");
            text.extend(value.to_base64().expose());
            text.push(b'"');
        }
        text.extend(b"}}");
        SecretValue::new(text)
    }

    /// Seals every value for its key of this object, each with a nonce of its own. A value that
    /// `before` holds already is taken over as it is sealed there: what does not change stays what
    /// it was.
    pub fn seal(
        &self,
        key: &SealingKey,
        before: Option<&SealedSecret>,
        mut nonce: impl FnMut() -> [u8; NONCE_BYTES],
    ) -> SealedSecret {
        let object = self.metadata.key();
        let seal = |(name, value): (&String, &SecretValue)| {
            let kept = before
                .filter(|before| before.open(key, name).as_ref() == Some(&Ok(value.clone())))
                .and_then(|before| before.sealed.get(name).cloned());
            let sealed = kept.unwrap_or_else(|| {
                SealedValue(key.seal(nonce(), &place(&object, name), value.expose()))
            });
            (name.clone(), sealed)
        };
        SealedSecret {
            api_version: "v1".into(),
            kind: "Secret".into(),
            metadata: self.metadata.clone(),
            secret_type: self.secret_type.clone(),
            immutable: self.immutable,
            sealed_by: key.id().into(),
            sealed: self.values.iter().map(seal).collect(),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("text and maps of text")
}

fn place<'a>(object: &'a ObjectKey, key: &'a str) -> [&'a str; 4] {
    [PLACE, &object.namespace, &object.name, key]
}

/// What can be told without the values.
fn check_outside<'a>(
    metadata: &ObjectMeta,
    secret_type: &str,
    keys: impl Iterator<Item = (&'a str, usize)>,
) -> Result<(), String> {
    check_dns1123_subdomain(&metadata.name).map_err(|why| format!("{why}: metadata.name"))?;
    check_dns1123(&metadata.namespace)
        .map_err(|why| format!("not a DNS 1123 label: [{why}]: metadata.namespace"))?;
    let known = TYPES.iter().find(|(name, _)| *name == secret_type);
    let Some((_, needed)) = known else {
        let names: Vec<_> = TYPES.iter().map(|(name, _)| format!("`{name}`")).collect();
        return Err(format!(
            "invalid value: {secret_type:?}, must be one of {}: type",
            names.join(", ")
        ));
    };
    let (mut n_bytes, mut names) = (0, Vec::new());
    for (key, size) in keys {
        check_key(key)?;
        n_bytes += key.len() + size;
        names.push(key);
    }
    if let Some(missing) = needed.iter().find(|key| !names.contains(key)) {
        return Err(format!("missing field(s): data[{missing}]"));
    }
    if n_bytes > MAX_BYTES {
        return Err(format!("{n_bytes} bytes, at most {MAX_BYTES}: data"));
    }
    if names.len() > MAX_KEYS {
        let n = names.len();
        return Err(format!(
            "too many keys: found {n}, at most {MAX_KEYS}: data"
        ));
    }
    Ok(())
}

/// A sealed value: the nonce, the value and the tag, in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedValue(pub String);

/// As it is replicated and kept: names and key names can be read, values cannot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealedSecret {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(rename = "type")]
    pub secret_type: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub immutable: bool,
    /// Id of the key that opens it.
    pub sealed_by: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed: BTreeMap<String, SealedValue>,
}

impl SealedSecret {
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let mut sizes = Vec::new();
        for (key, SealedValue(text)) in &self.sealed {
            let size = n_bytes_inside(text).ok_or_else(|| format!("data[{key}]: not sealed"))?;
            sizes.push((key.as_str(), size));
        }
        if self.metadata.annotations.contains_key(LAST_APPLIED) {
            return Err(format!(
                "must not set the field(s): metadata.annotations.{LAST_APPLIED}"
            ));
        }
        check_outside(&self.metadata, &self.secret_type, sizes.into_iter())
    }

    /// One value; `None` = it has no such key.
    pub fn open(&self, key: &SealingKey, name: &str) -> Option<Result<SecretValue, OpenError>> {
        let SealedValue(text) = self.sealed.get(name)?;
        let object = self.metadata.key();
        Some(key.open(&place(&object, name), text))
    }

    /// Without the values, sealed or not.
    pub fn outline(&self) -> SecretOutline {
        let size = |(key, SealedValue(text)): (&String, &SealedValue)| {
            let n_bytes = n_bytes_inside(text).unwrap_or_default();
            (key.clone(), n_bytes)
        };
        SecretOutline {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            metadata: self.metadata.clone(),
            secret_type: self.secret_type.clone(),
            immutable: self.immutable,
            bytes: self.sealed.iter().map(size).collect(),
            sealed_by: self.sealed_by.clone(),
        }
    }
}

/// As it is shown, whoever asks: what is there, and nothing of what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretOutline {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(rename = "type")]
    pub secret_type: String,
    #[serde(default)]
    pub immutable: bool,
    /// Keys, and how many bytes each value has.
    #[serde(default)]
    pub bytes: BTreeMap<String, usize>,
    pub sealed_by: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::KEY_BYTES;

    fn secret(json: &str) -> Result<Secret, String> {
        let mut secret: Secret = serde_json::from_str(json).map_err(|error| error.to_string())?;
        secret.default_fields();
        secret.check()?;
        Ok(secret)
    }

    const DB: &str = r#"{"metadata":{"name":"db"},"data":{"user":"YWRtaW4=","pass":"eA=="},
        "stringData":{"pass":"hunter2"}}"#;

    fn nonces() -> impl FnMut() -> [u8; NONCE_BYTES] {
        let mut n = 0;
        move || {
            n += 1;
            [n; NONCE_BYTES]
        }
    }

    #[test]
    fn text_wins_over_base64_and_both_come_back_sealed() {
        let db = secret(DB).unwrap();
        assert_eq!(db.secret_type, OPAQUE);
        assert_eq!(db.values["pass"], SecretValue::new("hunter2"));
        let key = SealingKey::new([1; KEY_BYTES]);
        let sealed = db.seal(&key, None, nonces());
        assert_eq!(sealed.check(), Ok(()));
        let json = serde_json::to_string(&sealed).unwrap();
        for value in ["hunter2", "admin", "YWRtaW4", "aHVudGVyMg"] {
            assert!(!json.contains(value), "{json}");
        }
        assert_eq!(
            sealed.open(&key, "user"),
            Some(Ok(SecretValue::new("admin")))
        );
        assert_eq!(sealed.open(&key, "nobody"), None);
        let outline = serde_json::to_string(&sealed.outline()).unwrap();
        assert!(
            outline.contains(r#""bytes":{"pass":7,"user":5}"#),
            "{outline}"
        );
        assert!(!outline.contains(&sealed.sealed["pass"].0), "{outline}");
    }

    #[test]
    fn what_was_sealed_opens_under_no_other_name() {
        let key = SealingKey::new([1; KEY_BYTES]);
        let sealed = secret(DB).unwrap().seal(&key, None, nonces());
        let mut other = sealed.clone();
        other.metadata.name = "other".into();
        assert_eq!(other.open(&key, "user"), Some(Err(OpenError::Refused)));
        let mut swapped = sealed;
        let user = swapped.sealed["user"].clone();
        swapped.sealed.insert("pass".into(), user);
        assert_eq!(swapped.open(&key, "pass"), Some(Err(OpenError::Refused)));
    }

    #[test]
    fn only_what_changed_is_sealed_anew() {
        let key = SealingKey::new([1; KEY_BYTES]);
        let first = secret(DB).unwrap().seal(&key, None, nonces());
        let mut changed = secret(DB).unwrap();
        changed
            .values
            .insert("pass".into(), SecretValue::new("other"));
        let second = changed.seal(&key, Some(&first), || [9; NONCE_BYTES]);
        assert_eq!(second.sealed["user"], first.sealed["user"]);
        assert_ne!(second.sealed["pass"], first.sealed["pass"]);
        let other_key = SealingKey::new([2; KEY_BYTES]);
        let third = changed.seal(&other_key, Some(&first), || [9; NONCE_BYTES]);
        assert_ne!(third.sealed["user"], first.sealed["user"]);
    }

    #[test]
    fn the_way_to_the_server_keeps_everything() {
        let mut db = secret(DB).unwrap();
        db.values
            .insert("bytes".into(), SecretValue::new([0, 255, 7]));
        let json = db.expose_json();
        let again: Secret = serde_json::from_slice(json.expose()).unwrap();
        assert_eq!(again, db);
    }

    #[test]
    fn mistakes_are_told_and_values_are_not() {
        let of_type = |kind: &str, data: &str| {
            format!(r#"{{"metadata":{{"name":"x"}},"type":"{kind}","stringData":{data}}}"#)
        };
        let big = format!(r#"{{"k":"{}"}}"#, "a".repeat(MAX_BYTES));
        let cases = [
            (DB.replace("YWRtaW4=", "hunter2!"), "data[user]: not base64"),
            (DB.replace("\"db\"", "\"D B\""), "metadata.name"),
            (DB.replace("user", "us er"), "invalid key \"us er\""),
            (of_type("tls", "{}"), "must be one of `Opaque`"),
            (
                of_type(TLS, r#"{"tls.crt":"x"}"#),
                "missing field(s): data[tls.key]",
            ),
            (
                of_type(DOCKER_CONFIG, r#"{".dockerconfigjson":"hunter2!"}"#),
                "not a JSON object",
            ),
            (of_type(OPAQUE, &big), "at most 737280"),
            (of_type(OPAQUE, r#"{"k":4711}"#), "put it in quotes"),
        ];
        for (json, want) in cases {
            let error = secret(&json).unwrap_err();
            assert!(error.contains(want), "{want}: {error}");
            assert!(
                !error.contains("hunter2!") && !error.contains("4711"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_not_sealed_does_not_pass_for_it() {
        let key = SealingKey::new([1; KEY_BYTES]);
        let mut sealed = secret(DB).unwrap().seal(&key, None, nonces());
        let plain = SealedValue("hunter2".into());
        sealed.sealed.insert("user".into(), plain);
        assert_eq!(sealed.check(), Err("data[user]: not sealed".into()));
    }
}
