//! From a question to the stages of an explanation.
//!
//! - [`packet`]: what the source is, and which frontend its packet finds
//! - [`missed`]: why it finds none
//! - [`policy`]: who is admitted, which pool is used, and which addresses are translated
//! - [`endpoints`]: which endpoints are in the pool, and why the others are not
//! - [`causes`]: why a Service has no endpoint
//! - [`kernel`]: what the kernel has for it, and who else is on the way
//!
//! The reasons are derived again from the snapshot, for the one Service that is asked about; a property holds that they
//! come to what `plan::decide` says.

mod causes;
mod endpoints;
mod kernel;
mod missed;
mod packet;
mod policy;

use crate::client::{Client, client};
use crate::explanation::{API_VERSION, Explanation, Outcome, Stage, StageName};
use crate::findings::{Code, Finding, Severity};
use crate::question::{self, Question};
use crate::refusal::Refusal;
use crate::target::{Destination, Target, destination};
use crate::truth::Truth;
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::Hit;
use sluice_core::plan::{Decision, Packet, find_frontend, route_for};

/// A change that waits longer has not just arrived.
const BEHIND_SECONDS: u64 = 10;

/// After this, what is known may be wrong.
const STALE_SECONDS: u64 = 60;

/// Why a connection goes where it goes.
///
/// # Errors
/// If the question cannot be read, or names what does not exist.
pub fn explain(truth: &Truth<'_>, question: &Question) -> Result<Explanation, Refusal> {
    let from = question::from(&question.from)?;
    let to = question::to(&question.to)?;
    let client = client(truth, &question.from, &from)?;
    let destination = destination(truth, &client, &question.to, &to)?;
    Ok(answer(truth, &client, destination))
}

/// What one packet meets.
#[derive(Debug, Clone, Default)]
struct Walked {
    stages: Vec<Stage>,
    findings: Vec<Finding>,
    outcome: Option<Outcome>,
    summary: String,
    decision: Option<Decision>,
    service: Option<ServiceName>,
    port: Option<String>,
}

impl Walked {
    fn ended(mut self, outcome: Outcome, summary: impl Into<String>) -> Walked {
        (self.outcome, self.summary) = (Some(outcome), summary.into());
        self
    }

    fn outcome(&self) -> Outcome {
        self.outcome.unwrap_or(Outcome::Undetermined)
    }
}

fn answer(truth: &Truth<'_>, client: &Client, destination: Destination) -> Explanation {
    let Destination { mut shown, targets, service, mut stage, mut findings, beyond } = destination;
    let served = |target: &&Target| client.source(Family::of(target.ip)).is_some();
    let (first, others): (Vec<Target>, Vec<Target>) = targets.iter().partition(|t| served(t));
    let (main, rest) = match first.split_first() {
        Some((main, rest)) => (Some(*main), rest),
        None => (others.first().copied(), &[][..]),
    };
    let mut walked = match main {
        Some(main) => walk(truth, client, main, service.as_ref()),
        None if beyond => {
            let summary = "undetermined: no proxy has a part in this connection";
            Walked::default().ended(Outcome::Undetermined, summary)
        }
        None => {
            Walked::default().ended(Outcome::Unreachable, format!("unreachable: {}", stage.text))
        }
    };
    for other in rest {
        let also = walk(truth, client, *other, service.as_ref());
        merge(&mut walked, &mut stage, *other, also);
    }
    findings.append(&mut walked.findings);
    findings.extend(age(truth));
    let nameless = |finding: &&Finding| finding.code == Code::DnsNoEndpoints;
    if let Some(finding) = findings.iter().find(nameless) {
        stage.ok = Some(false);
        stage.notes.push(finding.text.clone());
        (walked.outcome, walked.summary) =
            (Some(Outcome::Unreachable), "unreachable: the name cannot be looked up".to_owned());
    }
    if let Some(main) = main {
        shown.address = Some(main.to_string());
    }
    shown.service = shown.service.or_else(|| walked.service.as_ref().map(ToString::to_string));
    shown.port = shown.port.or_else(|| walked.port.take());
    let mut from = client.shown.clone();
    let source = main.and_then(|main| client.source(Family::of(main.ip)));
    from.ip = source.map(|source| source.ip().to_string()).or(from.ip);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings.dedup();
    Explanation {
        api_version: API_VERSION.to_owned(),
        kind: "Explanation".to_owned(),
        from,
        to: shown,
        node: truth.node.to_owned(),
        truth: truth.origin.clone(),
        result: walked.outcome(),
        stages: complete(stage, &mut walked),
        summary: walked.summary,
        findings,
        decision: walked.decision,
    }
}

/// All stages, those that were not reached too.
fn complete(name: Stage, walked: &mut Walked) -> Vec<Stage> {
    let mut stages = vec![name];
    stages.append(&mut walked.stages);
    for stage in StageName::ALL {
        if !stages.iter().any(|reached| reached.stage == stage) {
            stages.push(Stage::new(stage, None, "not reached"));
        }
    }
    stages.sort_by_key(|stage| stage.stage);
    stages
}

/// Another address of the same name: clients may use either.
fn merge(walked: &mut Walked, stage: &mut Stage, target: Target, also: Walked) {
    stage.notes.push(format!("also {target}: {}", also.summary));
    if also.outcome() != walked.outcome() {
        walked.summary = format!(
            "mixed: it depends on the address that the client chooses; the first is {}",
            walked.summary
        );
        walked.outcome = Some(Outcome::Mixed);
    }
    for finding in also.findings {
        if !walked.findings.iter().any(|known| known.code == finding.code) {
            walked.findings.push(finding);
        }
    }
}

/// Whether what is known is what is so.
fn age(truth: &Truth<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(seconds) = truth.origin.stale_seconds.filter(|seconds| *seconds > STALE_SECONDS) {
        let text = format!(
            "node {} has not heard of the API for {seconds} s: what it knows may be old",
            truth.node
        );
        let fix = "see the log of the daemon for why the API server is unreachable".to_owned();
        findings.push(Code::StaleTruth.finding(text, Some(fix)));
    }
    if let Some(seconds) = truth.origin.pending_seconds.filter(|seconds| *seconds > BEHIND_SECONDS)
    {
        let text =
            format!("a change has waited for {seconds} s to be written on node {}", truth.node);
        let fix = "sluice status says which Service is pending or refused, and why".to_owned();
        findings.push(Code::ProxyBehind.finding(text, Some(fix)));
    }
    findings
}

/// What a connection to one address meets.
fn walk(truth: &Truth<'_>, client: &Client, target: Target, named: Option<&ServiceName>) -> Walked {
    let family = Family::of(target.ip);
    let mut walked = Walked::default();
    let Some(source) = client.source(family) else {
        let text =
            format!("{} has no {family} address, and {} is one", client.shown.text, target.ip);
        return no_family(walked, StageName::Source, text);
    };
    let Some(table) = truth.table(family) else {
        walked.stages.push(Stage::new(StageName::Source, None, source.ip().to_string()));
        let text = format!("node {} does not serve {family}", truth.node);
        return no_family(walked, StageName::Frontend, text);
    };
    let packet = Packet {
        source: source.clone(),
        protocol: target.protocol,
        destination: target.ip,
        to_this_node: is_of_this_node(truth, target),
        port: target.port,
    };
    walked.stages.push(packet::source(truth, table, client, &packet));
    let Some((service, port, frontend)) = find_frontend(table, &packet) else {
        return missed::missed(truth, table, &packet, named, walked);
    };
    let Some(plan) = table.plan(service) else { return walked };
    let admitted = sluice_core::plan::admits(&frontend.admit, source.ip());
    let route = route_for(frontend, &table.host.pods, source);
    let hit = Hit { table, service, plan, port, frontend, admitted, route, packet: &packet };
    walked.service = Some(service.clone());
    walked.port = Some(port.name.to_string()).filter(|name| !name.is_empty());
    if let Some(named) = named.filter(|named| *named != service) {
        walked.findings.push(missed::contested(named, service, &frontend.at.to_string()));
    }
    reached(truth, &hit, walked)
}

fn is_of_this_node(truth: &Truth<'_>, target: Target) -> bool {
    truth.local.contains(&target.ip) || target.ip.is_loopback()
}

fn no_family(mut walked: Walked, stage: StageName, text: String) -> Walked {
    walked.stages.push(Stage::new(stage, Some(false), text.clone()).by(&["S-11"]));
    let fix = "give the Service an address of the client's family: ipFamilyPolicy: PreferDualStack"
        .to_owned();
    let summary = format!("unreachable: {text}");
    walked.findings.push(Code::WrongFamily.finding(text, Some(fix)));
    walked.ended(Outcome::Unreachable, summary)
}

/// The stages behind a frontend.
fn reached(truth: &Truth<'_>, hit: &Hit<'_>, mut walked: Walked) -> Walked {
    walked.stages.push(packet::frontend(hit));
    let (admission, finding) = policy::admission(hit);
    walked.stages.push(admission);
    if !hit.admitted {
        walked.findings.extend(finding);
        walked.decision = Some(Decision::Drop);
        walked.stages.extend(kernel::kernel(truth, hit, &mut walked.findings));
        return walked.ended(
            Outcome::Unreachable,
            "unreachable: dropped without an answer, the source is not admitted",
        );
    }
    walked.stages.push(policy::policy(truth, hit));
    let chosen = endpoints::endpoints(truth, hit);
    walked.stages.push(chosen.stage);
    walked.findings.extend(chosen.findings);
    if chosen.pool.is_empty() {
        return without_endpoint(truth, hit, chosen.any, walked);
    }
    let (rewrite, masquerade) = policy::rewrite(truth, hit, &chosen.pool);
    walked.stages.push(rewrite);
    walked.findings.extend(policy::hidden_source(truth, hit, masquerade));
    let before = walked.findings.len();
    walked.stages.extend(kernel::kernel(truth, hit, &mut walked.findings));
    let (way, blocked) = kernel::way(truth, hit, &chosen.pool, &mut walked.findings);
    walked.stages.push(way);
    walked.stages.push(kernel::others(truth, hit));
    let broken = walked.findings[before..].iter().any(|f| f.severity == Severity::Error);
    let names: Vec<String> = chosen.pool.iter().map(|e| endpoints::name(truth, hit, e)).collect();
    let outcome =
        if broken { kernel::outcome(&walked.stages, blocked) } else { Outcome::Reachable };
    let service = hit.service.clone();
    walked.decision = Some(Decision::Forward { service, pool: chosen.pool, masquerade });
    let summary = match outcome {
        Outcome::Reachable => format!("reachable: a new connection goes to {}", any_of(&names)),
        Outcome::Mixed => {
            format!("mixed: it should go to {}, and not all of that works", any_of(&names))
        }
        _ => format!("unreachable: it should go to {}, and does not", any_of(&names)),
    };
    walked.ended(outcome, summary)
}

fn without_endpoint(truth: &Truth<'_>, hit: &Hit<'_>, any: bool, mut walked: Walked) -> Walked {
    walked.decision = Some(if any { Decision::Drop } else { Decision::Reject });
    walked.stages.extend(kernel::kernel(truth, hit, &mut walked.findings));
    if truth.known.without_slices {
        return walked.ended(Outcome::Undetermined, "undetermined: no EndpointSlice was read");
    }
    let summary = if any {
        format!(
            "unreachable: dropped without an answer, node {} has no usable endpoint",
            truth.node
        )
    } else {
        "unreachable: rejected, the Service has no usable endpoint".to_owned()
    };
    walked.ended(Outcome::Unreachable, summary)
}

/// `a, b or c`, or how many.
fn any_of(names: &[String]) -> String {
    const MOST: usize = 6;
    match names {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] if names.len() <= MOST => format!("{} or {last}", first.join(", ")),
        many => format!("one of {} endpoints", many.len()),
    }
}
