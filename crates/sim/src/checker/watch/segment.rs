//! One connection of a watcher against the log.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::checker::watch::{Change, End, Item, Segment, Stream};

/// Walks the items of a segment with the log beside it.
pub(super) struct SegmentCheck<'a> {
    stream: &'a Stream,
    segment: &'a Segment,
    log: &'a BTreeMap<u64, BTreeSet<&'a Change>>,
    /// How the segment is called in evidence.
    object: String,
    /// Everything matching up to here was delivered.
    complete_to: u64,
    /// Highest index of any item so far.
    newest: u64,
    /// Index whose changes are being delivered, and those that came.
    open: Option<(u64, BTreeSet<&'a Change>)>,
}

impl<'a> SegmentCheck<'a> {
    pub(super) fn new(
        stream: &'a Stream,
        segment: &'a Segment,
        log: &'a BTreeMap<u64, BTreeSet<&'a Change>>,
        object: String,
    ) -> Self {
        Self {
            stream,
            segment,
            log,
            object,
            complete_to: segment.from.saturating_sub(1),
            newest: 0,
            open: None,
        }
    }

    /// Returns the index up to which this segment delivered everything.
    ///
    /// # Errors
    /// Harness fault when an item is newer than the log that was given.
    pub(super) fn run(&mut self, findings: &mut Findings) -> Result<u64, Verdict> {
        for item in &self.segment.items {
            let index = match item {
                Item::Event(change) => change.index,
                Item::Progress(index) => *index,
            };
            match item {
                Item::Event(change) => {
                    if self
                        .log
                        .last_key_value()
                        .is_none_or(|(&last, _)| index > last)
                    {
                        return Err(Verdict::harness_fault(format!(
                            "{}: index {index} lies after the end of the change log given",
                            self.object
                        )));
                    }
                    self.event(change, findings);
                }
                Item::Progress(index) => self.progress(*index, findings),
            }
        }
        match self.segment.end {
            End::Lagging { last } => {
                self.close(findings);
                self.demand_complete(last, "ends `Lagging` with `last`", findings);
            }
            End::Compacted { current } => {
                self.close(findings);
                if current < self.segment.from {
                    let what = format!(
                        "`Compacted` at {current} answers a watch from {}, which is newer",
                        self.segment.from
                    );
                    self.add(what, None, findings);
                }
            }
            // The changes of its last index may have been cut in two; they are not counted as
            // delivered unless all came, so a resume after them is found.
            End::Broken => self.close_if_whole(),
        }
        Ok(self.complete_to)
    }

    fn event(&mut self, change: &'a Change, findings: &mut Findings) {
        if !change.key.starts_with(&self.stream.prefix) {
            self.add(
                "delivered, and was not asked for".to_owned(),
                Some(change),
                findings,
            );
            return;
        }
        let in_log = self.log.get(&change.index);
        if !in_log.is_some_and(|changes| changes.contains(change)) {
            self.add(
                "delivered, and is not in the log".to_owned(),
                Some(change),
                findings,
            );
            return;
        }
        if change.index < self.segment.from {
            let what = format!("older than the {} asked for", self.segment.from);
            self.add(what, Some(change), findings);
            return;
        }
        if let Some((open, came)) = &mut self.open
            && *open == change.index
        {
            if !came.insert(change) {
                self.add("delivered twice".to_owned(), Some(change), findings);
            }
            return;
        }
        if change.index <= self.newest {
            let what = format!(
                "delivered after index {}: again, or out of order",
                self.newest
            );
            self.add(what, Some(change), findings);
            return;
        }
        self.close(findings);
        self.demand_complete(change.index - 1, "is followed by a later change", findings);
        self.newest = change.index;
        self.open = Some((change.index, BTreeSet::from([change])));
    }

    fn progress(&mut self, index: u64, findings: &mut Findings) {
        if index < self.newest {
            let what = format!("progress mark {index} after {}: it goes back", self.newest);
            self.add(what, None, findings);
            return;
        }
        self.newest = index;
        self.close(findings);
        self.demand_complete(index, "is passed by a progress mark", findings);
    }

    /// The changes of the open index are over: all of them must have come.
    fn close(&mut self, findings: &mut Findings) {
        if let Some((index, came)) = self.open.take() {
            for missing in self
                .matching_at(index)
                .filter(|change| !came.contains(change))
            {
                let what = "missing: only a part of its index was delivered".to_owned();
                self.add(what, Some(missing), findings);
            }
            self.complete_to = self.complete_to.max(index);
        }
    }

    fn close_if_whole(&mut self) {
        if let Some((index, came)) = self.open.take()
            && self.matching_at(index).all(|change| came.contains(change))
        {
            self.complete_to = self.complete_to.max(index);
        }
    }

    /// Nothing matching may lie after what was delivered, up to `index`.
    fn demand_complete(&mut self, index: u64, why: &str, findings: &mut Findings) {
        if index <= self.complete_to {
            return;
        }
        let missing = self.log.range(self.complete_to + 1..=index);
        let missing = missing.flat_map(|(_, changes)| changes.iter().copied());
        for change in missing.filter(|change| change.key.starts_with(&self.stream.prefix)) {
            self.add(format!("missing: {why}"), Some(change), findings);
        }
        self.complete_to = index;
    }

    fn matching_at(&self, index: u64) -> impl Iterator<Item = &'a Change> + use<'a> {
        let prefix = self.stream.prefix.as_str();
        let changes = self.log.get(&index).into_iter().flatten().copied();
        changes.filter(move |change| change.key.starts_with(prefix))
    }

    fn add(&self, what: String, change: Option<&Change>, findings: &mut Findings) {
        let mut evidence = Evidence::new(&self.object, what);
        if let Some(change) = change {
            let value = change.value.as_deref().unwrap_or("removed");
            evidence = evidence.witness(format!("{}: `{}` {value}", change.index, change.key));
        }
        evidence = evidence.witness(format!(
            "watch of `{}*` from {}, complete to {}",
            self.stream.prefix, self.segment.from, self.complete_to
        ));
        findings.add(evidence);
    }
}
