//! `nihilo configmap`: settings of apps, and in namespace `knative-serving` those of the cluster.

use clap::Subcommand;
use nihilo_types::config_map::ConfigMap;

use super::Scope;
use super::literals::Literals;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, OutputArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigMapCommand {
    /// All of them.
    List {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One with its values.
    Describe {
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// A new one, of files and literals.
    Create {
        name: String,
        #[command(flatten)]
        from: Literals,
    },
    /// Change values; `KEY-` takes one out. Of the cluster's: `-n knative-serving`.
    Set {
        name: String,
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        values: Vec<String>,
    },
    /// Remove one; the cluster's own go back to their defaults.
    Delete { name: String },
}

pub(crate) async fn run(context: &Context, command: ConfigMapCommand) -> Result<()> {
    match command {
        ConfigMapCommand::List { scope, output } => list(context, scope, &output).await,
        ConfigMapCommand::Describe { name, output } => {
            let map = context
                .client
                .config_map(&context.namespace, &name)
                .await?
                .object;
            output::one(
                output.output,
                &map,
                |map| map.metadata.name.clone(),
                values_table,
            )
        }
        ConfigMapCommand::Create { name, from } => create(context, &name, &from).await,
        ConfigMapCommand::Set { name, values } => set(context, &name, &values).await,
        ConfigMapCommand::Delete { name } => {
            context
                .client
                .delete_config_map(&context.namespace, &name)
                .await?;
            output::data(&format!(
                "ConfigMap '{name}' successfully deleted in namespace '{}'.",
                context.namespace
            ));
            Ok(())
        }
    }
}

async fn list(context: &Context, scope: Scope, output: &OutputArgs) -> Result<()> {
    let listed = context.client.config_maps(scope.namespace(context)).await?;
    let rows = |maps: &[ConfigMap]| {
        let row = |map: &ConfigMap| {
            let meta = &map.metadata;
            (
                meta.namespace.clone(),
                vec![meta.name.clone(), map.data.len().to_string()],
            )
        };
        scope.table(&["NAME", "KEYS"], maps.iter().map(row).collect())
    };
    let name = |map: &ConfigMap| format!("configmap/{}", map.metadata.name);
    output::list(output.output, &listed.items, name, rows)
}

fn values_table(map: &ConfigMap) -> String {
    let rows: Vec<_> = (map.data.iter())
        .map(|(key, value)| vec![key.clone(), value.clone()])
        .collect();
    output::table(&["KEY", "VALUE"], &rows)
}

async fn create(context: &Context, name: &str, from: &Literals) -> Result<()> {
    let mut map = ConfigMap::default();
    map.metadata.name = name.into();
    map.metadata.namespace.clone_from(&context.namespace);
    for (key, value) in from.read()? {
        match std::str::from_utf8(value.expose()) {
            Ok(text) => drop(map.data.insert(key, text.into())),
            Err(_) => {
                let encoded = value.to_base64();
                let text = String::from_utf8_lossy(encoded.expose());
                map.binary_data.insert(key, text.into_owned());
            }
        }
    }
    map.default_fields();
    map.check().map_err(Failure::usage)?;
    context.client.create_config_map(&map).await?;
    let namespace = &map.metadata.namespace;
    output::data(&format!(
        "ConfigMap '{name}' created in namespace '{namespace}'."
    ));
    Ok(())
}

/// On the version that was read: a concurrent change is a conflict, not a lost update.
async fn set(context: &Context, name: &str, values: &[String]) -> Result<()> {
    let stored = context.client.config_map(&context.namespace, name).await?;
    let mut map = stored.object;
    for value in values {
        match (value.split_once('='), value.strip_suffix('-')) {
            (Some((key, value)), _) => drop(map.data.insert(key.into(), value.into())),
            (None, Some(key)) => drop(map.data.remove(key)),
            (None, None) => {
                return Err(Failure::usage(format!(
                    "`{value}` is neither KEY=VALUE nor KEY-"
                )));
            }
        }
    }
    apply(context, map, &stored.etag).await
}

pub(crate) async fn apply(context: &Context, mut map: ConfigMap, etag: &str) -> Result<()> {
    if map.metadata.namespace.is_empty() {
        map.metadata.namespace.clone_from(&context.namespace);
    }
    let written = context.client.apply_config_map(&map, etag).await?;
    output::applied("ConfigMap", &map.metadata, &written);
    Ok(())
}
