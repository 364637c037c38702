//! What the kernel has for a frontend, how packets get to endpoints, and who else is on the way.

use crate::explanation::{Outcome, Stage, StageName};
use crate::findings::{Code, Finding};
use crate::truth::{Looked, Object, Observed, Problem, Truth};
use sluice_core::plan::{Hit, PoolEndpoint};

/// The way through the objects of the mode, and what is there of them.
pub(super) fn kernel(
    truth: &Truth<'_>,
    hit: &Hit<'_>,
    findings: &mut Vec<Finding>,
) -> Option<Stage> {
    if truth.origin.other_proxy {
        let text = "not looked at: the rules are another proxy's";
        return Some(Stage::new(StageName::Kernel, None, text));
    }
    let path = truth.kernel.path(hit);
    let observed = truth.kernel.observed(hit);
    let (ok, text) = match &observed {
        Looked::Not(why) => (None, format!("not looked at: {why}")),
        Looked::At(seen) => (Some(seen.missing.is_empty()), sentence(seen)),
    };
    let mut stage = Stage::new(StageName::Kernel, ok, text);
    stage.mode = Some(truth.mode.to_string());
    (stage.path, stage.objects) = (path.steps, path.objects);
    if let Looked::At(Observed { present, missing, extra }) = observed {
        if !present.is_empty() || !missing.is_empty() {
            stage.objects = present;
        }
        let differs = |code: Code,
                       has: &str,
                       needs: &str,
                       fix: &str,
                       Object { set, element, .. }: &Object| {
            let (node, service) = (truth.node, hit.service);
            let text = format!(
                "the kernel of {node} {has} {element} in {set}, which Service {service} {needs}"
            );
            code.finding(text, Some(fix.to_owned()))
        };
        let repaired = "the daemon repairs what others change at its next full sync; sluice status says when that was";
        let removed = "see who wrote it: the daemon removes it at its next full sync";
        findings.extend(
            missing.iter().map(|object| {
                differs(Code::KernelObjectMissing, "lacks", "needs", repaired, object)
            }),
        );
        findings.extend(extra.iter().map(|object| {
            differs(Code::KernelObjectExtra, "has", "does not need", removed, object)
        }));
        (stage.missing, stage.extra) = (missing, extra);
    }
    Some(stage)
}

fn sentence(seen: &Observed) -> String {
    match (seen.missing.len(), seen.extra.len()) {
        (0, 0) => "as desired".to_owned(),
        (0, extra) => format!("as desired, and {extra} objects too many"),
        (missing, 0) => format!("{missing} objects are missing"),
        (missing, extra) => format!("{missing} objects are missing, {extra} too many"),
    }
}

/// What comes of a connection if something in the kernel or on the way is wrong.
pub(super) fn outcome(stages: &[Stage], blocked: bool) -> Outcome {
    let of = |name| stages.iter().find(|stage: &&Stage| stage.stage == name);
    let kernel = of(StageName::Kernel).filter(|stage| stage.ok == Some(false));
    let nothing_left = kernel.is_some_and(|stage| stage.objects.is_empty());
    if nothing_left || blocked { Outcome::Unreachable } else { Outcome::Mixed }
}

/// The routes to the endpoints, with the problems as notes; and whether they are all there is.
pub(super) fn way(
    truth: &Truth<'_>,
    hit: &Hit<'_>,
    pool: &[PoolEndpoint],
    findings: &mut Vec<Finding>,
) -> (Stage, bool) {
    let way = match truth.kernel.way(hit, pool) {
        Looked::Not(why) => {
            return (Stage::new(StageName::Way, None, format!("not looked at: {why}")), false);
        }
        Looked::At(way) => way,
    };
    let ok = way.problems.is_empty();
    let text = way.routes.join("   ");
    let mut stage = Stage::new(StageName::Way, Some(ok), text);
    for problem in way.problems {
        let (code, text, fix) = match problem {
            Problem::NoRoute(text) => {
                (Code::NoRoute, text, "ip route get, and see whether the network plugin runs")
            }
            Problem::ForwardingOff(text) => (
                Code::ForwardingOff,
                text,
                "sysctl -w net.ipv4.ip_forward=1 (IPv6: net.ipv6.conf.all.forwarding=1)",
            ),
            Problem::ReversePath(text) => (
                Code::ReversePath,
                text,
                "correct the route, or loosen the filter on the interface that the client comes in by: rp_filter=2",
            ),
        };
        stage.notes.push(text.clone());
        findings.push(code.finding(text, Some(fix.to_owned())));
    }
    (stage, way.blocked)
}

/// Base chains of other programs: named, not judged.
pub(super) fn others(truth: &Truth<'_>, hit: &Hit<'_>) -> Stage {
    match truth.kernel.others(hit) {
        Looked::Not(why) => Stage::new(StageName::Others, None, format!("not looked at: {why}")),
        Looked::At(others) if others.is_empty() => {
            Stage::new(StageName::Others, Some(true), "no other program has a chain on the way")
        }
        Looked::At(others) => {
            let text = "other programs have chains on the way, which are not evaluated here";
            let mut stage = Stage::new(StageName::Others, None, text);
            stage.notes = others;
            stage
        }
    }
}
