//! Dividing the cases among several runs, side by side, that take about as long as each other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::case::{Case, Settings};

/// What a step of a case costs that is also played in other orders, measured by one of a case that is not.
const ORDERS: usize = 2;

/// Cases that are not to be separated.
type Group = (Settings, Option<String>);

/// One of several parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 1.
    number: usize,
    count: usize,
}

impl Part {
    /// The one that SLUICE_PART names, as `1/2`; without it, all are one.
    pub(crate) fn wanted() -> Result<Part, String> {
        let Ok(text) = std::env::var("SLUICE_PART") else {
            return Ok(Part { number: 1, count: 1 });
        };
        let part = text.split_once('/').and_then(|(number, count)| {
            Some(Part { number: number.parse().ok()?, count: count.parse().ok()? })
        });
        let part = part.filter(|part| (1..=part.count).contains(&part.number));
        part.ok_or_else(|| format!("SLUICE_PART={text}: the first of two is 1/2"))
    }

    /// The first also plays what is no case.
    pub(crate) fn is_first(self) -> bool {
        self.number == 1
    }

    /// Its cases, in their order.
    pub(crate) fn of(self, cases: Vec<Arc<Case>>) -> Vec<Arc<Case>> {
        let mut lengths: BTreeMap<Group, usize> = BTreeMap::new();
        for case in &cases {
            *lengths.entry(group(case)).or_default() += length(case);
        }
        let mut longest_first: Vec<(Group, usize)> = lengths.into_iter().collect();
        longest_first.sort_by_key(|(_, length)| Reverse(*length));
        let mut parts = vec![(0, BTreeSet::new()); self.count];
        for (group, length) in longest_first {
            if let Some((so_far, part)) = parts.iter_mut().min_by_key(|(so_far, _)| *so_far) {
                *so_far += length;
                part.insert(group);
            }
        }
        let (_, mine) = &parts[self.number - 1];
        cases.into_iter().filter(|case| mine.contains(&group(case))).collect()
    }
}

/// For each change of settings the daemon starts anew, so cases with the same ones stay together. Those with the
/// default ones are too many for that.
fn group(case: &Case) -> Group {
    let alone = case.settings == Settings::default();
    (case.settings.clone(), alone.then(|| case.name.clone()))
}

fn length(case: &Case) -> usize {
    let steps = case.steps.len();
    if steps > 1 { ORDERS * steps } else { steps }
}
