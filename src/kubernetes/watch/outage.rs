//! When the watches of one node try again while none of them is open.
//!
//! They try together: with four watches that draw their pauses one by one, the node is back as soon as the
//! luckiest of them is, and a fleet of such nodes returns to its API server four times as steeply.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;

/// Attempts that all watches of a node make together. The first one that fails draws the pause for all; so
/// those that broke at different moments come together with the first attempt.
#[derive(Debug, Default)]
pub(super) struct Outage {
    backoff: Backoff,
    /// The end of the last pause.
    next: Option<Instant>,
}

impl Outage {
    /// When to try again after an attempt has failed.
    pub(super) fn after(
        &mut self,
        now: Instant,
        draw: impl FnOnce(Range<Duration>) -> Duration,
    ) -> Instant {
        match self.next {
            Some(next) if next > now => next,
            _ => *self.next.insert(now + draw(self.backoff.range())),
        }
    }

    /// A watch has lasted: the next pause is the first one again.
    pub(super) fn end(&mut self) {
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Watches of one node.
    const WATCHES: u32 = 4;
    /// Nodes of a fleet.
    const NODES: u32 = 5_000;

    /// Numbers that look random, the same for the same seed (`SplitMix64`).
    struct Random(u64);

    impl Random {
        fn draw(&mut self, range: Range<Duration>) -> Duration {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let part = f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(0));
            range.start + (range.end - range.start).mul_f64(part / f64::from(u32::MAX))
        }
    }

    /// How many requests of a fleet come in each second after an outage of this length.
    fn requests_after(outage: Duration, random: &mut Random) -> Vec<u32> {
        let begun = Instant::now();
        let mut by_second = vec![0; 61];
        for _ in 0..NODES {
            let mut node = Outage::default();
            // All watches break at once; those that see others open draw their first pauses alone.
            let mut due = [begun; WATCHES as usize];
            due = due.map(|at| at + random.draw(Backoff::default().range()));
            let first = loop {
                let next = due.iter_mut().min().expect("there are watches");
                if *next >= begun + outage {
                    break *next;
                }
                *next = node.after(*next, |range| random.draw(range));
            };
            // The first one that gets through wakes the others.
            let second = (first - begun - outage).as_secs();
            by_second[usize::try_from(second).expect("it is small")] += WATCHES;
        }
        by_second
    }

    #[test]
    fn after_an_outage_of_a_minute_no_second_has_a_twentieth_of_a_fleets_requests() {
        for seed in 0..20 {
            let mut random = Random(seed);
            for outage in [45, 50, 55, 60, 65, 70, 90, 120, 300, 3600].map(Duration::from_secs) {
                let requests = requests_after(outage, &mut random);
                assert_eq!(requests.iter().sum::<u32>(), NODES * WATCHES);
                let busiest = requests.iter().max().expect("there are seconds");
                let share = f64::from(*busiest) / f64::from(NODES * WATCHES);
                assert!(share <= 0.05, "seed {seed}, {outage:?}: {share}");
            }
        }
    }

    #[test]
    fn after_a_moment_without_a_server_a_node_is_back_in_less_than_a_second() {
        let now = Instant::now();
        let mut node = Outage::default();
        let again = node.after(now, |range| range.end);
        assert!(again - now < Duration::from_secs(1));
    }

    #[test]
    fn watches_of_a_node_try_together_however_far_apart_they_fail() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut node = Outage::default();
        let longest = |range: Range<Duration>| range.end;
        let first = node.after(begun, longest);
        assert_eq!(node.after(begun + second / 10, longest), first, "it fails a little later");
        let next = node.after(first, longest);
        assert!(next - first > first - begun, "pauses grow by attempt, not by watch");
        assert_eq!(node.after(first + second, longest), next, "its attempt took long");
        node.end();
        assert_eq!(node.after(next, longest) - next, first - begun);
    }
}
