//! Instances and the line before them, as simple as they can be: a place for so many requests
//! each, first come first served.

use std::collections::{BTreeMap, VecDeque};

use nihilo_types::id::InstanceId;

use super::Boot;

#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) started_ms: u64,
    pub(super) ready_at_ms: u64,
    pub(super) in_flight: u32,
    pub(super) is_leaving: bool,
}

#[derive(Debug, Default)]
pub(super) struct Instances {
    pub(super) all: BTreeMap<u64, Instance>,
    next: u64,
    /// When each waiting request came, and for how long it will run.
    pub(super) queue: VecDeque<(u64, u64)>,
    pub(super) waits_ms: Vec<u64>,
    pub(super) n_started: u64,
    pub(super) lived_ms: u64,
}

impl Instances {
    pub(super) fn start(&mut self, now_ms: u64, boot_ms: u64) -> (u64, u64) {
        self.next += 1;
        self.n_started += 1;
        let ready_at_ms = now_ms + boot_ms;
        self.all.insert(
            self.next,
            Instance {
                started_ms: now_ms,
                ready_at_ms,
                in_flight: 0,
                is_leaving: false,
            },
        );
        (self.next, ready_at_ms)
    }

    pub(super) fn n_staying(&self) -> u32 {
        let n = self
            .all
            .values()
            .filter(|instance| !instance.is_leaving)
            .count();
        u32::try_from(n).unwrap_or(u32::MAX)
    }

    pub(super) fn n_ready(&self, now_ms: u64) -> u32 {
        let ready = |i: &&Instance| !i.is_leaving && i.ready_at_ms <= now_ms;
        u32::try_from(self.all.values().filter(ready).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn in_flight(&self) -> u64 {
        let running: u64 = self.all.values().map(|i| u64::from(i.in_flight)).sum();
        running + self.queue.len() as u64
    }

    /// The least loaded one with a free place.
    pub(super) fn free(&self, now_ms: u64, limit: u32) -> Option<u64> {
        let open = self.all.iter().filter(|(_, i)| {
            !i.is_leaving && i.ready_at_ms <= now_ms && (limit == 0 || i.in_flight < limit)
        });
        open.min_by_key(|(id, i)| (i.in_flight, **id))
            .map(|(id, _)| *id)
    }

    /// Not ready, idle, few requests, young: as the Revision actor chooses.
    pub(super) fn stop(&mut self, mut surplus: u32, now_ms: u64) {
        let mut order: Vec<_> = (self.all.iter())
            .filter(|(_, i)| !i.is_leaving)
            .map(|(id, i)| {
                (
                    i.ready_at_ms <= now_ms,
                    i.in_flight,
                    u64::MAX - i.started_ms,
                    *id,
                )
            })
            .collect();
        order.sort_unstable();
        for (_, _, _, id) in order {
            if surplus == 0 {
                break;
            }
            surplus -= 1;
            if let Some(instance) = self.all.get_mut(&id) {
                instance.is_leaving = true;
            }
            self.end_if_idle(id, now_ms);
        }
    }

    pub(super) fn end_if_idle(&mut self, id: u64, now_ms: u64) {
        let is_over = |i: &Instance| i.is_leaving && i.in_flight == 0;
        if self.all.get(&id).is_some_and(is_over)
            && let Some(gone) = self.all.remove(&id)
        {
            self.lived_ms += now_ms - gone.started_ms;
        }
    }

    pub(super) fn id(n: u64) -> InstanceId {
        InstanceId(format!("simulated-{n}").into())
    }

    pub(super) fn wait_mean_ms(&self) -> f64 {
        let sum: u64 = self.waits_ms.iter().sum();
        sum as f64 / self.waits_ms.len().max(1) as f64
    }

    /// The `p`-th part of all waits.
    pub(super) fn wait_ms(&self, p: f64) -> u64 {
        let mut sorted = self.waits_ms.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * p) as usize;
        sorted
            .get(at.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }
}

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn boot_ms(&mut self, boot: Boot) -> u64 {
        match boot {
            Boot::Fixed { ms } => ms,
            Boot::LogNormal { median_ms, sigma } => {
                let normal =
                    (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
                (median_ms as f64 * (sigma * normal).exp()).round() as u64
            }
        }
    }
}
