//! What no compiler sees: sleeps in tests, tests that run nowhere, links to nowhere.

use std::path::Path;

use anyhow::{Context, bail};

use crate::run::root;

/// Ends the reason of a test that the gate leaves out.
const RUNS_IN: &str = "runs in `cargo xtask test --long`";
const SKIP: [&str; 3] = ["target", ".git", ".nihilo"];

pub(crate) fn check() -> anyhow::Result<()> {
    let mut problems = Vec::new();
    let mut n_files = 0;
    walk(&root(), &mut |path, text| {
        n_files += 1;
        look(path, text, &mut problems);
    })?;
    if !problems.is_empty() {
        bail!("tidy:\n  {}", problems.join("\n  "));
    }
    eprintln!("tidy: {n_files} files");
    Ok(())
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path, &str)) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !SKIP.contains(&name.as_str()) {
            walk(&path, visit)?;
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            visit(&path, &std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

fn look(path: &Path, text: &str, problems: &mut Vec<String>) {
    let shown = path.display();
    let is_test = path.components().any(|part| part.as_os_str() == "tests")
        || path.to_string_lossy().ends_with("_test.rs");
    for (number, line) in text.lines().enumerate() {
        let place = format!("{shown}:{}", number + 1);
        let sleeps = concat!("sle", "ep(");
        if is_test && line.contains(sleeps) {
            problems.push(format!(
                "{place}: a sleep in a test; wait for a level with a limit"
            ));
        }
        if line.trim_start().starts_with("#[ignore") && !line.contains(RUNS_IN) {
            problems.push(format!(
                "{place}: an ignored test; its reason must say why, and that it `{RUNS_IN}`"
            ));
        }
        if path.extension().is_some_and(|extension| extension == "md") {
            dead_links(path, line, &place, problems);
        }
    }
}

fn dead_links(path: &Path, line: &str, place: &str, problems: &mut Vec<String>) {
    for link in line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        let file = link.split('#').next().unwrap_or_default();
        let outside = file.contains("://") || file.is_empty();
        let target = path.parent().unwrap_or(Path::new("")).join(file);
        if !outside && target.metadata().is_err() {
            problems.push(format!("{place}: `{file}` does not exist"));
        }
    }
}
