//! Stores that are made of what others have left: of a backup, or of one node's directory after the
//! majority was lost for good (02-store §6.2). Nothing is deleted here: what was there stays beside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nihilo_machine::State;
use nihilo_machine::command::InitCluster;
use nihilo_machine::member::{Duty, Member, Standing};
use nihilo_types::id::{LogIndex, NodeId};
use nihilo_wire::codec;
use openraft::EntryPayload;
use rocksdb::{WriteBatch, WriteOptions};

use crate::backup::Backup;
use crate::high_water::{HighWater, Mark};
use crate::log::Log;
use crate::open::{self, Identity, OpenError};
use crate::state::Position;
use crate::type_config::{LeaderId, LogId, Membership, Node, StoredMembership, Vote};
use crate::{convert, keys, snapshot};

/// Above every index that a lost majority may have given out after what is known here.
pub const INDEX_JUMP: u64 = 1 << 20;
/// Where the new store is made, complete, before it takes the old one's place.
const MADE_IN: &str = "recover.new";
/// What the old store's parts are renamed to.
const BEFORE: &str = "before-recover";
/// Rows are written in batches of about this size.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The old snapshots go too: they are of a cluster that is no more.
const PARTS: [&str; 3] = [snapshot::DIR, "high-water", "db"];

/// Why no new store was made; the directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AnewError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("log entry {index} cannot be applied by this build: {why}")]
    Entry { index: u64, why: String },
    #[error("directory `{0}` holds no store")]
    Nothing(PathBuf),
    #[error("nothing was ever applied here: there is no cluster to recover")]
    Empty,
    #[error("the new store cannot be written")]
    Write(#[source] std::io::Error),
    #[error("the new store cannot be written")]
    Database(#[from] rocksdb::Error),
}

/// What a directory would bring into a cluster of its own.
#[derive(Debug, Clone)]
pub struct Remains {
    pub identity: Identity,
    /// As it was founded.
    pub cluster: InitCluster,
    /// Newest entry here, and the wall time of the newest one that was applied.
    pub last_index: u64,
    pub wall_ms: u64,
    /// Entries that this node did not know to be committed: they become so.
    pub n_undecided: u64,
    /// The other voters, by id, with their peer addresses.
    pub others: BTreeMap<u64, String>,
}

/// How the only node of the new cluster is reached.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    pub peer_address: String,
    pub admin_address: String,
}

/// A directory's whole contents, with every entry of its log applied.
struct Found {
    remains: Remains,
    state: State,
    last: LogId,
    term: u64,
}

/// Proves what is there and says what it would bring; changes nothing.
///
/// # Errors
/// In use, damaged, or empty.
pub fn inspect(dir: &Path) -> Result<Remains, AnewError> {
    open::check_unused(dir)?;
    resume(dir)?;
    find(dir).map(|found| found.remains)
}

/// Makes a one-voter cluster of the node whose directory this is, under `cluster_id`.
///
/// # Errors
/// In use, damaged, empty, or not writable; the directory is as it was, or the next call goes on
/// where this one ended.
pub fn recover(dir: &Path, cluster_id: &str, place: Place) -> Result<u64, AnewError> {
    let _lock = open::lock(dir)?;
    resume(dir)?;
    let found = find(dir)?;
    let id = found.remains.identity.node_id;
    let last = LogId {
        leader_id: LeaderId {
            term: found.term + 1,
            node_id: id,
        },
        index: found.last.index + INDEX_JUMP,
    };
    let otherwise = founder(NodeId(id), place);
    let me = found.state.member_or(NodeId(id), otherwise);
    let address = me.peer_address.clone();
    let state = found.state.begin_anew(cluster_id, me, LogIndex(last.index));
    let identity = Identity {
        cluster_id: cluster_id.to_owned(),
        node_id: id,
    };
    put_in_place(dir, &identity, &state, last, &address)?;
    Ok(last.index)
}

/// Makes the first node of a new cluster out of a backup, in a directory that holds no store;
/// returns the node's identity.
///
/// # Errors
/// The directory is in use or not blank, or cannot be written.
pub fn restore(
    dir: &Path,
    backup: Backup,
    cluster_id: &str,
    place: Place,
) -> Result<Identity, AnewError> {
    let _lock = open::lock(dir)?;
    if !open::is_blank(dir) {
        return Err(open::damaged(dir, "a store is there already".into()).into());
    }
    let before = backup.last.ok_or(AnewError::Empty)?;
    let index = before.index + INDEX_JUMP;
    // As any other node that was not there at the founding: the index that it came with.
    let id = index;
    let last = LogId {
        leader_id: LeaderId {
            term: before.leader_id.term + 1,
            node_id: id,
        },
        index,
    };
    let me = founder(NodeId(id), place);
    let address = me.peer_address.clone();
    let state = backup.state.begin_anew(cluster_id, me, LogIndex(index));
    let identity = Identity {
        cluster_id: cluster_id.to_owned(),
        node_id: id,
    };
    put_in_place(dir, &identity, &state, last, &address)?;
    Ok(identity)
}

/// Makes a store aside and, once it is whole, the directory's; a crash in between leaves what was
/// there, or what the next call finishes.
fn put_in_place(
    dir: &Path,
    identity: &Identity,
    state: &State,
    last: LogId,
    address: &str,
) -> Result<(), AnewError> {
    let made_in = dir.join(MADE_IN);
    // Not a finished one: that was put in place before.
    if std::fs::metadata(&made_in).is_ok() {
        std::fs::remove_dir_all(&made_in).map_err(AnewError::Write)?;
    }
    std::fs::create_dir_all(&made_in).map_err(AnewError::Write)?;
    write(&made_in, identity, state, last, address)?;
    std::fs::write(made_in.join(BEFORE), "").map_err(AnewError::Write)?;
    sync_dir(&made_in)?;
    resume(dir)
}

fn founder(id: NodeId, place: Place) -> Member {
    Member {
        id,
        name: place.name,
        peer_address: place.peer_address,
        admin_address: place.admin_address,
        standing: Standing::Voter,
        is_founder: true,
        duty: Duty::Full,
    }
}

fn find(dir: &Path) -> Result<Found, AnewError> {
    if open::is_blank(dir) {
        return Err(AnewError::Nothing(dir.to_owned()));
    }
    let contents = open::read_all(dir)?;
    let identity = contents.identity.ok_or(AnewError::Empty)?;
    let (mut state, log, position) = (contents.state, contents.log, contents.position);
    let committed = log.committed.max(position.last);
    let n_undecided = log
        .entries
        .keys()
        .filter(|index| committed.is_none_or(|id| **index > id.index))
        .count();
    let mut membership = position.membership.membership().clone();
    let mut last = position.last.max(log.purged);
    for entry in log.entries.values() {
        let id = entry.log_id;
        if Some(id) <= position.last {
            continue;
        }
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(newer) => membership = newer.clone(),
            EntryPayload::Normal(bytes) => {
                let envelope = codec::decode_entry(&bytes.0).map_err(|why| AnewError::Entry {
                    index: id.index,
                    why: why.to_string(),
                })?;
                state.apply(LogIndex(id.index), &envelope);
            }
        }
        last = last.max(Some(id));
    }
    let last = last.ok_or(AnewError::Empty)?;
    let cluster = state.cluster().ok_or(AnewError::Empty)?.clone();
    let others = membership.voter_ids().filter(|id| *id != identity.node_id);
    let address = |id: u64| {
        let node = membership.get_node(&id);
        node.map(|node| node.address.clone()).unwrap_or_default()
    };
    let remains = Remains {
        cluster,
        last_index: last.index,
        wall_ms: state.clock().wall_ms,
        n_undecided: n_undecided as u64,
        others: others.map(|id| (id, address(id))).collect(),
        identity,
    };
    Ok(Found {
        remains,
        term: term(&log, last),
        state,
        last,
    })
}

fn term(log: &Log, last: LogId) -> u64 {
    let voted = log.vote.map_or(0, |vote| vote.leader_id.term);
    voted.max(last.leader_id.term)
}

/// The rows in batches, the rest in a synced one, then the mark.
fn write(
    dir: &Path,
    identity: &Identity,
    state: &State,
    last: LogId,
    address: &str,
) -> Result<(), AnewError> {
    use prost::Message;
    std::fs::create_dir_all(dir.join(snapshot::DIR)).map_err(AnewError::Write)?;
    let mut high_water = HighWater::create(dir).map_err(AnewError::Write)?;
    let db = open::create_database(dir)?;
    let cf = |name| db.cf_handle(name).expect("opened with all column families");
    let vote = Vote {
        leader_id: last.leader_id,
        committed: false,
    };
    let node = Node {
        address: address.to_owned(),
    };
    let voters = vec![BTreeSet::from([identity.node_id])];
    let nodes = BTreeMap::from([(identity.node_id, node)]);
    let membership = Membership::new(voters, nodes).expect("the voter is among the nodes");
    let position = Position {
        last: Some(last),
        membership: StoredMembership::new(Some(last), membership),
    };
    let purged = convert::log_id_to(&last).encode_to_vec();
    let mut batch = WriteBatch::default();
    let mut result = Ok(());
    state.visit_rows(&mut |row| {
        let Some(value) = row.value else { return };
        batch.put_cf(cf(keys::STATE), row.key, value);
        if batch.size_in_bytes() >= BATCH_BYTES && result.is_ok() {
            result = db.write(std::mem::take(&mut batch));
        }
    });
    result?;
    batch.put_cf(cf(keys::STATE_META), keys::APPLIED, position.encode());
    batch.put_cf(
        cf(keys::META),
        keys::IDENTITY,
        open::encode_identity(identity, &open::new_store_id()),
    );
    batch.put_cf(
        cf(keys::META),
        keys::VOTE,
        convert::vote_to(&vote).encode_to_vec(),
    );
    batch.put_cf(cf(keys::META), keys::PURGED, &purged);
    batch.put_cf(cf(keys::META), keys::COMMITTED, &purged);
    let mut options = WriteOptions::default();
    options.set_sync(true);
    db.write_opt(batch, &options)?;
    db.flush()?;
    drop(db);
    let mark = Mark {
        vote: Some(vote),
        last: Some(last.index),
    };
    high_water.lower(mark).map_err(AnewError::Write)?;
    sync_dir(dir)
}

/// Puts a finished new store in the old one's place, however far an earlier try had come.
fn resume(dir: &Path) -> Result<(), AnewError> {
    let made_in = dir.join(MADE_IN);
    if std::fs::metadata(made_in.join(BEFORE)).is_err() {
        return Ok(());
    }
    let is_there = |path: &Path| std::fs::metadata(path).is_ok();
    for part in PARTS {
        let (new, here) = (made_in.join(part), dir.join(part));
        if !is_there(&new) {
            continue;
        }
        if is_there(&here) {
            std::fs::rename(&here, kept(dir, part)).map_err(AnewError::Write)?;
        }
        std::fs::rename(&new, &here).map_err(AnewError::Write)?;
    }
    std::fs::remove_dir_all(&made_in).map_err(AnewError::Write)?;
    sync_dir(dir)
}

/// A name that is free for what was there before.
fn kept(dir: &Path, part: &str) -> PathBuf {
    let name = |n: u32| match n {
        0 => format!("{part}.{BEFORE}"),
        n => format!("{part}.{BEFORE}.{n}"),
    };
    let mut names = (0..).map(|n| dir.join(name(n)));
    names
        .find(|path| std::fs::metadata(path).is_err())
        .expect("names without end")
}

fn sync_dir(dir: &Path) -> Result<(), AnewError> {
    let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(AnewError::Write)
}
