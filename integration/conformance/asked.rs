//! What the running daemon says of the packets that have just been sent, and of what its kernel has: the same as they met, and
//! nothing wrong with what works.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use sluice_core::net::Family;

use super::case::PacketLine;
use super::explained::question;
use super::oracle::{Oracle, Outcome, Shot};
use super::shots;
use super::stage::Stage;

type Failed = Box<dyn std::error::Error>;

/// A line for each packet that is explained otherwise, and for each object of which the kernel is said to have too
/// few or too many.
pub(crate) fn problems(
    stage: &Stage,
    lines: &[PacketLine],
    oracle: &Oracle,
    family: Family,
) -> Result<Vec<String>, Failed> {
    let mut problems = Vec::new();
    for line in lines {
        if let Some(shot) = shots::stated(line, family)? {
            problems.extend(packet(stage, oracle, &shot)?);
        }
    }
    for name in stage.services() {
        let (known, answer) = stage.ask(&format!("/v1/kernel?service=default/{name}"))?;
        let families = answer["families"].as_array().into_iter().flatten();
        let wrong = |of: &&Value| {
            let seen = &of["kernel"]["at"];
            let is_empty = |list: &str| seen[list].as_array().is_some_and(Vec::is_empty);
            !is_empty("missing") || !is_empty("extra")
        };
        problems.extend(families.filter(wrong).filter(|_| known).map(|of| format!("{name}: {of}")));
    }
    Ok(problems)
}

fn packet(stage: &Stage, oracle: &Oracle, shot: &Shot) -> Result<Option<String>, Failed> {
    let (from, to) = question(&oracle.packet(shot), shot);
    let path = format!("/v1/explain?from={}&to={}", encoded(&from), encoded(&to));
    let (known, answer) = stage.ask(&path)?;
    let outcome = oracle.outcome(shot);
    let expected = match outcome {
        Outcome::Forward { .. } => "reachable",
        Outcome::Refuse | Outcome::Silence => "unreachable",
        Outcome::Pass => "undetermined",
    };
    let passes = matches!(outcome, Outcome::Pass) && answer["result"] == "unreachable";
    let right = known
        && (answer["result"] == expected || passes)
        && used(&answer) == endpoints(&outcome)
        && is_witnessed(&answer);
    Ok((!right).then(|| format!("{from} -> {to}: {outcome:?}, and the daemon says {answer}")))
}

/// What the kernel was found to have is what it should have.
fn is_witnessed(answer: &Value) -> bool {
    let mut stages = answer["stages"].as_array().into_iter().flatten();
    let kernel = stages.find(|stage| stage["stage"] == "kernel");
    let reached = kernel.is_some_and(|kernel| kernel["text"] != "not reached");
    let findings = answer["findings"].as_array().into_iter().flatten();
    let alarms = [
        "kernel-object-missing",
        "kernel-object-extra",
        "no-route",
        "reverse-path",
        "forwarding-off",
    ];
    let mut codes = findings.filter_map(|finding| finding["code"].as_str());
    (!reached || kernel.is_some_and(|kernel| kernel["ok"] == true))
        && !codes.any(|code| alarms.contains(&code))
}

fn used(answer: &Value) -> BTreeSet<SocketAddr> {
    let stages = answer["stages"].as_array().into_iter().flatten();
    let used = stages.flat_map(|stage| stage["used"].as_array().into_iter().flatten());
    used.filter_map(|used| used["endpoint"].as_str()?.parse().ok()).collect()
}

fn endpoints(outcome: &Outcome) -> BTreeSet<SocketAddr> {
    match outcome {
        Outcome::Forward { to, .. } => to.keys().copied().collect(),
        Outcome::Refuse | Outcome::Silence | Outcome::Pass => BTreeSet::new(),
    }
}

/// As a part of a query.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| {
        let plain = byte.is_ascii_alphanumeric() || b".-".contains(&byte);
        if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(byte).collect()
}
