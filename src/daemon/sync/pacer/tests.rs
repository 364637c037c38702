//! Tables and properties of when to run.

use proptest::prelude::*;

use super::*;

const MIN: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_secs(30);
const FREE: Duration = Duration::ZERO;

/// By cost.
fn by_cost() -> Pacer {
    Pacer::new(SyncPeriods { min: None, period: PERIOD }, Share::of_a_core(5))
}

/// With a least time between two syncs that somebody asked for.
fn by_time() -> Pacer {
    Pacer::new(SyncPeriods { min: Some(MIN), period: PERIOD }, Share::of_a_core(5))
}

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[test]
fn runs_that_are_to_be_apart_come_at_once_then_no_closer() {
    let start = Instant::now();
    let at = |number| start + millis(number);
    let mut pacer = by_time();
    assert_eq!(pacer.next(start), (start, Reason::Full), "the first run");
    pacer.ran(start, Reason::Full, FREE, true);
    assert_eq!(pacer.next(at(10)), (start + PERIOD, Reason::Check), "nothing to do");
    pacer.request();
    assert_eq!(pacer.next(at(10)), (at(1000), Reason::Change), "too soon after the last");
    assert_eq!(pacer.next(at(5000)), (at(1000), Reason::Change), "long due");
    pacer.ran(at(5000), Reason::Change, FREE, true);
    assert_eq!(pacer.next(at(5000)), (at(35_000), Reason::Check));
    let hour = start + FULL_SYNC;
    assert_eq!(pacer.next(hour), (hour, Reason::Full), "a full run does the check's work");
}

#[test]
fn a_change_waits_only_while_syncs_take_more_than_their_share() {
    // Costs of syncs that end so many milliseconds after the start, one after the other: how long the
    // next change waits after the last of them.
    type Syncs = &'static [(u64, u64)];
    let table: [(&str, Syncs, u64); 8] = [
        ("nothing ran but the first sync", &[], 0),
        ("a cheap sync", &[(0, 1)], 0),
        ("all that may come at once", &[(0, 500)], 0),
        ("beyond it, as long as needed for the share", &[(0, 501)], 20),
        ("an expensive sync", &[(0, 600)], 2000),
        ("the share of the time between them is free", &[(0, 500), (1000, 60)], 200),
        ("a rest makes up for everything", &[(0, 500), (10_000, 500)], 0),
        ("but saves nothing up for later", &[(0, 10), (3_000_000, 501)], 20),
    ];
    for (story, syncs, expected) in table {
        let start = Instant::now();
        let mut pacer = by_cost();
        // However long it took.
        pacer.ran(start, Reason::Full, Duration::from_secs(9), true);
        let mut now = start;
        for &(at, cost) in syncs {
            now = start + millis(at);
            pacer.ran(now, Reason::Change, millis(cost), true);
        }
        pacer.request();
        let (at, reason) = pacer.next(now);
        let waits = at.saturating_duration_since(now);
        assert_eq!((waits, reason), (millis(expected), Reason::Change), "{story}");
    }
}

#[test]
fn a_least_time_that_somebody_asked_for_counts_in_place_of_the_cost() {
    let start = Instant::now();
    let mut pacer = by_time();
    pacer.ran(start, Reason::Full, FREE, true);
    pacer.ran(start, Reason::Change, Duration::from_secs(60), true);
    pacer.request();
    assert_eq!(pacer.next(start), (start + MIN, Reason::Change));
    pacer.set_periods(SyncPeriods { min: None, period: PERIOD });
    let (at, reason) = pacer.next(start);
    assert_eq!(reason, Reason::Check, "and the cost as soon as nobody does any more");
    assert_eq!(at, start + PERIOD, "a check takes waiting changes with it");
}

#[test]
fn failures_are_repeated_after_doubling_pauses() {
    let start = Instant::now();
    let mut pacer = by_time();
    let mut pauses = Vec::new();
    for _ in 0..7 {
        pacer.ran(start, Reason::Change, FREE, false);
        pauses.push((pacer.next(start).0 - start).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    pacer.request();
    assert_eq!(pacer.next(start), (start + MIN, Reason::Change), "a change does not wait");
    pacer.ran(start, Reason::Change, FREE, true);
    assert_eq!(pacer.next(start), (start + PERIOD, Reason::Check));
}

#[test]
fn a_full_run_that_fails_is_retried_after_a_pause() {
    let start = Instant::now();
    let mut pacer = by_time();
    pacer.ran(start, Reason::Full, FREE, true);
    let hour = start + FULL_SYNC;
    assert_eq!(pacer.next(hour), (hour, Reason::Full));
    pacer.ran(hour, Reason::Full, FREE, false);
    assert_eq!(pacer.next(hour), (hour + MIN, Reason::Change), "not at once");
    pacer.ran(hour, Reason::Change, FREE, true);
    assert_eq!(pacer.next(hour), (hour + PERIOD, Reason::Check));
}

#[test]
fn a_suspicion_is_looked_into_soon_and_does_not_hold_up_changes() {
    let start = Instant::now();
    let mut pacer = by_time();
    pacer.ran(start, Reason::Full, FREE, true);
    pacer.suspect();
    assert_eq!(pacer.next(start), (start + MIN, Reason::Check));
    pacer.ran(start, Reason::Check, FREE, true);
    assert_eq!(pacer.next(start), (start + PERIOD, Reason::Check), "once");
    let later = start + PERIOD;
    pacer.ran(later, Reason::Check, FREE, true);
    pacer.request();
    let (at, reason) = pacer.next(later);
    assert!(at <= later && reason == Reason::Change, "a check does not make a change wait");
}

#[test]
fn checks_that_are_asked_for_all_the_time_take_their_share_at_most() {
    let start = Instant::now();
    let mut pacer = by_cost();
    pacer.ran(start, Reason::Full, FREE, true);
    pacer.suspect();
    assert_eq!(pacer.next(start), (start + SHORTEST_CHECK, Reason::Check));
    pacer.ran(start, Reason::Check, millis(100), true);
    pacer.suspect();
    assert_eq!(pacer.next(start), (start + millis(2000), Reason::Check));
    pacer.request();
    assert_eq!(pacer.next(start), (start, Reason::Change), "nor do they cost changes anything");
}

#[test]
fn without_a_least_time_retries_still_pause() {
    let start = Instant::now();
    let mut pacer = by_cost();
    pacer.ran(start, Reason::Change, FREE, false);
    assert_eq!(pacer.next(start), (start + SHORTEST_RETRY, Reason::Change));
}

/// In a busy cluster: how long a change waits at most, over a minute and when all that may come at once is used up.
#[test]
fn beyond_the_share_a_change_waits_for_the_share_of_one_sync_at_most() {
    // Changes a second, and what the sync of any number of them costs in microseconds.
    let table = [(50, 250), (200, 250), (200, 300), (200, 1000), (1000, 500), (5000, 2000)];
    for (rate, cost) in table {
        let start = Instant::now();
        let (mut pacer, cost) = (by_cost(), Duration::from_micros(cost));
        pacer.ran(start, Reason::Full, FREE, true);
        let gap = Duration::from_secs(1) / rate;
        let (mut came, mut free, mut longest, mut syncs) = (start, start, FREE, 0_u32);
        while came < start + Duration::from_secs(60) {
            pacer.request();
            let begin = pacer.next(came.max(free)).0.max(came).max(free);
            longest = longest.max(begin - came);
            free = begin + cost;
            pacer.ran(free, Reason::Change, cost, true);
            syncs += 1;
            // Those that came before it began are taken together.
            while came <= begin {
                came += gap;
            }
        }
        let share_of_one = cost * 20 + Duration::from_micros(1);
        assert!(longest <= share_of_one, "{rate} a second of {cost:?}: {longest:?}");
        let within_the_share = gap >= share_of_one;
        assert!(!within_the_share || longest.is_zero(), "{rate} a second of {cost:?}: {longest:?}");
        let most = Duration::from_secs(60) / 20 + millis(500) + cost;
        assert!(cost * syncs <= most, "{rate} a second of {cost:?}: {syncs} syncs");
    }
}

/// Runs as the loop does: one after the other, each when it is due and a change has come. Gives the
/// start, end and cost of each run for changes, and when the change had come that it waited for.
fn play(percent: u32, changes: &[(u64, u64)]) -> Vec<(Instant, Instant, Duration, Instant)> {
    let mut pacer =
        Pacer::new(SyncPeriods { min: None, period: PERIOD }, Share::of_a_core(percent));
    let mut free = Instant::now();
    let mut came = free;
    pacer.ran(free, Reason::Full, FREE, true);
    let mut runs = Vec::new();
    for &(gap, cost) in changes {
        came += Duration::from_micros(gap);
        pacer.request();
        let (at, _) = pacer.next(came.max(free));
        let begin = at.max(came).max(free);
        let cost = Duration::from_micros(cost);
        let end = begin + cost;
        pacer.ran(end, Reason::Change, cost, true);
        runs.push((begin, end, cost, came));
        free = end;
    }
    runs
}

proptest! {
    /// Over any time, syncs of changes take no more than their share of it, what may come at once, and the
    /// last one, whose cost nobody could know.
    #[test]
    fn the_share_of_any_time_is_bounded(
        percent in 1_u32..=100,
        changes in prop::collection::vec((0_u64..2_000_000, 0_u64..400_000), 1..60),
    ) {
        let runs = play(percent, &changes);
        let share = Share::of_a_core(percent);
        for (index, (from, ..)) in runs.iter().enumerate() {
            let mut busy = Duration::ZERO;
            for (_, until, cost, _) in &runs[index..] {
                busy += *cost;
                let allowed = share.of(*until - *from) + share.of(WINDOW) + *cost;
                // A check takes changes along once in a period.
                let checks = (*until - *from).div_duration_f64(PERIOD).ceil();
                let allowed = allowed + millis(400).mul_f64(checks);
                prop_assert!(busy <= allowed + Duration::from_micros(1), "{busy:?} {allowed:?}");
            }
        }
    }

    /// Whoever comes when the last syncs are made up for does not wait, whatever the syncs cost.
    #[test]
    fn a_lone_change_never_waits(
        percent in 1_u32..=100,
        before in prop::collection::vec((0_u64..1_000_000, 0_u64..400_000), 0..20),
    ) {
        let spent: u64 = before.iter().map(|(_, cost)| cost).sum();
        let gaps: u64 = before.iter().map(|(gap, _)| gap).sum();
        // The syncs before may have been late by as much as their share needs.
        let rest = gaps + 2 * spent * 100 / u64::from(percent) + 1;
        let mut changes = before;
        changes.push((rest, 400_000));
        let runs = play(percent, &changes);
        let (begin, _, _, came) = runs[runs.len() - 1];
        let previous = runs.iter().rev().nth(1).map_or(came, |(_, end, ..)| *end);
        prop_assert_eq!(begin, came.max(previous));
    }

    /// While changes cost less than their share, none waits but for the one before it.
    #[test]
    fn changes_within_the_share_never_wait(
        percent in 1_u32..=100,
        costs in prop::collection::vec(0_u64..1000, 1..60),
    ) {
        // Two of the most expensive ones may come at once.
        let costs = costs.into_iter().map(|cost| cost * u64::from(percent) * 50);
        let changes: Vec<(u64, u64)> =
            costs.map(|cost| (cost * 100 / u64::from(percent) + 1, cost)).collect();
        let mut free = None;
        for (begin, end, _, came) in play(percent, &changes) {
            prop_assert_eq!(begin, came.max(free.unwrap_or(came)));
            free = Some(end);
        }
    }
}
