//! What a seed decides before a run begins.

use std::time::Duration;

use nihilo_sim::world::Random;
use nihilo_types::node_config::Profile;

/// Faults strike for this long.
const SAFETY_SECONDS: (u64, u64) = (5, 8);

/// Of so many seeds one rests.
const REST_EVERY: u64 = 8;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    KillLeader,
    KillOther,
    PowerCutOne,
    PowerCutAll,
    Isolate,
    CutOneWay,
    CutLink,
    SlowLink,
    SlowSync,
    FailSync,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::KillLeader,
        Self::KillOther,
        Self::PowerCutOne,
        Self::PowerCutAll,
        Self::Isolate,
        Self::CutOneWay,
        Self::CutLink,
        Self::SlowLink,
        Self::SlowSync,
        Self::FailSync,
    ];
}

/// Sizes, times and the mix of faults.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) profile: Profile,
    pub(crate) snapshot_every: u64,
    /// Time that a simulated boot takes.
    pub(crate) boot_ms: (u32, u32),
    /// Longest way of a message.
    pub(crate) latency: Duration,
    /// Longest sync of a disk that is well.
    pub(crate) sync: Duration,
    pub(crate) max_scale: u32,
    pub(crate) kinds: Vec<Kind>,
    /// Between two faults, in milliseconds.
    pub(crate) pause_ms: (u64, u64),
    pub(crate) safety: Duration,
    /// The run goes on until nothing runs any more: most of its time would pass with that.
    pub(crate) rests: bool,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|_| random.chance(500))
            .collect();
        if kinds.is_empty() {
            kinds.push(Kind::KillLeader);
        }
        let ms = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        let least = random.between(1, 200);
        let most = least + random.skewed(0, 2_000);
        Self {
            seed,
            profile: match random.below(4) {
                0 => Profile::Fast,
                1 => Profile::Calm,
                _ => Profile::Balanced,
            },
            snapshot_every: random.between(40, 400),
            boot_ms: (ms(least), ms(most)),
            latency: Duration::from_micros(random.skewed(1_000, 8_000)),
            sync: Duration::from_micros(random.skewed(0, 6_000)),
            max_scale: ms(random.between(1, 4)),
            kinds,
            pause_ms: (random.between(100, 500), random.between(600, 1_800)),
            safety: Duration::from_secs(random.between(SAFETY_SECONDS.0, SAFETY_SECONDS.1)),
            rests: seed.is_multiple_of(REST_EVERY),
        }
    }
}
