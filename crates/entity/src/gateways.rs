//! What the gateways say about one revision, second by second: each request counted once, unknown
//! never taken for zero (04-autoscaler §3.3, §3.4).

use std::collections::{BTreeMap, BTreeSet};

use nihilo_scale::config::Metric;
use nihilo_types::id::{ObjectKey, SessionId};

use crate::table::{StatRow, View};

/// A gateway not heard for longer is unknown, not held (04-autoscaler §3.4).
pub(crate) const HELD_MS: u64 = 3_000;
/// One that stays silent for longer, and for a stable window, while its session is open, is taken
/// for zero after all: it must not keep instances for ever.
const GIVEN_UP_MS: u64 = 60_000;
/// A second is closed so long after its end, whoever is missing.
const CLOSE_AFTER_MS: u64 = 1_500;
/// Batches of one gateway that are known to be taken, at most: older ones are too late.
const MAX_TAKEN: usize = 32;
/// A mean service time follows new ones this fast.
const FOLLOW: f64 = 0.3;

/// One second's worth of one gateway, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Second {
    pub(crate) concurrency: f64,
    pub(crate) rps: f64,
}

impl Second {
    pub(crate) fn of(self, metric: Metric) -> f64 {
        match metric {
            Metric::Concurrency => self.concurrency,
            Metric::Rps => self.rps,
        }
    }

    fn add(&mut self, other: Second) {
        self.concurrency += other.concurrency;
        self.rps += other.rps;
    }

    fn minus(self, other: Second) -> Second {
        Second {
            concurrency: self.concurrency - other.concurrency,
            rps: self.rps - other.rps,
        }
    }
}

/// A second that has ended, summed over gateways.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Closed {
    pub(crate) second: u64,
    pub(crate) sum: Second,
    /// Some gateway had something to say about the revision.
    pub(crate) is_listed: bool,
    /// Every gateway that this owner found has told it of the second, or of none for too long.
    pub(crate) is_known: bool,
}

/// How complete the picture is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Silence {
    /// Within the time in which the last value stands.
    pub(crate) held: Vec<SessionId>,
    /// Beyond it: nothing may fall.
    pub(crate) unknown: Vec<SessionId>,
    /// Silent for so long that they are taken for zero.
    pub(crate) given_up: Vec<SessionId>,
}

#[derive(Debug, Default)]
pub(crate) struct Gateways {
    known: BTreeMap<SessionId, Share>,
    /// By gateway, from demand edges until the next report.
    demand: BTreeMap<SessionId, Wanted>,
    /// Seconds that are not closed yet.
    open: BTreeMap<u64, BTreeMap<SessionId, Second>>,
    /// What stood for a silent gateway in a closed second, until it speaks after all.
    assumed: BTreeMap<(u64, SessionId), Second>,
    service_ms: Option<f64>,
    /// The gateways that this owner found were looked at.
    has_looked: bool,
}

/// What one gateway had at its last demand edge.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    n_waiting: u64,
    /// Those under way too.
    n_requests: u64,
}

/// One gateway whose session is open.
#[derive(Debug, Clone, Default)]
struct Share {
    first_seen_ms: u64,
    /// It was there before this owner, which has not heard it yet.
    is_untold: bool,
    /// What it had in the seconds before is not known.
    first_second: u64,
    /// Batch number and the second of this owner that it stands for.
    anchor: Option<(u64, u64)>,
    taken: BTreeSet<u64>,
    /// The newest batch that listed the revision.
    newest: u64,
    value: Second,
    in_flight: u64,
    queued: u64,
}

impl Share {
    fn second_of(&self, seq: u64) -> Option<u64> {
        let (anchor, second) = self.anchor?;
        let ahead = seq.cast_signed().wrapping_sub(anchor.cast_signed());
        Some(second.saturating_add_signed(ahead))
    }

    /// Once per session; again when the two clocks have drifted apart.
    fn anchor_at(&mut self, seq: u64, second: u64) {
        let expected = self.second_of(seq);
        if expected.is_none_or(|expected| expected.abs_diff(second) > 1) {
            self.anchor = Some((seq, second));
        }
    }
}

impl Gateways {
    /// Takes what was reported since the last turn. Returns what came too late for its second, to
    /// be added to it.
    pub(crate) fn take_reports(
        &mut self,
        key: &ObjectKey,
        view: View<'_>,
        now_ms: u64,
        closed_second: u64,
    ) -> Vec<(u64, Second)> {
        self.follow_sessions(view, now_ms);
        let mut late = Vec::new();
        let Some(stats) = view.table.stats.get(key) else {
            return late;
        };
        for (gateway, rows) in stats {
            let Some(share) = self.known.get_mut(gateway) else {
                continue;
            };
            let fresh: Vec<&StatRow> = rows
                .iter()
                .filter(|row| share.taken.insert(row.seq))
                .collect();
            while share.taken.len() > MAX_TAKEN {
                share.taken.pop_first();
            }
            for row in fresh {
                self.take(*gateway, row, closed_second, &mut late);
            }
        }
        late
    }

    /// What an ended session said last is void: its requests ended with it.
    fn follow_sessions(&mut self, view: View<'_>, now_ms: u64) {
        let is_open = |id: &SessionId| view.state.session(*id).is_some();
        self.known.retain(|id, _| is_open(id));
        self.demand.retain(|id, _| is_open(id));
        for id in live(view) {
            let heard = view.table.heard.get(&id);
            let share = self.known.entry(id).or_insert_with(|| Share {
                first_seen_ms: now_ms,
                is_untold: !self.has_looked && heard.is_none(),
                ..Share::default()
            });
            let Some(heard) = heard else { continue };
            let second = heard.at_ms / 1_000;
            share.anchor_at(heard.seq, second);
            if std::mem::take(&mut share.is_untold) {
                share.first_second = second;
            }
        }
        self.has_looked = true;
    }

    fn take(
        &mut self,
        gateway: SessionId,
        row: &StatRow,
        closed_second: u64,
        late: &mut Vec<(u64, Second)>,
    ) {
        let Some(share) = self.known.get_mut(&gateway) else {
            return;
        };
        let Some(last) = share.second_of(row.seq) else {
            return;
        };
        // A batch of several seconds after a stall stands for each of them alike.
        let n = (row.used_us as f64 / 1e6).round().max(1.0);
        let value = Second {
            concurrency: row.area_us as f64 / row.used_us.max(1) as f64,
            rps: row.n_started as f64 / n,
        };
        let first = last.saturating_sub(n as u64 - 1);
        if row.seq > share.newest {
            let before = share.in_flight;
            (share.newest, share.value) = (row.seq, value);
            (share.in_flight, share.queued) = (row.in_flight, row.queued);
            self.demand.remove(&gateway);
            self.look_at_service(row, before);
        }
        for second in first..=last {
            if second > closed_second {
                let of_gateway = self.open.entry(second).or_default();
                of_gateway.entry(gateway).or_default().add(value);
            } else {
                let assumed = self.assumed.remove(&(second, gateway)).unwrap_or_default();
                late.push((second, value.minus(assumed)));
            }
        }
    }

    /// Mean time that an instance was busy with one request, queueing left out.
    fn look_at_service(&mut self, row: &StatRow, in_flight_before: u64) {
        let n_ended = (in_flight_before + row.n_started).saturating_sub(row.in_flight);
        let queued_us = row.queued.saturating_mul(row.used_us);
        let busy_ms = row.area_us.saturating_sub(queued_us) as f64 / 1e3;
        let seen = match n_ended {
            0 if busy_ms > 0.0 => (row.used_us as f64 / 1e3).max(self.service_ms.unwrap_or(0.0)),
            0 => return,
            n => busy_ms / n as f64,
        };
        let before = self.service_ms.unwrap_or(seen);
        self.service_ms = Some(before + FOLLOW * (seen - before));
    }

    pub(crate) fn service_ms(&self) -> f64 {
        self.service_ms.unwrap_or(0.0)
    }

    /// Closes the seconds that every live gateway has reported, or that ended long enough ago.
    pub(crate) fn close(
        &mut self,
        view: View<'_>,
        now_ms: u64,
        closed_second: u64,
        stable_window_ms: u64,
    ) -> Vec<Closed> {
        let mut closed = Vec::new();
        let mut second = closed_second + 1;
        while self.is_over(view, second, now_ms) {
            let said = self.open.remove(&second).unwrap_or_default();
            let mut all = Closed {
                second,
                sum: Second::default(),
                is_listed: !said.is_empty(),
                is_known: self
                    .known
                    .values()
                    .all(|share| share.first_second <= second),
            };
            said.values().for_each(|value| all.sum.add(*value));
            for (gateway, value) in self.stand_ins(view, second, now_ms, stable_window_ms) {
                if said.contains_key(&gateway) {
                    continue;
                }
                all.sum.add(value);
                all.is_listed |= value != Second::default();
                self.assumed.insert((second, gateway), value);
            }
            closed.push(all);
            second += 1;
        }
        let oldest = second.saturating_sub(stable_window_ms / 1_000);
        self.assumed.retain(|(at, _), _| *at >= oldest);
        self.open.retain(|at, _| *at >= second);
        closed
    }

    fn is_over(&self, view: View<'_>, second: u64, now_ms: u64) -> bool {
        let reported = |id: SessionId| self.heard_second(view, id) >= Some(second);
        if live(view).all(reported) {
            return second <= now_ms / 1_000 && live(view).next().is_some();
        }
        // What a new owner has not been told yet is no zero.
        let is_new = |id: SessionId| {
            let share = self.known.get(&id);
            !view.table.heard.contains_key(&id)
                && share.is_none_or(|share| now_ms < share.first_seen_ms + HELD_MS)
        };
        now_ms >= (second + 1) * 1_000 + CLOSE_AFTER_MS && !live(view).any(is_new)
    }

    fn heard_second(&self, view: View<'_>, id: SessionId) -> Option<u64> {
        let heard = view.table.heard.get(&id)?;
        self.known.get(&id)?.second_of(heard.seq)
    }

    /// The last value of each live gateway that has not spoken of this second.
    fn stand_ins(
        &self,
        view: View<'_>,
        second: u64,
        now_ms: u64,
        stable_window_ms: u64,
    ) -> Vec<(SessionId, Second)> {
        let silent = self.known.iter().filter(|(id, _)| {
            let heard = self.heard_second(view, **id);
            heard < Some(second) && view.state.session(**id).is_some()
        });
        silent
            .map(|(id, share)| {
                let gone = self.silence_ms(view, *id, now_ms) > given_up_ms(stable_window_ms);
                let value = if gone { Second::default() } else { share.value };
                (*id, value)
            })
            .collect()
    }

    fn silence_ms(&self, view: View<'_>, id: SessionId, now_ms: u64) -> u64 {
        let first_seen_ms = self.known.get(&id).map_or(now_ms, |s| s.first_seen_ms);
        let heard = view.table.heard.get(&id).map(|heard| heard.at_ms);
        now_ms.saturating_sub(heard.unwrap_or(first_seen_ms))
    }

    pub(crate) fn silence(&self, view: View<'_>, now_ms: u64, stable_window_ms: u64) -> Silence {
        let mut silence = Silence::default();
        for id in live(view) {
            match self.silence_ms(view, id, now_ms) {
                ms if ms > given_up_ms(stable_window_ms) => silence.given_up.push(id),
                ms if ms > HELD_MS => silence.unknown.push(id),
                ms if ms > 2_000 => silence.held.push(id),
                _ => {}
            }
        }
        silence
    }

    /// A gateway has so many requests waiting or under way, as of now.
    pub(crate) fn demand(&mut self, gateway: SessionId, n_waiting: u64, in_flight: u64) {
        let n_requests = n_waiting.max(in_flight);
        let wanted = Wanted {
            n_waiting,
            n_requests,
        };
        self.demand.insert(gateway, wanted);
    }

    /// The gateway that most requests wait at, by its newest demand.
    pub(crate) fn longest_line(&self) -> Option<SessionId> {
        let longest = self.demand.iter().max_by_key(|(_, at)| at.n_waiting);
        longest.map(|(gateway, _)| *gateway)
    }

    /// Requests of all gateways now, and those of them that wait; each gateway by the newer of
    /// its demand and its report.
    pub(crate) fn requests(&self) -> (u64, u64) {
        let mut all = (0, 0);
        for at in self.demand.values() {
            all = (all.0 + at.n_requests, all.1 + at.n_waiting);
        }
        let reported = self.known.iter();
        for (_, share) in reported.filter(|(id, _)| !self.demand.contains_key(id)) {
            all = (all.0 + share.in_flight, all.1 + share.queued);
        }
        all
    }

    /// Sets to zero who says zero, by a batch that does not list the revision, or says nothing
    /// for too long.
    pub(crate) fn settle(&mut self, view: View<'_>, now_ms: u64, stable_window_ms: u64) {
        let gone: BTreeSet<_> = self
            .known
            .keys()
            .copied()
            .filter(|id| self.silence_ms(view, *id, now_ms) > given_up_ms(stable_window_ms))
            .collect();
        for (id, share) in &mut self.known {
            let newest = view.table.heard.get(id).map_or(0, |heard| heard.seq);
            if newest > share.newest || gone.contains(id) {
                share.value = Second::default();
                (share.in_flight, share.queued) = (0, 0);
            }
        }
    }

    pub(crate) fn has_traffic(&self) -> bool {
        !self.open.is_empty() || self.known.values().any(|share| share.in_flight > 0)
    }
}

/// The sessions whose gateways must be heard.
fn live<'a>(view: View<'a>) -> impl Iterator<Item = SessionId> + 'a {
    let gateways = view
        .state
        .sessions()
        .filter(|session| session.opened.roles.gateway);
    gateways.map(|session| session.id)
}

fn given_up_ms(stable_window_ms: u64) -> u64 {
    stable_window_ms.max(GIVEN_UP_MS)
}
