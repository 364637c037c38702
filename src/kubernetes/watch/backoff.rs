//! The pause before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

/// The first pause is at most this (client-go's reflector: 800 ms).
const FIRST: Duration = Duration::from_millis(800);
/// No pause is longer (client-go's reflector: 30 s, and as much again by chance).
const LONGEST: Duration = Duration::from_secs(60);
/// The shortest pause is this part of the longest one that is possible then. The less there is of it, the
/// sooner nodes that lost their API server together have forgotten when that was.
const SHORTEST_PART: u32 = 4;

/// Pauses that double with every failure, each drawn by chance.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        jitter(self.range())
    }

    /// What the pause after one more failure is drawn from.
    pub(super) fn range(&mut self) -> Range<Duration> {
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        let longest = doubled.min(LONGEST);
        longest / SHORTEST_PART..longest
    }

    /// Resets after a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

/// A duration from the range, evenly distributed to within a millisecond.
pub(super) fn jitter(range: Range<Duration>) -> Duration {
    let width = u64::try_from((range.end - range.start).as_millis()).unwrap_or(u64::MAX).max(1);
    range.start + Duration::from_millis(random() % width)
}

/// Another number for each node and each call.
pub(super) fn random() -> u64 {
    // Every RandomState has new random keys: good enough for spreading load, and no dependency.
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_anew() {
        let mut backoff = Backoff::default();
        for millis in [800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000] {
            let longest = Duration::from_millis(millis);
            let pause = backoff.next();
            assert!(
                pause >= longest / 4 && pause < longest,
                "{pause:?} is not between a quarter and all of {longest:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(800));
    }
}
