//! The shard keeper: the shard's table plus what makes its counts certain, starts in doubt and
//! agents not heard yet. Pure: the shell tells it what came in, and when.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_types::id::{Epoch, InstanceId, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::{InstanceReport, InstanceState};

use crate::table::{InstanceRow, MAX_PENDING_STATS, RowState, ShardTable, StatRow};

/// How long the row of a finished instance stays for the Revision actor to see.
pub const FINISHED_ROW_MS: u64 = 60_000;
/// A start that waits to be sent: later than every `List` that was.
const NOT_SENT: u64 = u64::MAX;
/// How long a crashed node's instances are held against the cap (03-actors §10).
pub const RESTART_GRACE_MS: u64 = 3_000;

/// Made when the shard opens under an epoch, dropped when it closes.
#[derive(Debug)]
pub struct Keeper {
    pub table: ShardTable,
    /// Starts without an answer, by the number that the call left with.
    in_doubt: BTreeMap<InstanceId, u64>,
    /// Agents that have not answered this epoch's first `List`.
    pub waiting: BTreeSet<SessionId>,
    /// Nodes that are gone and may come back with instances that this owner never heard of, and
    /// until when they are waited for.
    awaited: BTreeMap<NodeId, u64>,
    /// The shard runs turns.
    pub active: bool,
}

impl Keeper {
    pub fn new(shard: ShardId, epoch: Epoch, agents: impl Iterator<Item = SessionId>) -> Self {
        Self {
            table: ShardTable::new(shard, epoch),
            in_doubt: BTreeMap::new(),
            waiting: agents.collect(),
            awaited: BTreeMap::new(),
            active: false,
        }
    }

    /// Holds the picture incomplete until `until_ms`, unless the node's next life has said before
    /// what it runs: its instances outlive it, and an earlier owner may have counted some.
    pub fn await_node(&mut self, node: NodeId, until_ms: u64) {
        self.awaited.insert(node, until_ms);
    }

    /// Counts a start before it is handed over; the counter never goes back.
    pub fn requested(&mut self, id: &InstanceId, row: InstanceRow) {
        self.table.next_instance += 1;
        self.in_doubt.insert(id.clone(), NOT_SENT);
        self.table.instances.insert(id.clone(), row);
    }

    /// The call of a start leaves with this number; `false` when it is not wanted any more.
    pub fn leaving(&mut self, id: &InstanceId, seq: u64) -> bool {
        let waits = |row: &InstanceRow| row.state == RowState::Requested;
        let is_wanted = self.table.instances.get(id).is_some_and(waits);
        if is_wanted {
            self.in_doubt.insert(id.clone(), seq);
        }
        is_wanted
    }

    /// Sets the state of an existing row.
    pub fn set(&mut self, id: &InstanceId, state: RowState, now_ms: u64) -> Option<ObjectKey> {
        let row = self.table.instances.get_mut(id)?;
        if row.state != state {
            row.state = state;
            row.since_ms = now_ms;
        }
        self.in_doubt.remove(id);
        Some(row.revision.clone())
    }

    /// Takes an agent's word about one instance; a row is made when there is none (adoption).
    pub fn reported(
        &mut self,
        from: (SessionId, NodeId),
        report: InstanceReport,
        now_ms: u64,
    ) -> ObjectKey {
        let id = report.id.clone();
        let revision = report.revision.clone();
        self.in_doubt.remove(&id);
        let row = self
            .table
            .instances
            .entry(id)
            .or_insert_with(|| InstanceRow {
                revision: revision.clone(),
                session: from.0,
                node: from.1,
                state: RowState::Requested,
                since_ms: now_ms,
            });
        if is_overtaken(row, &report) {
            return revision;
        }
        row.session = from.0;
        let state_changed = match &row.state {
            RowState::Reported(last) => last.state != report.state,
            RowState::Requested | RowState::Refused(_) | RowState::Stranded { .. } => true,
        };
        if state_changed {
            row.since_ms = now_ms;
        }
        row.state = RowState::Reported(Box::new(report));
        revision
    }

    /// Takes a whole `List` answer that was asked for with call number `seq`: what it does not
    /// show does not exist on that node. Returns the revisions concerned.
    pub fn listed(
        &mut self,
        from: (SessionId, NodeId),
        seq: u64,
        reports: Vec<InstanceReport>,
        now_ms: u64,
    ) -> BTreeSet<ObjectKey> {
        let shown: BTreeSet<_> = reports.iter().map(|report| report.id.clone()).collect();
        let mut touched = BTreeSet::new();
        let in_doubt = &self.in_doubt;
        self.table.instances.retain(|id, row| {
            let sent_later = in_doubt.get(id).is_some_and(|sent| *sent > seq);
            let finished = is_finished(row);
            let elsewhere = match &row.state {
                // The node is back under a new session and does not show it: it is gone.
                RowState::Stranded { .. } => row.node != from.1,
                _ => row.session != from.0,
            };
            let keep = elsewhere || shown.contains(id) || sent_later || finished;
            if !keep {
                touched.insert(row.revision.clone());
            }
            keep
        });
        let table = &self.table;
        self.in_doubt
            .retain(|id, _| table.instances.contains_key(id));
        for report in reports {
            touched.insert(self.reported(from, report, now_ms));
        }
        self.waiting.remove(&from.0);
        self.awaited.remove(&from.1);
        touched
    }

    /// How an agent's last list came: from it, or by way of another node.
    pub fn reached(&mut self, session: SessionId, is_relayed: bool) {
        match is_relayed {
            true => self.table.by_relay.insert(session),
            false => self.table.by_relay.remove(&session),
        };
    }

    /// A node's session ended. Instances that die with it are gone; others hold their place for
    /// the restart grace.
    pub fn session_ended(&mut self, session: SessionId, dies: bool, now_ms: u64) -> bool {
        self.waiting.remove(&session);
        self.table.heard.remove(&session);
        self.table.by_relay.remove(&session);
        for rows in self.table.stats.values_mut() {
            rows.remove(&session);
        }
        self.table.stats.retain(|_, rows| !rows.is_empty());
        let uncount_at_ms = if dies {
            now_ms
        } else {
            now_ms + RESTART_GRACE_MS
        };
        let mut touched = false;
        for row in self
            .table
            .instances
            .values_mut()
            .filter(|row| row.session == session)
        {
            let last = match &row.state {
                RowState::Reported(report) if report.state.is_counted() => Some(report.clone()),
                RowState::Requested => None,
                RowState::Reported(_) | RowState::Refused(_) | RowState::Stranded { .. } => {
                    continue;
                }
            };
            row.state = RowState::Stranded {
                last,
                uncount_at_ms,
            };
            row.since_ms = now_ms;
            touched = true;
        }
        touched
    }

    /// Drops rows that nobody needs any more, and waits that are over; returns revisions whose
    /// grace has run out.
    pub fn sweep(&mut self, now_ms: u64) -> BTreeSet<ObjectKey> {
        self.awaited.retain(|_, until_ms| *until_ms > now_ms);
        let mut expired = BTreeSet::new();
        self.table.instances.retain(|_, row| match &row.state {
            RowState::Stranded { uncount_at_ms, .. } if *uncount_at_ms <= now_ms => {
                expired.insert(row.revision.clone());
                false
            }
            _ => !(is_finished(row) && row.since_ms + FINISHED_ROW_MS <= now_ms),
        });
        expired
    }

    /// Drops statistics of revisions that are gone.
    pub fn forget_gone(&mut self, exists: impl Fn(&ObjectKey) -> bool) {
        self.table.stats.retain(|revision, _| exists(revision));
    }

    /// Files one gateway's batch about a revision, once: batches may overtake each other.
    pub fn reported_load(&mut self, revision: &ObjectKey, gateway: SessionId, row: StatRow) {
        let of_revision = self.table.stats.entry(revision.clone()).or_default();
        let rows = of_revision.entry(gateway).or_default();
        let Err(at) = rows.binary_search_by_key(&row.seq, |row| row.seq) else {
            return;
        };
        rows.insert(at, row);
        if rows.len() > MAX_PENDING_STATS {
            rows.pop_front();
        }
    }

    /// Whoever may run instances of this shard has said so, or has had its time.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty() && self.awaited.is_empty()
    }
}

/// Answers and events come by different ways: a life only goes forward, but for a drain that was
/// called off, for one that was ready and is not any more, and for one that is frozen and thawed. The
/// last two go and come, so that only the report's own age tells which word is the newer one.
fn is_overtaken(row: &InstanceRow, report: &InstanceReport) -> bool {
    let RowState::Reported(known) = &row.state else {
        return false;
    };
    let is_older = report.age_ms < known.age_ms;
    match (known.state, report.state) {
        (InstanceState::Draining, InstanceState::Ready) => false,
        (
            InstanceState::Ready | InstanceState::Draining | InstanceState::Frozen,
            InstanceState::Booting,
        ) => report.ready_after_ms == 0 || is_older,
        (
            InstanceState::Booting | InstanceState::Ready | InstanceState::Draining,
            InstanceState::Frozen,
        )
        | (InstanceState::Frozen, InstanceState::Ready | InstanceState::Draining) => is_older,
        (InstanceState::Booting, InstanceState::Ready) => known.ready_after_ms > 0 && is_older,
        (known, reported) => reported < known,
    }
}

fn is_finished(row: &InstanceRow) -> bool {
    match &row.state {
        RowState::Refused(_) => true,
        RowState::Reported(report) => {
            matches!(
                report.state,
                InstanceState::Exited | InstanceState::Destroyed
            )
        }
        RowState::Requested | RowState::Stranded { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: (SessionId, NodeId) = (SessionId(9), NodeId(1));

    fn report(state: InstanceState) -> InstanceReport {
        InstanceReport {
            id: InstanceId::from("r-1-1"),
            revision: ObjectKey::new("default", "r"),
            revision_uid: "u".into(),
            shard: ShardId(1),
            epoch: Epoch(5),
            state,
            address: None,
            pid: None,
            in_flight: 0,
            age_ms: 0,
            spawned_after_ms: 0,
            ready_after_ms: 0,
            exit: None,
            last_output: Vec::new(),
            isolation: None,
            waking: Default::default(),
        }
    }

    fn keeper() -> Keeper {
        Keeper::new(ShardId(1), Epoch(5), [FROM.0].into_iter())
    }

    fn state_of(keeper: &Keeper) -> RowState {
        keeper.table.instances[&InstanceId::from("r-1-1")]
            .state
            .clone()
    }

    fn request(keeper: &mut Keeper, seq: u64) {
        let row = InstanceRow {
            revision: ObjectKey::new("default", "r"),
            session: FROM.0,
            node: FROM.1,
            state: RowState::Requested,
            since_ms: 0,
        };
        let id = InstanceId::from("r-1-1");
        keeper.requested(&id, row);
        assert!(keeper.leaving(&id, seq));
    }

    #[test]
    fn a_late_answer_does_not_bring_an_ended_instance_back() {
        let mut keeper = keeper();
        request(&mut keeper, 1);
        keeper.reported(FROM, report(InstanceState::Destroyed), 1);
        keeper.reported(FROM, report(InstanceState::Preparing), 2);
        let RowState::Reported(known) = state_of(&keeper) else {
            panic!("not reported")
        };
        assert_eq!(known.state, InstanceState::Destroyed);
    }

    #[test]
    fn a_drain_that_was_called_off_is_ready_again() {
        let mut keeper = keeper();
        keeper.reported(FROM, report(InstanceState::Draining), 1);
        keeper.reported(FROM, report(InstanceState::Ready), 2);
        let RowState::Reported(known) = state_of(&keeper) else {
            panic!("not reported")
        };
        assert_eq!(known.state, InstanceState::Ready);
    }

    #[test]
    fn one_that_is_not_ready_any_more_is_told_from_a_late_word_of_its_boot() {
        let told = |state, ready_after_ms, age_ms| InstanceReport {
            ready_after_ms,
            age_ms,
            ..report(state)
        };
        let (booting, ready) = (InstanceState::Booting, InstanceState::Ready);
        let mut keeper = keeper();
        for (what, report, want) in [
            ("ready at last", told(ready, 30, 30), ready),
            ("its boot, late", told(booting, 0, 10), ready),
            ("not any more", told(booting, 30, 500), booting),
            ("from before that, late", told(ready, 30, 400), booting),
            ("again", told(ready, 30, 900), ready),
            ("from before that, late", told(booting, 30, 600), ready),
            (
                "told to go",
                told(InstanceState::Draining, 30, 950),
                InstanceState::Draining,
            ),
            ("called off, not ready", told(booting, 30, 990), booting),
        ] {
            keeper.reported(FROM, report, 1);
            let RowState::Reported(known) = state_of(&keeper) else {
                panic!("not reported")
            };
            assert_eq!(known.state, want, "{what}");
        }
    }

    #[test]
    fn frozen_and_thawed_is_told_by_age_alone() {
        use InstanceState::{Booting, Draining, Frozen, Ready, Stopping};
        let told = |state, age_ms| InstanceReport {
            ready_after_ms: 30,
            age_ms,
            ..report(state)
        };
        let mut keeper = keeper();
        for (what, report, want) in [
            ("ready", told(Ready, 30), Ready),
            ("drains for it", told(Draining, 90), Draining),
            ("is", told(Frozen, 100), Frozen),
            ("its drain, late", told(Draining, 90), Frozen),
            ("its readiness, late", told(Ready, 30), Frozen),
            ("thawed", told(Booting, 200), Booting),
            ("frozen, late", told(Frozen, 150), Booting),
            ("looked at", told(Ready, 203), Ready),
            ("thawed, late", told(Booting, 200), Ready),
            ("frozen, late", told(Frozen, 150), Ready),
            ("again, its drain missed", told(Frozen, 300), Frozen),
            ("ready, its thaw missed", told(Ready, 400), Ready),
            ("once more", told(Frozen, 500), Frozen),
            ("told to go", told(Stopping, 600), Stopping),
            ("frozen, late", told(Frozen, 550), Stopping),
        ] {
            keeper.reported(FROM, report, 1);
            let RowState::Reported(known) = state_of(&keeper) else {
                panic!("not reported")
            };
            assert_eq!(known.state, want, "{what}");
        }
    }

    #[test]
    fn a_start_in_doubt_ends_only_by_a_later_list() {
        let mut keeper = keeper();
        request(&mut keeper, 7);
        keeper.listed(FROM, 6, Vec::new(), 1);
        assert_eq!(state_of(&keeper), RowState::Requested);
        keeper.listed(FROM, 8, Vec::new(), 2);
        assert!(keeper.table.instances.is_empty());
        assert!(keeper.is_complete());
    }

    #[test]
    fn a_start_that_waits_to_leave_outlives_the_lists_before_it() {
        let mut keeper = keeper();
        let id = InstanceId::from("r-1-1");
        request(&mut keeper, 1);
        let row = keeper.table.instances[&id].clone();
        keeper.requested(&id, row);
        keeper.listed(FROM, 50, Vec::new(), 1);
        assert_eq!(state_of(&keeper), RowState::Requested);
        // Its node went: the call is not sent any more.
        keeper.session_ended(FROM.0, false, 2);
        assert!(!keeper.leaving(&id, 51));
    }

    #[test]
    fn a_lost_node_holds_its_places_for_the_restart_grace() {
        let mut keeper = keeper();
        keeper.reported(FROM, report(InstanceState::Ready), 0);
        assert!(keeper.session_ended(FROM.0, false, 1_000));
        assert!(keeper.sweep(3_999).is_empty());
        assert_eq!(keeper.sweep(4_000).len(), 1);
        assert!(keeper.table.instances.is_empty());
    }
    #[test]
    fn a_new_owner_waits_for_a_node_that_may_come_back_with_instances() {
        let other = (SessionId(10), NodeId(2));
        let keeper = || {
            let mut keeper = keeper();
            keeper.await_node(other.1, 3_000);
            keeper.listed(FROM, 1, Vec::new(), 1);
            assert!(!keeper.is_complete());
            keeper
        };
        let mut back = keeper();
        back.listed(other, 2, vec![report(InstanceState::Booting)], 2);
        assert!(back.is_complete());
        assert_eq!(back.table.instances.len(), 1);
        let mut late = keeper();
        late.sweep(2_999);
        assert!(!late.is_complete());
        late.sweep(3_000);
        assert!(late.is_complete());
    }

    #[test]
    fn a_node_that_is_back_within_the_grace_keeps_its_instance() {
        let mut keeper = keeper();
        keeper.reported(FROM, report(InstanceState::Ready), 0);
        keeper.session_ended(FROM.0, false, 1_000);
        let next = SessionId(12);
        // It has to be looked at again before it serves, which is no step back.
        keeper.listed(
            (next, FROM.1),
            5,
            vec![report(InstanceState::Booting)],
            2_000,
        );
        assert!(keeper.sweep(60_000).is_empty());
        let row = &keeper.table.instances[&InstanceId::from("r-1-1")];
        assert_eq!(row.session, next);
        keeper.reported((next, FROM.1), report(InstanceState::Ready), 2_001);
        let RowState::Reported(known) = state_of(&keeper) else {
            panic!("not reported")
        };
        assert_eq!(known.state, InstanceState::Ready);
    }
}
