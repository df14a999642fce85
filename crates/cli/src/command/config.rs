//! `nihilo config view`: what a node's configuration comes to, and where each part of it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nihilo_types::isolation::Isolation;
use nihilo_types::node_config::{NodeConfig, OnNodeExit};
use nihilo_types::node_env;
use nihilo_types::node_view::{self, Given, Setting, Source, keys_of};
use serde_json::Value;

use super::node;
use crate::failure::{Failure, Result};
use crate::output::{self, OutputArgs};

/// Where the package's unit looks.
const INSTALLED: &str = "/etc/nihilo/node.yaml";
/// Shown where a key has no value.
const NONE: &str = "-";

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// What a node that is started here and now would run with: what was written down, or every key.
    /// Prints no secret: of keys and certificates, where they are.
    View(ViewArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// Its configuration; default: the variables NIHILO_… if NIHILO_MEMBERS is set, else
    /// ./node.yaml, else /etc/nihilo/node.yaml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As it would be given to `nihilo node start`.
    #[arg(long, value_name = "WHAT")]
    on_node_exit: Option<OnNodeExit>,
    /// The same.
    #[arg(long, value_name = "LEVEL")]
    isolation: Option<Isolation>,
    /// Also keys that nobody has set, with their defaults.
    #[arg(long)]
    effective: bool,
    /// Also who decided each: a flag, a variable, the file, or the default.
    #[arg(long)]
    sources: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// # Errors
/// Usage: there is no configuration, or it is none.
pub(crate) fn run(command: &ConfigCommand) -> Result<()> {
    let ConfigCommand::View(args) = command;
    let settings = settings(args, node_env::of_process())?;
    let shown: Vec<_> = settings
        .iter()
        .map(|setting| show(setting, args.sources))
        .collect();
    output::list(
        args.output.output,
        &shown,
        |setting| setting.key.to_owned(),
        |settings| table(settings, args.sources),
    )
}

/// Keys with what they come to, strongest source first: flag, variable, file, default.
fn settings(args: &ViewArgs, variables: BTreeMap<String, String>) -> Result<Vec<Setting>> {
    let (config, given) = read(args, variables)?;
    let all = node_view::settings(&config, &given).into_iter();
    let is_shown = |setting: &Setting| args.effective || setting.source != Source::Default;
    Ok(all.filter(is_shown).collect())
}

fn read(args: &ViewArgs, variables: BTreeMap<String, String>) -> Result<(NodeConfig, Given)> {
    let mut flags = BTreeMap::new();
    let file = file_of(args.config.as_deref(), &variables);
    let (mut config, file) = match file {
        Some(file) => {
            let config = node::read_over(&file, &variables)?;
            let shown = file.display().to_string();
            (config, Some((shown, written_in(&file)?)))
        }
        None => {
            let config = node_env::read(&variables);
            (config.map_err(|error| Failure::usage(error.0))?, None)
        }
    };
    if let Some(what) = args.on_node_exit {
        config.on_node_exit = Some(what);
        flags.insert("on-node-exit", "--on-node-exit");
    }
    if let Some(level) = args.isolation {
        config.process.isolation = level;
        flags.insert("process.isolation", "--isolation");
    }
    let given = Given {
        file,
        variables,
        flags,
    };
    Ok((config, given))
}

/// `None` = the environment is all.
fn file_of(named: Option<&Path>, variables: &BTreeMap<String, String>) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    if variables.contains_key(node_env::MEMBERS) {
        return None;
    }
    let (here, installed) = (Path::new(node::FILE), Path::new(INSTALLED));
    // What is nowhere is missed where the node would look first.
    let is_only_installed = !here.exists() && installed.exists();
    let found = if is_only_installed { installed } else { here };
    Some(found.to_owned())
}

fn written_in(file: &Path) -> Result<BTreeSet<String>> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| Failure::io(&shown, &error))?;
    keys_of(&text, &shown).map_err(|error| Failure::usage(error.0))
}

/// One line of the list; without sources nothing is said of them in any format.
#[derive(Debug, serde::Serialize)]
struct Shown {
    key: &'static str,
    value: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "String::is_empty")]
    from: String,
}

fn show(setting: &Setting, with_source: bool) -> Shown {
    Shown {
        key: setting.key,
        value: setting.value.clone(),
        source: with_source.then_some(setting.source),
        from: match with_source {
            true => setting.from.clone(),
            false => String::new(),
        },
    }
}

fn table(settings: &[Shown], with_source: bool) -> String {
    let row = |setting: &Shown| {
        let mut row = vec![setting.key.to_owned(), plain(&setting.value)];
        row.extend(setting.source.map(|source| origin(source, &setting.from)));
        row
    };
    let rows: Vec<_> = settings.iter().map(row).collect();
    match with_source {
        true => output::table(&["KEY", "VALUE", "SOURCE"], &rows),
        false => output::table(&["KEY", "VALUE"], &rows),
    }
}

fn origin(source: Source, from: &str) -> String {
    match source {
        Source::Flag => format!("flag {from}"),
        Source::Environment => format!("variable {from}"),
        Source::File => format!("file {from}"),
        Source::Default => "default".into(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => NONE.into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: node1\nnode-id: 1\ndata-dir: DIR\nsecrets-key-file: DIR/secrets.key\n\
                        capacity: 7\nmembers:\n  - {id: 1, name: node1, peer: '127.0.0.1:7071', \
                        admin: '127.0.0.1:7070'}\n";
    const SECRET: &str = "c2VjcmV0";

    fn args(config: Option<PathBuf>, effective: bool) -> ViewArgs {
        ViewArgs {
            config,
            on_node_exit: Some(OnNodeExit::Kill),
            isolation: None,
            effective,
            sources: true,
            output: OutputArgs {
                output: output::Format::Table,
            },
        }
    }

    #[test]
    fn each_key_is_shown_with_who_decided_it_and_no_secret_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.yaml");
        let text = TEXT.replace("DIR", dir.path().to_str().unwrap());
        std::fs::write(&file, text).unwrap();
        std::fs::write(dir.path().join("secrets.key"), SECRET).unwrap();
        let variables = BTreeMap::from([("NIHILO_SHUTDOWN_GRACE".to_owned(), "9".to_owned())]);
        let of = |effective| {
            let settings = settings(&args(Some(file.clone()), effective), variables.clone());
            let shown = settings.unwrap();
            let shown: Vec<_> = shown.iter().map(|setting| show(setting, true)).collect();
            table(&shown, true)
        };
        let written = of(false);
        let file = file.display();
        for (key, value, source) in [
            ("capacity", "7", format!("file {file}")),
            (
                "shutdown-grace",
                "9",
                "variable NIHILO_SHUTDOWN_GRACE".into(),
            ),
            ("on-node-exit", "kill", "flag --on-node-exit".into()),
        ] {
            let mut lines = written.lines().map(|line| line.split_whitespace());
            let mut line = lines.find(|line| line.clone().next() == Some(key)).unwrap();
            assert_eq!(line.nth(1), Some(value), "{written}");
            assert_eq!(line.collect::<Vec<_>>().join(" "), source, "{written}");
        }
        assert!(!written.contains("peer-port"), "{written}");
        let all = of(true);
        assert!(
            all.contains("peer-port") && all.contains("default"),
            "{all}"
        );
        assert!(
            !all.contains(SECRET) && all.contains("secrets.key"),
            "{all}"
        );
    }

    #[test]
    fn the_environment_is_all_where_it_names_members() {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let variables = BTreeMap::from([
            set("NIHILO_MEMBERS", "1=a,2=b"),
            set("NIHILO_NODE_NAME", "b"),
            set("NIHILO_DATA_DIR", "/data"),
        ]);
        let shown = settings(&args(None, false), variables).unwrap();
        let from = |key: &str| {
            let found = shown.iter().find(|setting| setting.key == key).unwrap();
            (found.value.clone(), found.from.clone())
        };
        assert_eq!(from("name"), ("b".into(), "NIHILO_NODE_NAME".into()));
        assert_eq!(from("node-id"), (2.into(), "NIHILO_NODE_NAME".into()));
        assert_eq!(from("data-dir"), ("/data".into(), "NIHILO_DATA_DIR".into()));
    }

    #[test]
    fn what_is_nowhere_or_broken_is_a_usage_error() {
        let missing = args(Some("/no/such/node.yaml".into()), false);
        let failure = settings(&missing, BTreeMap::new()).unwrap_err();
        assert_eq!(failure.code, 2, "{failure}");
    }
}
