//! The conformance suite: every case of `integration/cases` is decided by the plan, and then played
//! with real packets through the real daemon, in IPv4 and IPv6.
//!
//! Trials are named `CASE/decide/v4`, `CASE/nftables/v6` and so on; `cargo test --test conformance --
//! hairpin` runs what has `hairpin` in its name. The format of cases is described in
//! `integration/cases/README.md`.

mod affinity;
mod case;
mod kernel;
mod objects;
mod oracle;
mod orders;
mod packets;
mod parse;
mod plan;
mod semantics;
mod settings;
mod shots;
mod spread;
mod stage;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use sluice::lab::{Isolation, prepare};
use sluice::net::Family;

use case::{Case, Step, World, Write};
use oracle::Oracle;
use shots::Extent;
use stage::Stage;

type Outcome = Result<(), Failed>;

/// The one stage, built when the first case needs it, with what went wrong with it.
type SharedStage = Arc<Mutex<Option<Stage>>>;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = Arguments::from_args();
    // There is one stage, and packets of a case are in parallel anyway.
    arguments.test_threads = Some(1);
    let mut cases = parse::read_all(&directory().join("cases"))?;
    cases.extend(parse::read_all(&directory().join("cases/changes"))?);
    prepare(Isolation::Private)?;
    let lo = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    assert!(lo.success(), "loopback of the private network comes up");
    // The daemon restarts only where settings change.
    cases.sort_by(|a, b| a.settings.cmp(&b.settings).then_with(|| a.name.cmp(&b.name)));
    let stage = SharedStage::default();
    let index = cases.clone();
    let name = "every_rule_has_a_case_and_the_index_says_which";
    let mut trials = vec![Trial::test(name, move || semantics::check(&index))];
    for case in cases.into_iter().map(Arc::new) {
        trials.extend(trials_of(&case, &stage));
    }
    for (family, size) in Family::BOTH.into_iter().flat_map(|f| spread::SIZES.map(|n| (f, n))) {
        let stage = Arc::clone(&stage);
        let name = format!("spread-over-{size}/nftables/{}", short(family));
        trials.push(Trial::test(name, move || {
            on_stage(&stage, |stage| spread::run(stage, family, size))
        }));
    }
    for family in Family::BOTH {
        let stage = Arc::clone(&stage);
        let name = format!("affinity-timeout/nftables/{}", short(family));
        trials.push(Trial::test(name, move || {
            on_stage(&stage, |stage| affinity::run(stage, family))
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Its namespaces shall go before the process does.
    drop(stage.lock().unwrap_or_else(PoisonError::into_inner).take());
    Ok(conclusion.exit_code())
}

/// The ways in which a case is checked.
fn trials_of(case: &Arc<Case>, stage: &SharedStage) -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::BOTH {
        let it = Arc::clone(case);
        trials.push(trial(case, "decide", family, move || decided(&it, family)));
    }
    let excepted = case.except.contains_key("nftables");
    for family in Family::BOTH {
        let (it, stage) = (Arc::clone(case), Arc::clone(stage));
        let played = trial(case, "nftables", family, move || {
            on_stage(&stage, |stage| played(stage, &it, family))
        });
        trials.push(played.with_ignored_flag(excepted));
    }
    if case.steps.len() > 1 {
        let (it, stage) = (Arc::clone(case), Arc::clone(stage));
        let in_orders = Trial::test(format!("{}/nftables/orders", case.name), move || {
            on_stage(&stage, |stage| orders::run(stage, &it))
        });
        trials.push(in_orders.with_ignored_flag(excepted));
    }
    trials
}

/// Where cases and this program are.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration")
}

fn trial(
    case: &Case,
    what: &str,
    family: Family,
    run: impl FnOnce() -> Outcome + Send + 'static,
) -> Trial {
    Trial::test(format!("{}/{what}/{}", case.name, short(family)), run)
}

fn short(family: Family) -> &'static str {
    if family == Family::V4 { "v4" } else { "v6" }
}

/// What the plan decides is what the case states.
fn decided(case: &Case, family: Family) -> Outcome {
    let mut world = World::default();
    let mut problems = Vec::new();
    for step in &case.steps {
        world = world.after(step);
        let oracle = Oracle::new(&case.settings, &world, family)?;
        for line in &step.packets {
            if let Some(shot) = shots::stated(line, family)? {
                let outcome = oracle.outcome(&shot);
                problems.extend(shots::compare(line, &outcome, family, &oracle, &shot).err());
            }
        }
    }
    report(&problems)
}

/// Lends the stage out, and builds it before.
fn on_stage(stage: &SharedStage, play: impl FnOnce(&mut Stage) -> Outcome) -> Outcome {
    let mut slot = stage.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stage = match slot.take() {
        Some(stage) => stage,
        None => Stage::build()?,
    };
    let result = play(&mut stage);
    // A stage whose daemon was lost is not used again.
    if stage.is_sound() {
        *slot = Some(stage);
    }
    result
}

/// Real packets do what the case states and what the plan decides.
fn played(stage: &mut Stage, case: &Case, family: Family) -> Outcome {
    stage.configure(&case.settings)?;
    let mut world = World::default();
    let mut problems = Vec::new();
    for step in &case.steps {
        world = world.after(step);
        let oracle = Oracle::new(&case.settings, &world, family)?;
        stage.write(&world, family)?;
        stage.settle()?;
        let checks = shots::checks(Extent::All, &step.packets, &oracle, family)?;
        problems.extend(stage.shoot(&world, checks, patience(step)));
    }
    stage.write(&World::default(), family)?;
    stage.settle()?;
    report(&problems)
}

/// Nothing tells when the daemon has seen a change of its Node or of a ServiceCIDR.
fn patience(step: &Step) -> Duration {
    let untold = |write: &Write| {
        matches!(write, Write::Node(_) | Write::ServiceCidr { .. } | Write::Delete(_))
    };
    // Flows that were under way are ended after the rules are in force.
    let flows = step.packets.iter().any(|line| line.source_port.is_some());
    let wait = flows || step.writes.iter().any(untold);
    if wait { Duration::from_secs(5) } else { Duration::ZERO }
}

fn report(problems: &[String]) -> Outcome {
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
}
