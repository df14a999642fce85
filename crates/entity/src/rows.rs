//! What a row of the shard's table counts as, for the revision that it belongs to.

use nihilo_types::id::{InstanceId, ObjectKey};
use nihilo_types::instance::{InstanceState, Waking};
use nihilo_types::revision::Revision;

use crate::table::{InstanceRow, RowState, View};

/// Rows of this life of the revision: a Service that is deleted and made again issues the same
/// names, while instances of its earlier life may still drain.
pub(crate) fn own_rows<'a>(
    view: View<'a>,
    key: &'a ObjectKey,
    revision: &'a Revision,
) -> impl Iterator<Item = (&'a InstanceId, &'a InstanceRow)> {
    let uid = revision.metadata.uid.as_str();
    view.table
        .of(key)
        .filter(move |(_, row)| !is_foreign(row, uid))
}

/// Whether a row is certainly of another life. A start without an answer tells no uid and counts
/// as our own until it does.
pub(crate) fn is_foreign(row: &InstanceRow, uid: &str) -> bool {
    match &row.state {
        RowState::Reported(report)
        | RowState::Stranded {
            last: Some(report), ..
        } => *report.revision_uid != *uid,
        RowState::Requested | RowState::Refused(_) | RowState::Stranded { last: None, .. } => false,
    }
}

/// Whether a row takes a place under max-scale.
pub fn is_counted(row: &InstanceRow) -> bool {
    match &row.state {
        RowState::Requested | RowState::Stranded { .. } => true,
        RowState::Refused(_) => false,
        RowState::Reported(report) => report.state.is_counted(),
    }
}

/// How its node got it ready the last time.
pub(crate) fn waking(row: &InstanceRow) -> Waking {
    match &row.state {
        RowState::Reported(report) => report.waking,
        _ => Waking::default(),
    }
}

pub(crate) fn is_ready(row: &InstanceRow) -> bool {
    is_in(row, &[InstanceState::Ready])
}

pub(crate) fn is_draining(row: &InstanceRow) -> bool {
    is_in(row, &[InstanceState::Draining])
}

/// Kept without cpu: it takes a place, serves nothing, and needs nobody's attention.
pub fn is_frozen(row: &InstanceRow) -> bool {
    is_in(row, &[InstanceState::Frozen])
}

/// On its way out by order.
pub(crate) fn is_leaving(row: &InstanceRow) -> bool {
    is_in(row, &[InstanceState::Draining, InstanceState::Stopping])
}

/// Serves, or will, as far as anybody can tell: a stranded one may run, but nobody reaches it
/// while its node is not heard, so it needs a replacement where the cap allows one. A frozen one does
/// not before it is told to.
pub(crate) fn is_staying(row: &InstanceRow) -> bool {
    let stranded = matches!(row.state, RowState::Stranded { .. });
    is_counted(row) && !is_leaving(row) && !is_frozen(row) && !stranded
}

fn is_in(row: &InstanceRow, states: &[InstanceState]) -> bool {
    matches!(&row.state, RowState::Reported(report) if states.contains(&report.state))
}
