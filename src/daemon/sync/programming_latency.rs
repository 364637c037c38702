//! The times of changes that are not applied yet: the time from there to the kernel is the network
//! programming latency.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_core::model::{Change, EndpointSlice, ServiceName, Snapshot};
use sluice_core::net::Family;

/// Changes that are kept per Service and family. More would add no information.
const REMEMBERED: usize = 100;

/// Trigger times of changed EndpointSlices, in milliseconds since 1970 (upstream:
/// `pkg/proxy/endpointschangetracker.go`).
#[derive(Debug)]
pub(super) struct ProgrammingLatency {
    /// Changes from before the start of this program are not its latency.
    started: i64,
    /// By family; the other families are not programmed, and their changes are never applied.
    waiting: BTreeMap<Family, BTreeMap<ServiceName, Vec<i64>>>,
}

impl ProgrammingLatency {
    /// `started` is when the program started; `families` are those that are programmed.
    pub(super) fn new(started: i64, families: impl Iterator<Item = Family>) -> ProgrammingLatency {
        ProgrammingLatency {
            started,
            waiting: families.map(|family| (family, BTreeMap::new())).collect(),
        }
    }

    /// Looks at a change before it enters the snapshot.
    pub(super) fn note(&mut self, change: &Change, snapshot: &Snapshot) {
        match change {
            Change::Slice(slice) => self.slice(slice, snapshot),
            Change::Slices(slices) => slices.iter().for_each(|slice| self.slice(slice, snapshot)),
            // The annotation has the time of the slice's last write, not of its deletion.
            Change::SliceGone(name) => {
                if let Some(service) = snapshot.owner(name) {
                    self.waiting.values_mut().for_each(|waiting| {
                        waiting.remove(service);
                    });
                }
            }
            _ => {}
        }
    }

    fn slice(&mut self, slice: &EndpointSlice, snapshot: &Snapshot) {
        let Some(time) = slice.trigger_time.filter(|time| *time > self.started) else { return };
        let known = snapshot.slices.get(&slice.service).into_iter().flatten();
        if known.into_iter().any(|known| known == slice) {
            return;
        }
        let Some(waiting) = self.waiting.get_mut(&slice.family) else { return };
        let times = waiting.entry(slice.service.clone()).or_default();
        if times.len() < REMEMBERED {
            times.push(time);
        }
    }

    /// A family is up to date at `now`: how long its changes took.
    pub(super) fn programmed(&mut self, family: Family, now: i64) -> Vec<Duration> {
        let waiting = self.waiting.get_mut(&family).map(std::mem::take).unwrap_or_default();
        let latency = |time: i64| {
            Duration::from_millis(u64::try_from(now.saturating_sub(time)).unwrap_or_default())
        };
        waiting.into_values().flatten().map(latency).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use sluice_core::model::{Endpoints, SliceName};

    fn slice(service: &str, family: Family, trigger_time: Option<i64>) -> EndpointSlice {
        EndpointSlice {
            name: SliceName::new("n", &format!("{service}-{family}")),
            service: ServiceName::new("n", service),
            family,
            ports: [].into(),
            endpoints: Endpoints::default(),
            trigger_time,
        }
    }

    fn seconds(latency: &mut ProgrammingLatency, family: Family) -> Vec<f64> {
        latency.programmed(family, 20_000).iter().map(Duration::as_secs_f64).collect()
    }

    #[test]
    fn changes_since_the_start_are_measured_once_per_family() {
        let (mut latency, snapshot) =
            (ProgrammingLatency::new(10_000, Family::BOTH.into_iter()), Snapshot::default());
        let slices = [
            slice("a", Family::V4, Some(12_000)),
            slice("b", Family::V4, Some(19_500)),
            slice("old", Family::V4, Some(9_000)),
            slice("untold", Family::V4, None),
            slice("a", Family::V6, Some(25_000)),
        ];
        latency.note(&Change::Slices(slices.to_vec()), &snapshot);
        assert_eq!(seconds(&mut latency, Family::V4), [8.0, 0.5]);
        assert!(latency.programmed(Family::V4, 20_000).is_empty());
        assert_eq!(seconds(&mut latency, Family::V6), [0.0], "clocks may differ");
    }

    #[test]
    fn changes_of_a_family_that_nobody_programs_are_not_kept() {
        let mut latency = ProgrammingLatency::new(0, std::iter::once(Family::V4));
        for family in Family::BOTH {
            let change = Change::Slice(slice("a", family, Some(1_000)));
            latency.note(&change, &Snapshot::default());
        }
        let kept = latency.waiting.values().map(BTreeMap::len).sum::<usize>();
        assert_eq!(kept, 1, "{latency:?}");
        assert_eq!(seconds(&mut latency, Family::V4), [19.0]);
        latency.note(&Change::Slice(slice("a", Family::V4, Some(2_000))), &Snapshot::default());
        assert_eq!(seconds(&mut latency, Family::V4), [18.0], "it goes on");
    }

    #[test]
    fn neither_a_repetition_nor_the_end_of_a_slice_is_a_change_to_measure() {
        let (mut latency, mut snapshot) =
            (ProgrammingLatency::new(0, Family::BOTH.into_iter()), Snapshot::default());
        let known = slice("a", Family::V4, Some(5_000));
        snapshot.apply(Change::Slice(known.clone()), &mut BTreeSet::new());
        latency.note(&Change::Slice(known.clone()), &snapshot);
        assert!(seconds(&mut latency, Family::V4).is_empty());
        latency.note(&Change::Slice(slice("a", Family::V4, Some(6_000))), &snapshot);
        latency.note(&Change::SliceGone(known.name), &snapshot);
        assert!(seconds(&mut latency, Family::V4).is_empty());
    }
}
