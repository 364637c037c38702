//! Changes in other orders: whatever way leads to a state of the API, the kernel ends up with the same.
//!
//! Each step of a case is a state of the API. They are visited forwards, backwards, shuffled, without
//! waiting in between, and with the daemon killed on the way; then the last one is entered. The kernel
//! must then have what a daemon writes that starts with nothing. Packets are checked on the way.

use libtest_mimic::Failed;
use sluice_core::net::Family;

use super::case::{Case, PacketLine, World};
use super::oracle::Oracle;
use super::shots::{self, Extent};
use super::stage::{PATIENCE, Stage};
use super::wait::Wait;

type Outcome = Result<(), Failed>;

/// What happens between two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    /// The daemon catches up, and packets are checked.
    Settle,
    /// Nothing: the next writes follow at once.
    Nothing,
    /// The daemon is killed, and starts again after the next writes.
    CrashBefore,
    /// The daemon is killed right after the writes, whatever it was doing.
    CrashAfter,
}

/// A way through the states.
struct Way {
    name: String,
    stations: Vec<usize>,
    between: Between,
}

/// All ways through `count` states, without the last one's final visit.
fn ways(count: usize) -> Vec<Way> {
    let forwards: Vec<usize> = (0..count).collect();
    let backwards: Vec<usize> = (0..count).rev().collect();
    let way = |name: &str, stations: &[usize], between| Way {
        name: name.to_owned(),
        stations: stations.to_vec(),
        between,
    };
    let mut all = vec![
        way("forwards", &forwards, Between::Settle),
        way("backwards", &backwards, Between::Settle),
        way("squashed", &forwards, Between::Nothing),
        way("squashed backwards", &backwards, Between::Nothing),
        way("with the daemon killed before each", &forwards, Between::CrashBefore),
        way("backwards with the daemon killed after each", &backwards, Between::CrashAfter),
    ];
    for (seed, between) in [(1, Between::Settle), (2, Between::Nothing), (3, Between::Nothing)] {
        let mut stations = [&forwards[..], &forwards[..]].concat();
        shuffle(&mut stations, seed);
        all.push(way(&format!("shuffled {seed}"), &stations, between));
    }
    all
}

/// Fisher and Yates, with numbers of Marsaglia's xorshift64: the same on every machine.
fn shuffle(list: &mut [usize], seed: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    for end in (1..list.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bound = u64::try_from(end).unwrap_or(0) + 1;
        list.swap(end, usize::try_from(state % bound).unwrap_or(0));
    }
}

/// Plays a case in all orders.
pub(crate) fn run(stage: &mut Stage, case: &Case) -> Outcome {
    let mut worlds: Vec<(World, &[PacketLine])> = Vec::new();
    for step in &case.steps {
        let world = worlds.last().map_or_else(World::default, |(world, _)| world.clone());
        worlds.push((world.after(step), &step.packets));
    }
    let family = Family::V4;
    let mut oracles = Vec::new();
    for (world, _) in &worlds {
        oracles.push(Oracle::new(&case.settings, stage.mode, world, family)?);
    }
    let Some((last, _)) = worlds.last() else { return Ok(()) };
    stage.crash()?;
    stage.forget_rules()?;
    stage.write(last, family)?;
    stage.configure(&case.settings)?;
    stage.settle()?;
    let wanted = kernel(stage)?;
    for way in ways(worlds.len()) {
        stage.write(&World::default(), family)?;
        stage.configure(&case.settings)?;
        stage.settle()?;
        for &station in &way.stations {
            let (world, lines) = &worlds[station];
            visit(stage, case, world, way.between)?;
            if way.between == Between::Nothing {
                continue;
            }
            let lines: Vec<PacketLine> =
                lines.iter().filter(|line| line.source_port.is_none()).cloned().collect();
            let checks = shots::checks(Extent::Stated, &lines, &oracles[station], family)?;
            let failures = stage.shoot(world, checks, PATIENCE);
            if !failures.is_empty() {
                let failures = failures.join("\n");
                return Err(format!("{} at step {}:\n{failures}", way.name, station + 1).into());
            }
        }
        visit(stage, case, last, Between::Settle)?;
        reaches(stage, &way.name, &wanted)?;
    }
    stage.write(&World::default(), family)?;
    Ok(stage.settle()?)
}

fn visit(stage: &mut Stage, case: &Case, world: &World, between: Between) -> Outcome {
    if between == Between::CrashBefore {
        stage.crash()?;
    }
    stage.write(world, Family::V4)?;
    if between == Between::CrashAfter {
        stage.crash()?;
    }
    if between != Between::Nothing {
        stage.configure(&case.settings)?;
        stage.settle()?;
    }
    Ok(())
}

fn kernel(stage: &Stage) -> Result<[String; 2], Failed> {
    let of = |family| Ok::<_, Failed>(stage.rules(family)?);
    Ok([of(Family::V4)?, of(Family::V6)?])
}

fn reaches(stage: &Stage, way: &str, wanted: &[String; 2]) -> Outcome {
    let wait = Wait::new(PATIENCE);
    loop {
        let found = kernel(stage)?;
        if found == *wanted {
            return Ok(());
        }
        if !wait.again() {
            let mut text = format!("{way}: another kernel state (- wanted, + found)");
            for (wanted, found) in wanted.iter().zip(&found) {
                for line in wanted.lines().filter(|line| !found.lines().any(|l| l == *line)) {
                    text.push_str(&format!("\n-{line}"));
                }
                for line in found.lines().filter(|line| !wanted.lines().any(|l| l == *line)) {
                    text.push_str(&format!("\n+{line}"));
                }
            }
            return Err(text.into());
        }
    }
}
