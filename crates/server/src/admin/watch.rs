//! Watches: every matching change after a version, once, in order, on any node (02-store §9).

use std::time::Duration;

use nihilo_machine::state::{EventKind, ObjectChange, ObjectEvent};
use nihilo_raft::RaftNode;
use nihilo_types::id::LogIndex;
use nihilo_wire::serving as pb;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{error, read};

/// Events a watcher may lag behind before it is told so and ended.
pub const MAX_LAG: usize = 1024;
/// How long a reader of history may take for the next event.
const READER_LIMIT: Duration = Duration::from_secs(10);
/// Bookmarks come this often, if the index has moved.
const BOOKMARK_EVERY: Duration = Duration::from_secs(1);

pub type Events = ReceiverStream<Result<pb::WatchEvent, Status>>;

/// What the watcher wants to see.
#[derive(Debug)]
struct Selector {
    kind: String,
    namespace: String,
    name: String,
}

impl Selector {
    fn matches(&self, change: &ObjectChange) -> bool {
        let Some(kind) = change.kind() else {
            return false;
        };
        let key = change.key();
        let is = |wanted: &str, have: &str| wanted.is_empty() || wanted == have;
        is(&self.kind, kind.as_str())
            && is(&self.namespace, &key.namespace)
            && is(&self.name, &key.name)
    }
}

/// # Errors
/// `OUT_OF_RANGE` when the version is too old to follow on from.
pub async fn serve(raft: &RaftNode, request: pb::WatchRequest) -> Result<Events, Status> {
    let from = match request.resource_version {
        0 => read::applied(raft),
        version => LogIndex(version),
    };
    // The first page is looked for at once, so that a version that is too old is refused with the
    // call and not in the stream.
    if raft.changes_after(from).await.is_err() {
        return Err(compacted(raft));
    }
    let selector = Selector {
        kind: request.kind,
        namespace: request.namespace,
        name: request.name,
    };
    let (sender, receiver) = mpsc::channel(MAX_LAG);
    nihilo_actors::task::spawn("watch", run(raft.clone(), selector, from, sender));
    Ok(ReceiverStream::new(receiver))
}

fn compacted(raft: &RaftNode) -> Status {
    let current = read::applied(raft);
    let text = format!("version is too old; list again and watch from there (now {current})");
    error::watch_ended("VERSION_COMPACTED", text)
}

async fn run(
    raft: RaftNode,
    selector: Selector,
    mut sent: LogIndex,
    sender: mpsc::Sender<Result<pb::WatchEvent, Status>>,
) {
    let mut applied = raft.applied();
    // Up to here it is history: whoever asks for it may take a moment to read it.
    let history = *applied.borrow();
    let mut bookmarked = sent;
    let mut bookmark = tokio::time::interval(BOOKMARK_EVERY);
    bookmark.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Changes before bookmarks: a bookmark says that everything up to it was delivered.
        let step = tokio::select! {
            biased;
            () = sender.closed() => return,
            changed = applied.wait_for(|index| *index > sent) => match changed {
                Ok(index) => Some(*index),
                Err(_) => return,
            },
            _ = bookmark.tick() => None,
        };
        let outcome = match step {
            Some(_) => deliver(&raft, &selector, &mut sent, history, &sender).await,
            None if bookmarked < sent => {
                bookmarked = sent;
                sender
                    .try_send(Ok(bookmark_at(sent)))
                    .map_err(|_| lagging(sent))
            }
            None => Ok(()),
        };
        if let Err(status) = outcome {
            drop(sender.send(Err(status)).await);
            return;
        }
    }
}

/// Hands one page of events over. `sent` moves only with whole pages: what a watcher that lags is
/// told to resume from repeats some events and loses none.
async fn deliver(
    raft: &RaftNode,
    selector: &Selector,
    sent: &mut LogIndex,
    history: LogIndex,
    sender: &mpsc::Sender<Result<pb::WatchEvent, Status>>,
) -> Result<(), Status> {
    let page = raft.changes_after(*sent).await;
    let page = page.map_err(|_| compacted(raft))?;
    for event in page
        .events
        .iter()
        .filter(|event| selector.matches(&event.object))
    {
        let Some(message) = message(event) else {
            continue;
        };
        let handed = match event.index <= history {
            true => sender.send_timeout(Ok(message), READER_LIMIT).await.is_ok(),
            // A watcher that does not keep up is told so; it costs the others nothing.
            false => sender.try_send(Ok(message)).is_ok(),
        };
        if !handed {
            return Err(lagging(*sent));
        }
    }
    *sent = page.upto.max(*sent);
    Ok(())
}

fn lagging(last: LogIndex) -> Status {
    error::watch_ended(
        "WATCH_LAGGING",
        format!("the watcher is too slow; resume from {last}"),
    )
}

fn bookmark_at(index: LogIndex) -> pb::WatchEvent {
    pb::WatchEvent {
        r#type: pb::watch_event::Type::Bookmark.into(),
        index: index.0,
        ..pb::WatchEvent::default()
    }
}

fn message(event: &ObjectEvent) -> Option<pb::WatchEvent> {
    let json = |value: Result<Vec<u8>, _>| value.ok().map(bytes::Bytes::from);
    let (change, json) = match &event.object {
        ObjectChange::Service { object, change } => (change, json(serde_json::to_vec(object))),
        ObjectChange::Configuration { object, change } => {
            (change, json(serde_json::to_vec(object)))
        }
        ObjectChange::Revision { object, change } => (change, json(serde_json::to_vec(object))),
        ObjectChange::Route { object, change } => (change, json(serde_json::to_vec(object))),
        ObjectChange::ConfigMap { object, change } => (change, json(serde_json::to_vec(object))),
        ObjectChange::DomainMapping { object, change } => {
            (change, json(serde_json::to_vec(object)))
        }
        ObjectChange::DomainClaim { object, change } => (change, json(serde_json::to_vec(object))),
        ObjectChange::Secret { object, change } => {
            (change, json(serde_json::to_vec(&object.outline())))
        }
        ObjectChange::Scale { .. } => return None,
    };
    let kind = match change {
        EventKind::Added => pb::watch_event::Type::Added,
        EventKind::Modified => pb::watch_event::Type::Modified,
        EventKind::Deleted => pb::watch_event::Type::Deleted,
    };
    Some(pb::WatchEvent {
        r#type: kind.into(),
        kind: event.object.kind()?.to_string(),
        json: json?,
        index: event.index.0,
    })
}
