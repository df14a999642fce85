//! Printing: data on stdout, remarks on stderr, tables in kubectl's look.

use std::io::Write;

use nihilo_client::WrittenConfig;
use nihilo_types::condition::{Condition, ConditionStatus, Conditions};
use nihilo_types::meta::ObjectMeta;
use nihilo_types::time;
use serde::Serialize;

use crate::failure::{Failure, Result, exit};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
    Name,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct OutputArgs {
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Prints data. A reader that has gone away (`| head`) is no failure.
pub(crate) fn data(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Prints a remark for a person.
pub(crate) fn note(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Says what a write of a ConfigMap or a Secret did.
pub(crate) fn applied<T>(kind: &str, meta: &ObjectMeta, written: &WrittenConfig<T>) {
    for warning in &written.warnings {
        note(&format!("warning: {warning}"));
    }
    let (name, namespace) = (&meta.name, &meta.namespace);
    data(&match written.unchanged {
        true => format!("No changes to apply to {} '{name}'.", kind.to_lowercase()),
        false => format!(
            "{kind} '{name}' in namespace '{namespace}' applied at log index {}.",
            written.index
        ),
    });
}

/// Writes the terminal's line of remarks anew; an empty one clears it.
pub(crate) fn progress(line: &str) {
    const CLEAR: &str = "\r\x1b[K";
    let mut err = std::io::stderr();
    drop(write!(err, "{CLEAR}{line}").and_then(|()| err.flush()));
}

/// Rows in columns two spaces apart, without trailing blanks.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| plain(cell)).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .chain([head[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// Text from elsewhere without anything that would steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => plain.push(c),
            c if c.is_control() => plain.extend(c.escape_default()),
            c => plain.push(c),
        }
    }
    plain
}

/// Prints a list in any format; `name` is the `-o name` line of one item.
pub(crate) fn list<T: Serialize>(
    format: Format,
    items: &[T],
    name: impl Fn(&T) -> String,
    as_table: impl FnOnce(&[T]) -> String,
) -> Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a, T> {
        api_version: &'static str,
        kind: &'static str,
        items: &'a [T],
    }
    match format {
        Format::Table => data(&as_table(items)),
        Format::Name => items.iter().for_each(|item| data(&name(item))),
        Format::Json | Format::Yaml => {
            data(&rendered(
                format,
                &List {
                    api_version: "v1",
                    kind: "List",
                    items,
                },
            )?);
        }
    }
    Ok(())
}

/// Prints one object in any format.
pub(crate) fn one<T: Serialize>(
    format: Format,
    item: &T,
    name: impl FnOnce(&T) -> String,
    as_text: impl FnOnce(&T) -> String,
) -> Result<()> {
    let text = match format {
        Format::Table => as_text(item),
        Format::Name => name(item),
        Format::Json | Format::Yaml => rendered(format, item)?,
    };
    data(&text);
    Ok(())
}

fn rendered<T: Serialize>(format: Format, value: &T) -> Result<String> {
    let failure = |error: &dyn std::fmt::Display| Failure::new(exit::OTHER, error.to_string());
    if format == Format::Yaml {
        let text = serde_saphyr::to_string(value).map_err(|error| failure(&error))?;
        return Ok(text.trim_end().to_owned());
    }
    serde_json::to_string_pretty(value).map_err(|error| failure(&error))
}

/// Age of an object from its creation timestamp, `?` without one.
pub(crate) fn age_of(creation_timestamp: &str) -> String {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    time::parse_rfc3339(creation_timestamp).map_or_else(
        || "?".into(),
        |created| time::age(now.saturating_sub(created)),
    )
}

/// The columns CONDITIONS, READY and REASON of an object.
pub(crate) fn condition_cells(conditions: &Conditions) -> [String; 3] {
    let n_true = conditions
        .0
        .iter()
        .filter(|c| c.status == ConditionStatus::True)
        .count();
    let ready = conditions.get("Ready");
    let reason = ready
        .filter(|c| c.status != ConditionStatus::True)
        .map(explained);
    [
        format!("{n_true} OK / {}", conditions.0.len()),
        status_word(conditions.status("Ready")).into(),
        reason.unwrap_or_default(),
    ]
}

/// First line of what `describe` shows of an object.
pub(crate) fn heading(meta: &ObjectMeta, observed_generation: u64) -> String {
    format!(
        "Name: {}   Namespace: {}   Age: {}   Generation: {} (observed {observed_generation})   etag \"{}\"",
        meta.name,
        meta.namespace,
        age_of(&meta.creation_timestamp),
        meta.generation,
        meta.resource_version,
    )
}

/// All conditions with a mark each, and why, as far as one line tells.
pub(crate) fn conditions_line(conditions: &Conditions) -> String {
    let marked = conditions.0.iter().map(|condition| {
        let mark = match condition.status {
            ConditionStatus::True => "++",
            ConditionStatus::False => "!!",
            ConditionStatus::Unknown => "??",
        };
        let why = explained(condition);
        match why.lines().next() {
            None | Some("") => format!("{mark} {}", condition.kind),
            Some(why) => format!("{mark} {} ({why})", condition.kind),
        }
    });
    format!("Conditions:  {}", marked.collect::<Vec<_>>().join("   "))
}

/// `Reason : message`, as far as there is either.
pub(crate) fn explained(condition: &Condition) -> String {
    match (condition.reason.is_empty(), condition.message.is_empty()) {
        (false, false) => format!("{} : {}", condition.reason, condition.message),
        _ => format!("{}{}", condition.reason, condition.message),
    }
}

pub(crate) fn status_word(status: ConditionStatus) -> &'static str {
    match status {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::condition::Assertion;

    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let rows = vec![
            vec!["node1".into(), "follower".into(), "4".into()],
            vec!["n2".into(), "LEADER".into(), String::new()],
        ];
        let text = table(&["NODE", "ROLE", "TERM"], &rows);
        assert_eq!(
            text,
            "NODE   ROLE      TERM\nnode1  follower  4\nn2     LEADER"
        );
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\tc\n"), "a\\u{1b}[2Jb\tc\\n");
    }

    #[test]
    fn a_ready_object_needs_no_reason() {
        let mut conditions = Conditions::default();
        conditions.set(&Assertion::truth("Ready"), "now");
        assert_eq!(condition_cells(&conditions), ["1 OK / 1", "True", ""]);
        conditions.set(&Assertion::falsity("Ready", "ExitCode1", "it ended"), "now");
        assert_eq!(
            condition_cells(&conditions),
            ["0 OK / 1", "False", "ExitCode1 : it ended"]
        );
    }
}
