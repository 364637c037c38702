//! docs/semantics.md: numbered rules, and an index of the cases that show them.

use std::collections::{BTreeMap, BTreeSet};

use libtest_mimic::Failed;

use super::case::Case;

/// The index stands between these lines.
const BEGIN: &str = "<!-- index: generated, see integration/conformance/semantics.rs -->";
const END: &str = "<!-- end of index -->";

/// Checks that rules and cases know each other and that the index is up to date; with
/// `UPDATE_GOLDEN=1` it is written.
pub(crate) fn check(cases: &[Case]) -> Result<(), Failed> {
    let path = super::directory().join("../docs/semantics.md");
    let text = std::fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("docs/semantics.md has no index")?;
    let (index, after) = rest.split_once(END).ok_or("the index of docs/semantics.md has no end")?;
    let rules: Vec<&str> = before
        .lines()
        .filter_map(|line| line.strip_prefix("- **")?.split_once("**"))
        .map(|(number, _)| number)
        .filter(|number| number.starts_with("S-"))
        .collect();
    let known: BTreeSet<&str> = rules.iter().copied().collect();
    if known.len() != rules.len() {
        return Err("docs/semantics.md uses a rule's number twice".into());
    }
    let mut shown: BTreeMap<&str, Vec<&str>> =
        rules.iter().map(|rule| (*rule, Vec::new())).collect();
    let mut problems = Vec::new();
    for case in cases {
        for rule in &case.spec {
            match shown.get_mut(rule.as_str()) {
                Some(list) => list.push(&case.name),
                None => {
                    problems.push(format!("{}.case names {rule}, which no rule has", case.name))
                }
            }
        }
    }
    let bare = shown.iter().filter(|(_, cases)| cases.is_empty());
    problems.extend(bare.map(|(rule, _)| format!("{rule} has no case")));
    if !problems.is_empty() {
        return Err(problems.join("\n").into());
    }
    let mut wanted = String::from("\n\n| rule | cases |\n|---|---|\n");
    for (rule, cases) in &mut shown {
        cases.sort_unstable();
        wanted.push_str(&format!("| {rule} | {} |\n", cases.join(", ")));
    }
    wanted.push('\n');
    if index == wanted {
        return Ok(());
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return Ok(std::fs::write(path, format!("{before}{BEGIN}{wanted}{END}{after}"))?);
    }
    Err("the index of docs/semantics.md is out of date; run with UPDATE_GOLDEN=1".into())
}
