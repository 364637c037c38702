//! What is known of the proxy's health: a small state machine over moments that others read from
//! the clocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::model::Node;
use crate::net::Family;

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
    /// Every change is in force, or has not waited for too long yet.
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
}

/// The state machine (upstream: `pkg/proxy/healthcheck/proxy_health.go`).
#[derive(Debug)]
pub(super) struct State {
    /// How long a change may wait.
    timeout: Duration,
    families: BTreeMap<Family, Progress>,
    node: Eligibility,
}

/// What is to be said at one moment.
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

    /// A change waits for being carried out. Only the oldest one matters.
    pub(super) fn queued(&mut self, family: Family, at: Moment) {
        self.families.entry(family).or_default().waiting_since.get_or_insert(at.monotonic);
    }

    /// Everything is carried out.
    pub(super) fn updated(&mut self, family: Family, at: Moment) {
        self.families.insert(family, Progress { updated: Some(at.wall), waiting_since: None });
    }

    /// The own Node as it is now. When it is gone, what it said last holds on: upstream decides by
    /// the copy that it keeps, and whoever wants the node empty says so before deleting it.
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
        let families = self
            .families
            .iter()
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
