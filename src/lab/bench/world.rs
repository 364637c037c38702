//! Where it is measured: a lab whose endpoints all answer, an API server for each contestant, and a
//! fresh node for each start.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::contestant::{self, Contestant, Running};
use super::objects::{self, Scale};
use super::server;
use sluice_cluster::api::{ApiError, ApiServer, Options, StartError};
use sluice_cluster::cluster::node_object;
use sluice_cluster::{Lab, LabSpec, Node, Pod, netns, topology};
use sluice_core::net::Family;
use sluice_kernel as kernel;

/// The port of the first API server; the others follow.
const API_PORT: u16 = 6443;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network.
    #[error(transparent)]
    Network(#[from] topology::Error),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// What answers at the endpoints.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// An API server has no address.
    #[error("listen for an API server: {0}")]
    Listen(#[source] std::io::Error),
    /// An API server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An API server refused an object.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A program under test.
    #[error(transparent)]
    Contestant(#[from] contestant::Error),
    /// Something about a process or the machine could not be read.
    #[error("read what the kernel accounts: {0}")]
    Accounts(#[source] std::io::Error),
    /// Connections could not be made.
    #[error("make connections: {0}")]
    Traffic(#[source] std::io::Error),
}

/// A node with a client and the pod that has all endpoints.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) node: Node,
    pub(super) client: Pod,
    /// What the endpoints have swallowed, in bytes.
    pub(super) swallowed: Arc<AtomicU64>,
}

impl Stage {
    fn on(lab: &Lab, node: Node) -> Result<Stage, Error> {
        let client = lab.add_pod(&format!("{}-client", node.name()), &node, &[])?;
        let server = lab.add_pod(&format!("{}-server", node.name()), &node, &[])?;
        lab.give_block(&server, objects::block())?;
        let swallowed = server::start(&server)?;
        Ok(Stage { node, client, swallowed })
    }
}

/// A contestant with its own API server, so that it sees only its own changes.
#[derive(Debug)]
pub(super) struct Arena {
    // Fields drop in order: the program before its API server.
    pub(super) running: Option<Running>,
    pub(super) contestant: Contestant,
    pub(super) api: ApiServer,
    pub(super) stage: Option<Stage>,
    /// How often the changed Service has been changed.
    pub(super) changes: usize,
    /// Whether it takes part.
    pub(super) state: State,
}

/// Whether a contestant takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It does.
    In,
    /// It failed; the record has the reason.
    Out,
}

/// The lab at one scale.
#[derive(Debug)]
pub(super) struct World {
    // Fields drop in order: programs before the network that they live in.
    pub(super) arenas: Vec<Arena>,
    /// A node without a proxy.
    pub(super) direct: Stage,
    lab: Lab,
    pub(super) scale: Scale,
    min_sync: Option<Duration>,
}

impl World {
    /// Builds it; no program is started.
    pub(super) fn new(
        contestants: &[Contestant],
        scale: Scale,
        min_sync: Option<Duration>,
    ) -> Result<World, Error> {
        let lab = Lab::new(LabSpec { nodes: 1 })?;
        let direct = Stage::on(&lab, lab.node("node-a")?)?;
        let objects = scale.objects();
        let mut arenas = Vec::new();
        for (port, contestant) in (API_PORT..).zip(contestants) {
            let fabric = lab.fabric();
            let address = fabric.socket_addr(Family::V4, port);
            let listener = fabric.namespace().run(move || TcpListener::bind(address))?;
            let api = ApiServer::start(listener.map_err(Error::Listen)?, Options::default())?;
            api.bulk_create(objects.clone())?;
            let contestant = contestant.clone();
            let (running, stage, state) = (None, None, State::In);
            arenas.push(Arena { running, contestant, api, stage, changes: 0, state });
        }
        Ok(World { arenas, direct, lab, scale, min_sync })
    }

    /// Makes a fresh node for a contestant. Its former one stays as it is until the end: to remove
    /// thousands of rules is work that would disturb what is measured next.
    pub(super) fn fresh_stage(&mut self, arena: usize) -> Result<(), Error> {
        let arena = &mut self.arenas[arena];
        if let Some(running) = arena.running.take() {
            running.end()?;
        }
        let stage = Stage::on(&self.lab, self.lab.add_node()?)?;
        arena.api.create(&node_object(&stage.node))?;
        arena.stage = Some(stage);
        Ok(())
    }

    /// Starts a contestant's program on its node.
    pub(super) fn start(&mut self, arena: usize) -> Result<(), Error> {
        let min_sync = self.min_sync;
        let arena = &mut self.arenas[arena];
        let Some(stage) = &arena.stage else { return Ok(()) };
        let running = arena.contestant.start(&stage.node, &arena.api.url(), min_sync)?;
        arena.running = Some(running);
        Ok(())
    }
}

impl Arena {
    /// Changes the changed Service, and gives the moment of the write and the endpoint that it leads
    /// to now.
    pub(super) fn change(&mut self) -> Result<(Instant, Ipv4Addr), Error> {
        self.changes += 1;
        change(&self.api, self.changes)
    }

    /// The client on its node, and where it runs.
    pub(super) fn on_stage(&self) -> Option<(&Stage, &Running)> {
        self.stage.as_ref().zip(self.running.as_ref())
    }
}

/// Writes how the changed Service is after so many changes, and gives the moment of the write and the
/// endpoint that it leads to now.
pub(super) fn change(api: &ApiServer, changes: usize) -> Result<(Instant, Ipv4Addr), Error> {
    let slice: Value = objects::changed(changes);
    let written = api.update(&slice)?.written;
    Ok((written, objects::turn(changes)))
}

/// How many IP families a proxy on this machine serves.
pub(super) fn families() -> usize {
    Family::BOTH.into_iter().filter(|family| kernel::has_family(*family)).count()
}

/// Addresses that a start is measured by.
pub(super) fn probed(scale: Scale) -> Vec<SocketAddrV4> {
    const PROBED: usize = 20;
    scale.spread(sluice_core::net::Protocol::Tcp, PROBED)
}
