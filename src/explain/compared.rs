//! An explanation before and after a change, and what the change would cost the node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::explanation::{API_VERSION, Explanation, Stage, StageName};

/// The same question, before and after a change that has not happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// [`API_VERSION`].
    pub api_version: String,
    /// `Comparison`.
    pub kind: String,
    /// The change, as it was asked.
    pub what_if: String,
    /// Before.
    pub before: Explanation,
    /// After.
    pub after: Explanation,
    /// The stages that differ.
    pub changes: Vec<StageChange>,
    /// What would be written on this node, in words.
    pub kernel: String,
    /// What would be written in each mode.
    pub operations: Vec<Operations>,
}

/// A stage that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageChange {
    /// Which.
    pub stage: StageName,
    /// Before.
    pub before: String,
    /// After.
    pub after: String,
}

/// Things of one kind that a change would write or remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// The proxy mode.
    pub mode: String,
    /// Whether the node has this mode.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub current: bool,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `element`, `set`, `chain`, `rule`, `virtual-service`, `destination`, `address` or `relay`.
    pub kind: String,
    /// How many are written.
    pub written: usize,
    /// How many are removed.
    pub removed: usize,
}

/// Every mode, in the order in which they are shown.
const MODES: [&str; 4] = ["nftables", "iptables", "ipvs", "userspace"];

/// Compares two explanations of one question. `operations` has what the change would cost in each mode, the one of the
/// node, which is `mode`, among them; without a mode, the rules are not this proxy's.
pub fn compare(
    what_if: &str,
    (before, after): (Explanation, Explanation),
    mode: Option<&str>,
    operations: Vec<Operations>,
) -> Comparison {
    let pairs = before.stages.iter().zip(&after.stages);
    let differing = pairs.filter(|(a, b)| brief(a) != brief(b));
    let changes =
        differing.map(|(a, b)| StageChange { stage: a.stage, before: brief(a), after: brief(b) });
    let kernel = match mode {
        Some(mode) => in_words(mode, &operations),
        None => "not known: the rules are another proxy's".to_owned(),
    };
    Comparison {
        api_version: API_VERSION.to_owned(),
        kind: "Comparison".to_owned(),
        what_if: what_if.to_owned(),
        changes: changes.collect(),
        before,
        after,
        kernel,
        operations,
    }
}

impl Comparison {
    /// What the same change costs in the modes that the node does not have, a line for each.
    pub fn in_other_modes(&self) -> Vec<String> {
        let current =
            |mode: &&str| self.operations.iter().any(|it| it.current && it.mode == **mode);
        let others = MODES.iter().filter(|mode| !self.operations.is_empty() && !current(mode));
        others.map(|mode| in_words(mode, &self.operations)).collect()
    }
}

/// `nftables: 3 elements written, 1 removed`, both families together.
fn in_words(mode: &str, operations: &[Operations]) -> String {
    let mut sums: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for it in operations.iter().filter(|it| it.mode == mode) {
        let sum = sums.entry(&it.kind).or_default();
        *sum = (sum.0 + it.written, sum.1 + it.removed);
    }
    let all: Vec<String> = sums.into_iter().map(|(kind, (w, r))| counted(kind, w, r)).collect();
    format!(
        "{mode}: {}",
        if all.is_empty() { "nothing would be written".to_owned() } else { all.join("; ") }
    )
}

fn counted(kind: &str, written: usize, removed: usize) -> String {
    let of = |count: usize| {
        let plural = match (count, kind.ends_with('s')) {
            (1, _) => "",
            (_, true) => "es",
            (_, false) => "s",
        };
        format!("{count} {}{plural}", kind.replace('-', " "))
    };
    match (written, removed) {
        (_, 0) => format!("{} written", of(written)),
        (0, _) => format!("{} removed", of(removed)),
        _ => format!("{} written, {removed} removed", of(written)),
    }
}

/// A stage in one line.
fn brief(stage: &Stage) -> String {
    let used: Vec<&str> =
        stage.used.iter().map(|used| used.pod.as_deref().unwrap_or(&used.endpoint)).collect();
    if used.is_empty() {
        stage.text.clone()
    } else {
        format!("{}: {}", stage.text, used.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_a_mode_are_summed_over_families() {
        let of = |mode: &str, family: &str, kind: &str, written, removed| Operations {
            mode: mode.into(),
            current: mode == "ipvs",
            family: family.into(),
            kind: kind.into(),
            written,
            removed,
        };
        let all = [
            of("ipvs", "IPv4", "virtual-service", 1, 0),
            of("ipvs", "IPv6", "virtual-service", 1, 0),
            of("ipvs", "IPv4", "address", 2, 1),
            of("nftables", "IPv4", "element", 0, 1),
        ];
        let ipvs = "ipvs: 2 addresses written, 1 removed; 2 virtual services written";
        assert_eq!(in_words("ipvs", &all), ipvs);
        assert_eq!(in_words("nftables", &all), "nftables: 1 element removed");
        assert_eq!(in_words("iptables", &all), "iptables: nothing would be written");
    }
}
