//! When to bring the kernel up to date: a small state machine over instants and costs that others
//! measure.
//!
//! A change is applied at once, as long as the syncs of changes take less than their share of one core
//! ([`Budget`]); changes that come during a sync are taken together by the next one. Where the
//! configuration asks for a least time between two syncs, that counts instead, as in kube-proxy
//! (`pkg/proxy/runner/bounded_frequency_runner.go`). A run that failed is tried again after a pause that doubles from
//! [`SHORTEST_RETRY`] or that time up to `period`. Every `period`, and when there is a reason to suspect
//! it, the backends are asked whether somebody touched their objects, and every [`FULL_SYNC`] everything is
//! compared.

use std::time::{Duration, Instant};

use sluice_config::SyncPeriods;

/// How often everything is compared with the kernel although nothing seems to have changed
/// (upstream: `proxyutil.FullSyncPeriod`).
pub(super) const FULL_SYNC: Duration = Duration::from_secs(3600);

/// The first pause after a failure, if no longer one is asked for.
const SHORTEST_RETRY: Duration = Duration::from_millis(250);

/// The shortest pause before a check, so that another process that constantly changes nf_tables cannot make
/// us check in a tight loop.
const SHORTEST_CHECK: Duration = Duration::from_millis(250);

/// The syncs of so much time may come at once, before a pause is needed.
const WINDOW: Duration = Duration::from_secs(10);

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// To check whether another program changed our objects.
    Check,
    /// Something changed, or failed before.
    Change,
    /// To compare everything.
    Full,
}

/// A share of one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// 1 to 100.
    percent: u32,
}

impl Share {
    /// So many percent, 1 to 100.
    pub fn of_a_core(percent: u32) -> Share {
        Share { percent: percent.clamp(1, 100) }
    }

    /// The processor time that it is in so much time.
    fn of(self, time: Duration) -> Duration {
        time.saturating_mul(self.percent) / 100
    }

    /// The time of which so much processor time is the share.
    fn time_for(self, cost: Duration) -> Duration {
        cost.saturating_mul(100) / self.percent
    }
}

/// The processor time of syncs, against a share of the time that passes. What was not used in the last
/// [`WINDOW`] may be used at once.
#[derive(Debug)]
struct Budget {
    share: Share,
    /// The processor time that no share has made up for yet, and when that was reckoned.
    spent: Option<(Instant, Duration)>,
}

impl Budget {
    fn new(share: Share) -> Budget {
        Budget { share, spent: None }
    }

    /// A sync ended that took so much processor time.
    fn spend(&mut self, now: Instant, cost: Duration) {
        let before = self.spent.map_or(Duration::ZERO, |(at, spent)| {
            spent.saturating_sub(self.share.of(now.saturating_duration_since(at)))
        });
        self.spent = Some((now, before.saturating_add(cost)));
    }

    /// When the next sync may begin; an instant that is not in the future means now.
    fn next(&self) -> Option<Instant> {
        let (at, spent) = self.spent?;
        let excess = spent.saturating_sub(self.share.of(WINDOW));
        Some(at + self.share.time_for(excess))
    }
}

/// Decides when to run.
#[derive(Debug)]
pub struct Pacer {
    periods: SyncPeriods,
    budget: Budget,
    changed: bool,
    suspicious: bool,
    failures: u32,
    /// The end of the last run.
    last: Option<Instant>,
    /// The end of the last one that was more than a check.
    last_change: Option<Instant>,
    last_full: Option<Instant>,
    /// What the last check cost.
    check_cost: Duration,
}

impl Pacer {
    /// Where `periods` asks for no least time between two syncs, those for changes may take `share`.
    pub fn new(periods: SyncPeriods, share: Share) -> Pacer {
        Pacer {
            periods,
            budget: Budget::new(share),
            changed: false,
            suspicious: false,
            failures: 0,
            last: None,
            last_change: None,
            last_full: None,
            check_cost: Duration::ZERO,
        }
    }

    /// Other intervals count from now on.
    pub fn set_periods(&mut self, periods: SyncPeriods) {
        self.periods = periods;
    }

    /// Something changed.
    pub fn request(&mut self) {
        self.changed = true;
    }

    /// Another program may have changed our objects.
    pub fn suspect(&mut self) {
        self.suspicious = true;
    }

    /// When to run next and why; an instant that is not in the future means now.
    pub fn next(&self, now: Instant) -> (Instant, Reason) {
        let (Some(last), Some(last_full)) = (self.last, self.last_full) else {
            return (now, Reason::Full);
        };
        let full = (last_full + FULL_SYNC, Reason::Full);
        let check = (last + self.pause_before_check(), Reason::Check);
        let change = self.changed.then(|| (self.next_change(last_full), Reason::Change));
        let retry = (self.failures > 0).then(|| (last + self.pause(), Reason::Change));
        let candidates = [Some(full), Some(check), change, retry];
        let due = |&(at, _): &(Instant, Reason)| at <= now;
        // Of several that are due, the most thorough one does the work of the others.
        let most_thorough = candidates.iter().flatten().filter(|c| due(c)).max_by_key(|c| c.1);
        let soonest = candidates.iter().flatten().min_by_key(|c| c.0);
        most_thorough.or(soonest).copied().unwrap_or(full)
    }

    /// A run ended that took so much processor time.
    pub fn ran(&mut self, now: Instant, reason: Reason, cost: Duration, succeeded: bool) {
        self.last = Some(now);
        match reason {
            Reason::Check => self.check_cost = cost,
            Reason::Change => self.budget.spend(now, cost),
            // Once at the start and once an hour: no change has to wait for it.
            Reason::Full => {}
        }
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

    /// When a change may be applied. A check does not make it wait: it looks, and hardly ever writes.
    fn next_change(&self, last_full: Instant) -> Instant {
        let last = self.last_change.unwrap_or(last_full);
        match self.periods.min {
            Some(min) => last + min,
            None => self.budget.next().unwrap_or(last),
        }
    }

    fn pause_before_check(&self) -> Duration {
        let least = self.periods.min.unwrap_or_default();
        if self.suspicious {
            SHORTEST_CHECK.max(self.budget.share.time_for(self.check_cost)).max(least)
        } else {
            self.periods.period.max(least)
        }
    }

    /// The pause after a failure.
    fn pause(&self) -> Duration {
        let first = self.periods.min.unwrap_or_default().max(SHORTEST_RETRY);
        let doubled = first.saturating_mul(1_u32 << (self.failures - 1).min(16));
        doubled.min(self.periods.period.max(first))
    }
}

#[cfg(test)]
mod tests;
