//! A change of one endpoint in a busy cluster: how long until a connection follows, while other Services
//! change so many times a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::objects::{Scale, changed_address};
use super::probe::until_answer;
use super::results::Quantity;
use super::session::{Failure, Session};
use super::world::{self, Arena, Error, State, World};
use sluice_cluster::api::ApiServer;

/// The resolution of the latency.
const GRAIN: Duration = Duration::from_micros(200);

/// The time between an answer and the next followed change: it falls upon all moments between two of the
/// other changes.
const PAUSE: Duration = Duration::from_millis(37);

/// For how long the others have changed before a change is followed.
const AHEAD: Duration = Duration::from_secs(1);

/// One contestant after the other, so that no two are busy at the same time.
pub(super) fn measure(session: &mut Session<'_>, world: &mut World, until: Instant) {
    if !session.plan.wants(Quantity::BusyChangeLatency) {
        return;
    }
    let (rounds, scale) = (session.plan.changes, world.scale);
    for arena in world.arenas.iter_mut().filter(|arena| arena.state == State::In) {
        let subject = arena.contestant.subject.clone();
        session.say("changes beside others", &subject, rounds, rounds);
        match beside_others(session, arena, scale, until) {
            Ok(samples) => session.add(&subject, Quantity::BusyChangeLatency, scale, samples),
            Err(failure) => session.drop_out(arena, scale, &failure),
        }
        session.check_count(&subject, Quantity::BusyChangeLatency, scale, rounds);
    }
}

/// Follows changes, each until it is in force, while others change. Gives the latencies in seconds.
fn beside_others(
    session: &Session<'_>,
    arena: &mut Arena,
    scale: Scale,
    until: Instant,
) -> Result<Vec<f64>, Failure> {
    let Arena { api, changes, stage, running, .. } = arena;
    let (Some(stage), Some(_)) = (stage, running) else { return Err(Failure::not_running()) };
    let (api, done) = (&*api, AtomicBool::new(false));
    let (plan, end) = (session.plan, session.end);
    let follow = || -> Result<Vec<f64>, Failure> {
        let mut samples = Vec::new();
        std::thread::sleep(AHEAD);
        while samples.len() < plan.changes && (samples.is_empty() || Instant::now() < until) {
            *changes += 1;
            let (written, endpoint) = world::change(api, *changes)?;
            let limit = end.min(Instant::now() + plan.step_limit);
            let answered =
                until_answer(changed_address(), written, limit, GRAIN, |by| by == endpoint);
            let answered = answered.map_err(Error::Traffic)?.ok_or_else(|| {
                let seconds = plan.step_limit.as_secs();
                Failure::Late(format!("a changed endpoint was not reached within {seconds} s"))
            })?;
            samples.push((answered - written).as_secs_f64());
            std::thread::sleep(PAUSE);
        }
        Ok(samples)
    };
    let client = stage.client.clone();
    std::thread::scope(|threads| {
        let others = threads.spawn(|| change_others(api, scale, plan.busy_rate, &done));
        let samples = client.namespace().run(follow).map_err(Error::from);
        done.store(true, Ordering::Relaxed);
        if let Ok(changed) = others.join() {
            changed?;
        }
        samples?
    })
}

/// Changes an endpoint of one Service after the other, until it is told to end.
fn change_others(
    api: &ApiServer,
    scale: Scale,
    rate: u32,
    done: &AtomicBool,
) -> Result<(), Failure> {
    let begin = Instant::now();
    for change in 0.. {
        let due = begin + Duration::from_secs(1) * change / rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if done.load(Ordering::Relaxed) {
            break;
        }
        let (service, round) = (change % scale.services, change / scale.services);
        for slice in scale.slices(service, (round + 1) % 2).iter().take(1) {
            api.update(slice).map_err(Error::from)?;
        }
    }
    Ok(())
}
