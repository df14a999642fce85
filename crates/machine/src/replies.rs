//! The replies kept for repeated request ids (02-store §12), each as the bytes of its row: an object
//! in memory takes several times the room, and hardly any reply is ever asked for again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use nihilo_types::id::LogIndex;
use serde::{Deserialize, Serialize};

use crate::reply::Reply;
use crate::rows::{self, tag};
use crate::state::RowChange;

/// Replies kept, at most.
pub(crate) const MAX_STORED_REPLIES: usize = 65_536;
/// How long a reply is kept, in milliseconds of LogTime.
pub(crate) const REPLY_TTL_MS: u64 = 3_600_000;

/// The first answer to a request id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredReply {
    pub(crate) request_hash: u64,
    pub(crate) at_log_ms: u64,
    pub(crate) reply: Reply,
}

/// Of each request id the first reply, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replies {
    by_id: BTreeMap<Arc<str>, Arc<Kept>>,
    /// Derived from the rows.
    order: VecDeque<Arc<str>>,
}

#[derive(Debug)]
struct Kept {
    request_hash: u64,
    at_log_ms: u64,
    index: LogIndex,
    row: Box<[u8]>,
}

impl Kept {
    fn new(stored: &StoredReply) -> Self {
        Self {
            request_hash: stored.request_hash,
            at_log_ms: stored.at_log_ms,
            index: stored.reply.index,
            row: rows::encode(stored).into(),
        }
    }

    fn row(&self, id: &str) -> RowChange {
        RowChange {
            key: rows::key(tag::REPLY, &[id]),
            value: Some(self.row.to_vec()),
        }
    }
}

impl Replies {
    /// The hash of the request that had this id, and its reply.
    pub(crate) fn get(&self, id: &str) -> Option<(u64, Reply)> {
        let kept = self.by_id.get(id)?;
        let stored: StoredReply =
            serde_json::from_slice(&kept.row).expect("bytes that `Kept::new` wrote");
        Some((kept.request_hash, stored.reply))
    }

    /// Keeps a reply; adds the rows that it puts and deletes.
    pub(crate) fn keep(&mut self, id: &str, stored: &StoredReply, rows: &mut Vec<RowChange>) {
        let kept = Kept::new(stored);
        rows.push(kept.row(id));
        let id: Arc<str> = id.into();
        self.by_id.insert(id.clone(), Arc::new(kept));
        self.order.push_back(id);
        while let Some(oldest) = self.order.front() {
            let is_expired = self
                .by_id
                .get(oldest)
                .is_none_or(|kept| kept.at_log_ms + REPLY_TTL_MS < stored.at_log_ms);
            if !is_expired && self.order.len() <= MAX_STORED_REPLIES {
                break;
            }
            rows.push(rows::delete(rows::key(tag::REPLY, &[oldest])));
            self.by_id.remove(oldest);
            self.order.pop_front();
        }
    }

    pub(crate) fn visit_rows(&self, visit: &mut dyn FnMut(RowChange)) {
        for (id, kept) in &self.by_id {
            visit(kept.row(id));
        }
    }

    /// Takes a row in; the order stands after [`Replies::index`].
    pub(crate) fn load(&mut self, id: &str, stored: &StoredReply) {
        self.by_id.insert(id.into(), Arc::new(Kept::new(stored)));
    }

    pub(crate) fn index(&mut self) {
        let mut ids: Vec<_> = self.by_id.iter().collect();
        ids.sort_by_key(|(id, kept)| (kept.index, (*id).clone()));
        self.order = ids.into_iter().map(|(id, _)| id.clone()).collect();
    }
}
