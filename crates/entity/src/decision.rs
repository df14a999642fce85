//! What an Autoscaler decided and on what: kept by the owner for those who ask why
//! (04-autoscaler §9).

use std::collections::VecDeque;

use nihilo_scale::decider::Decision;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::condition::ConditionStatus;
use nihilo_types::id::{Epoch, SessionId};
use serde::Serialize;

/// Decisions kept per revision.
pub const MAX_DECISIONS: usize = 256;
/// Of decisions that say the same, every so many'th is kept.
const KEEP_EVERY: u32 = 30;

/// One decision with its inputs. Times in milliseconds of the owner's own clock.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord {
    pub at_ms: u64,
    pub occasion: &'static str,
    pub epoch: Epoch,
    /// Averages over the windows at the newest closed second.
    pub stable: f64,
    pub panic: f64,
    pub stable_window_ms: u64,
    pub panic_window_ms: u64,
    pub held: Vec<SessionId>,
    pub unknown: Vec<SessionId>,
    pub given_up: Vec<SessionId>,
    /// `None` while not all agents have answered.
    pub ready: Option<u32>,
    pub target: f64,
    pub total: f64,
    /// What the KPA said; `None` when it had nothing to say.
    pub kpa: Option<Kpa>,
    pub panic_since_ms: Option<u64>,
    pub max_panic: i32,
    /// Requests in flight and waiting over all gateways.
    pub in_flight: u64,
    pub queued: u64,
    pub fast_floor: i32,
    pub degraded: bool,
    pub min: i32,
    /// 0 = none.
    pub max: i32,
    pub rule: &'static str,
    pub want: i32,
    /// Instances that keep their memory and take no cpu.
    pub frozen: u32,
    /// The last instance is frozen and not stopped (`nihilo.dev/idle`).
    pub idles_frozen: bool,
    pub data_path: DataPath,
    pub activators: i32,
    pub active: ConditionStatus,
    pub reason: &'static str,
    /// This is the first decision of a new owner.
    pub takeover: Option<Takeover>,
}

/// The steps of 04-autoscaler §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kpa {
    pub desired: i32,
    pub stable_need: i32,
    pub panic_need: i32,
    pub stable_clamped: i32,
    pub panic_clamped: i32,
    pub over: bool,
    pub delayed: bool,
    pub excess_burst: i32,
}

/// What a new owner began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Takeover {
    pub ready: u32,
    pub recorded: i32,
    pub max_panic: i32,
    /// The old owner handed its windows over.
    pub planned: bool,
}

impl From<&Decision> for Kpa {
    fn from(decision: &Decision) -> Self {
        Self {
            desired: decision.desired,
            stable_need: decision.stable_need,
            panic_need: decision.panic_need,
            stable_clamped: decision.stable_clamped,
            panic_clamped: decision.panic_clamped,
            over: decision.over,
            delayed: decision.delayed,
            excess_burst: decision.excess_burst,
        }
    }
}

impl DecisionRecord {
    /// Whether somebody who has read `before` learns nothing from this one.
    fn says_the_same(&self, before: &Self) -> bool {
        let essence = |r: &Self| {
            let needs = r
                .kpa
                .map(|kpa| (kpa.stable_need, kpa.panic_need, kpa.excess_burst < 0));
            let state = (r.want, r.rule, r.ready, r.data_path, r.active, r.degraded);
            (
                state,
                needs,
                r.panic_since_ms.is_some(),
                r.fast_floor,
                r.max_panic,
                r.frozen,
            )
        };
        self.takeover.is_none() && essence(self) == essence(before)
    }

    /// In one line of words.
    pub fn sentence(&self) -> String {
        let mut text = format!("wants {}: ", self.want);
        let seconds = |ms: u64| ms / 1_000;
        let ready = match self.ready {
            Some(ready) => format!("{ready} ready"),
            None => "not all agents have answered".into(),
        };
        match self.kpa {
            Some(kpa) if self.panic_since_ms.is_some() => text.push_str(&format!(
                "panic, {} s average {} needs {} at target {}, {} held, {ready}",
                seconds(self.panic_window_ms),
                self.panic,
                kpa.panic_need,
                self.target,
                self.max_panic,
            )),
            Some(kpa) => text.push_str(&format!(
                "{} s average {} needs {} at target {}, {ready}",
                seconds(self.stable_window_ms),
                self.stable,
                kpa.stable_need,
                self.target,
            )),
            None => text.push_str(&format!("no decision, {ready}")),
        }
        if self.kpa.is_some_and(|kpa| kpa.delayed) {
            text.push_str("; the scale-down delay holds it");
        }
        if self.fast_floor > 0 {
            text.push_str(&format!(
                "; {} requests in flight ask for {} at once",
                self.in_flight, self.fast_floor
            ));
        }
        if self.max > 0 && self.want >= self.max {
            text.push_str(&format!("; max-scale {} reached", self.max));
        } else if self.min > 0 && self.want <= self.min {
            text.push_str(&format!("; min-scale {}", self.min));
        }
        if self.rule != "bounds" {
            text.push_str(&format!("; {}", self.rule));
        }
        text.push_str(&self.about_frozen());
        if !self.unknown.is_empty() {
            let silent: Vec<_> = self.unknown.iter().map(ToString::to_string).collect();
            text.push_str(&format!(
                "; nothing falls, not heard: {}",
                silent.join(", ")
            ));
        } else if self.degraded {
            text.push_str("; nothing falls before the picture is complete");
        }
        if let Some(takeover) = self.takeover {
            let how = match takeover.planned {
                true => "with the old owner's windows",
                false => "in panic",
            };
            text.push_str(&format!(
                "; taken over {how} at {} ({} ready, {} recorded)",
                takeover.max_panic, takeover.ready, takeover.recorded
            ));
        }
        text
    }
}

impl DecisionRecord {
    /// Why an instance is frozen, or will be, rather than stopped; what becomes of it.
    fn about_frozen(&self) -> String {
        match (self.frozen, self.want) {
            (0, 0) if self.idles_frozen => {
                "; its last instance is frozen and not stopped, as `nihilo.dev/idle: freeze` asks"
                    .into()
            }
            (0, _) => String::new(),
            (n, 0) if self.idles_frozen => {
                format!("; {n} frozen, as `nihilo.dev/idle: freeze` asks")
            }
            (n, 0) => format!("; {n} frozen, to be stopped: nothing is routed to it any more"),
            (n, _) => format!("; {n} frozen, thawed before another is started"),
        }
    }
}

/// The newest decisions about one revision, oldest first.
#[derive(Debug, Default)]
pub struct Decisions {
    kept: VecDeque<DecisionRecord>,
    newest: Option<DecisionRecord>,
    n_repeated: u32,
}

impl Decisions {
    pub fn push(&mut self, record: DecisionRecord) {
        let repeats = self
            .newest
            .as_ref()
            .is_some_and(|before| record.says_the_same(before));
        self.n_repeated = if repeats { self.n_repeated + 1 } else { 0 };
        if self.n_repeated.is_multiple_of(KEEP_EVERY) {
            self.kept.push_back(record.clone());
            if self.kept.len() > MAX_DECISIONS {
                self.kept.pop_front();
            }
        }
        self.newest = Some(record);
    }

    pub fn newest(&self) -> Option<&DecisionRecord> {
        self.newest.as_ref()
    }

    /// Changes, and every 30th repetition.
    pub fn kept(&self) -> impl Iterator<Item = &DecisionRecord> {
        self.kept.iter()
    }
}
