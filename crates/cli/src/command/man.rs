//! `nihilo man DIR`: a page for each command, of what `--help` says.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where the pages are written: nihilo.1, nihilo-service.1, nihilo-service-create.1, …
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// # Errors
/// The directory cannot be made or written.
pub(crate) fn run(args: &ManArgs) -> Result<()> {
    write(&args.dir)
        .map_err(|error| Failure::io(format!("cannot write {}", args.dir.display()), &error))?;
    output::note(&format!("read them with: man -l {}", page(&args.dir)));
    Ok(())
}

fn page(dir: &Path) -> String {
    dir.join("nihilo.1").display().to_string()
}

fn write(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::Command;

    use super::*;

    /// Names of the pages of `command` and of everything below it that help shows.
    fn pages(command: &clap::Command, name: &str) -> Vec<String> {
        let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
        let below = shown.flat_map(|c| pages(c, &format!("{name}-{}", c.get_name())));
        below.chain([format!("{name}.1")]).collect()
    }

    #[test]
    fn there_is_a_page_for_each_command_that_help_shows() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("new")).unwrap();
        let entries = std::fs::read_dir(dir.path().join("new")).unwrap();
        let found: BTreeSet<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let wanted: BTreeSet<_> = pages(&Cli::command(), "nihilo").into_iter().collect();
        assert_eq!(found, wanted);
        assert!(
            wanted.contains("nihilo-cluster-token-create.1"),
            "{wanted:?}"
        );
    }

    #[test]
    fn a_page_says_what_help_says() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let page = std::fs::read_to_string(dir.path().join("nihilo-node-start.1")).unwrap();
        for piece in [
            ".TH",
            "Run a node until it is told to stop",
            "on\\-node\\-exit",
        ] {
            assert!(page.contains(piece), "`{piece}` in {page}");
        }
        assert!(!page.contains("own\\-session"), "a hidden flag is shown");
    }

    #[test]
    fn the_formatter_has_nothing_to_complain_about() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let output = Command::new("groff")
                .args(["-Kutf8", "-man", "-Tutf8", "-ww", "-z"])
                .arg(&path)
                .output();
            let Ok(output) = output else {
                return eprintln!("skipped: no groff on this machine");
            };
            let complaints = String::from_utf8_lossy(&output.stderr);
            assert!(complaints.is_empty(), "{}: {complaints}", path.display());
        }
    }
}
