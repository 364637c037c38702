//! The conformance suite: every case of `integration/cases` is decided by the plan, and then played
//! with real packets through the real daemon, in IPv4 and IPv6.
//!
//! Trials are named `CASE/decide/v4`, `CASE/explain/v4`, `CASE/nftables/v6`, `CASE/iptables/v4` and so on; `cargo test --test conformance --
//! hairpin` runs what has `hairpin` in its name. The format of cases is described in
//! `integration/cases/README.md`.

mod affinity;
mod asked;
mod case;
mod explained;
mod flows;
mod kernel;
mod mode;
#[path = "../support/netlink.rs"]
mod netlink;
mod objects;
mod oracle;
mod orders;
mod packets;
mod parse;
mod parts;
mod plan;
mod semantics;
mod settings;
mod shots;
mod spread;
mod stage;
mod wait;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use sluice_cluster::{Isolation, prepare};
use sluice_core::net::Family;
use sluice_kernel::ipvs::Ipvs;

use case::{Case, Step, World, Write};
use mode::Mode;
use oracle::Oracle;
use parts::Part;
use shots::Extent;
use stage::Stage;

type Outcome = Result<(), Failed>;

/// The stage of one mode, built when its first trial needs it.
type SharedStage = Arc<Mutex<Option<Stage>>>;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = Arguments::from_args();
    let mut cases = parse::read_all(&directory().join("cases"))?;
    cases.extend(parse::read_all(&directory().join("cases/changes"))?);
    prepare(Isolation::Private)?;
    let lo = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    assert!(lo.success(), "loopback of the private network comes up");
    // The daemon restarts only where settings change.
    cases.sort_by(|a, b| a.settings.cmp(&b.settings).then_with(|| a.name.cmp(&b.name)));
    let index = cases.clone();
    let name = "every_rule_has_a_case_and_the_index_says_which";
    let mut trials = vec![Trial::test(name, move || semantics::check(&index))];
    let cases: Vec<Arc<Case>> = cases.into_iter().map(Arc::new).collect();
    for case in &cases {
        for family in Family::BOTH {
            let it = Arc::clone(case);
            trials.push(trial(case, "decide", family, move || decided(&it, family)));
            let it = Arc::clone(case);
            let agrees = move || explained::agrees(&it, family);
            trials.push(trial(case, "explain", family, agrees));
        }
    }
    let part = Part::wanted()?;
    let cases = part.of(cases);
    let modes: Vec<(Mode, SharedStage)> =
        modes().into_iter().map(|mode| (mode, SharedStage::default())).collect();
    let played = modes.iter().map(|(mode, stage)| trials_in(*mode, stage, &cases, part)).collect();
    trials.extend(in_turns(played));
    // Each mode has a stage of its own; the trials of one mode follow one another.
    arguments.test_threads = Some(modes.len());
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Their namespaces must be removed before the process ends.
    for (_, stage) in modes {
        drop(stage.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
    Ok(conclusion.exit_code())
}

/// The modes to play in: those that SLUICE_MODES names, separated by commas, or all that this kernel has.
#[allow(clippy::print_stdout)] // what is left out is said
fn modes() -> Vec<Mode> {
    let Ok(wanted) = std::env::var("SLUICE_MODES") else {
        let Err(error) = Ipvs::open() else { return Mode::ALL.to_vec() };
        println!("cases in ipvs mode are not played: {error}; integration/guest/suites plays them");
        return Mode::ALL.into_iter().filter(|mode| *mode != Mode::Ipvs).collect();
    };
    let named = |mode: &Mode| wanted.split(',').any(|name| *name == mode.to_string());
    let (chosen, left): (Vec<Mode>, Vec<Mode>) = Mode::ALL.into_iter().partition(named);
    for mode in left {
        println!("cases in {mode} mode are not played; SLUICE_MODES={mode} plays them");
    }
    chosen
}

/// All trials in a mode.
fn trials_in(mode: Mode, stage: &SharedStage, cases: &[Arc<Case>], part: Part) -> VecDeque<Trial> {
    let played = cases.iter().filter(|case| mode.plays(case));
    let many = Family::BOTH.into_iter().filter(|_| part.is_first());
    let many = many.flat_map(|family| trials_over_many(family, mode, stage));
    played.flat_map(|case| trials_of(case, mode, stage)).chain(many).collect()
}

/// One trial of each list, again and again, so that the stages work side by side.
fn in_turns(mut lists: Vec<VecDeque<Trial>>) -> Vec<Trial> {
    let mut all = Vec::new();
    while lists.iter().any(|list| !list.is_empty()) {
        all.extend(lists.iter_mut().filter_map(VecDeque::pop_front));
    }
    all
}

/// The ways in which a case is played in a mode.
fn trials_of(case: &Arc<Case>, mode: Mode, stage: &SharedStage) -> Vec<Trial> {
    let mut trials = Vec::new();
    let excepted = excepts(case, mode);
    for family in Family::BOTH {
        let (it, stage) = (Arc::clone(case), Arc::clone(stage));
        let played = trial(case, &mode.to_string(), family, move || {
            on_stage(&stage, mode, |stage| played(stage, &it, family))
        });
        trials.push(played.with_ignored_flag(excepted));
    }
    if case.steps.len() > 1 && mode.plays_orders() {
        let (it, stage) = (Arc::clone(case), Arc::clone(stage));
        let in_orders = Trial::test(format!("{}/{mode}/orders", case.name), move || {
            on_stage(&stage, mode, |stage| orders::run(stage, &it))
        });
        trials.push(in_orders.with_ignored_flag(excepted));
    }
    trials
}

/// What takes many connections to see.
fn trials_over_many(family: Family, mode: Mode, stage: &SharedStage) -> Vec<Trial> {
    let spread = spread::SIZES.map(|size| {
        let stage = Arc::clone(stage);
        let name = format!("spread-over-{size}/{mode}/{}", short(family));
        Trial::test(name, move || on_stage(&stage, mode, |stage| spread::run(stage, family, size)))
    });
    let stage = Arc::clone(stage);
    let name = format!("affinity-timeout/{mode}/{}", short(family));
    let timeout =
        Trial::test(name, move || on_stage(&stage, mode, |stage| affinity::run(stage, family)));
    // IPVS remembers a client for as long as it tracks its last connection, and a closed TCP connection
    // for two minutes (docs/semantics.md, what the IPVS mode does otherwise).
    let timeout = timeout.with_ignored_flag(mode == Mode::Ipvs);
    spread.into_iter().chain([timeout]).collect()
}

/// Where cases and this program are.
pub(crate) fn directory() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("integration")
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

/// Whether a case has an exception for a mode.
fn excepts(case: &Case, mode: Mode) -> bool {
    case.except.contains_key(mode.setting())
}

/// What the plan decides in each mode is what the case states.
fn decided(case: &Case, family: Family) -> Outcome {
    let mut world = World::default();
    let mut problems = Vec::new();
    for step in &case.steps {
        world = world.after(step);
        let snapshot = oracle::snapshot(&world, family)?;
        for mode in Mode::SETTINGS.into_iter().filter(|mode| !excepts(case, *mode)) {
            let oracle = Oracle::knowing(&snapshot, &case.settings, mode, &world, family)?;
            for line in &step.packets {
                if let Some(shot) = shots::stated(line, family)? {
                    problems.extend(shots::compare(line, mode, family, &oracle, &shot).err());
                }
            }
        }
    }
    report(&problems)
}

/// Lends the stage of a mode out, and builds it before.
fn on_stage(stage: &SharedStage, mode: Mode, play: impl FnOnce(&mut Stage) -> Outcome) -> Outcome {
    let mut slot = stage.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stage = match slot.take() {
        Some(stage) => stage,
        None => Stage::build(mode)?,
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
        let oracle = Oracle::new(&case.settings, stage.mode, &world, family)?;
        stage.write(&world, family)?;
        stage.settle()?;
        let checks = shots::checks(Extent::All, &step.packets, &oracle, family)?;
        problems.extend(stage.shoot(&world, checks, patience(case, step)));
        problems.extend(asked::problems(stage, &step.packets, &oracle, family)?);
    }
    stage.write(&World::default(), family)?;
    stage.settle()?;
    report(&problems)
}

/// There is no signal that the daemon has seen a change of its Node or of a ServiceCIDR.
fn patience(case: &Case, step: &Step) -> Duration {
    // Affinity entries of removed endpoints are deleted after the rules are written.
    let sticky = |write: &Write| match write {
        Write::Service(service) => service.fields.iter().any(|(name, _)| name == "affinity"),
        _ => false,
    };
    let memories = case.steps.iter().any(|step| step.writes.iter().any(sticky));
    let untold = |write: &Write| {
        matches!(write, Write::Node(_) | Write::ServiceCidr { .. } | Write::Delete(_))
    };
    // Stale flows are deleted after the rules are written.
    let flows = step.packets.iter().any(|line| line.source_port.is_some());
    let wait = flows || memories || step.writes.iter().any(untold);
    if wait { Duration::from_secs(60) } else { Duration::ZERO }
}

fn report(problems: &[String]) -> Outcome {
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
}
