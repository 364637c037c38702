//! What text and HTML say in the same words.

use crate::explanation::{Explanation, Stage, Unused};

/// How many endpoints and objects are listed of each kind.
pub(super) const MOST: usize = 20;

/// Who connects to what.
pub(super) fn asked(explanation: &Explanation) -> String {
    let from = &explanation.from;
    let mut who = match &from.pod {
        Some(pod) => format!("pod {pod}"),
        None => from.text.clone(),
    };
    if let Some(ip) = from.ip.as_ref().filter(|ip| !who.contains(ip.as_str())) {
        who = format!("{who} {ip}");
    }
    if let Some(node) = from.node.as_ref().filter(|node| !who.contains(node.as_str())) {
        who = format!("{who} on {node}");
    }
    let mut to = explanation.to.text.clone();
    if let Some(address) =
        explanation.to.address.as_ref().filter(|address| !address.starts_with(&to))
    {
        to = format!("{to} ({address})");
    }
    format!("{who}  →  {to}")
}

/// What was known, and who decides.
pub(super) fn truth(explanation: &Explanation) -> String {
    let truth = &explanation.truth;
    let at = truth.at.as_ref().map(|at| format!(", {at}")).unwrap_or_default();
    format!("truth: {}{at}; {} decides", truth.text, explanation.node)
}

/// The sentence of a stage. Why several were not looked at is said once.
pub(super) fn sentence<'a>(before: &[Stage], stage: &'a Stage) -> &'a str {
    let said = stage.ok.is_none() && stage.text.starts_with("not looked at: ");
    if said && before.iter().any(|other| other.text == stage.text) {
        "not looked at either"
    } else {
        &stage.text
    }
}

/// Pod and node, as far as they are known.
pub(super) fn place(pod: &Option<String>, node: &Option<String>) -> String {
    let parts: Vec<&str> = [pod, node].into_iter().flatten().map(String::as_str).collect();
    parts.join(" ")
}

/// Why an endpoint is not used.
pub(super) fn why_not(unused: &Unused) -> String {
    let since = unused.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    let detail = unused.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{since}{detail}", unused.reason)
}

/// What is said of those that are not listed.
pub(super) fn more(all: usize, what: &str) -> Option<String> {
    let left = all.checked_sub(MOST).filter(|left| *left > 0)?;
    Some(format!("and {left} more that are {what}"))
}
