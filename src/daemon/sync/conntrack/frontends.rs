//! The endpoints that may answer at each frontend, and the flows that a change has made stale.
//!
//! Rules take effect in steps: tables are committed one after the other, and a packet that has met the old
//! rules of one enters conntrack only when it leaves. So the flows of every frontend affected by a change are
//! checked once the last rule is in place, and again [`SETTLING`] later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::RemovedTcp;
use sluice_core::model::{Condition, ServiceName, Snapshot};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{
    Address, Admit, ForwardingTable, Frontend, NodePortAddresses, PortPlan, SourceClass, Verdict,
};
use sluice_dataplane::Backend;
use sluice_kernel::conntrack::{Flow, Part};

/// The time after a sync until the last packet that met older rules has left: on a loaded node, its sender
/// may be interrupted meanwhile.
const SETTLING: Duration = Duration::from_secs(1);

/// The number of frontends remembered separately while conntrack cannot be read.
const MOST_SUSPECTS: usize = 10_000;

/// What the rest of the loop knows, for one family.
pub(in crate::sync) struct World<'a> {
    /// The applied rules.
    pub(in crate::sync) table: &'a ForwardingTable,
    /// What it was made from.
    pub(in crate::sync) snapshot: &'a Snapshot,
    /// The addresses of this node's interfaces.
    pub(in crate::sync) local: &'a BTreeSet<IpAddr>,
    /// Whether node ports answer on localhost, where they are open on all of these.
    pub(in crate::sync) on_localhost: bool,
    /// The backend that applied them.
    pub(in crate::sync) backend: &'a mut dyn Backend,
}

/// The endpoints that may answer at a frontend, as connection tracking sees them.
type Answerers = Arc<BTreeSet<SocketAddr>>;

/// The properties of a frontend that decide about flows.
#[derive(Debug)]
struct Served {
    /// The endpoints whose flows are kept; empty if unused.
    answerers: Answerers,
    /// Whether flows that are translated to others are removed.
    cuts: bool,
    /// The classes of sources that are forwarded to an endpoint, one bit each.
    forwards: u8,
    admit: Admit,
}

/// A frontend whose flows must be checked.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    /// When its rules came into force.
    since: Instant,
    /// It has been checked, but too early to be final.
    looked: bool,
}

/// Every frontend whose flows can become stale, and those whose flows must be checked.
#[derive(Debug)]
pub(super) struct Frontends {
    family: Family,
    removed_tcp: RemovedTcp,
    served: FxHashMap<Address, Served>,
    held: BTreeMap<ServiceName, Vec<Address>>,
    nobody: Answerers,
    /// The node's addresses that accept traffic to node ports now.
    node: BTreeSet<IpAddr>,
    /// Former ones, until their flows have been checked.
    left: BTreeMap<IpAddr, Suspect>,
    /// Frontends that came or went, lost an endpoint, or send sources to endpoints that they did not
    /// send there before.
    suspects: BTreeMap<Address, Suspect>,
    /// Every frontend.
    all: Option<Suspect>,
}

impl Frontends {
    pub(super) fn new(family: Family, removed_tcp: RemovedTcp) -> Frontends {
        Frontends {
            family,
            removed_tcp,
            served: FxHashMap::default(),
            held: BTreeMap::new(),
            nobody: Arc::default(),
            node: BTreeSet::new(),
            left: BTreeMap::new(),
            suspects: BTreeMap::new(),
            all: None,
        }
    }

    /// Updates the frontends of the touched Services from the table, which was applied at `now`.
    pub(super) fn update(
        &mut self,
        world: &mut World<'_>,
        touched: &BTreeSet<ServiceName>,
        now: Instant,
    ) {
        self.update_node(world, now);
        let mut before: FxHashMap<Address, Option<Served>> = FxHashMap::default();
        for address in touched.iter().filter_map(|name| self.held.remove(name)).flatten() {
            // An address may have gone to another of the touched Services: that comes below.
            before.insert(address, self.served.remove(&address));
        }
        for name in touched {
            let Some(plan) = world.table.services.get(name) else { continue };
            let mut held = Vec::new();
            for port in &plan.ports {
                let answerers = self.answerers(world, name, port);
                for frontend in &port.frontends {
                    let served = self.served(frontend, port.protocol, answerers.as_ref());
                    self.served.insert(frontend.at, served);
                    before.entry(frontend.at).or_insert(None);
                    held.push(frontend.at);
                }
            }
            if !held.is_empty() {
                self.held.insert(name.clone(), held);
            }
        }
        for (address, before) in before {
            if is_suspicious(protocol(&address), before.as_ref(), self.served.get(&address)) {
                self.suspects.insert(address, Suspect::new(now));
            }
        }
    }

    /// Whether a Service had frontends in the last applied rules.
    pub(super) fn holds(&self, service: &ServiceName) -> bool {
        self.held.contains_key(service)
    }

    /// A flow to an address that accepts node ports from now on may have begun before; one to an
    /// address that does not any more may still be translated.
    fn update_node(&mut self, World { table, local, on_localhost, .. }: &World<'_>, at: Instant) {
        let now: BTreeSet<IpAddr> = match &table.host.node_ports {
            NodePortAddresses::Only(ips) => ips.clone(),
            NodePortAddresses::AnyLocal => {
                let usable = |ip: &&IpAddr| {
                    Family::of(**ip) == self.family && (*on_localhost || !ip.is_loopback())
                };
                local.iter().filter(usable).copied().collect()
            }
        };
        if !now.is_subset(&self.node) {
            let node_port = |address: &&Address| matches!(address, Address::NodePort { .. });
            let ports = self.served.keys().filter(node_port);
            self.suspects.extend(ports.map(|address| (*address, Suspect::new(at))));
        }
        self.left.extend(self.node.difference(&now).map(|ip| (*ip, Suspect::new(at))));
        self.left.retain(|ip, _| !now.contains(ip));
        self.node = now;
    }

    /// Rules may have been missing, of which it is not known.
    pub(super) fn suspect_all(&mut self, now: Instant) {
        self.all = Some(Suspect::new(now));
    }

    /// Conntrack cannot be read: suspects are not kept, and all frontends are checked once it can be.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.suspects.clear();
        self.left.clear();
        self.suspect_all(now);
    }

    /// The same if there are too many of them.
    pub(super) fn give_up_if_many(&mut self, now: Instant) {
        if self.suspects.len() + self.left.len() > MOST_SUSPECTS {
            self.give_up(now);
        }
    }

    /// The endpoints whose flows are kept at the frontends of a port, if flows are deleted there. The
    /// backend's own connections to others are closed.
    fn answerers(
        &self,
        world: &mut World<'_>,
        name: &ServiceName,
        port: &PortPlan,
    ) -> Option<Answerers> {
        if port.protocol == Protocol::Tcp && self.removed_tcp == RemovedTcp::Keep {
            return None;
        }
        let endpoints = serving(world.snapshot, name, self.family, port);
        world.backend.retain_endpoints(name, port, &endpoints);
        Some(Arc::new(world.backend.translated_to(name, port, endpoints)))
    }

    fn served(
        &self,
        frontend: &Frontend,
        protocol: Protocol,
        answerers: Option<&Answerers>,
    ) -> Served {
        // Where new connections are dropped, one that is cut would hang, not be reset.
        let drops = || frontend.routes.iter().any(|route| route.verdict == Verdict::Drop);
        let cuts = answerers.is_some() && (protocol != Protocol::Tcp || !drops());
        Served {
            answerers: Arc::clone(answerers.unwrap_or(&self.nobody)),
            cuts,
            forwards: forwards(frontend),
            admit: frontend.admit.clone(),
        }
    }

    /// When flows must be checked next; a past instant means at once.
    pub(super) fn due(&self) -> Option<Instant> {
        let all = self.suspects.values().chain(self.left.values()).chain(&self.all);
        all.map(|suspect| if suspect.looked { suspect.since + SETTLING } else { suspect.since })
            .min()
    }

    /// The flows that must be checked.
    pub(super) fn wanted(&self) -> BTreeMap<Protocol, Part> {
        let node_ports = || {
            let addresses = self.served.keys().filter(|_| !self.left.is_empty());
            addresses.filter(|address| matches!(address, Address::NodePort { .. }))
        };
        let every = self.served.keys().filter(|_| self.all.is_some());
        let addresses = self.suspects.keys().chain(every).chain(node_ports());
        addresses.map(|address| self.part(protocol(address))).collect()
    }

    fn part(&self, protocol: Protocol) -> (Protocol, Part) {
        let silent = protocol == Protocol::Tcp && self.removed_tcp == RemovedTcp::Keep;
        (protocol, if silent { Part::Unreplied } else { Part::All })
    }

    /// Whether a flow is stale.
    pub(super) fn is_stale(&self, flow: &Flow) -> bool {
        let (protocol, ip, port) = (flow.protocol, flow.destination.ip(), flow.destination.port());
        let suspected = |at| self.all.is_some() || self.suspects.contains_key(at);
        let vip = Address::Vip { ip, protocol, port };
        if let Some(served) = self.served.get(&vip) {
            return suspected(&vip) && has_outlived(flow, served);
        }
        let node_port = Address::NodePort { protocol, port };
        let served = self.served.get(&node_port);
        if self.node.contains(&ip) {
            if let Some(served) = served {
                return suspected(&node_port) && has_outlived(flow, served);
            }
        } else if !self.left.contains_key(&ip) {
            return self.suspects.contains_key(&vip) && is_left_over(flow);
        }
        // The frontend is gone, or its address. What is not redirected there may be meant for this
        // node itself.
        let at_node_port = served.is_some() || self.suspects.contains_key(&node_port);
        (self.suspects.contains_key(&vip) || at_node_port) && is_left_over(flow)
    }

    /// All suspects were checked, by a read that began at that time.
    pub(super) fn settle(&mut self, begun: Instant) {
        let stays = |suspect: &mut Suspect| {
            if suspect.since <= begun {
                suspect.looked = true;
            }
            suspect.since + SETTLING > begun
        };
        self.suspects.retain(|_, suspect| stays(suspect));
        self.left.retain(|_, suspect| stays(suspect));
        if self.all.as_mut().is_some_and(|suspect| !stays(suspect)) {
            self.all = None;
        }
    }
}

impl Suspect {
    fn new(since: Instant) -> Suspect {
        Suspect { since, looked: false }
    }
}

impl Served {
    /// Whether flows to a frontend can have become wrong since it was as `before`.
    fn may_have_broken(&self, before: &Served, protocol: Protocol) -> bool {
        let lost = self.cuts && !(before.cuts && before.answerers.is_subset(&self.answerers));
        let opened = self.forwards & !before.forwards != 0
            || self.forwards != 0 && self.admit != before.admit;
        let first = before.answerers.is_empty() && !self.answerers.is_empty();
        lost || opened || first && protocol != Protocol::Tcp
    }
}

fn protocol(address: &Address) -> Protocol {
    match *address {
        Address::Vip { protocol, .. } | Address::NodePort { protocol, .. } => protocol,
    }
}

/// The classes of sources that are forwarded, one bit each.
fn forwards(frontend: &Frontend) -> u8 {
    let classes = [SourceClass::Pod, SourceClass::ThisNode, SourceClass::Anyone];
    let is_forwarded = |class: SourceClass| {
        let of_class = |from| from == class || from == SourceClass::Anyone;
        let route = frontend.routes.iter().find(|route| of_class(route.from));
        route.is_some_and(|route| matches!(route.verdict, Verdict::Forward(_)))
    };
    let bit = |(index, class): (usize, SourceClass)| u8::from(is_forwarded(class)) << index;
    classes.into_iter().enumerate().map(bit).sum()
}

/// Whether flows to a frontend can have become wrong.
fn is_suspicious(protocol: Protocol, before: Option<&Served>, now: Option<&Served>) -> bool {
    match (before, now) {
        (None, None) => false,
        // Untranslated flows, and flows created while the daemon did not run.
        (None, Some(now)) => protocol != Protocol::Tcp || now.cuts || now.forwards != 0,
        // TCP connections end as they may.
        (Some(_), None) => protocol != Protocol::Tcp,
        (Some(before), Some(now)) => now.may_have_broken(before, protocol),
    }
}

/// Whether a flow to a frontend is translated to an endpoint that no longer serves, or not translated
/// although it should be. The latter applies to TCP flows without a reply only: established connections are
/// never broken.
fn has_outlived(flow: &Flow, served: &Served) -> bool {
    if flow.is_redirected() {
        return served.cuts && !served.answerers.contains(&flow.answered_by);
    }
    match flow.protocol {
        Protocol::Tcp => served.forwards != 0 && !flow.replied,
        Protocol::Udp | Protocol::Sctp => served.forwards != 0 || !served.answerers.is_empty(),
    }
}

/// Whether a flow to a frontend that is gone is still translated. A TCP connection is left to end as
/// it may: nothing would answer its next segment, not even with a reset.
fn is_left_over(flow: &Flow) -> bool {
    flow.is_redirected() && flow.protocol != Protocol::Tcp
}

/// The endpoints of a port whose flows are kept: all that serve. Traffic policies, topology and the
/// preference for endpoints that do not terminate apply to new flows only, as for TCP connections (upstream:
/// `pkg/proxy/conntrack/cleanup.go`).
fn serving(
    snapshot: &Snapshot,
    service: &ServiceName,
    family: Family,
    port: &PortPlan,
) -> BTreeSet<SocketAddr> {
    let slices = snapshot.slices.get(service).into_iter().flatten();
    let mut found = BTreeSet::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let same = |p: &&sluice_core::model::EndpointPort| {
            p.name == port.name && p.protocol == port.protocol
        };
        for number in slice.ports.iter().filter(same).map(|p| p.port) {
            let serving = slice.endpoints.iter().filter(|e| e.condition != Condition::Unusable);
            found.extend(serving.map(|e| SocketAddr::new(e.address, number)));
        }
    }
    found
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
