//! When which probe asks next, and what its answers amount to. Pure: times are since the start of
//! the instance.
//!
//! ```text
//! startup    passes ─> is over, and the others begin        n failures in a row ─> restart
//! liveness   passes ─> asks again after its period          n failures in a row ─> restart
//! readiness  n passes in a row ─> ready                     n failures in a row ─> not ready
//! ```
//!
//! Each kind has one question under way at most; a period runs from when a question was due, so that
//! a slow answer does not stretch it.

use std::time::Duration;

use nihilo_types::probe::ProbeKind;

/// How one probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythm {
    pub(crate) initial_delay: Duration,
    /// `None` = not asked any more once it has passed.
    pub(crate) period: Option<Duration>,
    /// Without a pause, until it has passed for the first time.
    pub(crate) is_aggressive: bool,
    pub(crate) n_successes: u32,
    pub(crate) n_failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythms {
    pub(crate) startup: Option<Rhythm>,
    pub(crate) liveness: Option<Rhythm>,
    pub(crate) readiness: Rhythm,
}

/// What is to be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Once(ProbeKind),
    /// Readiness, again and again; its answer can only be good.
    UntilReady {
        n_successes: u32,
    },
}

/// What an answer has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Ready,
    NotReady,
    /// This probe has failed for good: the instance is to be replaced.
    Restart(ProbeKind),
}

#[derive(Debug)]
pub(crate) struct Schedule {
    /// `None` = there is none, or it is over.
    startup: Option<Track>,
    liveness: Option<Track>,
    readiness: Track,
    is_ready: bool,
    was_ready: bool,
    /// Somebody waits for it to be ready again.
    is_woken: bool,
}

#[derive(Debug)]
struct Track {
    rhythm: Rhythm,
    next: Next,
    n_passed: u32,
    n_failed: u32,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    At(Duration),
    /// The question is under way that was due then.
    Answer(Duration),
    Never,
}

impl Schedule {
    pub(crate) fn new(rhythms: Rhythms) -> Self {
        Self {
            startup: rhythms.startup.map(Track::new),
            liveness: rhythms.liveness.map(Track::new),
            readiness: Track::new(rhythms.readiness),
            is_ready: false,
            was_ready: false,
            is_woken: false,
        }
    }

    /// Of an instance that was ready before this process of the node led it: it has started, and
    /// one good answer makes it ready.
    pub(crate) fn resumed(rhythms: Rhythms) -> Self {
        let at_once = |rhythm: Rhythm| Rhythm {
            initial_delay: Duration::ZERO,
            ..rhythm
        };
        let mut schedule = Self::new(Rhythms {
            startup: None,
            liveness: rhythms.liveness.map(at_once),
            readiness: at_once(rhythms.readiness),
        });
        schedule.readiness.n_passed = rhythms.readiness.n_successes.saturating_sub(1);
        schedule
    }

    /// As [`Self::resumed`], for one that somebody waits for: it is asked without a pause until it
    /// answers.
    pub(crate) fn woken(rhythms: Rhythms) -> Self {
        Self {
            is_woken: true,
            ..Self::resumed(rhythms)
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Takes one question that is due, if there is any.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Ask> {
        let (is_first, is_woken) = (!self.was_ready, self.is_woken);
        let found = self.eligible().find(|(_, track)| track.is_due(now));
        let (kind, track) = found?;
        if let Next::At(at) = track.next {
            track.next = Next::Answer(at);
        }
        let rhythm = track.rhythm;
        let is_first_readiness = kind == ProbeKind::Readiness && is_first;
        Some(match is_first_readiness {
            true if is_woken => Ask::UntilReady { n_successes: 1 },
            true if rhythm.is_aggressive => Ask::UntilReady {
                n_successes: rhythm.n_successes,
            },
            _ => Ask::Once(kind),
        })
    }

    /// When the next question is due; `None` while there are only answers to be waited for.
    pub(crate) fn next_at(&mut self) -> Option<Duration> {
        let at = |track: &mut Track| match track.next {
            Next::At(at) => Some(at),
            Next::Answer(_) | Next::Never => None,
        };
        self.eligible().filter_map(|(_, track)| at(track)).min()
    }

    /// The answer to [`Ask::UntilReady`] has passed as often as it must.
    pub(crate) fn passed_until_ready(&mut self, now: Duration) -> Option<Turn> {
        let missing = self.readiness.rhythm.n_successes.saturating_sub(1);
        self.readiness.n_passed = self.readiness.n_passed.max(missing);
        self.answered(ProbeKind::Readiness, true, now)
    }

    pub(crate) fn answered(
        &mut self,
        kind: ProbeKind,
        passed: bool,
        now: Duration,
    ) -> Option<Turn> {
        match kind {
            ProbeKind::Startup => self.startup_answered(passed, now),
            ProbeKind::Liveness => {
                let liveness = self.liveness.as_mut()?;
                liveness.count(passed, now);
                liveness.has_failed().then_some(Turn::Restart(kind))
            }
            ProbeKind::Readiness => self.readiness_answered(passed, now),
        }
    }

    fn startup_answered(&mut self, passed: bool, now: Duration) -> Option<Turn> {
        let startup = self.startup.as_mut()?;
        startup.count(passed, now);
        if startup.has_failed() {
            return Some(Turn::Restart(ProbeKind::Startup));
        }
        if passed {
            self.startup = None;
            for (_, track) in self.eligible() {
                track.not_before(now);
            }
        }
        None
    }

    // not ready => (ready | not ready), ready => (ready | not ready)
    fn readiness_answered(&mut self, passed: bool, now: Duration) -> Option<Turn> {
        let readiness = &mut self.readiness;
        readiness.count(passed, now);
        if !self.is_ready && readiness.n_passed >= readiness.rhythm.n_successes {
            (self.is_ready, self.was_ready) = (true, true);
            if readiness.rhythm.period.is_none() {
                readiness.next = Next::Never;
            }
            return Some(Turn::Ready);
        }
        if self.is_ready && readiness.has_failed() {
            self.is_ready = false;
            return Some(Turn::NotReady);
        }
        None
    }

    /// The questions under way were dropped; they are asked again from `now` on.
    pub(crate) fn interrupted(&mut self, now: Duration) {
        for (_, track) in self.eligible() {
            if let Next::Answer(_) = track.next {
                track.next = Next::At(now);
            }
            track.not_before(now);
        }
    }

    /// Startup alone while it is not over; liveness first, so that a restart is never late.
    fn eligible(&mut self) -> impl Iterator<Item = (ProbeKind, &mut Track)> {
        let is_starting = self.startup.is_some();
        let startup = self
            .startup
            .as_mut()
            .map(|track| (ProbeKind::Startup, track));
        let liveness = self.liveness.as_mut();
        let liveness = liveness.map(|track| (ProbeKind::Liveness, track));
        let readiness = (ProbeKind::Readiness, &mut self.readiness);
        let others = liveness.into_iter().chain([readiness]);
        startup
            .into_iter()
            .chain(others.filter(move |_| !is_starting))
    }
}

impl Track {
    fn new(rhythm: Rhythm) -> Self {
        Self {
            rhythm,
            next: Next::At(rhythm.initial_delay),
            n_passed: 0,
            n_failed: 0,
        }
    }

    fn is_due(&self, now: Duration) -> bool {
        matches!(self.next, Next::At(at) if at <= now)
    }

    fn not_before(&mut self, now: Duration) {
        if let Next::At(at) = self.next {
            self.next = Next::At(at.max(now));
        }
    }

    /// Takes an answer in, and sets when it is asked next.
    fn count(&mut self, passed: bool, now: Duration) {
        (self.n_passed, self.n_failed) = match passed {
            true => (self.n_passed.saturating_add(1), 0),
            false => (0, self.n_failed.saturating_add(1)),
        };
        let due = match self.next {
            Next::Answer(due) => due,
            Next::At(_) | Next::Never => now,
        };
        let period = self.rhythm.period.unwrap_or_default();
        // What was missed meanwhile is not made up for.
        self.next = Next::At((due + period).max(now));
    }

    fn has_failed(&self) -> bool {
        self.n_failed >= self.rhythm.n_failures
    }
}

#[cfg(test)]
#[path = "schedule_test.rs"]
mod tests;
