//! What the instances say that they did: read back from the files the echo app writes.

use std::path::{Path, PathBuf};

use nihilo_sim::history::ledger::{InstanceRecord, InstanceStep};
use serde::{Deserialize, Serialize};

/// Tells an instance where its ledger goes; also the mark by which its process is known.
pub const DIRECTORY_ENV: &str = "NIHILO_DEMO_LEDGER";
/// A request's name on the wire.
pub const NONCE: &str = "x-demo-nonce";
/// The instance's own word for who answered.
pub const ANSWERED_BY: &str = "x-demo-instance";

/// Where the instances of a trial write, which keeps its nodes' state in `nodes`.
pub fn below(nodes: &Path) -> PathBuf {
    nodes.with_file_name("instances")
}

/// One line of the app's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceLine {
    #[serde(rename = "t")]
    pub at_ns: u64,
    #[serde(rename = "rid")]
    pub request: String,
    pub instance: String,
    #[serde(rename = "ph")]
    pub step: Step,
    pub revision: String,
    /// Requests in execution after this.
    pub in_flight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    Started,
    Finished,
    /// It was told to stop.
    Terminating,
}

impl InstanceLine {
    /// The line as the request ledger's checker knows it; `None` when it is about no request.
    pub fn record(&self) -> Option<InstanceRecord> {
        let step = match self.step {
            Step::Started => InstanceStep::Started,
            Step::Finished => InstanceStep::Finished,
            Step::Terminating => return None,
        };
        (!self.request.is_empty()).then(|| InstanceRecord {
            request: self.request.clone(),
            at_ns: self.at_ns,
            instance: self.instance.clone(),
            step,
        })
    }
}

/// Reads all ledgers of a trial, in the order of time.
///
/// # Errors
/// A file that cannot be read, or a line that is not whole: a killed instance leaves none.
pub fn read(directory: &Path) -> anyhow::Result<Vec<InstanceLine>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        for text in std::fs::read_to_string(&path)?.lines() {
            let line = serde_json::from_str(text);
            lines.push(line.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?);
        }
    }
    lines.sort_by_key(|line: &InstanceLine| line.at_ns);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_apps_lines_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = concat!(
            r#"{"t":7,"rid":"r","instance":"i","ph":"finished","revision":"a-1","in_flight":0}"#,
            "\n",
            r#"{"t":5,"rid":"r","instance":"i","ph":"started","revision":"a-1","in_flight":1}"#,
            "\n",
            r#"{"t":9,"rid":"","instance":"i","ph":"terminating","revision":"a-1","in_flight":0}"#,
            "\n",
        );
        std::fs::write(dir.path().join("i.jsonl"), text).unwrap();
        let lines = read(dir.path()).unwrap();
        let steps: Vec<_> = lines.iter().map(|line| line.step).collect();
        assert_eq!(steps, [Step::Started, Step::Finished, Step::Terminating]);
        assert_eq!(lines.iter().filter_map(InstanceLine::record).count(), 2);
    }
}
