//! The proxy's health: a small state machine over instants that others read from the clocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use sluice_core::model::Node;
use sluice_core::net::Family;

/// A point in time on both clocks: one measures how long things take, the other is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) monotonic: Instant,
    pub(super) wall: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Moment {
        Moment { monotonic: Instant::now(), wall: Timestamp::now() }
    }
}

/// Whether the kernel follows the API's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    /// Every change is applied, or has not waited for too long yet.
    InTime,
    /// A change has been waiting for longer than it should.
    Late,
}

/// Whether load balancers should send new connections to this node (KEP-3836).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eligibility {
    /// They should.
    Eligible,
    /// The node is about to be removed, or is not known.
    Ineligible,
}

/// What is known of one family.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    updated: Option<Timestamp>,
    waiting_since: Option<Instant>,
    left_out: bool,
}

/// The state machine (upstream: `pkg/proxy/healthcheck/proxy_health.go`).
#[derive(Debug)]
pub(super) struct State {
    /// How long a change may wait.
    timeout: Duration,
    families: BTreeMap<Family, Progress>,
    node: Eligibility,
}

/// The answers at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) now: Timestamp,
    pub(super) node: Eligibility,
    /// Each family that has been up to date once: when it was last, and how it is now.
    pub(super) families: BTreeMap<Family, (Timestamp, Pace)>,
}

impl State {
    pub(super) fn new(timeout: Duration) -> State {
        State { timeout, families: BTreeMap::new(), node: Eligibility::Ineligible }
    }

    /// Changes how long a change may wait.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// A change waits for its sync. Only the oldest one matters.
    pub(super) fn queued(&mut self, family: Family, at: Moment) {
        self.families.entry(family).or_default().waiting_since.get_or_insert(at.monotonic);
    }

    /// Everything is applied.
    pub(super) fn updated(&mut self, family: Family, at: Moment) {
        let updated = Some(at.wall);
        self.families.insert(family, Progress { updated, ..Progress::default() });
    }

    /// A family cannot be served, and no Service needs it: it does not count.
    pub(super) fn left_out(&mut self, family: Family) {
        let progress = self.families.entry(family).or_default();
        *progress = Progress { left_out: true, waiting_since: None, ..*progress };
    }

    /// A family counts that may have been left out before.
    pub(super) fn needed(&mut self, family: Family) {
        self.families.entry(family).or_default().left_out = false;
    }

    /// This node's Node. After its deletion the last state stays: upstream uses its cached copy, and whoever
    /// drains a node marks it before deleting it.
    pub(super) fn node(&mut self, node: Option<&Node>) {
        match node {
            Some(node) if node.leaving => self.node = Eligibility::Ineligible,
            Some(_) => self.node = Eligibility::Eligible,
            None => {}
        }
    }

    pub(super) fn report(&self, at: Moment) -> Report {
        let pace = |progress: &Progress| match progress.waiting_since {
            Some(since) if at.monotonic.saturating_duration_since(since) >= self.timeout => {
                Pace::Late
            }
            _ => Pace::InTime,
        };
        let counted = self.families.iter().filter(|(_, progress)| !progress.left_out);
        let families = counted
            .filter_map(|(family, progress)| Some((*family, (progress.updated?, pace(progress)))));
        Report { now: at.wall, node: self.node, families: families.collect() }
    }
}

impl Report {
    /// How the proxy as a whole is: as its slowest family.
    pub(super) fn pace(&self) -> Pace {
        self.families.values().map(|(_, pace)| *pace).max().unwrap_or(Pace::InTime)
    }

    /// When any family was up to date last.
    pub(super) fn updated(&self) -> Option<Timestamp> {
        self.families.values().map(|(updated, _)| *updated).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// A clock that is `seconds` after its start.
    struct Clock(Moment);

    impl Clock {
        fn at(&self, seconds: u64) -> Moment {
            let passed = Duration::from_secs(seconds);
            let wall = self.0.wall + jiff::SignedDuration::try_from(passed).expect("it is short");
            Moment { monotonic: self.0.monotonic + passed, wall }
        }
    }

    fn clock() -> Clock {
        Clock(Moment { monotonic: Instant::now(), wall: Timestamp::UNIX_EPOCH })
    }

    #[test]
    fn a_family_is_late_when_its_oldest_change_has_waited_too_long() {
        let (clock, mut state) = (clock(), State::new(TIMEOUT));
        let at = |seconds| clock.at(seconds);
        assert_eq!(state.report(at(0)).pace(), Pace::InTime, "before anything is known");
        Family::BOTH.into_iter().for_each(|family| state.updated(family, at(1)));
        assert_eq!(state.report(at(9999)).pace(), Pace::InTime, "nothing has changed since");
        state.queued(Family::V6, at(10_000));
        state.queued(Family::V6, at(10_059));
        assert_eq!(state.report(at(10_059)).pace(), Pace::InTime);
        let late = state.report(at(10_060));
        let expected =
            [(Family::V4, (at(1).wall, Pace::InTime)), (Family::V6, (at(1).wall, Pace::Late))];
        assert_eq!((late.pace(), late.families), (Pace::Late, expected.into()));
        state.updated(Family::V6, at(10_061));
        let report = state.report(at(20_000));
        assert_eq!((report.pace(), report.updated()), (Pace::InTime, Some(at(10_061).wall)));
    }

    #[test]
    fn a_family_that_never_worked_does_not_count() {
        let (clock, mut state) = (clock(), State::new(TIMEOUT));
        state.queued(Family::V4, clock.at(0));
        let report = state.report(clock.at(1000));
        assert_eq!((report.pace(), report.updated()), (Pace::InTime, None));
        assert!(report.families.is_empty());
    }

    #[test]
    fn a_family_that_is_left_out_counts_once_it_is_needed() {
        let (clock, mut state) = (clock(), State::new(TIMEOUT));
        let at = |seconds| clock.at(seconds);
        Family::BOTH.into_iter().for_each(|family| state.updated(family, at(1)));
        let families = |state: &State, seconds| {
            let report = state.report(at(seconds));
            let paces = report.families.iter().map(|(family, (_, pace))| (*family, *pace));
            paces.collect::<Vec<_>>()
        };
        let v4 = (Family::V4, Pace::InTime);
        state.queued(Family::V6, at(2));
        state.left_out(Family::V6);
        assert_eq!(families(&state, 1000), [v4]);
        state.queued(Family::V6, at(1000));
        assert_eq!(families(&state, 2000), [v4], "it is tried again");
        state.left_out(Family::V6);
        state.queued(Family::V6, at(3000));
        state.needed(Family::V6);
        assert_eq!(families(&state, 3059), [v4, (Family::V6, Pace::InTime)]);
        assert_eq!(families(&state, 3060), [v4, (Family::V6, Pace::Late)]);
        state.updated(Family::V6, at(3061));
        assert_eq!(families(&state, 9999), [v4, (Family::V6, Pace::InTime)]);
    }

    #[test]
    fn a_node_is_eligible_from_when_it_is_known_until_it_leaves() {
        let mut state = State::new(TIMEOUT);
        let staying = Node::default();
        let leaving = Node { leaving: true, ..Node::default() };
        let steps = [
            (None, Eligibility::Ineligible),
            (Some(&staying), Eligibility::Eligible),
            (None, Eligibility::Eligible),
            (Some(&leaving), Eligibility::Ineligible),
            (None, Eligibility::Ineligible),
            (Some(&staying), Eligibility::Eligible),
        ];
        for (step, (node, expected)) in steps.into_iter().enumerate() {
            state.node(node);
            assert_eq!(state.report(Moment::now()).node, expected, "step {step}");
        }
    }
}
