//! Validation of what comes out of Secrets and ConfigMaps, and of volumes, in upstream's words.

use std::collections::BTreeSet;

use super::Invalid;
use crate::names::{check_dns1123, check_dns1123_subdomain};
use crate::sources::{EmptyDir, EnvFrom, EnvVarSource, KeyRef, KeyToPath, MEMORY, Volume};
use crate::template::{Container, RevisionSpec};

pub const MAX_VOLUMES: usize = 50;
pub const MAX_MOUNTS: usize = 100;
pub const MAX_ENV_FROM: usize = 100;
/// Of one source of a volume, and sources of a projected one.
pub const MAX_ITEMS: usize = 1_000;
/// As the kernel has it.
const MAX_PATH: usize = 4_095;
/// Without these no program runs.
const RESERVED_PATHS: [&str; 5] = ["/", "/dev", "/dev/log", "/proc", "/sys"];

/// `env[].valueFrom` and `envFrom`.
pub(super) fn env(container: &Container, path: &str, invalid: &mut Invalid) {
    for (i, variable) in container.env.iter().enumerate() {
        let Some(from) = &variable.value_from else {
            continue;
        };
        let path = format!("{path}.env[{i}]");
        if !variable.value.is_empty() {
            one_of("both", &["value", "valueFrom"], &path, invalid);
        }
        value_from(from, &format!("{path}.valueFrom"), invalid);
    }
    at_most(
        container.env_from.len(),
        MAX_ENV_FROM,
        "sources",
        &format!("{path}.envFrom"),
        invalid,
    );
    for (i, from) in container.env_from.iter().enumerate() {
        env_from(from, &format!("{path}.envFrom[{i}]"), invalid);
    }
}

fn value_from(from: &EnvVarSource, path: &str, invalid: &mut Invalid) {
    let fields = ["configMapKeyRef", "secretKeyRef"];
    match (&from.config_map_key_ref, &from.secret_key_ref) {
        (None, None) => one_of("neither", &fields, path, invalid),
        (Some(_), Some(_)) => one_of("both", &fields, path, invalid),
        (Some(key), None) => key_ref(key, &format!("{path}.configMapKeyRef"), invalid),
        (None, Some(key)) => key_ref(key, &format!("{path}.secretKeyRef"), invalid),
    }
}

fn key_ref(reference: &KeyRef, path: &str, invalid: &mut Invalid) {
    name(&reference.name, &format!("{path}.name"), invalid);
    if reference.key.is_empty() {
        invalid.add("missing field(s)", format!("{path}.key"));
    }
}

fn env_from(from: &EnvFrom, path: &str, invalid: &mut Invalid) {
    if from.prefix.contains(['=', '\0']) {
        let text = format!("invalid value: {:?}", from.prefix);
        invalid.add(text, format!("{path}.prefix"));
    }
    let fields = ["configMapRef", "secretRef"];
    match (&from.config_map_ref, &from.secret_ref) {
        (None, None) => one_of("neither", &fields, path, invalid),
        (Some(_), Some(_)) => one_of("both", &fields, path, invalid),
        (Some(map), None) => name(&map.name, &format!("{path}.configMapRef.name"), invalid),
        (None, Some(secret)) => name(&secret.name, &format!("{path}.secretRef.name"), invalid),
    }
}

/// Volumes of a revision, and where its container mounts them.
pub(super) fn volumes(spec: &RevisionSpec, container: &Container, invalid: &mut Invalid) {
    let path = "spec.template.spec.volumes";
    at_most(spec.volumes.len(), MAX_VOLUMES, "volumes", path, invalid);
    let mut names = BTreeSet::new();
    for (i, one) in spec.volumes.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if check_dns1123(&one.name).is_err() {
            let text = format!("invalid value: {:?}", one.name);
            invalid.add(text, format!("{path}.name"));
        } else if !names.insert(&one.name) {
            let text = format!("duplicate volume name {:?}", one.name);
            invalid.add(text, format!("{path}.name"));
        } else if container
            .volume_mounts
            .iter()
            .all(|mount| mount.name != one.name)
        {
            let text = format!("volume with name {:?} not mounted", one.name);
            invalid.add(text, format!("{path}.name"));
        }
        volume(one, &path, invalid);
    }
    mounts(spec, container, invalid);
}

fn volume(volume: &Volume, path: &str, invalid: &mut Invalid) {
    let sources = [
        ("configMap", volume.config_map.is_some()),
        ("emptyDir", volume.empty_dir.is_some()),
        ("projected", volume.projected.is_some()),
        ("secret", volume.secret.is_some()),
    ];
    let given: Vec<_> = sources
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect();
    match given.as_slice() {
        [] => one_of("neither", &sources.map(|(name, _)| name), path, invalid),
        [_] => {}
        many => one_of("both", many, path, invalid),
    }
    if let Some(secret) = &volume.secret {
        let path = format!("{path}.secret");
        name(&secret.secret_name, &format!("{path}.secretName"), invalid);
        items(&secret.items, &path, invalid);
    }
    if let Some(map) = &volume.config_map {
        let path = format!("{path}.configMap");
        name(&map.name, &format!("{path}.name"), invalid);
        items(&map.items, &path, invalid);
    }
    if let Some(empty) = &volume.empty_dir {
        empty_dir(empty, &format!("{path}.emptyDir"), invalid);
    }
    let Some(projected) = &volume.projected else {
        return;
    };
    let path = format!("{path}.projected.sources");
    if projected.sources.is_empty() {
        invalid.add("missing field(s)", path.clone());
    }
    at_most(
        projected.sources.len(),
        MAX_ITEMS,
        "sources",
        &path,
        invalid,
    );
    for (i, source) in projected.sources.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let (object, field) = match (&source.config_map, &source.secret) {
            (None, None) => {
                one_of("neither", &["configMap", "secret"], &path, invalid);
                continue;
            }
            (Some(_), Some(_)) => {
                one_of("both", &["configMap", "secret"], &path, invalid);
                continue;
            }
            (Some(map), None) => (map, "configMap"),
            (None, Some(secret)) => (secret, "secret"),
        };
        let path = format!("{path}.{field}");
        name(&object.name, &format!("{path}.name"), invalid);
        items(&object.items, &path, invalid);
    }
}

fn items(items: &[KeyToPath], path: &str, invalid: &mut Invalid) {
    at_most(
        items.len(),
        MAX_ITEMS,
        "items",
        &format!("{path}.items"),
        invalid,
    );
    for (i, item) in items.iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        for (value, field) in [(&item.key, "key"), (&item.path, "path")] {
            if value.is_empty() {
                invalid.add("missing field(s)", format!("{path}.{field}"));
            }
        }
        if !item.path.is_empty() && !is_below(&item.path) {
            let details = "a path below the volume's directory, without `..`";
            let text = format!("invalid value: {:?}", item.path);
            invalid.add_with(text, format!("{path}.path"), details);
        }
    }
}

/// A relative path of plain names; a leading `..` is what files are swapped by.
fn is_below(path: &str) -> bool {
    let is_name = |part: &str| !part.is_empty() && part != "." && !part.starts_with("..");
    path.len() <= MAX_PATH && path.split('/').all(is_name) && !path.chars().any(char::is_control)
}

fn empty_dir(empty: &EmptyDir, path: &str, invalid: &mut Invalid) {
    if !["", MEMORY].contains(&&*empty.medium) {
        let text = format!("invalid value: {:?}", empty.medium);
        invalid.add_with(text, format!("{path}.medium"), "must be empty or `Memory`");
    }
    let Some(limit) = &empty.size_limit else {
        return;
    };
    if limit.units().is_none() {
        invalid.add(
            format!("invalid value: {limit}"),
            format!("{path}.sizeLimit"),
        );
    } else if empty.medium.is_empty() {
        let details = "this version bounds only what is in memory: add `medium: Memory`, or leave \
                       it out";
        invalid.add_with(
            "must not set the field(s)",
            format!("{path}.sizeLimit"),
            details,
        );
    } else if limit.units() == Some(0) {
        // The kernel takes it for no limit.
        invalid.add(
            format!("expected 1 <= {limit}"),
            format!("{path}.sizeLimit"),
        );
    }
}

fn mounts(spec: &RevisionSpec, container: &Container, invalid: &mut Invalid) {
    let path = "spec.template.spec.containers[0].volumeMounts";
    at_most(
        container.volume_mounts.len(),
        MAX_MOUNTS,
        "mounts",
        path,
        invalid,
    );
    let mut paths = BTreeSet::new();
    for (i, mount) in container.volume_mounts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let volume = spec.volumes.iter().find(|volume| volume.name == mount.name);
        match volume {
            None => invalid.add("volumeMount has no matching volume", format!("{path}.name")),
            Some(volume) if volume.empty_dir.is_none() && mount.read_only != Some(true) => {
                let text = "volume mount should be readOnly for this type of volume";
                invalid.add(text, format!("{path}.readOnly"));
            }
            Some(_) => {}
        }
        let path = format!("{path}.mountPath");
        let given = mount.mount_path.as_str();
        let plain = given.trim_end_matches('/');
        let is_plain = given.len() <= MAX_PATH
            && !given.chars().any(char::is_control)
            && plain
                .split('/')
                .skip(1)
                .all(|part| !["", ".", ".."].contains(&part));
        if given.is_empty() {
            invalid.add("missing field(s)", path);
        } else if RESERVED_PATHS.contains(&plain) || plain.is_empty() {
            invalid.add(format!("mountPath {given:?} is a reserved path"), path);
        } else if !given.starts_with('/') || !is_plain {
            let details = "an absolute path, without `.`, `..` and empty parts";
            invalid.add_with(format!("invalid value: {given}"), path, details);
        } else if !paths.insert(plain) {
            invalid.add(format!("{given:?} must be unique"), path);
        }
    }
}

fn name(name: &str, path: &str, invalid: &mut Invalid) {
    if name.is_empty() {
        invalid.add("missing field(s)", path);
    } else if let Err(why) = check_dns1123_subdomain(name) {
        invalid.add_with(format!("invalid value: {name}"), path, why);
    }
}

fn one_of(what: &str, fields: &[&str], path: &str, invalid: &mut Invalid) {
    for field in fields {
        invalid.add(
            format!("expected exactly one, got {what}"),
            format!("{path}.{field}"),
        );
    }
}

fn at_most(n: usize, most: usize, what: &str, path: &str, invalid: &mut Invalid) {
    if n > most {
        invalid.add(format!("too many {what}: found {n}, at most {most}"), path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;
    use crate::service::Service;

    /// What validation says of a template with this container and these volumes.
    fn said(container: &str, volumes: &str) -> String {
        let json = format!(
            r#"{{"apiVersion":"","kind":"","metadata":{{"name":"hello"}},"spec":{{"template":{{"spec":
            {{"containers":[{{"image":"demo/hello",{container}}}],"volumes":[{volumes}]}}}}}}}}"#
        );
        let mut service: Service = serde_json::from_str(&json).unwrap();
        defaults::service(&mut service);
        let checked = crate::validate::service(&service);
        let text = checked.map_or_else(|invalid| invalid.to_string(), |()| String::new());
        text.replace("spec.template.spec.", "")
            .replace("containers[0].", "")
    }

    #[test]
    fn variables_name_one_key_of_one_object() {
        let from = |from: &str| said(&format!(r#""env":[{{"name":"A","valueFrom":{from}}}]"#), "");
        assert_eq!(from(r#"{"secretKeyRef":{"name":"db","key":"k"}}"#), "");
        let cases = [
            (
                "{}",
                "expected exactly one, got neither: env[0].valueFrom.configMapKeyRef, \
                 env[0].valueFrom.secretKeyRef",
            ),
            (
                r#"{"secretKeyRef":{"name":"a","key":"k"},"configMapKeyRef":{"name":"a","key":"k"}}"#,
                "expected exactly one, got both: env[0].valueFrom.configMapKeyRef, \
                 env[0].valueFrom.secretKeyRef",
            ),
            (
                r#"{"secretKeyRef":{}}"#,
                "missing field(s): env[0].valueFrom.secretKeyRef.key, \
                 env[0].valueFrom.secretKeyRef.name",
            ),
        ];
        for (json, want) in cases {
            assert_eq!(from(json), want, "{json}");
        }
        let both = r#""env":[{"name":"A","value":"1","valueFrom":{"secretKeyRef":{"name":"a","key":"k"}}}]"#;
        assert_eq!(
            said(both, ""),
            "expected exactly one, got both: env[0].value, env[0].valueFrom"
        );
        assert_eq!(
            said(r#""envFrom":[{"prefix":"X_"}]"#, ""),
            "expected exactly one, got neither: envFrom[0].configMapRef, envFrom[0].secretRef"
        );
        assert_eq!(said(r#""envFrom":[{"secretRef":{"name":"a.b"}}]"#, ""), "");
    }

    #[test]
    fn volumes_and_mounts_belong_together() {
        let mount = |name: &str, path: &str| {
            format!(r#""volumeMounts":[{{"name":"{name}","mountPath":"{path}"}}]"#)
        };
        let secret = r#"{"name":"v","secret":{"secretName":"db"}}"#;
        assert_eq!(said(&mount("v", "/etc/db"), secret), "");
        let cases = [
            (
                mount("v", "/etc/db"),
                r#"{"name":"v"}"#,
                "expected exactly one, got neither: volumes[0].configMap, volumes[0].emptyDir, \
                 volumes[0].projected, volumes[0].secret",
            ),
            (
                mount("v", "/dev/"),
                secret,
                "mountPath \"/dev/\" is a reserved path: volumeMounts[0].mountPath",
            ),
            (
                mount("v", "/"),
                secret,
                "mountPath \"/\" is a reserved path: volumeMounts[0].mountPath",
            ),
            (
                mount("v", "etc"),
                secret,
                "invalid value: etc: volumeMounts[0].mountPath\nan absolute path, without `.`, `..` and \
                 empty parts",
            ),
            (
                mount("v", ""),
                secret,
                "missing field(s): volumeMounts[0].mountPath",
            ),
            (
                mount("w", "/etc/db"),
                secret,
                "volume with name \"v\" not mounted: volumes[0].name\nvolumeMount has no matching \
                 volume: volumeMounts[0].name",
            ),
            (
                mount("v", "/etc/db"),
                r#"{"name":"v","secret":{"secretName":"db","items":[{"key":"k","path":"../x"}]}}"#,
                "invalid value: \"../x\": volumes[0].secret.items[0].path\na path below the volume's \
                 directory, without `..`",
            ),
            (
                mount("v", "/etc/db"),
                r#"{"name":"v","emptyDir":{"sizeLimit":"1Gi"}}"#,
                "must not set the field(s): volumes[0].emptyDir.sizeLimit\nthis version bounds only \
                 what is in memory: add `medium: Memory`, or leave it out",
            ),
            (
                mount("v", "/etc/db"),
                r#"{"name":"v","projected":{"sources":[{}]}}"#,
                "expected exactly one, got neither: volumes[0].projected.sources[0].configMap, \
                 volumes[0].projected.sources[0].secret",
            ),
        ];
        for (container, volumes, want) in cases {
            assert_eq!(said(&container, volumes), want, "{volumes}");
        }
    }

    #[test]
    fn only_an_empty_directory_is_written_to() {
        let mounts = r#""volumeMounts":[{"name":"v","mountPath":"/v","readOnly":false}]"#;
        assert_eq!(said(mounts, r#"{"name":"v","emptyDir":{}}"#), "");
        assert_eq!(
            said(mounts, r#"{"name":"v","configMap":{"name":"m"}}"#),
            "volume mount should be readOnly for this type of volume: volumeMounts[0].readOnly"
        );
    }

    #[test]
    fn names_and_paths_are_unique() {
        let mounts =
            r#""volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"v","mountPath":"/v/"}]"#;
        let volume = r#"{"name":"v","emptyDir":{}}"#;
        assert_eq!(
            said(mounts, &format!("{volume},{volume}")),
            "\"/v/\" must be unique: volumeMounts[1].mountPath\nduplicate volume name \"v\": \
             volumes[1].name"
        );
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        for (json, field) in [
            (r#"{"name":"v","mountPath":"/v","subPath":"x"}"#, "subPath"),
            (
                r#"{"name":"v","mountPath":"/v","mountPropagation":"None"}"#,
                "mountPropagation",
            ),
        ] {
            let error = serde_json::from_str::<crate::sources::VolumeMount>(json).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        for (json, field) in [
            (r#"{"name":"v","hostPath":{"path":"/"}}"#, "hostPath"),
            (
                r#"{"name":"v","persistentVolumeClaim":{}}"#,
                "persistentVolumeClaim",
            ),
            (
                r#"{"name":"v","secret":{"secretName":"x","defaultMode":256}}"#,
                "defaultMode",
            ),
        ] {
            let error = serde_json::from_str::<Volume>(json).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
