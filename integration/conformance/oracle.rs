//! What should happen: the case's objects go through a real API server, the real watches and the real
//! plan, and `decide` answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sluice::sync::host;
use sluice_cluster::address;
use sluice_cluster::api::{ApiServer, Options};
use sluice_config as config;
use sluice_core::model::{Change, Snapshot};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{
    self, Decision, ForwardingTable, Masquerade, Packet, PacketSource, PoolEndpoint, PortPlan,
};
use sluice_kubernetes::watch::{self, ClientOptions, Resource, Update, WatchOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::case::{Settings, SourceSeen, World};
use super::mode::Mode;
use super::objects;
use super::plan::{address_of, twin};

/// How long lists may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// The input of `decide` for the state of a case, in one family.
#[derive(Debug, Clone)]
pub(crate) struct Oracle {
    pub(crate) table: ForwardingTable,
    /// Addresses of this node.
    pub(crate) local: BTreeSet<IpAddr>,
}

/// One packet of a case, in one family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shot {
    /// The host that sends it.
    pub(crate) from: String,
    pub(crate) source: IpAddr,
    /// A certain source port; a fresh one for each connection otherwise.
    pub(crate) source_port: Option<u16>,
    pub(crate) protocol: Protocol,
    pub(crate) to: SocketAddr,
}

/// The outcome of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It arrives at any of these.
    Forward {
        to: BTreeMap<SocketAddr, SourceSeen>,
        /// Those of them that are pods of node-a and known as such.
        here: BTreeSet<SocketAddr>,
        /// Connections of one client with the same key stay at one endpoint.
        affinity: Option<String>,
    },
    Refuse,
    Silence,
    /// The proxy leaves it alone.
    Pass,
}

/// The snapshot of a case's objects, through a real API server and the daemon's watches.
pub(crate) fn snapshot(world: &World, family: Family) -> Result<Snapshot, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("loopback: {e}"))?;
    let api = ApiServer::start(listener, Options::default()).map_err(|e| e.to_string())?;
    let unchecked = world.writes.iter().filter_map(|(name, write)| match write {
        super::case::Write::Raw { .. } => Some(name.as_str()),
        _ => None,
    });
    let raw: BTreeSet<&str> = unchecked.collect();
    api.create(&objects::node(&world.node())).map_err(|e| e.to_string())?;
    for object in objects::objects(world, family)? {
        write(&api, &object, raw.is_empty())?;
    }
    listed(&api)
}

impl Oracle {
    /// Sends the objects of a case through API server, watches and the plan of a mode.
    pub(crate) fn new(
        settings: &Settings,
        mode: Mode,
        world: &World,
        family: Family,
    ) -> Result<Oracle, String> {
        Oracle::knowing(&snapshot(world, family)?, settings, mode, world, family)
    }

    /// The plan of a mode for a snapshot that exists already.
    pub(crate) fn knowing(
        snapshot: &Snapshot,
        settings: &Settings,
        mode: Mode,
        world: &World,
        family: Family,
    ) -> Result<Oracle, String> {
        let parsed = config::parse(&settings.file(mode)?, Path::new("settings"));
        let mut config = parsed.map_err(|e| e.to_string())?.config;
        config.strict_cluster_ips = settings.strict_cluster_ips();
        let local = local_addresses(world);
        let host = host::host(family, &config, snapshot.node.as_ref(), &local);
        let table = plan::build(family, "node-a", host, snapshot).0;
        Ok(Oracle { table, local })
    }

    /// The packet as it arrives at node-a.
    pub(crate) fn packet(&self, shot: &Shot) -> Packet {
        let source = if shot.from == "node" {
            PacketSource::ThisNode(shot.source)
        } else {
            PacketSource::Interface { ip: shot.source, name: interface(&shot.from) }
        };
        Packet {
            source,
            protocol: shot.protocol,
            destination: shot.to.ip(),
            to_this_node: self.local.contains(&shot.to.ip()),
            port: shot.to.port(),
        }
    }

    /// What should become of a packet.
    pub(crate) fn outcome(&self, shot: &Shot) -> Outcome {
        match plan::decide(&self.table, &self.packet(shot)) {
            Decision::Reject => Outcome::Refuse,
            Decision::Drop => Outcome::Silence,
            Decision::Pass => Outcome::Pass,
            Decision::Forward { service, pool, masquerade } => {
                let seen = |endpoint: &PoolEndpoint| {
                    let hairpin = endpoint.local && endpoint.ip == shot.source;
                    let seen = if hairpin || masquerade == Masquerade::Yes {
                        SourceSeen::Masqueraded
                    } else {
                        SourceSeen::Kept
                    };
                    (SocketAddr::new(endpoint.ip, endpoint.port), seen)
                };
                let port = self.port_of(shot);
                let affinity = port
                    .filter(|port| port.affinity.is_some())
                    .map(|port| format!("{} {service} {} {pool:?}", shot.source, port.name));
                let here = pool.iter().filter(|endpoint| endpoint.local);
                let here = here.filter(|endpoint| super::plan::is_on_node_a(endpoint.ip));
                let here = here.map(|endpoint| SocketAddr::new(endpoint.ip, endpoint.port));
                let (to, here) = (pool.iter().map(seen).collect(), here.collect());
                Outcome::Forward { to, here, affinity }
            }
        }
    }

    /// Whether the node itself is addressed.
    pub(crate) fn to_node(&self, shot: &Shot) -> bool {
        self.local.contains(&shot.to.ip())
    }

    fn port_of(&self, shot: &Shot) -> Option<&PortPlan> {
        use plan::Address::{NodePort, Vip};
        let (ip, protocol, port) = (shot.to.ip(), shot.protocol, shot.to.port());
        let ports = || self.table.services.values().flat_map(|service| &service.ports);
        let at =
            |address| ports().find(|candidate| candidate.frontends.iter().any(|f| f.at == address));
        at(Vip { ip, protocol, port }).or_else(|| at(NodePort { protocol, port }))
    }
}

/// The interface of node-a that a host's packets arrive through.
fn interface(host: &str) -> String {
    match super::plan::node_of(host).as_deref() {
        Some("node-a") => format!("veth-{host}"),
        _ => "eth0".to_owned(),
    }
}

/// Addresses of node-a's interfaces.
pub(crate) fn local_addresses(world: &World) -> BTreeSet<IpAddr> {
    let own = Family::BOTH.into_iter().filter_map(|family| address_of("node", family));
    let further = world.node().addresses;
    let further = further.iter().flat_map(|ip| Family::BOTH.map(|family| twin(*ip, family)));
    let links: [IpAddr; 4] = [
        address::POD_GATEWAY_V4.into(),
        address::POD_GATEWAY_V6.into(),
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]),
    ];
    own.chain(further).chain(links).collect()
}

/// Writes an object as a user would (so that cases are objects that a real API server accepts), or
/// past all checks.
fn write(api: &ApiServer, object: &Value, checked: bool) -> Result<(), String> {
    let failed = |error| format!("{error}: {object}");
    if !checked {
        return api.write_unchecked(object).map(drop).map_err(failed);
    }
    api.create(object).map_err(failed)?;
    if object["kind"] == "Service" && object["status"].is_object() {
        api.update_status(object).map_err(failed)?;
    }
    Ok(())
}

/// The state of the API as the daemon's own watches see it.
fn listed(api: &ApiServer) -> Result<Snapshot, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let gather = async {
        let master = Some(api.url());
        let options = ClientOptions { master, ..ClientOptions::default() };
        let server = watch::ApiServer::new(&options).await.map_err(|e| e.to_string())?;
        let (sender, mut updates) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let options = WatchOptions { node_name: "node-a".to_owned() };
        let mut tasks = watch::start(&server, &options, &sender, &stop);
        let (mut snapshot, mut dirty) = (Snapshot::default(), BTreeSet::new());
        let mut seen = BTreeSet::new();
        while seen.len() < Resource::ALL.len() {
            let Some(message) = updates.recv().await else { break };
            let Update::Change(change) = message.update else { continue };
            match &change {
                Change::Services(_) => seen.insert(Resource::Services),
                Change::Slices(_) => seen.insert(Resource::EndpointSlices),
                Change::Node(_) => seen.insert(Resource::Node),
                Change::ServiceCidrs(_) => seen.insert(Resource::ServiceCidrs),
                _ => false,
            };
            snapshot.apply(change, &mut dirty);
        }
        stop.cancel();
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        Ok(snapshot)
    };
    let timed = runtime.block_on(async { tokio::time::timeout(PATIENCE, gather).await });
    timed.map_err(|_| "the lists did not arrive".to_owned())?
}
