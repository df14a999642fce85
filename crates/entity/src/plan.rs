//! Which of a revision's instances go, which are called back, and how many more it takes.
//!
//! ```text
//! settled   serve or will, on nodes that keep them           as many as are wanted
//! moving    serve on a node that is drained                  each goes when a settled one is ready
//!                                                            in its place
//! frozen    kept where the last one would go to zero        one, while nothing is wanted; the first
//!                                                            to serve when something is
//! ```
//!
//! At max-scale there is no room for a replacement beside the one that moves: one at a time is given
//! up, and its requests wait in line for the next. While no other node takes an instance, all stay.

use nihilo_types::id::InstanceId;

use crate::effect::StopReason;
use crate::placement::victims;
use crate::rows::{is_counted, is_draining, is_frozen, is_ready, is_staying};
use crate::table::{InstanceRow, RowState};

pub(crate) type Row<'a> = (&'a InstanceId, &'a InstanceRow);

/// What is to be reached, and what is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) wanted: usize,
    /// max-scale; `None` = there is none.
    pub(crate) cap: Option<usize>,
    /// Every agent has said what it runs.
    pub(crate) is_complete: bool,
    /// The last instance is frozen and not stopped.
    pub(crate) freezes: bool,
}

/// The orders of one turn, as far as the table decides them.
#[derive(Debug, Default)]
pub(crate) struct Plan<'a> {
    pub(crate) stops: Vec<(Row<'a>, StopReason)>,
    pub(crate) reopens: Vec<Row<'a>>,
    pub(crate) freeze: Option<Row<'a>>,
    pub(crate) thaws: Vec<Row<'a>>,
    pub(crate) n_starts: usize,
    /// Makes room at the cap for one that is started elsewhere; kept while starts are paused.
    pub(crate) given_up: Option<Row<'a>>,
    /// It would be, if another node took one more.
    pub(crate) waits_for_place: bool,
}

/// Compares what there is with the goal. `is_drained` tells whether a row's node is drained,
/// `has_place` whether any node takes one more.
pub(crate) fn plan<'a>(
    goal: Goal,
    rows: &[Row<'a>],
    is_drained: impl Fn(&InstanceRow) -> bool,
    has_place: impl Fn() -> bool,
) -> Plan<'a> {
    let mut plan = Plan::default();
    let staying = rows.iter().copied().filter(|(_, row)| is_staying(row));
    let (mut moving, mut settled): (Vec<_>, Vec<_>) = staying.partition(|(_, row)| is_drained(row));
    let n_staying = moving.len() + settled.len();
    let n_able = settled.iter().filter(|(_, row)| is_ready(row)).count();
    let n_settled = settled.len();
    let (gone, mut kept): (Vec<_>, Vec<_>) = (rows.iter().copied())
        .filter(|(_, row)| is_frozen(row))
        .partition(|(_, row)| is_drained(row));
    plan.stops
        .extend(gone.into_iter().map(|row| (row, StopReason::Drain)));
    if goal.wanted == 0 {
        plan.go_to_zero(goal.freezes, &mut settled, &mut kept);
    }
    let n_surplus = settled.len().saturating_sub(goal.wanted);
    plan.stop(&mut settled, n_surplus, StopReason::ScaleDown);
    let n_replaced = (n_able + moving.len()).saturating_sub(goal.wanted);
    plan.stop(&mut moving, n_replaced, StopReason::Drain);
    let missing = goal.wanted.saturating_sub(n_settled);
    if missing == 0 {
        plan.stop_all(kept, StopReason::Surplus);
        return plan;
    }
    let (away, back): (Vec<_>, Vec<_>) = (rows.iter().copied())
        .filter(|(_, row)| is_draining(row))
        .partition(|(_, row)| is_drained(row));
    plan.reopens.extend(back.into_iter().take(missing));
    let n_thawed = kept.len().min(missing - plan.reopens.len());
    // What is left of them goes once those that are called back serve.
    plan.thaws.extend(kept.drain(..n_thawed));
    // One on a drained node is better than none.
    let n_back = plan.reopens.len() + plan.thaws.len();
    let n_short = goal.wanted.saturating_sub(n_staying + n_back);
    if n_short > 0 && !away.is_empty() && !has_place() {
        plan.reopens.extend(away.into_iter().take(n_short));
    }
    plan.n_starts = missing.saturating_sub(plan.reopens.len() + plan.thaws.len());
    let Some(cap) = goal.cap else { return plan };
    if !goal.is_complete {
        plan.n_starts = 0;
        return plan;
    }
    // Everything that may still run counts, in the turn that orders.
    let n_counted = rows.iter().filter(|(_, row)| is_counted(row)).count();
    let room = cap.saturating_sub(n_counted);
    let is_calm = n_counted == n_staying && n_able == n_settled && plan.stops.is_empty();
    if plan.n_starts > 0 && room == 0 && is_calm && !moving.is_empty() {
        match has_place() {
            true => plan.given_up = first_victim(&mut moving),
            false => plan.waits_for_place = true,
        }
    }
    plan.n_starts = plan.n_starts.min(room);
    plan
}

impl<'a> Plan<'a> {
    /// Takes out of both what stays: nothing, or one that is frozen or will be. Of those that run it is
    /// the one that would be stopped last.
    fn go_to_zero(&mut self, freezes: bool, settled: &mut Vec<Row<'a>>, kept: &mut Vec<Row<'a>>) {
        let n_kept = usize::from(freezes).min(kept.len());
        let surplus = kept.split_off(n_kept);
        let reason = match freezes {
            true => StopReason::Surplus,
            false => StopReason::ScaleDown,
        };
        self.stop_all(surplus, reason);
        if freezes && kept.is_empty() {
            victims(settled);
            self.freeze = settled.pop_if(|(_, row)| is_ready(row));
        }
        kept.clear();
    }

    fn stop_all(&mut self, rows: Vec<Row<'a>>, reason: StopReason) {
        self.stops.extend(rows.into_iter().map(|row| (row, reason)));
    }

    /// Stops `n` of them, those first with which the least is lost. One that nobody has reported
    /// yet goes as soon as its agent has answered.
    fn stop(&mut self, rows: &mut Vec<Row<'a>>, n: usize, reason: StopReason) {
        if n == 0 {
            return;
        }
        victims(rows);
        let going = rows.drain(..n.min(rows.len()));
        let reported = going.filter(|(_, row)| is_reported(row));
        self.stops.extend(reported.map(|row| (row, reason)));
    }
}

fn first_victim<'a>(rows: &mut [Row<'a>]) -> Option<Row<'a>> {
    victims(rows);
    rows.iter().copied().find(|(_, row)| is_reported(row))
}

fn is_reported(row: &InstanceRow) -> bool {
    matches!(row.state, RowState::Reported(_))
}
