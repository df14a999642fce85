//! How a command ends when it does not end well: what, why, one next command, an exit code.

use std::fmt;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Exit codes (07-cli-api-observability §1.3); those of gRPC codes come from the client.
pub(crate) mod exit {
    pub(crate) const OTHER: i32 = 1;
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const NOT_FOUND: i32 = 3;
    pub(crate) const CONFLICT: i32 = 4;
    pub(crate) const STILL_PROGRESSING: i32 = 5;
    pub(crate) const NOT_READY: i32 = 6;
    pub(crate) const UNREACHABLE: i32 = 7;
    /// A store that must not be used (02-store §6); `EX_DATAERR` of sysexits.
    pub(crate) const STORE_REFUSED: i32 = 65;
    pub(crate) const INTERRUPTED: i32 = 130;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub code: i32,
    what: String,
    why: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: i32, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            why: Vec::new(),
            hint: None,
        }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(exit::USAGE, what)
    }

    /// A file or process operation that failed.
    pub(crate) fn io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(exit::OTHER, format!("{doing}: {error}"))
    }

    /// Adds one line of explanation.
    #[must_use]
    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    /// Sets the next command.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for line in &self.why {
            write!(f, "\n  {line}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<nihilo_client::Error> for Failure {
    fn from(error: nihilo_client::Error) -> Self {
        Self {
            hint: error.hint.clone(),
            ..Self::new(error.exit_code(), error.message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_why_and_what_next() {
        let failure = Failure::new(exit::NOT_READY, "service 'bad' is not ready: ExitCode1")
            .because("revision  bad-00001")
            .hint("nihilo logs bad --previous");
        let text = "error: service 'bad' is not ready: ExitCode1\n  revision  bad-00001\n  hint: \
                    nihilo logs bad --previous";
        assert_eq!(failure.to_string(), text);
    }
}
