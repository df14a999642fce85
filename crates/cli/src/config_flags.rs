//! Flags of `service create` and `service update` about Secrets, ConfigMaps and volumes, in kn's
//! syntax.

use clap::Args;
use nihilo_types::quantity::Quantity;
use nihilo_types::sources::{
    EmptyDir, EnvFrom, EnvVarSource, KeyRef, ObjectRef, ObjectVolume, SecretVolume, Volume,
    VolumeMount,
};
use nihilo_types::template::{Container, EnvVar, RevisionSpec};

use crate::failure::{Failure, Result};

/// Longest name of a volume.
const MAX_NAME: usize = 63;

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigFlags {
    /// Every key of a ConfigMap or Secret as environment: `cm:NAME` or `secret:NAME`; `cm:NAME-`
    /// removes it. May be repeated.
    #[arg(long, value_name = "cm:NAME|secret:NAME")]
    pub env_from: Vec<String>,
    /// One key as an environment variable: `NAME=cm:NAME:KEY` or `NAME=secret:NAME:KEY`; `NAME-`
    /// removes it. May be repeated.
    #[arg(long, value_name = "NAME=secret:NAME:KEY")]
    pub env_value_from: Vec<String>,
    /// A directory of the app: `/dir=cm:NAME`, `/dir=secret:NAME`, `/dir=emptyDir:NAME`, or
    /// `/dir=VOLUME` for one of --volume; `/dir-` removes it. May be repeated.
    #[arg(long, value_name = "/DIR=SOURCE")]
    pub mount: Vec<String>,
    /// What --mount can name: `NAME=cm:NAME`, `NAME=secret:NAME` or
    /// `NAME=emptyDir:[type=Memory,size=SIZE]`; `NAME-` removes it. May be repeated.
    #[arg(long, value_name = "NAME=SOURCE")]
    pub volume: Vec<String>,
}

impl ConfigFlags {
    /// # Errors
    /// Usage: a malformed flag.
    pub(crate) fn change(&self, spec: &mut RevisionSpec) -> Result<()> {
        for text in &self.volume {
            change_volume(text, &mut spec.volumes)?;
        }
        let RevisionSpec {
            volumes,
            containers,
            ..
        } = spec;
        let Some(container) = containers.first_mut() else {
            return Ok(());
        };
        for text in &self.env_from {
            change_env_from(text, &mut container.env_from)?;
        }
        for text in &self.env_value_from {
            change_env_value_from(text, &mut container.env)?;
        }
        for text in &self.mount {
            change_mount(text, container, volumes)?;
        }
        Ok(())
    }
}

/// What stands before the colon.
enum Source<'a> {
    ConfigMap(&'a str),
    Secret(&'a str),
    EmptyDir(&'a str),
}

fn source(text: &str) -> Option<Source<'_>> {
    let (kind, rest) = text.split_once(':')?;
    match kind {
        "cm" | "config-map" => Some(Source::ConfigMap(rest)),
        "sc" | "secret" => Some(Source::Secret(rest)),
        "ed" | "emptyDir" => Some(Source::EmptyDir(rest)),
        _ => None,
    }
}

fn malformed(flag: &str, text: &str, want: &str) -> Failure {
    Failure::usage(format!("--{flag} `{text}`: expected {want}"))
}

fn change_env_from(text: &str, all: &mut Vec<EnvFrom>) -> Result<()> {
    let (named, removes) = match text.strip_suffix('-') {
        Some(named) => (named, true),
        None => (text, false),
    };
    let reference = |name: &str| {
        let name = name.to_owned();
        (!name.is_empty()).then_some(ObjectRef {
            name,
            optional: None,
        })
    };
    let (config_map_ref, secret_ref) = match source(named) {
        Some(Source::ConfigMap(name)) => (reference(name), None),
        Some(Source::Secret(name)) => (None, reference(name)),
        _ => (None, None),
    };
    if config_map_ref.is_none() && secret_ref.is_none() {
        return Err(malformed("env-from", text, "cm:NAME or secret:NAME"));
    }
    let name = |reference: &Option<ObjectRef>| reference.as_ref().map(|r| r.name.clone());
    let is_it = |one: &EnvFrom| {
        name(&one.config_map_ref) == name(&config_map_ref)
            && name(&one.secret_ref) == name(&secret_ref)
    };
    if removes {
        all.retain(|one| !is_it(one));
    } else if !all.iter().any(is_it) {
        all.push(EnvFrom {
            prefix: String::new(),
            config_map_ref,
            secret_ref,
        });
    }
    Ok(())
}

fn change_env_value_from(text: &str, env: &mut Vec<EnvVar>) -> Result<()> {
    let malformed = || {
        let want = "NAME=cm:NAME:KEY, NAME=secret:NAME:KEY, or NAME- to remove";
        malformed("env-value-from", text, want)
    };
    let Some((variable, from)) = text.split_once('=') else {
        let variable = text.strip_suffix('-').ok_or_else(malformed)?;
        env.retain(|one| one.name != variable);
        return Ok(());
    };
    let key = |text: &str| {
        let (name, key) = text.split_once(':')?;
        (!name.is_empty() && !key.is_empty()).then(|| KeyRef {
            name: name.into(),
            key: key.into(),
            optional: None,
        })
    };
    let mut from_source = EnvVarSource::default();
    match source(from) {
        Some(Source::ConfigMap(rest)) => from_source.config_map_key_ref = key(rest),
        Some(Source::Secret(rest)) => from_source.secret_key_ref = key(rest),
        _ => {}
    }
    if variable.is_empty() || from_source == EnvVarSource::default() {
        return Err(malformed());
    }
    let value_from = Some(Box::new(from_source));
    let changed = EnvVar {
        name: variable.into(),
        value: String::new(),
        value_from,
    };
    match env.iter_mut().find(|one| one.name == variable) {
        Some(known) => *known = changed,
        None => env.push(changed),
    }
    Ok(())
}

fn change_volume(text: &str, volumes: &mut Vec<Volume>) -> Result<()> {
    let want = "NAME=cm:NAME, NAME=secret:NAME, NAME=emptyDir:, or NAME- to remove";
    let malformed = || malformed("volume", text, want);
    let Some((name, from)) = text.split_once('=') else {
        let name = text.strip_suffix('-').ok_or_else(malformed)?;
        volumes.retain(|volume| volume.name != name);
        return Ok(());
    };
    let volume = match source(from).ok_or_else(malformed)? {
        Source::EmptyDir(options) => empty(name, options).ok_or_else(malformed)?,
        other => of_object(name, &other).ok_or_else(malformed)?,
    };
    put(volume, volumes);
    Ok(())
}

fn put(volume: Volume, volumes: &mut Vec<Volume>) {
    match volumes.iter_mut().find(|known| known.name == volume.name) {
        Some(known) => *known = volume,
        None => volumes.push(volume),
    }
}

fn of_object(volume: &str, source: &Source<'_>) -> Option<Volume> {
    let mut made = Volume {
        name: volume.into(),
        ..Volume::default()
    };
    match source {
        Source::ConfigMap(name) if !name.is_empty() => {
            made.config_map = Some(ObjectVolume {
                name: (*name).into(),
                ..ObjectVolume::default()
            });
        }
        Source::Secret(name) if !name.is_empty() => {
            made.secret = Some(SecretVolume {
                secret_name: (*name).into(),
                ..SecretVolume::default()
            });
        }
        _ => return None,
    }
    Some(made)
}

/// `options`: `type=Memory,size=1Gi`, either or nothing.
fn empty(volume: &str, options: &str) -> Option<Volume> {
    let mut dir = EmptyDir::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=')? {
            ("type", medium) => dir.medium = medium.into(),
            ("size", size) => dir.size_limit = Some(Quantity::new(size)),
            _ => return None,
        }
    }
    Some(Volume {
        name: volume.into(),
        empty_dir: Some(dir),
        ..Volume::default()
    })
}

fn change_mount(text: &str, container: &mut Container, volumes: &mut Vec<Volume>) -> Result<()> {
    let want =
        "/DIR=cm:NAME, /DIR=secret:NAME, /DIR=emptyDir:NAME, /DIR=VOLUME, or /DIR- to remove";
    let malformed = || malformed("mount", text, want);
    let mounts = &mut container.volume_mounts;
    let Some((path, from)) = text.split_once('=') else {
        let path = text.strip_suffix('-').ok_or_else(malformed)?;
        let gone = mounts.iter().find(|mount| mount.mount_path == path);
        let gone = gone.map(|mount| mount.name.clone());
        mounts.retain(|mount| mount.mount_path != path);
        // A volume that nobody mounts is refused.
        let is_mounted = |name: &String| mounts.iter().any(|mount| mount.name == *name);
        volumes.retain(|volume| gone.as_ref() != Some(&volume.name) || is_mounted(&volume.name));
        return Ok(());
    };
    if !path.starts_with('/') {
        return Err(malformed());
    }
    let name = match source(from) {
        None if from.is_empty() || from.contains(':') => return Err(malformed()),
        None => from.to_owned(),
        Some(Source::EmptyDir(rest)) => {
            let (name, options) = rest.split_once(':').unwrap_or((rest, ""));
            put(empty(name, options).ok_or_else(malformed)?, volumes);
            name.to_owned()
        }
        Some(other) => {
            let name = volume_name(path);
            put(of_object(&name, &other).ok_or_else(malformed)?, volumes);
            name
        }
    };
    mounts.retain(|mount| mount.mount_path != path);
    mounts.push(VolumeMount {
        name,
        mount_path: path.into(),
        read_only: None,
    });
    Ok(())
}

/// After the directory, so that the same flag names the same volume again.
fn volume_name(path: &str) -> String {
    let fits = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '-',
    };
    let name: String = path.chars().map(fits).take(MAX_NAME).collect();
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(
        env_from: &[&str],
        env_value_from: &[&str],
        mount: &[&str],
        volume: &[&str],
    ) -> ConfigFlags {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        ConfigFlags {
            env_from: owned(env_from),
            env_value_from: owned(env_value_from),
            mount: owned(mount),
            volume: owned(volume),
        }
    }

    fn spec() -> RevisionSpec {
        RevisionSpec {
            containers: vec![Container::default()],
            ..RevisionSpec::default()
        }
    }

    #[test]
    fn flags_reach_the_template_and_take_it_back() {
        let mut changed = spec();
        let given = flags(
            &["cm:app", "secret:db", "config-map:app"],
            &["PASSWORD=secret:db:password"],
            &[
                "/etc/app=cm:app",
                "/var/cache=emptyDir:cache:type=Memory,size=1Mi",
                "/x=v",
            ],
            &["v=secret:db"],
        );
        given.change(&mut changed).unwrap();
        let want = serde_json::json!({
            "containers": [{
                "image": "",
                "env": [{"name": "PASSWORD", "value": "",
                         "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}],
                "envFrom": [{"configMapRef": {"name": "app"}}, {"secretRef": {"name": "db"}}],
                "volumeMounts": [
                    {"name": "etc-app", "mountPath": "/etc/app"},
                    {"name": "cache", "mountPath": "/var/cache"},
                    {"name": "v", "mountPath": "/x"},
                ],
            }],
            "volumes": [
                {"name": "v", "secret": {"secretName": "db"}},
                {"name": "etc-app", "configMap": {"name": "app"}},
                {"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
        });
        assert_eq!(serde_json::to_value(&changed).unwrap(), want);
        let taken_back = flags(
            &["cm:app-", "secret:db-"],
            &["PASSWORD-"],
            &["/etc/app-", "/var/cache-", "/x-"],
            &[],
        );
        taken_back.change(&mut changed).unwrap();
        assert_eq!(changed, spec());
    }

    #[test]
    fn a_volume_goes_with_its_last_mount_and_no_other_does() {
        let mut changed = spec();
        let given = flags(&[], &[], &["/a=v", "/b=v"], &["v=secret:db"]);
        given.change(&mut changed).unwrap();
        let volumes = |removed: &[&str], changed: &mut RevisionSpec| {
            let other = flags(&[], &[], removed, &["other=cm:app"]);
            other.change(changed).unwrap();
            let names = changed.volumes.iter().map(|volume| volume.name.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(volumes(&["/a-"], &mut changed), ["v", "other"]);
        assert_eq!(volumes(&["/b-"], &mut changed), ["other"]);
    }

    #[test]
    fn malformed_flags_are_usage_errors() {
        for bad in [
            flags(&["app"], &[], &[], &[]),
            flags(&["cm:"], &[], &[], &[]),
            flags(&[], &["A=secret:db"], &[], &[]),
            flags(&[], &["=secret:db:k"], &[], &[]),
            flags(&[], &["A"], &[], &[]),
            flags(&[], &[], &["etc=cm:app"], &[]),
            flags(&[], &[], &["/etc=pvc:app"], &[]),
            flags(&[], &[], &["/etc"], &[]),
            flags(&[], &[], &[], &["v=x"]),
            flags(&[], &[], &[], &["v=emptyDir:color=red"]),
        ] {
            assert_eq!(bad.change(&mut spec()).unwrap_err().code, 2, "{bad:?}");
        }
    }
}
