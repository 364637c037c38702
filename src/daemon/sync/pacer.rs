//! When to bring the kernel up to date: a small state machine over instants that others read from
//! the clock.
//!
//! The first change is applied at once; after each run that was for changes, `min` must pass before
//! the next (upstream: `pkg/proxy/runner/bounded_frequency_runner.go`). A run that failed is tried again after a pause
//! that doubles from `min` (at least [`SHORTEST_RETRY`]) up to `period`. Every `period`, and
//! when there is a reason to suspect it, the backends are asked whether somebody touched their objects,
//! and every [`FULL_SYNC`] everything is compared.

use std::time::{Duration, Instant};

use sluice_config::SyncPeriods;

/// How often everything is compared with the kernel although nothing seems to have changed
/// (upstream: `proxyutil.FullSyncPeriod`).
pub(super) const FULL_SYNC: Duration = Duration::from_secs(3600);

/// The first pause after a failure, if `min` is shorter.
const SHORTEST_RETRY: Duration = Duration::from_millis(250);

/// The pause between two checks, if `min` is shorter: whoever changes nf_tables all the time, mostly
/// tables that are not ours, shall not keep us busy.
const SHORTEST_CHECK: Duration = Duration::from_millis(250);

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// To see whether somebody touched our objects.
    Check,
    /// Something changed, or failed before.
    Change,
    /// To compare everything.
    Full,
}

/// Decides when to run.
#[derive(Debug)]
pub(super) struct Pacer {
    periods: SyncPeriods,
    changed: bool,
    suspicious: bool,
    failures: u32,
    /// The end of the last run.
    last: Option<Instant>,
    /// The end of the last one that was more than a check.
    last_change: Option<Instant>,
    last_full: Option<Instant>,
}

impl Pacer {
    pub(super) fn new(periods: SyncPeriods) -> Pacer {
        Pacer {
            periods,
            changed: false,
            suspicious: false,
            failures: 0,
            last: None,
            last_change: None,
            last_full: None,
        }
    }

    /// Other intervals count from now on.
    pub(super) fn set_periods(&mut self, periods: SyncPeriods) {
        self.periods = periods;
    }

    /// Something changed.
    pub(super) fn request(&mut self) {
        self.changed = true;
    }

    /// Somebody may have touched our objects.
    pub(super) fn suspect(&mut self) {
        self.suspicious = true;
    }

    /// When to run next and why; an instant that is not in the future means now.
    pub(super) fn next(&self, now: Instant) -> (Instant, Reason) {
        let (Some(last), Some(last_full)) = (self.last, self.last_full) else {
            return (now, Reason::Full);
        };
        let full = (last_full + FULL_SYNC, Reason::Full);
        let pause = if self.suspicious { SHORTEST_CHECK } else { self.periods.period };
        let check = (last + pause.max(self.periods.min), Reason::Check);
        // A check does not make changes wait: it looks, and hardly ever writes.
        let changed = self.last_change.unwrap_or(last_full) + self.periods.min;
        let change = self.changed.then_some((changed, Reason::Change));
        let retry = (self.failures > 0).then(|| (last + self.pause(), Reason::Change));
        let candidates = [Some(full), Some(check), change, retry];
        let due = |&(at, _): &(Instant, Reason)| at <= now;
        // Of several that are due, the most thorough one does the work of the others.
        let most_thorough = candidates.iter().flatten().filter(|c| due(c)).max_by_key(|c| c.1);
        let soonest = candidates.iter().flatten().min_by_key(|c| c.0);
        most_thorough.or(soonest).copied().unwrap_or(full)
    }

    /// A run ended.
    pub(super) fn ran(&mut self, now: Instant, reason: Reason, succeeded: bool) {
        self.last = Some(now);
        if reason != Reason::Check {
            self.last_change = Some(now);
        }
        self.changed = false;
        self.suspicious = false;
        self.failures = if succeeded { 0 } else { self.failures.saturating_add(1) };
        // A full run that failed is no longer due: a backend that fails compares everything in the
        // retry, and one that only lacks a refused Service has compared everything.
        if reason == Reason::Full || self.last_full.is_none() {
            self.last_full = Some(now);
        }
    }

    fn pause(&self) -> Duration {
        let first = self.periods.min.max(SHORTEST_RETRY);
        let doubled = first.saturating_mul(1_u32 << (self.failures - 1).min(16));
        doubled.min(self.periods.period.max(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const PERIOD: Duration = Duration::from_secs(30);

    #[test]
    fn runs_come_at_once_then_no_closer_than_min() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut pacer = Pacer::new(SyncPeriods { min: MIN, period: PERIOD });
        assert_eq!(pacer.next(start), (start, Reason::Full), "the first run");
        pacer.ran(start, Reason::Full, true);
        assert_eq!(pacer.next(at(10)), (start + PERIOD, Reason::Check), "nothing to do");
        pacer.request();
        assert_eq!(pacer.next(at(10)), (at(1000), Reason::Change), "too soon after the last");
        assert_eq!(pacer.next(at(5000)), (at(1000), Reason::Change), "long due");
        pacer.ran(at(5000), Reason::Change, true);
        assert_eq!(pacer.next(at(5000)), (at(35_000), Reason::Check));
        let hour = start + FULL_SYNC;
        assert_eq!(pacer.next(hour), (hour, Reason::Full), "a full run does the check's work");
    }

    #[test]
    fn failures_are_repeated_after_doubling_pauses() {
        let start = Instant::now();
        let mut pacer = Pacer::new(SyncPeriods { min: MIN, period: PERIOD });
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pacer.ran(start, Reason::Change, false);
            pauses.push((pacer.next(start).0 - start).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        pacer.request();
        assert_eq!(pacer.next(start), (start + MIN, Reason::Change), "a change does not wait");
        pacer.ran(start, Reason::Change, true);
        assert_eq!(pacer.next(start), (start + PERIOD, Reason::Check));
    }

    #[test]
    fn a_full_run_that_fails_is_retried_after_a_pause() {
        let start = Instant::now();
        let mut pacer = Pacer::new(SyncPeriods { min: MIN, period: PERIOD });
        pacer.ran(start, Reason::Full, true);
        let hour = start + FULL_SYNC;
        assert_eq!(pacer.next(hour), (hour, Reason::Full));
        pacer.ran(hour, Reason::Full, false);
        assert_eq!(pacer.next(hour), (hour + MIN, Reason::Change), "not at once");
        pacer.ran(hour, Reason::Change, true);
        assert_eq!(pacer.next(hour), (hour + PERIOD, Reason::Check));
    }

    #[test]
    fn a_suspicion_is_looked_into_as_soon_as_a_change_would_be() {
        let start = Instant::now();
        let mut pacer = Pacer::new(SyncPeriods { min: MIN, period: PERIOD });
        pacer.ran(start, Reason::Full, true);
        pacer.suspect();
        assert_eq!(pacer.next(start), (start + MIN, Reason::Check));
        pacer.ran(start, Reason::Check, true);
        assert_eq!(pacer.next(start), (start + PERIOD, Reason::Check), "once");
        let later = start + PERIOD;
        pacer.ran(later, Reason::Check, true);
        pacer.request();
        let (at, reason) = pacer.next(later);
        assert!(at <= later && reason == Reason::Change, "a check does not make a change wait");
        let mut pacer = Pacer::new(SyncPeriods { min: Duration::ZERO, period: PERIOD });
        pacer.ran(start, Reason::Full, true);
        pacer.suspect();
        assert_eq!(pacer.next(start), (start + SHORTEST_CHECK, Reason::Check));
    }

    #[test]
    fn without_a_minimum_retries_still_pause() {
        let start = Instant::now();
        let mut pacer = Pacer::new(SyncPeriods { min: Duration::ZERO, period: PERIOD });
        pacer.ran(start, Reason::Change, false);
        assert_eq!(pacer.next(start), (start + SHORTEST_RETRY, Reason::Change));
    }
}
