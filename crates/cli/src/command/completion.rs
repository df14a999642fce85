//! `nihilo completion SHELL`: the words of the command line, for a shell to complete.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::args::Cli;
use crate::output;

/// Names under which the program is installed.
const PROGRAM: &str = "nihilo";

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct CompletionArgs {
    /// For example: nihilo completion bash > /etc/bash_completion.d/nihilo
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: CompletionArgs) {
    output::data(script(args.shell).trim_end());
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), PROGRAM, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_is_told_every_command_that_help_shows() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            let tree = Cli::command();
            for command in tree.get_subcommands().filter(|c| !c.is_hide_set()) {
                let name = command.get_name();
                assert!(script.contains(name), "{shell}: {name}");
            }
        }
    }

    /// What bash offers for a line that ends in `words`, the last of them being completed.
    fn offered(words: &[&str]) -> Option<String> {
        let last = words.len() - 1;
        let line = format!(
            "{}\nCOMP_WORDS=({}); COMP_CWORD={last}; _{PROGRAM} {PROGRAM} '{}' '{}'; echo \
             \"${{COMPREPLY[@]}}\"",
            script(Shell::Bash),
            words.join(" "),
            words[last],
            words[last - 1],
        );
        let output = Command::new("bash").args(["-c", &line]).output().ok()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    #[test]
    fn bash_completes_commands_and_their_own_flags() {
        let Some(commands) = offered(&[PROGRAM, "serv"]) else {
            return eprintln!("skipped: no bash on this machine");
        };
        assert_eq!(commands, "service");
        assert_eq!(
            offered(&[PROGRAM, "node", "start", "--conf"]).as_deref(),
            Some("--config")
        );
        assert_eq!(
            offered(&[PROGRAM, "completion", "fi"]).as_deref(),
            Some("fish")
        );
    }
}
