//! What `explain` says of every packet of a case is what the plan decides, in each mode; and it finds nothing wrong with what
//! works.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use sluice_config::Mode as Setting;
use sluice_core::model::{Condition, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::{self, Decision, Hit, Masquerade, Packet, PacketSource, PoolEndpoint};
use sluice_explain::truth::{KernelView, Observed, Path, Way};
use sluice_explain::{
    Code, Explanation, Known, Looked, Origin, Outcome, Question, Severity, Truth,
};

use super::case::Case;
use super::mode::Mode;
use super::oracle::{Oracle, Shot};
use super::{case::World, excepts, oracle, report, shots};

/// No kernel is asked.
struct NoKernel;

impl KernelView for NoKernel {
    fn path(&self, _: &Hit<'_>) -> Path {
        Path::default()
    }

    fn observed(&self, _: &Hit<'_>) -> Looked<Observed> {
        Looked::default()
    }

    fn way(&self, _: &Hit<'_>, _: &[PoolEndpoint]) -> Looked<Way> {
        Looked::default()
    }

    fn others(&self, _: &Hit<'_>) -> Looked<Vec<String>> {
        Looked::default()
    }
}

/// All packets of a case in one family: those that it states, and generated ones.
pub(crate) fn agrees(case: &Case, family: Family) -> super::Outcome {
    let (mut world, mut problems) = (World::default(), Vec::new());
    for step in &case.steps {
        world = world.after(step);
        let snapshot = oracle::snapshot(&world, family)?;
        for mode in Mode::SETTINGS.into_iter().filter(|mode| !excepts(case, *mode)) {
            let oracle = Oracle::knowing(&snapshot, &case.settings, mode, &world, family)?;
            let mut all: BTreeSet<Shot> = shots::generated(&oracle, family).into_iter().collect();
            for line in &step.packets {
                all.extend(shots::stated(line, family)?);
            }
            for shot in &all {
                let found = compare(&oracle, &snapshot, mode, shot);
                problems.extend(found.err().map(|why| format!("{}, {mode}: {why}", step.title)));
            }
        }
    }
    report(&problems)
}

fn compare(oracle: &Oracle, snapshot: &Snapshot, mode: Mode, shot: &Shot) -> Result<(), String> {
    let packet = oracle.packet(shot);
    let decided = plan::decide(&oracle.table, &packet);
    let (from, to) = question(&packet, shot);
    let truth = Truth {
        node: "node-a",
        mode: Setting::from_name(mode.setting()).ok_or("a mode")?,
        snapshot,
        tables: &[&oracle.table],
        local: &oracle.local,
        known: &Known::default(),
        origin: &Origin::default(),
        kernel: &NoKernel,
    };
    let answer = sluice_explain::explain(&truth, &Question::new(&from, &to));
    let answer = answer.map_err(|refusal| format!("{from} -> {to}: {refusal}"))?;
    let wrong =
        |why: &str| Err(format!("{from} -> {to}: {why}: {decided:?}, explained {answer:#?}"));
    if answer.decision.as_ref() != Some(&decided) {
        return wrong("another decision");
    }
    if !listed(&answer, &decided) {
        return wrong("other endpoints, or another source");
    }
    let errors = answer.findings.iter().filter(|finding| finding.severity == Severity::Error);
    match (&decided, errors.count()) {
        (Decision::Forward { .. }, 0) if answer.result == Outcome::Reachable => {}
        (Decision::Forward { .. }, _) => return wrong("a false alarm"),
        (Decision::Reject | Decision::Drop, 0) => return wrong("nothing found"),
        _ => {}
    }
    if answer.findings.iter().any(|f| f.severity == Severity::Warning && !is_true(f.code, snapshot))
    {
        return wrong("a false warning");
    }
    Ok(())
}

/// FROM and TO of a packet.
pub(crate) fn question(packet: &Packet, shot: &Shot) -> (String, String) {
    let from = match &packet.source {
        PacketSource::ThisNode(ip) => ip.to_string(),
        PacketSource::Interface { ip, name } => format!("{ip}@{name}"),
    };
    (from, format!("{}/{}", shot.to, shot.protocol))
}

/// What people read is what is decided.
fn listed(answer: &Explanation, decided: &Decision) -> bool {
    let stage = |name| answer.stage(name);
    let Decision::Forward { pool, masquerade, .. } = decided else { return true };
    let used: BTreeSet<String> = stage(sluice_explain::StageName::Endpoints)
        .map(|stage| stage.used.iter().map(|used| used.endpoint.clone()).collect())
        .unwrap_or_default();
    let pool = pool.iter().map(|endpoint| SocketAddr::new(endpoint.ip, endpoint.port).to_string());
    let rewrite = stage(sluice_explain::StageName::Rewrite).map_or("", |stage| &stage.text);
    let relayed = rewrite.starts_with("the daemon accepts");
    let says = relayed || rewrite.contains("source kept") == (*masquerade == Masquerade::No);
    used == pool.collect() && says
}

/// Whether some endpoint is as a warning says.
fn is_true(code: Code, snapshot: &Snapshot) -> bool {
    let wanted = match code {
        Code::EndpointsNotReady => Condition::Unusable,
        Code::EndpointsTerminating => Condition::Terminating,
        _ => return false,
    };
    let slices = snapshot.slices.values().flatten();
    slices.flat_map(|slice| slice.endpoints.iter()).any(|endpoint| endpoint.condition == wanted)
}
