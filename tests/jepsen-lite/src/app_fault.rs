//! What the echo app does wrong as long as a file of the trial says so.

use std::fmt;
use std::path::{Path, PathBuf};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// An instance that starts meanwhile never listens.
    NeverReady,
    /// An instance that is told to end meanwhile goes on.
    IgnoreTerm,
}

/// In force until it is dropped.
#[derive(Debug)]
pub struct AppFault {
    file: PathBuf,
}

impl AppFault {
    /// Names the file to an instance.
    pub const ENV: &str = "NIHILO_DEMO_FAULT";

    /// The file that a service's instances look at, beside the directory of their ledgers: one of its
    /// own, or that of all who have none.
    pub fn file(ledger: &Path, service: Option<&str>) -> PathBuf {
        match service {
            None => ledger.with_extension("fault"),
            Some(service) => ledger.with_extension(format!("{service}.fault")),
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn begin(file: PathBuf, wrong: Wrong) -> std::io::Result<Self> {
        // Not seen half written.
        let draft = file.with_extension("draft");
        std::fs::write(&draft, wrong.to_string())?;
        std::fs::rename(&draft, &file)?;
        Ok(Self { file })
    }
}

impl Drop for AppFault {
    fn drop(&mut self) {
        // A trial's folder that is gone has no instances either.
        drop(std::fs::remove_file(&self.file));
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wrong::NeverReady => "never-ready",
            Wrong::IgnoreTerm => "ignore-term",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_in_force_as_long_as_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = dir.path().join("instances");
        let (of_all, of_one) = (
            AppFault::file(&ledger, None),
            AppFault::file(&ledger, Some("stuck")),
        );
        assert_ne!(of_all, of_one);
        let fault = AppFault::begin(of_one.clone(), Wrong::NeverReady).unwrap();
        assert_eq!(std::fs::read_to_string(&of_one).unwrap(), "never-ready");
        assert!(!of_all.exists());
        drop(fault);
        assert!(!of_one.exists());
    }
}
