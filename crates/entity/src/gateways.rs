//! What the gateways say about one revision: each counted once, unknown never taken for zero
//! (04-autoscaler §3).

use std::collections::BTreeMap;

use nihilo_scale::config::Metric;
use nihilo_types::id::{ObjectKey, SessionId};

use crate::table::{StatRow, View};

/// A gateway not heard for longer is unknown, not zero (04-autoscaler §3.4).
pub(crate) const HELD_MS: u64 = 3_000;
/// One that stays silent for longer, and for a stable window, while its session is open, is taken
/// for zero after all: it must not keep instances for ever.
const GIVEN_UP_MS: u64 = 60_000;

/// The newest of each gateway whose session is open.
#[derive(Debug, Default)]
pub(crate) struct Gateways {
    shares: BTreeMap<SessionId, Share>,
    /// By gateway, from demand edges until the next report.
    demand: BTreeMap<SessionId, Wanted>,
}

/// What one gateway had at its last demand edge.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    n_waiting: u64,
    /// Those under way too.
    n_requests: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Share {
    seq: u64,
    concurrency: f64,
    rps: f64,
    in_flight: u64,
}

impl Gateways {
    /// Takes what was reported since the last turn. What an ended session said last is void: its
    /// requests ended with it.
    pub(crate) fn take_reports(&mut self, key: &ObjectKey, view: View<'_>) {
        let is_open = |id: &SessionId| view.state.session(*id).is_some();
        self.shares.retain(|id, _| is_open(id));
        self.demand.retain(|id, _| is_open(id));
        let Some(stats) = view.table.stats.get(key) else {
            return;
        };
        for (gateway, rows) in stats.iter().filter(|(id, _)| is_open(id)) {
            let share = self.shares.entry(*gateway).or_default();
            let fresh: Vec<&StatRow> = rows.iter().filter(|row| row.seq > share.seq).collect();
            let Some(newest) = fresh.last() else { continue };
            let area: u64 = fresh.iter().map(|row| row.area_us).sum();
            let used: u64 = fresh.iter().map(|row| row.used_us).sum();
            let started: u64 = fresh.iter().map(|row| row.n_started).sum();
            let used = used.max(1) as f64;
            *share = Share {
                seq: newest.seq,
                concurrency: area as f64 / used,
                rps: started as f64 * 1e6 / used,
                in_flight: newest.in_flight,
            };
            self.demand.remove(gateway);
        }
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

    /// Requests of all gateways now, each gateway by the newer of its demand and its report.
    pub(crate) fn n_requests(&self) -> u64 {
        let waiting: u64 = self.demand.values().map(|at| at.n_requests).sum();
        let reported = self.shares.iter();
        let others = reported.filter(|(id, _)| !self.demand.contains_key(id));
        waiting + others.map(|(_, share)| share.in_flight).sum::<u64>()
    }

    /// Sets to zero who says zero, by a batch that does not list the revision, or says nothing
    /// for too long.
    pub(crate) fn settle(&mut self, view: View<'_>, now_ms: u64, stable_window_ms: u64) {
        for (id, share) in &mut self.shares {
            let newest = view.table.heard.get(id).map_or(0, |heard| heard.seq);
            let is_zero = newest > share.seq + 1;
            if is_zero || silence_ms(view, *id, now_ms) > given_up_ms(stable_window_ms) {
                *share = Share {
                    seq: share.seq,
                    ..Share::default()
                };
            }
        }
    }

    /// The sum over gateways of what is scaled on.
    pub(crate) fn value(&self, metric: Metric) -> f64 {
        let shares = self.shares.values();
        let values = shares.map(|share| match metric {
            Metric::Concurrency => share.concurrency,
            Metric::Rps => share.rps,
        });
        values.sum()
    }

    pub(crate) fn has_traffic(&self) -> bool {
        self.shares.values().any(|share| share.in_flight > 0)
    }

    /// An open gateway was not heard lately: its share is held, and nothing may fall.
    pub(crate) fn is_incomplete(&self, view: View<'_>, now_ms: u64, stable_window_ms: u64) -> bool {
        self.shares.keys().any(|id| {
            let silence_ms = silence_ms(view, *id, now_ms);
            silence_ms > HELD_MS && silence_ms <= given_up_ms(stable_window_ms)
        })
    }
}

/// Each open gateway has sent this owner a batch.
pub(crate) fn all_gateways_heard(view: View<'_>) -> bool {
    let mut gateways = view
        .state
        .sessions()
        .filter(|session| session.opened.roles.gateway);
    gateways.all(|session| view.table.heard.contains_key(&session.id))
}

fn silence_ms(view: View<'_>, gateway: SessionId, now_ms: u64) -> u64 {
    let heard_ms = view
        .table
        .heard
        .get(&gateway)
        .map_or(0, |heard| heard.at_ms);
    now_ms.saturating_sub(heard_ms)
}

fn given_up_ms(stable_window_ms: u64) -> u64 {
    stable_window_ms.max(GIVEN_UP_MS)
}
