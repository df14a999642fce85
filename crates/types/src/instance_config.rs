//! What an instance takes out of Secrets and ConfigMaps: references, never values. Its node looks
//! the values up in the state that it has applied, when it starts the instance.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::LogIndex;
use crate::quantity::Quantity;
use crate::service::is_default;
use crate::sources::{
    EnvFrom, EnvVarSource, KeyRef, KeyToPath, MEMORY, ObjectRef, ObjectVolume, SecretVolume, Volume,
};
use crate::template::RevisionSpec;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// In order; each later one wins, and every other variable wins over all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub all_keys: Vec<AllKeys>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Variable>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<MountedVolume>,
    /// The state that is looked into is not older than this: what the owner has seen, the node
    /// has too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_index: LogIndex,
}

/// Which kind of object holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Holder {
    Secret,
    ConfigMap,
}

/// As people write it in messages.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Holder::Secret => "secret",
            Holder::ConfigMap => "configmap",
        })
    }
}

/// Every key of an object as a variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllKeys {
    pub prefix: String,
    pub holder: Holder,
    pub name: String,
    pub optional: bool,
}

/// One key of an object as a variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    pub variable: String,
    pub holder: Holder,
    pub name: String,
    pub key: String,
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountedVolume {
    pub name: String,
    pub content: VolumeContent,
    pub mounts: Vec<MountPoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum VolumeContent {
    /// Files out of objects, in order; of two of one path the later one is seen.
    Files(Vec<FileSource>),
    Empty {
        /// In memory, of so many bytes at most where there is a number; otherwise on disk.
        in_memory: bool,
        max_bytes: Option<u64>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    pub holder: Holder,
    pub name: String,
    /// Empty = every key.
    pub items: Vec<KeyToPath>,
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountPoint {
    pub path: String,
    pub read_only: bool,
}

impl InstanceConfig {
    /// What a template asks for, and the variables of it that have their values in it. Of two
    /// variables of one name the later one is left. Validation has seen that each source is one.
    pub fn of(spec: &RevisionSpec) -> (Self, Vec<(String, String)>) {
        let Some(container) = spec.container() else {
            return (Self::default(), Vec::new());
        };
        let (mut plain, mut variables) = (Vec::new(), Vec::new());
        for one in &container.env {
            let name = &one.name;
            variables.retain(|known: &Variable| known.variable != *name);
            match one
                .value_from
                .as_deref()
                .and_then(|from| variable(name, from))
            {
                Some(reference) => {
                    plain.retain(|(known, _)| known != name);
                    variables.push(reference);
                }
                None => plain.push((name.clone(), one.value.clone())),
            }
        }
        let mounted = |volume: &Volume| {
            let mounts = container.volume_mounts.iter();
            let mounts = mounts.filter(|mount| mount.name == volume.name);
            let mounts = mounts.map(|mount| MountPoint {
                path: mount.mount_path.clone(),
                read_only: mount.read_only.unwrap_or(volume.empty_dir.is_none()),
            });
            Some(MountedVolume {
                name: volume.name.clone(),
                content: content(volume)?,
                mounts: mounts.collect(),
            })
        };
        let config = Self {
            all_keys: container.env_from.iter().filter_map(all_keys).collect(),
            variables,
            volumes: spec.volumes.iter().filter_map(mounted).collect(),
            min_index: LogIndex(0),
        };
        (config, plain)
    }

    /// Every object that it refers to, some more than once.
    pub fn references(&self) -> impl Iterator<Item = (Holder, &str)> {
        let all = self.all_keys.iter().map(|one| (one.holder, &*one.name));
        let single = self.variables.iter().map(|one| (one.holder, &*one.name));
        let volumes = self.volumes.iter().flat_map(MountedVolume::sources);
        all.chain(single)
            .chain(volumes.map(|one| (one.holder, &*one.name)))
    }

    pub fn is_empty(&self) -> bool {
        self.all_keys.is_empty() && self.variables.is_empty() && self.volumes.is_empty()
    }
}

impl MountedVolume {
    /// Of its files; an empty directory has none.
    pub fn sources(&self) -> impl Iterator<Item = &FileSource> {
        let sources = match &self.content {
            VolumeContent::Files(sources) => sources.as_slice(),
            VolumeContent::Empty { .. } => &[],
        };
        sources.iter()
    }
}

fn variable(name: &str, from: &EnvVarSource) -> Option<Variable> {
    let of = |holder, reference: &KeyRef| Variable {
        variable: name.into(),
        holder,
        name: reference.name.clone(),
        key: reference.key.clone(),
        optional: reference.optional.unwrap_or(false),
    };
    match (&from.secret_key_ref, &from.config_map_key_ref) {
        (Some(secret), _) => Some(of(Holder::Secret, secret)),
        (None, Some(config_map)) => Some(of(Holder::ConfigMap, config_map)),
        (None, None) => None,
    }
}

fn all_keys(from: &EnvFrom) -> Option<AllKeys> {
    let of = |holder, reference: &ObjectRef| AllKeys {
        prefix: from.prefix.clone(),
        holder,
        name: reference.name.clone(),
        optional: reference.optional.unwrap_or(false),
    };
    match (&from.secret_ref, &from.config_map_ref) {
        (Some(secret), _) => Some(of(Holder::Secret, secret)),
        (None, Some(config_map)) => Some(of(Holder::ConfigMap, config_map)),
        (None, None) => None,
    }
}

fn content(volume: &Volume) -> Option<VolumeContent> {
    if let Some(empty) = &volume.empty_dir {
        return Some(VolumeContent::Empty {
            in_memory: empty.medium == MEMORY,
            max_bytes: empty.size_limit.as_ref().and_then(Quantity::units),
        });
    }
    let of_object = |holder, object: &ObjectVolume| FileSource {
        holder,
        name: object.name.clone(),
        items: object.items.clone(),
        optional: object.optional.unwrap_or(false),
    };
    let of_secret = |secret: &SecretVolume| FileSource {
        holder: Holder::Secret,
        name: secret.secret_name.clone(),
        items: secret.items.clone(),
        optional: secret.optional.unwrap_or(false),
    };
    if let Some(projected) = &volume.projected {
        let sources = projected.sources.iter().filter_map(|one| {
            let secret = one.secret.as_ref().map(|s| of_object(Holder::Secret, s));
            let config_map = one.config_map.as_ref();
            secret.or_else(|| config_map.map(|map| of_object(Holder::ConfigMap, map)))
        });
        return Some(VolumeContent::Files(sources.collect()));
    }
    let secret = volume.secret.as_ref().map(of_secret);
    let config_map = volume.config_map.as_ref();
    let one = secret.or_else(|| config_map.map(|map| of_object(Holder::ConfigMap, map)));
    Some(VolumeContent::Files(vec![one?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> (InstanceConfig, Vec<(String, String)>) {
        InstanceConfig::of(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_later_of_two_variables_is_left() {
        let reference = r#"{"name":"A","valueFrom":{"secretKeyRef":{"name":"db","key":"k"}}}"#;
        let plain = r#"{"name":"A","value":"1"}"#;
        let both = |first: &str, second: &str| {
            let (config, plain) = of(&format!(
                r#"{{"containers":[{{"env":[{first},{second}]}}]}}"#
            ));
            (config.variables.len(), plain.len())
        };
        assert_eq!(both(plain, reference), (1, 0));
        assert_eq!(both(reference, plain), (0, 1));
        assert_eq!(both(reference, reference), (1, 0));
    }

    #[test]
    fn every_reference_is_found_and_every_mount_has_its_volume() {
        let (config, plain) = of(r#"{"containers":[{
                "envFrom":[{"prefix":"P_","configMapRef":{"name":"a"}},
                           {"secretRef":{"name":"b","optional":true}}],
                "env":[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"c","key":"k"}}}],
                "volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"v","mountPath":"/w"},
                                {"name":"e","mountPath":"/e"}]}],
              "volumes":[{"name":"v","projected":{"sources":[
                            {"secret":{"name":"d","items":[{"key":"k","path":"sub/k"}]}},
                            {"configMap":{"name":"e","optional":true}}]}},
                         {"name":"e","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}}]}"#);
        assert!(plain.is_empty());
        let found: Vec<_> = config
            .references()
            .map(|(h, n)| format!("{h}/{n}"))
            .collect();
        assert_eq!(
            found,
            [
                "configmap/a",
                "secret/b",
                "configmap/c",
                "secret/d",
                "configmap/e"
            ]
        );
        let mounts: Vec<_> = config.volumes[0]
            .mounts
            .iter()
            .map(|m| (&*m.path, m.read_only))
            .collect();
        assert_eq!(mounts, [("/v", true), ("/w", true)]);
        let empty = VolumeContent::Empty {
            in_memory: true,
            max_bytes: Some(1 << 20),
        };
        assert_eq!(config.volumes[1].content, empty);
        assert!(!config.volumes[1].mounts[0].read_only);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<InstanceConfig>(&json).unwrap(),
            config
        );
    }
}
