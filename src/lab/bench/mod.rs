//! What each proxy mode costs, measured side by side on one machine.
//!
//! [`run`] builds a [`world`] for each number of Services and measures in five steps: starts on fresh
//! nodes ([`start`]), changes of one endpoint among many others ([`busy`]) and alone ([`changes`]), restarts over existing rules
//! ([`restart`]) and traffic ([`traffic`]). Contestants take turns within each step, so that
//! whatever else the machine does meets all of them. [`results`] are the values that a run produces;
//! everything that is shown is made from them, by [`report`].

mod accounts;
mod busy;
mod changes;
mod contestant;
pub mod fleet;
mod kernel_objects;
mod machine;
mod objects;
mod plan;
mod probe;
mod record;
pub mod report;
mod restart;
pub mod results;
mod server;
mod session;
mod start;
mod traffic;
mod world;

use std::time::{Duration, Instant};

pub use self::contestant::Error as ContestantError;
pub use self::objects::{MOST_ENDPOINTS, MOST_SERVICES, Scale};
pub use self::plan::{Direct, Plan, PlanError};
use self::record::Record;
use self::results::{Results, SCHEMA};
pub use self::server::Error as ServerError;
use self::session::Session;
pub use self::world::Error as WorldError;
use self::world::World;
use sluice_cluster::Namespace;
use sluice_config::Mode;
use sluice_kernel::ipvs::{Ipvs, IpvsError};

/// Parts of a scale's time, in percent, that are used up when starts, changes and restarts end.
const SHARES: [u32; 3] = [45, 75, 85];

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan is invalid.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The network, or what answers in it.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A program under test.
    #[error(transparent)]
    Contestant(#[from] ContestantError),
}

/// Measures. The program must have called [`sluice_cluster::prepare`] for a private lab. `command` is what
/// repeats the run; `progress` receives progress messages.
///
/// # Errors
/// If nothing can be measured. What a contestant fails at is part of the results.
pub fn run(plan: &Plan, command: String, progress: &dyn Fn(&str)) -> Result<Results, Error> {
    plan.check()?;
    let (begun, machine) = (Instant::now(), machine::read());
    let end = begun + plan.time_limit;
    let contestants = plan.contestants()?;
    let mut session = Session { plan, record: Record::default(), progress, end };
    for (index, &services) in plan.services.iter().enumerate() {
        let scale = Scale { services, endpoints: plan.endpoints };
        let left = end.saturating_duration_since(Instant::now());
        let scales = u32::try_from(plan.services.len() - index).unwrap_or(1);
        if left.is_zero() {
            for contestant in &contestants {
                let reason = "the time limit had passed before its turn".to_owned();
                session.record.leave_out(&contestant.subject, None, Some(services), reason);
            }
            continue;
        }
        progress(&format!("{services} Services with {} endpoints each", plan.endpoints));
        let mut world = World::new(&contestants, scale, plan.min_sync)?;
        measure(&mut session, &mut world, left / scales);
    }
    let Record { measurements, left_out } = session.record;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Results { schema: SCHEMA, machine, command, seconds, measurements, left_out })
}

fn measure(session: &mut Session<'_>, world: &mut World, time: Duration) {
    let begun = Instant::now();
    let [starts, changes, restarts] = SHARES.map(|percent| begun + time * percent / 100);
    start::measure(session, world, starts);
    busy::measure(session, world, changes);
    changes::measure(session, world, changes);
    restart::measure(session, world, restarts);
    traffic::measure(session, world, begun + time);
}

/// Whether this kernel has what a mode needs, and otherwise why it has not, in one sentence. To be
/// called where a lab can be built.
pub fn missing(mode: Mode) -> Option<String> {
    if mode != Mode::Ipvs {
        return None;
    }
    let name = format!("sluice-{}-ipvs", std::process::id());
    let opened = Namespace::create(&name).and_then(|namespace| namespace.run(Ipvs::open));
    match opened {
        Ok(Ok(_)) => None,
        Ok(Err(IpvsError::Unsupported)) => Some("this kernel has no IPVS".to_owned()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}
