//! Volumes of programs of the host: mounts that each program alone sees, where this node may make
//! any.

use std::ffi::OsString;

use nihilo_types::instance::{InstanceSpec, stage};
use nihilo_types::secret_value::SecretValue;

use crate::config::{Mount, MountSource, Provided};
use crate::driver::StartError;
use crate::launch::{PlannedMount, PlannedSource};

/// Bit of the capability to mount, `<linux/capability.h>`.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// # Errors
/// There are mounts, and this node may make none.
pub(super) fn planned(mounts: &[Mount], may_mount: bool) -> Result<Vec<PlannedMount>, StartError> {
    if !mounts.is_empty() && !may_mount {
        let paths: Vec<_> = mounts
            .iter()
            .map(|mount| format!("`{}`", mount.path))
            .collect();
        return Err(StartError::not_started(
            stage::VOLUMES,
            format!(
                "{} can be shown to a program only by a node that may mount, and this one may not: \
                 run it as root with CAP_SYS_ADMIN, give its programs `process: {{isolation: full}}` \
                 where the host lets it, or run the app as a container image",
                paths.join(", ")
            ),
        ));
    }
    let planned = |mount: &Mount| {
        let source = match &mount.source {
            MountSource::Directory(dir) => PlannedSource::Directory(dir.clone()),
            MountSource::Memory { max_bytes } => PlannedSource::Memory(*max_bytes),
            MountSource::Earlier(path) => PlannedSource::Earlier(path.into()),
            // Of images alone, whose users nobody else knows.
            MountSource::Engine => return None,
        };
        Some(PlannedMount {
            source,
            target: mount.path.clone().into(),
            read_only: mount.read_only,
        })
    };
    Ok(mounts.iter().filter_map(planned).collect())
}

/// Whether this process has the capability now; what else may forbid it says so itself.
pub(super) fn may_mount() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & CAP_SYS_ADMIN != 0)
}

/// `NIHILO_VOLUME_{NAME}`: where a program finds a volume without knowing the template.
pub(super) fn variables(mounts: &[Mount]) -> impl Iterator<Item = (String, OsString)> {
    let variable = |mount: &Mount| {
        let name = mount.volume.to_uppercase().replace('-', "_");
        (format!("NIHILO_VOLUME_{name}"), mount.path.clone().into())
    };
    // Of two mounts of one volume the first.
    mounts.iter().rev().map(variable)
}

/// What an instance of an earlier process of this node was provided with: commands inside get the
/// environment that it has.
pub(super) fn of_adopted(spec: &InstanceSpec, pid: u32) -> Provided {
    if spec.config.is_empty() {
        return Provided::default();
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ")).map(SecretValue::new);
    let environment = environment.unwrap_or_default();
    let entries = environment.expose().split(|byte| *byte == 0);
    let entry = |entry: &[u8]| {
        let at = entry.iter().position(|byte| *byte == b'=')?;
        let (name, value) = entry.split_at(at);
        let name = String::from_utf8(name.to_vec()).ok()?;
        Some((name, SecretValue::new(&value[1..])))
    };
    Provided {
        env: entries.filter_map(entry).collect(),
        mounts: Vec::new(),
    }
}
