//! What a trial writes down: every request before it is sent and when it is over, and every fault.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::boottime_ns;

/// One request of a client, as the client saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Unique in the trial; the instance's ledger has it too.
    pub nonce: String,
    pub method: String,
    pub service: String,
    /// The node whose gateway it was sent to.
    pub gateway: usize,
    pub body_bytes: usize,
    /// What the app was asked to take, in milliseconds.
    pub app_ms: u64,
    pub sent_ns: u64,
    /// 0 = not over.
    pub ended_ns: u64,
    pub outcome: Outcome,
}

impl RequestRecord {
    pub fn is_get(&self) -> bool {
        self.method == "GET"
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    Open,
    Answered(Answered),
    /// An unclean end after the head of an answer.
    Cut {
        status: u16,
        instance: String,
        why: String,
    },
    Refused {
        why: String,
    },
    Broken {
        why: String,
    },
    Hung,
}

impl Outcome {
    /// A good answer of the app itself.
    pub fn is_good(&self) -> bool {
        matches!(self, Outcome::Answered(answered)
            if (200..300).contains(&answered.status) && answered.mistake.is_empty())
    }

    /// Short, and the same for all outcomes that are counted together.
    pub fn name(&self) -> String {
        match self {
            Outcome::Open => "open".into(),
            Outcome::Answered(answered) if answered.reason.is_empty() => {
                format!("{}", answered.status)
            }
            Outcome::Answered(answered) => format!("{} {}", answered.status, answered.reason),
            Outcome::Cut { .. } => "cut".into(),
            Outcome::Refused { .. } => "no connection".into(),
            Outcome::Broken { .. } => "broken".into(),
            Outcome::Hung => "hung".into(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub status: u16,
    /// The gateway's own cause when it answered by itself, else empty.
    pub reason: String,
    pub instance: String,
    pub revision: String,
    /// `cold` or `warm`.
    pub start: String,
    pub has_retry_after: bool,
    /// What is wrong with the answer itself; empty = nothing.
    pub mistake: String,
}

/// Something the trial did to the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultRecord {
    pub boottime_ns: u64,
    pub what: String,
    pub node: Option<usize>,
}

#[derive(Debug, Default)]
struct Kept {
    requests: Vec<RequestRecord>,
    faults: Vec<FaultRecord>,
}

/// Collects records in memory and in the trial's folder.
#[derive(Debug)]
pub struct Recorder {
    kept: Mutex<Kept>,
    requests: Mutex<BufWriter<File>>,
    faults: Mutex<File>,
}

impl Recorder {
    /// # Errors
    /// The folder cannot be written.
    pub fn create(folder: &Path) -> std::io::Result<Self> {
        let file = |name| {
            File::options()
                .create(true)
                .append(true)
                .open(folder.join(name))
        };
        Ok(Self {
            kept: Mutex::default(),
            requests: Mutex::new(BufWriter::new(file("ledger-client.jsonl")?)),
            faults: Mutex::new(file("nemesis.jsonl")?),
        })
    }

    /// Books a request that is about to be sent.
    pub fn sending(&self, request: &RequestRecord) {
        self.write(request);
    }

    /// Books what came of it.
    pub fn over(&self, request: RequestRecord) {
        self.write(&request);
        self.kept().requests.push(request);
    }

    pub fn fault(&self, what: impl Into<String>, node: Option<usize>) -> u64 {
        let record = FaultRecord {
            boottime_ns: boottime_ns(),
            what: what.into(),
            node,
        };
        let mut file = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(text) = serde_json::to_string(&record) {
            drop(writeln!(file, "{text}"));
        }
        let at = record.boottime_ns;
        self.kept().faults.push(record);
        at
    }

    /// All requests that are over, and all faults, in the order of their ends.
    pub fn taken(&self) -> (Vec<RequestRecord>, Vec<FaultRecord>) {
        let mut file = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        drop(file.flush());
        let kept = self.kept();
        (kept.requests.clone(), kept.faults.clone())
    }

    /// Forgets all that is over, in the trial's folder too.
    ///
    /// # Errors
    /// The files cannot be emptied.
    pub fn forget(&self) -> std::io::Result<()> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.flush()?;
        // Opened for appending: the next line is the first.
        requests.get_ref().set_len(0)?;
        *self.kept() = Kept::default();
        Ok(())
    }

    fn write(&self, request: &RequestRecord) {
        let Ok(text) = serde_json::to_string(request) else {
            return;
        };
        let mut file = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // A record that cannot be written is missed by readers only: the verdict rests on what is
        // in memory.
        drop(writeln!(file, "{text}"));
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
