//! The direction of dependencies between crates. A new edge wants a decision record.

use anyhow::{Context, bail};
use serde_json::Value;

use crate::run::cargo_output;

/// Crate, and what it may import; nothing else.
const MAY_IMPORT: [(&str, &[&str]); 21] = [
    ("types", &[]),
    ("host", &[]),
    ("failpoint", &[]),
    ("actors", &[]),
    ("scale", &["types"]),
    ("machine", &["types", "scale"]),
    ("entity", &["types", "scale", "machine"]),
    ("wire", &["types", "machine"]),
    ("store", &["types", "machine", "wire", "failpoint", "host"]),
    (
        "raft",
        &["store", "machine", "wire", "types", "failpoint", "host"],
    ),
    (
        "control",
        &[
            "types",
            "scale",
            "machine",
            "entity",
            "actors",
            "wire",
            "failpoint",
        ],
    ),
    ("gateway", &["types", "scale", "failpoint", "host"]),
    ("runtime", &["types", "failpoint", "host"]),
    ("client", &["types", "wire"]),
    ("cli", &["client", "types", "scale", "entity", "wire"]),
    (
        "server",
        &[
            "types",
            "scale",
            "machine",
            "entity",
            "wire",
            "actors",
            "store",
            "raft",
            "control",
            "gateway",
            "runtime",
            "client",
            "cli",
            "failpoint",
            "host",
        ],
    ),
    // `machine` tells who owns what, so that the owner can be killed on purpose.
    (
        "jepsen-lite",
        &["client", "wire", "types", "machine", "sim", "failpoint"],
    ),
    // The server's own wiring on a simulated machine (docs/decisions/0020).
    (
        "sim-shell",
        &[
            "types", "host", "store", "raft", "runtime", "server", "client", "sim",
        ],
    ),
    ("xtask", &[]),
    // It measures what users see, and consensus alone (docs/decisions/0009).
    // and the autoscaler's own code in virtual time (docs/decisions/0064).
    (
        "bench",
        &[
            "types", "scale", "machine", "entity", "wire", "raft", "client",
        ],
    ),
    (
        "sim",
        &["types", "scale", "machine", "entity", "actors", "wire"],
    ),
];

pub(crate) fn check() -> anyhow::Result<()> {
    let output = cargo_output(&["metadata", "--locked", "--no-deps", "--format-version", "1"])?;
    let metadata: Value = serde_json::from_slice(&output)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let mut n_edges = 0;
    for package in packages {
        let Some(name) = package["name"].as_str().and_then(ours) else {
            continue;
        };
        let allowed = MAY_IMPORT
            .iter()
            .find(|(crate_name, _)| *crate_name == name);
        let (_, allowed) = allowed.with_context(|| format!("crate `{name}` is not in the map"))?;
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        for dependency in dependencies.filter_map(|d| d["name"].as_str().and_then(ours)) {
            if !allowed.contains(&dependency) {
                bail!("`{name}` must not import `{dependency}`; see ARCHITECTURE.md");
            }
            n_edges += 1;
        }
        no_chaos(name, package)?;
    }
    eprintln!("deps: {n_edges} edges, all allowed");
    Ok(())
}

fn ours(name: &str) -> Option<&str> {
    name.strip_prefix("nihilo-")
}

/// Features of one member reach all that are built with it: nobody may ask for failpoints but who
/// builds the chaos binary by name (docs/decisions/0030).
fn no_chaos(name: &str, package: &Value) -> anyhow::Result<()> {
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    for dependency in dependencies {
        let features = dependency["features"].as_array().into_iter().flatten();
        let asks = features.filter_map(Value::as_str);
        if ours(dependency["name"].as_str().unwrap_or_default()).is_some()
            && asks.into_iter().any(|f| matches!(f, "chaos" | "on"))
        {
            bail!("`{name}` asks for failpoints: they would be in the shipped binary too");
        }
    }
    let default = package["features"]["default"]
        .as_array()
        .into_iter()
        .flatten();
    if default
        .filter_map(Value::as_str)
        .any(|f| f.contains("chaos"))
    {
        bail!("`{name}` has failpoints by default");
    }
    Ok(())
}
