//! References and what they come to. Pure.

use std::collections::BTreeMap;

use nihilo_types::id::ObjectKey;
use nihilo_types::instance::InstanceSpec;
use nihilo_types::instance_config::{AllKeys, FileSource, Holder, Variable};
use nihilo_types::secret_value::SecretValue;
use nihilo_types::validate::RESERVED_ENV;

use super::Content;

/// Values for one instance.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) env: Vec<(String, SecretValue)>,
    /// By the volume's name; those that are empty at the start are not in it.
    pub(crate) volumes: BTreeMap<String, Files>,
}

/// Path below the volume's directory to the file.
pub(crate) type Files = BTreeMap<String, File>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) value: SecretValue,
    /// Nobody but its reader may read it.
    pub(crate) is_secret: bool,
}

/// # Errors
/// The first reference that is missing and not optional, or that cannot be opened or used: in words
/// for people, without a value.
pub(crate) fn resolve(
    spec: &InstanceSpec,
    find: impl FnMut(Holder, &ObjectKey) -> Result<Option<Content>, String>,
) -> Result<Resolved, String> {
    let mut objects = Objects {
        namespace: &spec.revision.namespace,
        found: BTreeMap::new(),
        find,
    };
    let mut env = BTreeMap::new();
    for all in &spec.config.all_keys {
        env.extend(objects.all_keys(all)?);
    }
    // The system's own, and what the template says by name, win.
    env.retain(|name, _| !RESERVED_ENV.contains(&name.as_str()));
    for (name, _) in &spec.env {
        env.remove(name);
    }
    for one in &spec.config.variables {
        match objects.variable(one)? {
            Some(value) => env.insert(one.variable.clone(), value),
            None => env.remove(&one.variable),
        };
    }
    let mut volumes = BTreeMap::new();
    for volume in &spec.config.volumes {
        let mut files = Files::new();
        let mut has_sources = false;
        for source in volume.sources() {
            has_sources = true;
            files.extend(objects.files(source)?);
        }
        if has_sources {
            volumes.insert(volume.name.clone(), files);
        }
    }
    let env = env.into_iter().collect();
    Ok(Resolved { env, volumes })
}

/// What was looked up: each object once, so that all references see one version of it.
struct Objects<'a, F> {
    namespace: &'a str,
    found: BTreeMap<(Holder, String), Option<Content>>,
    find: F,
}

impl<F: FnMut(Holder, &ObjectKey) -> Result<Option<Content>, String>> Objects<'_, F> {
    fn look(
        &mut self,
        holder: Holder,
        name: &str,
        optional: bool,
    ) -> Result<Option<&Content>, String> {
        let place = (holder, name.to_owned());
        if !self.found.contains_key(&place) {
            let key = ObjectKey::new(self.namespace, name);
            let content = (self.find)(holder, &key)?;
            self.found.insert(place.clone(), content);
        }
        match &self.found[&place] {
            None if !optional => Err(format!("{holder} {name:?} not found")),
            content => Ok(content.as_ref()),
        }
    }

    fn all_keys(&mut self, all: &AllKeys) -> Result<Vec<(String, SecretValue)>, String> {
        let Some(content) = self.look(all.holder, &all.name, all.optional)? else {
            return Ok(Vec::new());
        };
        let one = |(key, value): (&String, &SecretValue)| {
            check_env(all.holder, &all.name, key, value)?;
            Ok((format!("{}{key}", all.prefix), value.clone()))
        };
        content.iter().map(one).collect()
    }

    fn variable(&mut self, one: &Variable) -> Result<Option<SecretValue>, String> {
        let Variable {
            holder, name, key, ..
        } = one;
        let Some(content) = self.look(*holder, name, one.optional)? else {
            return Ok(None);
        };
        match content.get(key) {
            None if !one.optional => Err(no_key(*holder, name, key)),
            None => Ok(None),
            Some(value) => {
                check_env(*holder, name, key, value)?;
                Ok(Some(value.clone()))
            }
        }
    }

    fn files(&mut self, source: &FileSource) -> Result<Files, String> {
        let FileSource { holder, name, .. } = source;
        let Some(content) = self.look(*holder, name, source.optional)? else {
            return Ok(Files::new());
        };
        let file = |value: &SecretValue| File {
            value: value.clone(),
            is_secret: *holder == Holder::Secret,
        };
        if source.items.is_empty() {
            let all = content.iter();
            return Ok(all.map(|(key, value)| (key.clone(), file(value))).collect());
        }
        let mut files = Files::new();
        for item in &source.items {
            match content.get(&item.key) {
                Some(value) => drop(files.insert(item.path.clone(), file(value))),
                None if source.optional => {}
                None => return Err(no_key(*holder, name, &item.key)),
            }
        }
        Ok(files)
    }
}

fn no_key(holder: Holder, name: &str, key: &str) -> String {
    format!("key {key:?} not found in {holder} {name:?}")
}

/// What an environment can hold: text without a zero byte.
fn check_env(holder: Holder, name: &str, key: &str, value: &SecretValue) -> Result<(), String> {
    match std::str::from_utf8(value.expose()) {
        Ok(text) if !text.contains('\0') => Ok(()),
        _ => Err(format!(
            "key {key:?} of {holder} {name:?} holds bytes that no environment variable can: mount \
             it as a file"
        )),
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::instance_config::InstanceConfig;

    use super::*;

    /// `db` (a secret) and `app` (a configmap) are there.
    fn find(holder: Holder, key: &ObjectKey) -> Result<Option<Content>, String> {
        assert_eq!(&*key.namespace, "default");
        let content = |pairs: &[(&str, &[u8])]| {
            let pair = |(key, value): &(&str, &[u8])| ((*key).to_owned(), SecretValue::new(*value));
            Ok(Some(pairs.iter().map(pair).collect()))
        };
        match (holder, &*key.name) {
            (Holder::Secret, "db") => {
                content(&[("user", b"admin"), ("PORT", b"1"), ("raw", &[b'a', 0])])
            }
            (Holder::Secret, "plain") => content(&[("user", b"other"), ("PORT", b"1")]),
            (Holder::ConfigMap, "app") => content(&[("user", b"app"), ("mode", b"fast")]),
            (Holder::Secret, "locked") => Err("secret \"locked\" is sealed by another key".into()),
            _ => Ok(None),
        }
    }

    fn resolved(template: &str) -> Result<String, String> {
        let template = serde_json::from_str(template).unwrap();
        let (config, env) = InstanceConfig::of(&template);
        let spec = InstanceSpec {
            config,
            env,
            ..crate::handle::specification()
        };
        let Resolved { env, volumes } = resolve(&spec, find)?;
        let text = |value: &SecretValue| String::from_utf8_lossy(value.expose()).into_owned();
        let env = env
            .iter()
            .map(|(name, value)| format!("{name}={}", text(value)));
        let files = volumes.iter().flat_map(|(volume, files)| {
            files.iter().map(move |(path, file)| {
                let sign = if file.is_secret { "!" } else { "" };
                format!("{volume}:{path}{sign}={}", text(&file.value))
            })
        });
        Ok(env.chain(files).collect::<Vec<_>>().join(" "))
    }

    fn of_container(container: &str) -> Result<String, String> {
        resolved(&format!(r#"{{"containers":[{{{container}}}]}}"#))
    }

    #[test]
    fn variables_come_from_where_they_say_and_the_nearest_wins() {
        let cases = [
            (
                r#""envFrom":[{"configMapRef":{"name":"app"}}]"#,
                "mode=fast user=app",
            ),
            (
                r#""envFrom":[{"configMapRef":{"name":"app"}},{"secretRef":{"name":"plain"}}]"#,
                "mode=fast user=other",
            ),
            (
                r#""envFrom":[{"prefix":"A_","configMapRef":{"name":"app"}}]"#,
                "A_mode=fast A_user=app",
            ),
            (
                r#""envFrom":[{"configMapRef":{"name":"app"}}],"env":[{"name":"user","value":"x"}]"#,
                "mode=fast",
            ),
            (
                r#""envFrom":[{"configMapRef":{"name":"app"}}],"env":[{"name":"user","valueFrom":
                   {"secretKeyRef":{"name":"db","key":"user"}}}]"#,
                "mode=fast user=admin",
            ),
        ];
        for (container, want) in cases {
            assert_eq!(of_container(container).as_deref(), Ok(want), "{container}");
        }
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let key = |name: &str, key: &str, more: &str| {
            format!(
                r#""env":[{{"name":"A","valueFrom":{{"secretKeyRef":
                   {{"name":"{name}","key":"{key}"{more}}}}}}}]"#
            )
        };
        let optional = r#","optional":true"#;
        let cases = [
            (key("no", "k", ""), Err("secret \"no\" not found")),
            (
                key("db", "k", ""),
                Err("key \"k\" not found in secret \"db\""),
            ),
            (key("no", "k", optional), Ok("")),
            (key("db", "k", optional), Ok("")),
            (
                r#""envFrom":[{"configMapRef":{"name":"no"}}]"#.into(),
                Err("configmap \"no\" not found"),
            ),
            (
                r#""envFrom":[{"configMapRef":{"name":"no","optional":true}}]"#.into(),
                Ok(""),
            ),
            (
                key("locked", "k", optional),
                Err("secret \"locked\" is sealed by another key"),
            ),
            (
                key("db", "raw", ""),
                Err(
                    "key \"raw\" of secret \"db\" holds bytes that no environment variable can: \
                     mount it as a file",
                ),
            ),
        ];
        for (container, want) in cases {
            let got = of_container(&container);
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{container}");
        }
    }

    #[test]
    fn volumes_hold_all_keys_or_those_that_are_named() {
        let of_volume = |volume: &str| {
            resolved(&format!(
                r#"{{"containers":[{{}}],"volumes":[{{"name":"v",{volume}}}]}}"#
            ))
        };
        let cases = [
            (
                r#""configMap":{"name":"app"}"#,
                Ok("v:mode=fast v:user=app"),
            ),
            (
                r#""secret":{"secretName":"db","items":[{"key":"user","path":"sub/u"}]}"#,
                Ok("v:sub/u!=admin"),
            ),
            (
                r#""projected":{"sources":[{"configMap":{"name":"app"}},
                   {"secret":{"name":"db","items":[{"key":"user","path":"user"}]}}]}"#,
                Ok("v:mode=fast v:user!=admin"),
            ),
            (
                r#""secret":{"secretName":"db","items":[{"key":"k","path":"k"}]}"#,
                Err("key \"k\" not found in secret \"db\""),
            ),
            (
                r#""secret":{"secretName":"no"}"#,
                Err("secret \"no\" not found"),
            ),
            (r#""secret":{"secretName":"no","optional":true}"#, Ok("")),
            (r#""emptyDir":{}"#, Ok("")),
        ];
        for (volume, want) in cases {
            let got = of_volume(volume);
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{volume}");
        }
    }
}
