//! Starts on a fresh node: how long until every probed virtual IP answers, and what it takes.

use std::time::{Duration, Instant};

use super::accounts::{self, wait_for_rest};
use super::kernel_objects;
use super::probe::until_answer;
use super::results::Quantity;
use super::session::{Failure, Session};
use super::world::{Arena, State, World, families, probed};

/// The grain of the cold start.
const GRAIN: Duration = Duration::from_millis(1);

/// How long a program may take to come to rest after its start.
const REST: Duration = Duration::from_secs(20);

/// What a start shows.
const QUANTITIES: [Quantity; 4] =
    [Quantity::ColdStart, Quantity::PeakMemory, Quantity::KernelObjects, Quantity::KernelMemory];

/// Starts every contestant again and again, in turn. After the last time they run on, whatever is
/// wanted: the other quantities need them.
pub(super) fn measure(session: &mut Session<'_>, world: &mut World, until: Instant) {
    let wanted = QUANTITIES.into_iter().any(|quantity| session.plan.wants(quantity));
    let rounds = if wanted { session.plan.repeat } else { 1 };
    for round in 0..rounds {
        for index in 0..world.arenas.len() {
            // The first round is what all else builds on.
            if world.arenas[index].state == State::Out || (round > 0 && Instant::now() >= until) {
                continue;
            }
            session.say("start", &world.arenas[index].contestant.subject, round + 1, rounds);
            let keep = round + 1 == rounds;
            if let Err(failure) = start(session, world, index, round, keep) {
                session.drop_out(&mut world.arenas[index], world.scale, &failure);
            }
        }
    }
    for arena in world.arenas.iter().filter(|arena| arena.state == State::In) {
        let subject = &arena.contestant.subject;
        session.check_count(subject, Quantity::ColdStart, world.scale, rounds);
    }
    for index in 0..world.arenas.len() {
        if let Err(failure) = keep_running(world, index) {
            session.drop_out(&mut world.arenas[index], world.scale, &failure);
        }
    }
}

/// Starts a contestant over its own rules, if there was no time for the round after which it would
/// have run on.
fn keep_running(world: &mut World, index: usize) -> Result<(), Failure> {
    if world.arenas[index].state == State::Out || world.arenas[index].running.is_some() {
        return Ok(());
    }
    world.start(index)?;
    let Some((stage, running)) = world.arenas[index].on_stage() else { return Ok(()) };
    let wait = || running.wait_until_ready(families(), Instant::now() + REST);
    let ready = stage.node.namespace().run(wait).map_err(super::world::Error::from)?;
    ready.map(drop).ok_or_else(Failure::not_running)
}

fn start(
    session: &mut Session<'_>,
    world: &mut World,
    index: usize,
    round: usize,
    keep: bool,
) -> Result<(), Failure> {
    world.fresh_stage(index)?;
    let memory_before = accounts::settled_kernel_memory().map_err(Failure::accounts)?;
    world.start(index)?;
    let scale = world.scale;
    let arena = &mut world.arenas[index];
    let took = until_all_answer(session, arena, scale)?;
    let subject = &arena.contestant.subject;
    session.add(subject, Quantity::ColdStart, scale, [took.as_secs_f64()]);
    let Some((stage, running)) = arena.on_stage() else { return Err(Failure::not_running()) };
    wait_for_rest(running.pid(), Instant::now() + REST).map_err(Failure::accounts)?;
    let memory = accounts::memory(running.pid()).map_err(Failure::accounts)?;
    session.add(subject, Quantity::PeakMemory, scale, [memory.peak as f64]);
    let memory_after = accounts::settled_kernel_memory().map_err(Failure::accounts)?;
    let grown = memory_after.saturating_sub(memory_before);
    session.add(subject, Quantity::KernelMemory, scale, [grown as f64]);
    if round == 0 && session.plan.wants(Quantity::KernelObjects) {
        let count = kernel_objects::count(stage)?;
        session.add(subject, Quantity::KernelObjects, scale, [count as f64]);
    }
    if !keep && let Some(running) = arena.running.take() {
        running.end().map_err(super::world::Error::from)?;
    }
    Ok(())
}

/// Asks one address after the other, and gives the time from the start to the last answer.
fn until_all_answer(
    session: &Session<'_>,
    arena: &mut Arena,
    scale: super::objects::Scale,
) -> Result<Duration, Failure> {
    let Some((stage, running)) = arena.on_stage() else { return Err(Failure::not_running()) };
    let (started, limit) = (running.started, session.plan.step_limit);
    let until = session.until(started + limit);
    let addresses = probed(scale);
    let ask = || {
        let mut last = started;
        for (number, &at) in addresses.iter().enumerate() {
            let accept = |by| scale.leads_to(at, by);
            match until_answer(at, started, until, GRAIN, accept)? {
                Some(when) => last = when,
                None => return Ok(Err(number)),
            }
        }
        Ok(Ok(last - started))
    };
    let answered = stage.client.namespace().run(ask).map_err(super::world::Error::from)?;
    match answered.map_err(super::world::Error::Traffic)? {
        Ok(took) => Ok(took),
        Err(number) => {
            let waited = (until - started).as_secs();
            let running = arena.running.as_mut();
            let words = running.map_or_else(String::new, |running| match running.has_ended() {
                true => format!("; it ended: {}", running.last_words()),
                false => String::new(),
            });
            Err(Failure::Late(format!(
                "{number} of {} probed addresses answered within {waited} s of its start{words}",
                addresses.len()
            )))
        }
    }
}
