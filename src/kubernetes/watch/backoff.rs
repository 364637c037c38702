//! The pause before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits that double with every failure. Each is drawn from its upper half, so that the nodes of a
/// cluster that lost its API server together do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        jitter(doubled.min(LONGEST) / 2..doubled.min(LONGEST))
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
pub(super) fn jitter(range: std::ops::Range<Duration>) -> Duration {
    // Every RandomState has new random keys: good enough for spreading load, and no dependency.
    let random = RandomState::new().hash_one(());
    let width = u64::try_from((range.end - range.start).as_millis()).unwrap_or(u64::MAX).max(1);
    range.start + Duration::from_millis(random % width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_anew() {
        let mut backoff = Backoff::default();
        let upper = [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
        for millis in upper {
            let wait = backoff.next();
            let upper = Duration::from_millis(millis);
            assert!(
                wait >= upper / 2 && wait < upper,
                "{wait:?} is not in the half below {upper:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(250));
    }
}
