//! One number from which everything random of a trial follows, so that a trial can be repeated.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, and the same for ever, which a library's "standard"
/// generator does not promise.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent stream, so that one part's draws do not move another's.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `low..high`; `low` when the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.checked_sub(low) {
            None | Some(0) => low,
            Some(width) => low + self.draw() % width,
        }
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.draw() % 100 < percent
    }

    /// One of `items`; `None` if there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let n = u64::try_from(items.len()).unwrap_or(u64::MAX);
        let index = usize::try_from(self.between(0, n)).ok()?;
        items.get(index)
    }

    /// Another order, each as likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let n = u64::try_from(last + 1).unwrap_or(u64::MAX);
            let with = usize::try_from(self.between(0, n)).unwrap_or(0);
            items.swap(last, with);
        }
    }

    /// A time of up to `longest`, whole milliseconds.
    pub fn within(&mut self, longest: Duration) -> Duration {
        let ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.between(0, ms.saturating_add(1)))
    }
}

/// A seed nobody chose.
pub fn fresh() -> u64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_trial_for_ever() {
        let mut random = Random::from_seed(1);
        assert_eq!(random.draw(), 0x910a_2dec_8902_5cc1);
        assert_eq!(random.draw(), 0xbeeb_8da1_658e_ec67);
        let (mut one, mut other) = (random.clone(), random);
        assert_eq!(one.fork().draw(), other.fork().draw());
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut random = Random::from_seed(7);
        for _ in 0..1_000 {
            assert!((3..9).contains(&random.between(3, 9)));
            assert!(random.within(Duration::from_millis(5)) <= Duration::from_millis(5));
        }
        assert_eq!(random.between(4, 4), 4);
        assert_eq!(random.pick::<u8>(&[]), None);
    }
}
