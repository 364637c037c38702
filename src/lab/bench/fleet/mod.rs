//! What a fleet of nodes asks of its API server: at the start, while things change, during an outage and after
//! it, and when the server has forgotten all versions. The nodes are the daemon's own client and watches,
//! without a kernel behind them; all of them run in this process.

mod counters;
mod nodes;
pub mod results;
mod text;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use serde_json::json;

use self::counters::{Counters, Server};
pub use self::nodes::Error as NodesError;
use self::nodes::Nodes;
use self::results::{Fleet, FleetLeftOut, FleetResults, Part, Phase, SCHEMA};
pub use self::text::table;
use super::{Scale, machine};
use sluice_cluster::api::{ApiServer, Options, Outage, StartError, WatchEnd};
use sluice_kubernetes::watch::{ClientOptions, Resource};

/// The most nodes that there is room for: each connection has a port of this machine.
pub const MOST_NODES: u32 = 6_000;

/// Seconds in which one object changes each.
const CHANGES: u32 = 10;
/// The longest pause of the daemon's watches, in seconds, and how long the last nodes may take beyond that.
const LONGEST_PAUSE: u32 = 60;
const LAST: u32 = 5;
/// Seconds after the server has forgotten all versions.
const RELIST: u32 = 20;
/// How long the last nodes may take to start.
const LATE: u32 = 60;
/// Connections of a node, one for each watch; and descriptors of one, of which the server needs two.
const CONNECTIONS: u32 = 4;
const DESCRIPTORS: u32 = 3;
/// Descriptors for everything else.
const OTHERS: u32 = 200;
/// As real servers do it; the lab's are more frequent by default.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number of nodes.
    #[error("a fleet of {0} nodes: there is room for 1 to {MOST_NODES}")]
    Count(u32),
    /// The nodes.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// The lab's server has no address.
    #[error("open a port of the loopback interface for the API server: {0}")]
    Listen(#[source] std::io::Error),
    /// The lab's server.
    #[error(transparent)]
    Server(#[from] StartError),
    /// Its objects.
    #[error("create the objects of the cluster: {0}")]
    Objects(#[from] sluice_cluster::api::ApiError),
}

/// What to play.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Numbers of nodes, one after the other.
    pub fleets: Vec<u32>,
    /// The cluster of the lab's server.
    pub scale: Scale,
    /// A server other than the lab's.
    pub given: Option<ClientOptions>,
    /// How long the outage is; how long a given server is observed.
    pub outage: Duration,
    /// The whole run.
    pub time_limit: Duration,
}

impl Plan {
    /// Seconds that a fleet takes at most.
    fn seconds(&self, nodes: u32) -> u32 {
        start_limit(nodes) + self.outage_seconds() + CHANGES + self.return_seconds() + RELIST
    }

    /// Until the last node is back: pauses double, and none is shorter than a quarter of what it can be, so that
    /// the one in which an outage ends is at most four times as long as the outage.
    fn return_seconds(&self) -> u32 {
        LAST + LONGEST_PAUSE.min(1 + self.outage_seconds().saturating_mul(4))
    }

    fn outage_seconds(&self) -> u32 {
        u32::try_from(self.outage.as_secs()).unwrap_or(u32::MAX / 2)
    }
}

fn start_limit(nodes: u32) -> u32 {
    nodes.div_ceil(nodes::STARTS) + LATE
}

/// Plays one fleet after the other. `command` is what repeats the run; `progress` receives progress messages.
///
/// # Errors
/// If nothing can be measured.
pub fn run(plan: &Plan, command: String, progress: &dyn Fn(&str)) -> Result<FleetResults, Error> {
    if let Some(count) = plan.fleets.iter().find(|count| !(1..=MOST_NODES).contains(count)) {
        return Err(Error::Count(*count));
    }
    let (begun, machine) = (Instant::now(), machine::read());
    let (mut fleets, mut left_out) = (Vec::new(), Vec::new());
    for &nodes in &plan.fleets {
        let left = plan.time_limit.saturating_sub(begun.elapsed());
        let reason = if left < Duration::from_secs(plan.seconds(nodes).into()) {
            Some(format!(
                "it takes up to {} s, and {} s were left",
                plan.seconds(nodes),
                left.as_secs()
            ))
        } else {
            descriptors(nodes).err()
        };
        if let Some(reason) = reason {
            left_out.push(FleetLeftOut { nodes, reason });
            continue;
        }
        let (fleet, missing) = play(plan, nodes, progress)?;
        fleets.push(fleet);
        left_out.extend(missing.map(|reason| FleetLeftOut { nodes, reason }));
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(FleetResults { schema: SCHEMA, machine, command, seconds, fleets, left_out })
}

/// Sees to it that there are descriptors for so many nodes.
fn descriptors(nodes: u32) -> Result<(), String> {
    let need = u64::from(nodes * CONNECTIONS * DESCRIPTORS + OTHERS);
    let raised = getrlimit(Limit::RLIMIT_NOFILE).and_then(|(_, most)| {
        setrlimit(Limit::RLIMIT_NOFILE, need.max(most), need.max(most)).map(|()| most)
    });
    match raised {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "it needs {need} descriptors: {error}; run it as root, or raise the hard limit of open files"
        )),
    }
}

/// One fleet against its server; beside it, why a part of it is missing.
fn play(
    plan: &Plan,
    nodes: u32,
    progress: &dyn Fn(&str),
) -> Result<(Fleet, Option<String>), Error> {
    let say = |part: Part| progress(&format!("{nodes} nodes: {}", part.title()));
    let lab = match plan.given {
        Some(_) => None,
        None => Some(lab_server(plan.scale, nodes)?),
    };
    let options = match (&plan.given, &lab) {
        (None, Some(api)) => ClientOptions { master: Some(api.url()), ..ClientOptions::default() },
        (given, _) => given.clone().unwrap_or_default(),
    };
    say(Part::Start);
    let fleet = Nodes::start(&options, nodes)?;
    let server = if lab.is_some() { Server::Here } else { Server::Elsewhere };
    let mut played = Played {
        counters: Counters::new(fleet.metrics.clone(), server),
        phases: Vec::new(),
        say: &say,
    };
    let missing = played.start(&fleet, nodes).err();
    match (&lab, &missing) {
        (Some(api), None) => played.faults(api, plan, nodes)?,
        (None, None) => played.idle(Part::Observed, plan.outage_seconds()),
        (_, Some(_)) => {}
    }
    let scale = lab.is_some().then_some(plan.scale);
    let (services, endpoints) = (scale.map(|s| s.services), scale.map(|s| s.endpoints));
    Ok((Fleet { nodes, services, endpoints, phases: played.phases }, missing))
}

/// The lab's API server with its cluster, on the loopback interface.
fn lab_server(scale: Scale, nodes: u32) -> Result<ApiServer, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(Error::Listen)?;
    let options = Options { bookmark_interval: BOOKMARKS, ..Options::default() };
    let api = ApiServer::start(listener, options)?;
    let node = |number| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": nodes::name(number)}});
    api.bulk_create(scale.objects())?;
    api.bulk_create((0..nodes).map(node).collect())?;
    Ok(api)
}

/// What was played so far.
struct Played<'a> {
    counters: Counters,
    phases: Vec<Phase>,
    say: &'a dyn Fn(Part),
}

impl Played<'_> {
    /// Waits until every watch gets changes.
    fn start(&mut self, fleet: &Nodes, nodes: u32) -> Result<(), String> {
        let watches = Resource::ALL.len() * usize::try_from(nodes).unwrap_or(usize::MAX);
        let mut seconds = Vec::new();
        for _ in 0..start_limit(nodes) {
            seconds.push(self.counters.second());
            if fleet.connected() == watches {
                break;
            }
        }
        self.phases.push(Phase { part: Part::Start, changes: 0, seconds });
        let connected = fleet.connected();
        if connected == watches {
            return Ok(());
        }
        let limit = start_limit(nodes);
        Err(format!("of {watches} watches only {connected} got changes {limit} s after the start"))
    }

    /// What the lab's server does to a fleet.
    fn faults(&mut self, api: &ApiServer, plan: &Plan, nodes: u32) -> Result<(), Error> {
        (self.say)(Part::Changes);
        let mut seconds = Vec::new();
        for turn in 0..CHANGES {
            let (pass, service) = (turn / plan.scale.services, turn % plan.scale.services);
            // Every pass over the Services replaces an endpoint, or takes it back.
            let slices = plan.scale.slices(service, 1 - pass % 2);
            api.update(&slices[0])?;
            seconds.push(self.counters.second());
        }
        self.phases.push(Phase { part: Part::Changes, changes: CHANGES, seconds });
        api.faults().set_outage(Outage::Disconnected);
        self.idle(Part::Outage, plan.outage_seconds());
        api.faults().set_outage(Outage::None);
        self.idle(Part::Return, plan.return_seconds());
        api.faults().refuse_next_watches_as_gone(CONNECTIONS * nodes);
        api.faults().end_watches(None, WatchEnd::Clean);
        self.idle(Part::Relist, RELIST);
        Ok(())
    }

    /// Counts for so many seconds.
    fn idle(&mut self, part: Part, seconds: u32) {
        (self.say)(part);
        let seconds = (0..seconds).map(|_| self.counters.second()).collect();
        self.phases.push(Phase { part, changes: 0, seconds });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_does_not_fit_into_the_time_is_left_out_and_named() {
        let plan = Plan {
            fleets: vec![10, 20],
            scale: Scale { services: 2, endpoints: 1 },
            given: None,
            outage: Duration::from_secs(60),
            time_limit: Duration::from_secs(100),
        };
        let results = run(&plan, String::new(), &|_| {}).expect("nothing is to be done");
        assert_eq!(results.fleets, []);
        let nodes: Vec<u32> = results.left_out.iter().map(|left| left.nodes).collect();
        assert_eq!(nodes, [10, 20]);
        assert!(results.left_out[0].reason.starts_with("it takes up to 216 s"), "{results:?}");
        let none = Plan { fleets: vec![0], ..plan };
        assert!(matches!(run(&none, String::new(), &|_| {}), Err(Error::Count(0))));
    }
}
