//! Changes of one endpoint: how long until a connection follows, and what they cost.

use std::time::{Duration, Instant};

use super::accounts::{self, processor_seconds, wait_for_rest};
use super::objects::{Scale, changed_address};
use super::probe::until_answer;
use super::results::Quantity;
use super::session::{Failure, Session};
use super::world::{Arena, Error, State, World};

/// The resolution of the latency.
const GRAIN: Duration = Duration::from_micros(200);

/// Changes whose processor time is one sample.
const BATCH: u32 = 5;

/// Measures latency first, then cost.
pub(super) fn measure(session: &mut Session<'_>, world: &mut World, until: Instant) {
    if session.plan.wants(Quantity::ChangeLatency) {
        latency(session, world, until);
    }
    if session.plan.wants(Quantity::ChangeProcessorTime)
        || session.plan.wants(Quantity::SteadyMemory)
    {
        cost(session, world, until);
    }
}

/// One change for each contestant in turn; between two changes of one contestant lies the spacing, so
/// that none waits for its `minSyncPeriod`.
fn latency(session: &mut Session<'_>, world: &mut World, until: Instant) {
    let (rounds, spacing) = (session.plan.changes, session.plan.spacing());
    let scale = world.scale;
    let mut rested = vec![Instant::now() + spacing; world.arenas.len()];
    for round in 0..rounds {
        for (arena, rested) in world.arenas.iter_mut().zip(&mut rested) {
            if arena.state == State::Out || (round > 0 && Instant::now() >= until) {
                continue;
            }
            if round % 10 == 0 {
                session.say("change", &arena.contestant.subject, round + 1, rounds);
            }
            std::thread::sleep(rested.saturating_duration_since(Instant::now()));
            match change(session, arena) {
                Ok(took) => {
                    let subject = &arena.contestant.subject;
                    session.add(subject, Quantity::ChangeLatency, scale, [took.as_secs_f64()]);
                }
                Err(failure) => session.drop_out(arena, scale, &failure),
            }
            *rested = Instant::now() + spacing;
        }
    }
    for arena in world.arenas.iter().filter(|arena| arena.state == State::In) {
        let subject = &arena.contestant.subject;
        session.check_count(subject, Quantity::ChangeLatency, scale, rounds);
    }
}

/// Makes a change and probes until the new endpoint answers.
fn change(session: &Session<'_>, arena: &mut Arena) -> Result<Duration, Failure> {
    let limit = session.plan.step_limit;
    let Some((stage, running)) = arena.on_stage() else { return Err(Failure::not_running()) };
    let (client, pid) = (stage.client.clone(), running.pid());
    wait_for_rest(pid, Instant::now() + limit).map_err(Failure::accounts)?;
    let until = session.until(Instant::now() + limit);
    let ask = || -> Result<Option<Duration>, Error> {
        let (written, endpoint) = arena.change()?;
        let accept = |by| by == endpoint;
        let answered = until_answer(changed_address(), written, until, GRAIN, accept);
        Ok(answered.map_err(Error::Traffic)?.map(|answered| answered - written))
    };
    let took = client.namespace().run(ask).map_err(Error::from)??;
    took.ok_or_else(|| {
        Failure::Late(format!("a changed endpoint was not reached within {} s", limit.as_secs()))
    })
}

/// Changes without probes, for all contestants concurrently.
fn cost(session: &mut Session<'_>, world: &mut World, until: Instant) {
    let (rounds, scale) = (session.plan.repeat, world.scale);
    for round in 0..rounds {
        if round > 0 && Instant::now() >= until {
            break;
        }
        session.note(&format!("processor time of changes {}/{rounds}", round + 1));
        if let Err(failure) = batch(session, world) {
            session.note(&failure.to_string());
            break;
        }
    }
    for arena in world.arenas.iter().filter(|arena| arena.state == State::In) {
        let subject = &arena.contestant.subject;
        session.check_count(subject, Quantity::ChangeProcessorTime, scale, rounds);
        session.check_count(subject, Quantity::SteadyMemory, scale, rounds);
    }
}

fn batch(session: &mut Session<'_>, world: &mut World) -> Result<(), Failure> {
    let (scale, spacing) = (world.scale, session.plan.spacing());
    let limit = Instant::now() + session.plan.step_limit;
    let mut before = Vec::new();
    for arena in running(world) {
        before.push(rest(arena, limit)?);
    }
    for _ in 0..BATCH {
        for arena in running(world) {
            arena.change()?;
        }
        std::thread::sleep(spacing);
        for arena in running(world) {
            rest(arena, limit)?;
        }
    }
    for (arena, before) in running(world).zip(before) {
        add_cost(session, arena, scale, before)?;
    }
    Ok(())
}

fn running(world: &mut World) -> impl Iterator<Item = &mut Arena> {
    world.arenas.iter_mut().filter(|arena| arena.state == State::In && arena.running.is_some())
}

/// Waits until a contestant is at rest, and gives its processor time.
fn rest(arena: &Arena, until: Instant) -> Result<f64, Failure> {
    let Some(running) = &arena.running else { return Ok(0.0) };
    wait_for_rest(running.pid(), until).map_err(Failure::accounts)
}

fn add_cost(
    session: &mut Session<'_>,
    arena: &Arena,
    scale: Scale,
    before: f64,
) -> Result<(), Failure> {
    let Some(running) = &arena.running else { return Ok(()) };
    let subject = &arena.contestant.subject;
    let used = processor_seconds(running.pid()).map_err(Failure::accounts)? - before;
    session.add(subject, Quantity::ChangeProcessorTime, scale, [used / f64::from(BATCH)]);
    let memory = accounts::memory(running.pid()).map_err(Failure::accounts)?;
    session.add(subject, Quantity::SteadyMemory, scale, [memory.resident as f64]);
    Ok(())
}
