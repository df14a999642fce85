//! What a check found, and all of them as people read them.

use serde::Serialize;

use crate::output;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    /// Something is not there, and need not be.
    Note,
    /// A node works, but not as well as it could.
    Warn,
    /// A node does not work, or not for long.
    Fail,
}

impl State {
    pub(super) fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Note => "note",
            State::Warn => "warn",
            State::Fail => "FAIL",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: String,
    pub(super) state: State,
    pub(super) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            state: State::Ok,
            found: found.into(),
            fix: None,
        }
    }

    pub(super) fn note(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            state: State::Note,
            ..Self::ok(check, found)
        }
    }

    pub(super) fn warn(
        check: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Warn,
            fix: Some(fix.into()),
            ..Self::ok(check, found)
        }
    }

    pub(super) fn fail(
        check: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Fail,
            ..Self::warn(check, found, fix)
        }
    }
}

/// A table, and below it a line for each thing to mend.
pub(super) fn report(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let state = finding.state.word().to_owned();
        vec![finding.check.clone(), state, finding.found.clone()]
    };
    let rows: Vec<_> = findings.iter().map(row).collect();
    let mut text = output::table(&["CHECK", "STATE", "FOUND"], &rows);
    for finding in findings {
        if let Some(fix) = &finding.fix {
            text += &format!("\n{}: {}", finding.check, output::plain(fix));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_mended_stands_below_the_table() {
        let findings = [
            Finding::ok("memory", "16 GiB"),
            Finding::fail("port 8080", "in use", "stop it"),
        ];
        let wanted = "CHECK      STATE  FOUND\nmemory     ok     16 GiB\nport 8080  FAIL   in use\nport \
                      8080: stop it";
        assert_eq!(report(&findings), wanted);
    }

    #[test]
    fn programs_read_the_state_and_the_fix() {
        let json = serde_json::to_value(Finding::warn("disk", "slow", "a faster one")).unwrap();
        let wanted = serde_json::json!({
            "check": "disk", "state": "warn", "found": "slow", "fix": "a faster one",
        });
        assert_eq!(json, wanted);
    }
}
