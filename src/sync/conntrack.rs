//! Which tracked flows have outlived their endpoint, and the removal of these.
//!
//! The kernel translates a flow for as long as it remembers it. A UDP client that goes on sending
//! from one port keeps the flow alive, so without help it would talk to a dead endpoint for ever, or
//! to nobody if it began before there was one. [`Frontends`] (pure) remembers who may answer at each
//! address and knows after a change which flows are wrong; [`Conntrack`] asks the kernel for them,
//! once the new rules are in force. `docs/conntrack.md` says what is removed and why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::kernel::conntrack::{self, ConntrackError, Flow};
use crate::model::{Condition, ServiceName, Snapshot};
use crate::net::{Family, Protocol};
use crate::plan::{Address, ForwardingTable, NodePortAddresses, PortPlan, Verdict};

/// What becomes of a TCP connection whose endpoint is no longer one of its Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RemovedTcp {
    /// It lives for as long as the endpoint answers (upstream's behaviour).
    #[default]
    Keep,
    /// The client's next segment is answered by a reset.
    Reset,
}

/// What the rest of the loop knows, for one family.
pub(super) struct World<'a> {
    /// What is in force.
    pub(super) table: &'a ForwardingTable,
    /// What it was made from.
    pub(super) snapshot: &'a Snapshot,
    /// The addresses of this node's interfaces.
    pub(super) local: &'a BTreeSet<IpAddr>,
    /// What the kernel sees of the endpoints of a port, as in [`crate::backend::Backend::answered_by`].
    pub(super) answered_by: &'a mut AnsweredBy<'a>,
}

/// From a port and its endpoints to those whom the kernel sees answer.
pub(super) type AnsweredBy<'a> =
    dyn FnMut(&ServiceName, &PortPlan, BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> + 'a;

/// Removes flows of one family that have outlived their endpoint.
#[derive(Debug)]
pub(super) struct Conntrack {
    frontends: Frontends,
    /// Services that may have changed since the rules were last in force.
    touched: BTreeSet<ServiceName>,
    trouble: Trouble,
}

/// Why flows are not removed at present.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// This failed; it was said once and is tried again.
    Passing(String),
    /// The kernel does not offer its connections.
    Unsupported,
}

impl Conntrack {
    pub(super) fn new(family: Family, removed_tcp: RemovedTcp) -> Conntrack {
        let frontends = Frontends::new(family, removed_tcp);
        Conntrack { frontends, touched: BTreeSet::new(), trouble: Trouble::None }
    }

    /// Services may have changed.
    pub(super) fn touch<'a>(&mut self, services: impl IntoIterator<Item = &'a ServiceName>) {
        self.touched.extend(services.into_iter().cloned());
    }

    /// Removes what the changes so far have made stale. To be called when the rules are in force, but
    /// for the Services that were `refused`. What fails is tried again the next time. Gives how long it
    /// took and how many flows were removed, if there was anything to look at.
    pub(super) fn reconcile<'a>(
        &mut self,
        world: World<'_>,
        refused: impl IntoIterator<Item = &'a ServiceName>,
    ) -> Option<(Duration, usize)> {
        let mut touched = std::mem::take(&mut self.touched);
        for service in refused {
            if touched.remove(service) {
                self.touched.insert(service.clone());
            }
        }
        self.frontends.update(world, &touched);
        if self.trouble == Trouble::Unsupported || !self.frontends.are_suspicious() {
            return None;
        }
        let started = Instant::now();
        match self.remove_stale() {
            Ok(removed) => {
                self.trouble = Trouble::None;
                Some((started.elapsed(), removed))
            }
            Err(trouble) => {
                self.trouble = trouble;
                None
            }
        }
    }

    /// Removes stale flows of all suspects; how many it were.
    fn remove_stale(&mut self) -> Result<usize, Trouble> {
        let protocols = self.frontends.suspected();
        let family = self.frontends.family;
        let started = Instant::now();
        match conntrack::remove(family, &protocols, |flow| self.frontends.is_stale(flow)) {
            Ok(done) => {
                self.frontends.settle();
                let (flows, removed, elapsed) = (done.seen, done.removed, started.elapsed());
                if removed > 0 {
                    tracing::info!(%family, flows, removed, ?elapsed, "removed stale flows");
                } else {
                    tracing::debug!(%family, flows, ?elapsed, "found no stale flows");
                }
                Ok(removed)
            }
            Err(error @ ConntrackError::Unsupported) => {
                tracing::warn!(%family, "{error}; flows to endpoints that are gone are not removed");
                Err(Trouble::Unsupported)
            }
            Err(error) => {
                let trouble = Trouble::Passing(error.to_string());
                if self.trouble != trouble {
                    tracing::warn!(%family, "{error}; trying again with the next sync");
                }
                Err(trouble)
            }
        }
    }
}

/// The endpoints that may answer at a frontend.
type Answerers = Arc<BTreeSet<SocketAddr>>;

/// Every frontend whose flows can go stale, and which of them have to be looked at.
#[derive(Debug)]
struct Frontends {
    family: Family,
    removed_tcp: RemovedTcp,
    answerers: FxHashMap<Address, Answerers>,
    held: BTreeMap<ServiceName, Vec<Address>>,
    /// The node's addresses that accept traffic to node ports now.
    node: BTreeSet<IpAddr>,
    /// Those that ever did: flows to them are still translated.
    node_ever: BTreeSet<IpAddr>,
    /// Frontends that came or went, or lost an endpoint, or got their first one.
    suspects: BTreeSet<Address>,
}

impl Frontends {
    fn new(family: Family, removed_tcp: RemovedTcp) -> Frontends {
        Frontends {
            family,
            removed_tcp,
            answerers: FxHashMap::default(),
            held: BTreeMap::new(),
            node: BTreeSet::new(),
            node_ever: BTreeSet::new(),
            suspects: BTreeSet::new(),
        }
    }

    /// Takes in what the table has now for the touched Services.
    fn update(&mut self, world: World<'_>, touched: &BTreeSet<ServiceName>) {
        self.update_node(&world);
        let mut before: FxHashMap<Address, Option<Answerers>> = FxHashMap::default();
        for address in touched.iter().filter_map(|name| self.held.remove(name)).flatten() {
            // An address may have gone to another of the touched Services: that comes below.
            before.insert(address, self.answerers.remove(&address));
        }
        for name in touched {
            let Some(plan) = world.table.services.get(name) else { continue };
            let mut held = Vec::new();
            for port in &plan.ports {
                if !self.follows(port.protocol) {
                    continue;
                }
                let endpoints = answerers(world.snapshot, name, self.family, port);
                let answerers = Arc::new((world.answered_by)(name, port, endpoints));
                let usable = port.frontends.iter().filter(|frontend| {
                    // Where new connections are dropped, one that is cut would hang, not be reset.
                    let drops = frontend.routes.iter().any(|route| route.verdict == Verdict::Drop);
                    port.protocol != Protocol::Tcp || !drops
                });
                for address in usable.map(|frontend| frontend.at) {
                    self.answerers.insert(address, Arc::clone(&answerers));
                    before.entry(address).or_insert(None);
                    held.push(address);
                }
            }
            if !held.is_empty() {
                self.held.insert(name.clone(), held);
            }
        }
        for (address, before) in before {
            if is_suspicious(before.as_deref(), self.answerers.get(&address).map(|a| &**a)) {
                self.suspects.insert(address);
            }
        }
    }

    /// A flow to an address that accepts node ports from now on may have begun before.
    fn update_node(&mut self, World { table, local, .. }: &World<'_>) {
        let now: BTreeSet<IpAddr> = match &table.host.node_ports {
            NodePortAddresses::Only(ips) => ips.clone(),
            NodePortAddresses::AnyLocal => {
                let usable = |ip: &&IpAddr| Family::of(**ip) == self.family && !ip.is_loopback();
                local.iter().filter(usable).copied().collect()
            }
        };
        if !now.is_subset(&self.node) {
            let node_ports = |address: &&Address| matches!(address, Address::NodePort { .. });
            self.suspects.extend(self.answerers.keys().filter(node_ports));
        }
        self.node_ever.extend(now.iter().copied());
        self.node = now;
    }

    fn follows(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Udp | Protocol::Sctp => true,
            Protocol::Tcp => self.removed_tcp == RemovedTcp::Reset,
        }
    }

    /// Whether there is anything to look at.
    fn are_suspicious(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// The protocols of the flows that have to be looked at.
    fn suspected(&self) -> BTreeSet<Protocol> {
        let protocol = |address: &Address| match *address {
            Address::Vip { protocol, .. } | Address::NodePort { protocol, .. } => protocol,
        };
        self.suspects.iter().map(protocol).collect()
    }

    /// Whether the kernel must forget a flow.
    fn is_stale(&self, flow: &Flow) -> bool {
        let (protocol, ip, port) = (flow.protocol, flow.destination.ip(), flow.destination.port());
        let vip = Address::Vip { ip, protocol, port };
        if let Some(answerers) = self.answerers.get(&vip) {
            return self.suspects.contains(&vip) && has_outlived(flow, answerers);
        }
        let to_node = self.node_ever.contains(&ip);
        let node_port = Address::NodePort { protocol, port };
        if let Some(answerers) = self.answerers.get(&node_port).filter(|_| to_node) {
            // What is not redirected at a former address may be meant for this node itself.
            let ours = flow.is_redirected() || self.node.contains(&ip);
            return ours && self.suspects.contains(&node_port) && has_outlived(flow, answerers);
        }
        // The frontend is gone. A TCP connection is left to end as it may: nothing would answer
        // its next segment, not even with a reset.
        let gone = self.suspects.contains(&vip) || to_node && self.suspects.contains(&node_port);
        gone && flow.is_redirected() && protocol != Protocol::Tcp
    }

    /// All suspects were looked at.
    fn settle(&mut self) {
        self.suspects.clear();
    }
}

/// Whether flows to a frontend can have become wrong, by who answered before and who does now.
fn is_suspicious(
    before: Option<&BTreeSet<SocketAddr>>,
    now: Option<&BTreeSet<SocketAddr>>,
) -> bool {
    match (before, now) {
        (None, None) => false,
        (None, Some(_)) | (Some(_), None) => true,
        (Some(before), Some(now)) => !before.is_subset(now) || before.is_empty() && !now.is_empty(),
    }
}

/// Whether a flow to a frontend is answered by somebody who should not, or by nobody although
/// somebody should.
fn has_outlived(flow: &Flow, answerers: &BTreeSet<SocketAddr>) -> bool {
    if flow.is_redirected() {
        !answerers.contains(&flow.answered_by)
    } else {
        !answerers.is_empty() && flow.protocol != Protocol::Tcp
    }
}

/// The endpoints of a port that may go on answering: all that serve. Traffic policies, topology and
/// the preference for endpoints that do not terminate choose for new flows only, as they do for TCP
/// connections (upstream: `pkg/proxy/conntrack/cleanup.go`).
fn answerers(
    snapshot: &Snapshot,
    service: &ServiceName,
    family: Family,
    port: &PortPlan,
) -> BTreeSet<SocketAddr> {
    let slices = snapshot.slices.get(service).into_iter().flatten();
    let mut found = BTreeSet::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let same =
            |p: &&crate::model::EndpointPort| p.name == port.name && p.protocol == port.protocol;
        for number in slice.ports.iter().filter(same).map(|p| p.port) {
            let serving = slice.endpoints.iter().filter(|e| e.condition != Condition::Unusable);
            found.extend(serving.map(|e| SocketAddr::new(e.address, number)));
        }
    }
    found
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
