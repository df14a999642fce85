//! `Procfile`: one line for each kind of process; ours is `web`.

/// What a shell would make something else of.
const SHELL: [char; 17] = [
    '$', '`', '"', '\'', '\\', '|', '&', ';', '<', '>', '(', ')', '*', '?', '[', '~', '{',
];

/// The command of the `web` line.
pub(super) fn web(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    lines.find_map(|line| {
        let command = line.strip_prefix("web:")?.trim();
        (!command.is_empty()).then_some(command)
    })
}

/// A command as words; one that a shell has to read is given to `/bin/sh`.
pub(super) fn words(line: &str) -> Vec<String> {
    match line.contains(SHELL) {
        true => ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        false => line.split_whitespace().map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_web_line_is_found_and_read_as_a_shell_would() {
        let text = "jobs: ./jobs\n  web:  ./server --verbose\n";
        assert_eq!(web(text), Some("./server --verbose"));
        assert_eq!(web("webhook: x\nweb:\n"), None);
        assert_eq!(words("./server  --verbose"), ["./server", "--verbose"]);
        let by_shell = ["/bin/sh", "-c", "./server -p $PORT"];
        assert_eq!(words("./server -p $PORT"), by_shell);
    }
}
