//! What every user's write of an object has in common: its precondition, and what becomes of the
//! metadata that is not the user's.

use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::meta::{ObjectMeta, keys};

use super::{Context, Result};
use crate::command::Expect;
use crate::reply::Rejection;

/// `have` = version of the stored object.
pub(super) fn check_expectation(
    key: &ObjectKey,
    have: Option<LogIndex>,
    expect: Expect,
) -> Result<()> {
    match (expect, have) {
        (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => Ok(()),
        (Expect::Absent, Some(_)) => Err(Rejection::AlreadyExists(key.clone())),
        (Expect::Version(_) | Expect::Present, None) => Err(Rejection::NotFound(key.clone())),
        (Expect::Version(version), Some(have)) if have == version => Ok(()),
        (Expect::Version(_), Some(have)) => Err(Rejection::Conflict {
            key: key.clone(),
            have,
        }),
    }
}

/// What is marked immutable keeps its data and its mark; labels and annotations are free (KEP-1412).
pub(super) fn check_immutable(is_immutable: bool, keeps_data_and_mark: bool) -> Result<()> {
    if is_immutable && !keeps_data_and_mark {
        let text = "field is immutable when `immutable` is set: data";
        return Err(Rejection::Invalid(text.into()));
    }
    Ok(())
}

/// Labels and annotations are equal, but for the system's stamps.
pub(super) fn same_for_the_user(stored: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let user_annotations = |meta: &ObjectMeta| {
        let mut annotations = meta.annotations.clone();
        annotations.remove(keys::CREATOR);
        annotations.remove(keys::LAST_MODIFIER);
        annotations
    };
    stored.labels == wanted.labels && user_annotations(stored) == user_annotations(wanted)
}

/// Stamps who made the object, and who modified its spec last.
pub(super) fn stamp_user(
    meta: &mut ObjectMeta,
    stored: Option<&ObjectMeta>,
    user: &str,
    modified: bool,
) {
    let previous = |key: &str| stored.and_then(|stored| stored.annotation(key));
    let creator = previous(keys::CREATOR).unwrap_or(user);
    let modifier = match previous(keys::LAST_MODIFIER) {
        Some(last) if !modified => last,
        _ => user,
    };
    for (key, who) in [(keys::CREATOR, creator), (keys::LAST_MODIFIER, modifier)] {
        meta.annotations.insert(key.into(), who.into());
    }
}

/// Carries identity and counters on from the stored object; a new one gets `uid`.
pub(super) fn next_meta(
    meta: &mut ObjectMeta,
    stored: Option<&ObjectMeta>,
    modified: bool,
    uid: &str,
    context: &Context,
) {
    carry_identity(meta, stored, uid, context);
    meta.generation = stored.map_or(1, |stored| stored.generation + u64::from(modified));
}

/// The part of [`next_meta`] that objects without generations have too.
pub(super) fn carry_identity(
    meta: &mut ObjectMeta,
    stored: Option<&ObjectMeta>,
    uid: &str,
    context: &Context,
) {
    let (uid, created) = stored.map_or((uid, &context.now), |stored| {
        (stored.uid.as_str(), &stored.creation_timestamp)
    });
    meta.uid = uid.into();
    meta.creation_timestamp.clone_from(created);
}
