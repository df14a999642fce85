//! How far programs of the host are kept from everything that is not theirs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A level, each with everything of the ones below it (docs/limits.md).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A session, limits, and no new privileges.
    #[default]
    None,
    /// Files beside the system's and its own are out of reach, and so are other processes and the
    /// kernel's more dangerous calls. Needs no privilege.
    Landlock,
    /// And a tree of files of its own.
    Full,
}

impl Isolation {
    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::None => "none",
            Isolation::Landlock => "landlock",
            Isolation::Full => "full",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Isolation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Isolation::None, Isolation::Landlock, Isolation::Full];
        let named = all.into_iter().find(|level| level.as_str() == text);
        named.ok_or("must be none, landlock or full")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_and_are_read_as_they_are_written() {
        assert!(Isolation::None < Isolation::Landlock && Isolation::Landlock < Isolation::Full);
        for level in [Isolation::None, Isolation::Landlock, Isolation::Full] {
            assert_eq!(level.as_str().parse(), Ok(level));
            let json = format!("\"{level}\"");
            assert_eq!(serde_json::from_str::<Isolation>(&json).unwrap(), level);
        }
        assert!("Full".parse::<Isolation>().is_err());
    }
}
