//! Restarts over the rules that are in the kernel already.

use std::time::{Duration, Instant};

use super::accounts::wait_for_rest;
use super::results::Quantity;
use super::session::{Failure, Session};
use super::world::{Error, State, World, families};

/// How long a program may take to come to rest after its start.
const REST: Duration = Duration::from_secs(20);

/// Restarts every contestant again and again, in turn. After the last time they run on.
pub(super) fn measure(session: &mut Session<'_>, world: &mut World, until: Instant) {
    const QUANTITIES: [Quantity; 2] = [Quantity::ResyncTime, Quantity::ResyncProcessorTime];
    if !QUANTITIES.into_iter().any(|quantity| session.plan.wants(quantity)) {
        return;
    }
    let (rounds, scale) = (session.plan.repeat, world.scale);
    for round in 0..rounds {
        for index in 0..world.arenas.len() {
            if world.arenas[index].state == State::Out || (round > 0 && Instant::now() >= until) {
                continue;
            }
            session.say("restart", &world.arenas[index].contestant.subject, round + 1, rounds);
            if let Err(failure) = restart(session, world, index) {
                session.drop_out(&mut world.arenas[index], scale, &failure);
            }
        }
    }
    for arena in world.arenas.iter().filter(|arena| arena.state == State::In) {
        for quantity in QUANTITIES {
            session.check_count(&arena.contestant.subject, quantity, scale, rounds);
        }
    }
}

fn restart(session: &mut Session<'_>, world: &mut World, index: usize) -> Result<(), Failure> {
    if let Some(running) = world.arenas[index].running.take() {
        running.end().map_err(Error::from)?;
    }
    world.start(index)?;
    let scale = world.scale;
    let arena = &world.arenas[index];
    let Some((stage, running)) = arena.on_stage() else { return Err(Failure::not_running()) };
    let limit = session.plan.step_limit;
    let until = session.until(running.started + limit);
    let wait = || running.wait_until_ready(families(), until);
    let ready = stage.node.namespace().run(wait).map_err(Error::from)?;
    let Some(ready) = ready else {
        let seconds = limit.as_secs();
        return Err(Failure::Late(format!("not ready within {seconds} s of its restart")));
    };
    let subject = &arena.contestant.subject;
    let took = (ready - running.started).as_secs_f64();
    session.add(subject, Quantity::ResyncTime, scale, [took]);
    let used = wait_for_rest(running.pid(), Instant::now() + REST).map_err(Failure::accounts)?;
    session.add(subject, Quantity::ResyncProcessorTime, scale, [used]);
    Ok(())
}
