//! Waiting for what nothing announces: the daemon's next rules, or the kernel's.

use std::time::{Duration, Instant};

/// Pauses between two questions. A question costs more than a pause, above all where the processor is
/// emulated, and what is waited for needs the same processor.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(250);

/// A wait with an end.
pub(crate) struct Wait {
    since: Instant,
    patience: Duration,
}

impl Wait {
    /// Begins now.
    pub(crate) fn new(patience: Duration) -> Wait {
        Wait { since: Instant::now(), patience }
    }

    /// How long to pause before the next question: a quarter of the time that has passed, so that there
    /// are few questions, and the answer is hardly later than without pauses.
    pub(crate) fn pause(&self) -> Duration {
        (self.since.elapsed() / 4).clamp(SHORTEST, LONGEST)
    }

    /// Whether patience has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.since.elapsed() > self.patience
    }

    /// Pauses; `false` once patience has ended.
    pub(crate) fn again(&self) -> bool {
        let goes_on = !self.is_over();
        if goes_on {
            std::thread::sleep(self.pause());
        }
        goes_on
    }
}
