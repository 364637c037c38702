//! The elements that say what the forwarding table says about one Service.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::counters;
use super::layout::{Carrier, Place, SetId, frontend_key, slots_for};
use super::virtuals::{Reach, Virtual, virtuals};
use crate::kernel::nft::{Data, Element, Key};
use crate::model::ServiceName;
use crate::plan::{
    Admit, Affinity, Frontend, FrontendKind, Masquerade, PoolEndpoint, PoolKind, PortPlan, Route,
    ServicePlan, SourceClass, Verdict,
};

/// What some traffic to a frontend finds.
enum Found<'a> {
    Pool(&'a [PoolEndpoint]),
    Virtual(Virtual<'a>),
    Reject,
    Drop,
}

/// Elements that belong to one Service alone.
pub(super) fn own_elements(plan: &ServicePlan, carrier: Carrier) -> Vec<(SetId, Element)> {
    let mut elements = Vec::new();
    let virtuals = match carrier {
        Carrier::Kernel | Carrier::Relays(_) => None,
        Carrier::Ipvs => Some(virtuals(plan)),
    };
    for port in &plan.ports {
        for frontend in &port.frontends {
            frontend_elements(port, frontend, virtuals.as_deref(), &mut elements);
        }
        if carrier.relays(port.protocol) {
            let relays: BTreeSet<u16> =
                port.cluster.iter().chain(&port.local).map(|relay| relay.port).collect();
            let relay = |n| Element::new(Key::new().protocol(port.protocol).port(n));
            elements.extend(relays.into_iter().map(|port| (SetId::RelayPorts, relay(port))));
        }
        // IPVS remembers clients by itself.
        let affinity = port.affinity.filter(|_| carrier != Carrier::Ipvs);
        if let Some(Affinity { timeout, .. }) = affinity {
            let numbers: BTreeSet<u32> =
                port.frontends.iter().filter_map(|frontend| memory(port, frontend)).collect();
            let number = |number| Element::new(Key::new().number(number));
            elements.extend(numbers.into_iter().map(|n| (SetId::Remembered(timeout), number(n))));
        }
    }
    elements
}

/// The counters of a Service: one element per frontend, whose comment says whose it is.
pub(super) fn counter_elements(name: &ServiceName, plan: &ServicePlan) -> Vec<(SetId, Element)> {
    let counters = plan.ports.iter().flat_map(|port| {
        let owner = counters::owner(name, port);
        port.frontends.iter().filter_map(move |frontend| {
            let element = Element::new(frontend_key(&frontend.at)).with_comment(owner.as_deref()?);
            Some((SetId::Counters(Place::of(&frontend.at)), element))
        })
    });
    counters.collect()
}

/// Elements that several Services may need at once: they exist while anybody needs them.
pub(super) fn shared_elements(plan: &ServicePlan, carrier: Carrier) -> Vec<(SetId, Element)> {
    let mut elements = Vec::new();
    if carrier == Carrier::Ipvs {
        // A cluster IP that is contested may have virtual services of several Services.
        elements.extend(virtuals(plan).into_iter().map(|it| {
            let set = match it.reach {
                Reach::Direct => SetId::VirtualServices,
                Reach::Translated => SetId::VirtualTranslated,
            };
            (set, Element::new(Key::new().address(it.ip).protocol(it.protocol).port(it.at)))
        }));
    }
    if let Some(ip) = plan.cluster_ip {
        elements.push((SetId::ClusterIps, Element::new(Key::new().address(ip))));
    }
    for port in &plan.ports {
        let here = port.cluster.iter().chain(&port.local).filter(|endpoint| endpoint.local);
        elements.extend(here.map(|endpoint| {
            let to_itself = Key::new().address(endpoint.ip).address(endpoint.ip);
            let key = to_itself.protocol(port.protocol).port(endpoint.port);
            (SetId::Hairpin, Element::new(key))
        }));
    }
    elements.sort_unstable();
    elements.dedup();
    elements
}

/// Which pool traffic to this frontend finds in which place; used to read slots back.
pub(super) fn pools_of(frontend: &Frontend) -> impl Iterator<Item = (Place, PoolKind)> {
    let place = Place::of(&frontend.at);
    let pool = |route: &Route| match route.verdict {
        Verdict::Forward(kind) => Some(kind),
        Verdict::Reject | Verdict::Drop => None,
    };
    let split = is_split(frontend);
    let first = frontend.routes.first().and_then(pool).map(|kind| (place, kind));
    let rest = frontend.routes.last().filter(|_| split).and_then(pool);
    first.into_iter().chain(rest.map(|kind| (place.local(), kind)))
}

/// The number under which clients of a frontend are remembered. Frontends of a port share it if they
/// lead to the same endpoints; one that leads pods and others to different ones has one of its own.
///
/// The highest bit sets it apart from priorities that applications ask for (`SO_PRIORITY`).
pub(super) fn memory(port: &PortPlan, frontend: &Frontend) -> Option<u32> {
    let affinity = port.affinity?;
    let (_, kind) = pools_of(frontend).next()?;
    let endpoints = match kind {
        _ if is_split(frontend) => 2,
        PoolKind::Cluster => 0,
        PoolKind::Local => 1,
    };
    Some(1 << 31 | affinity.number << 2 | endpoints)
}

fn frontend_elements(
    port: &PortPlan,
    frontend: &Frontend,
    virtuals: Option<&[Virtual<'_>]>,
    out: &mut Vec<(SetId, Element)>,
) {
    let place = Place::of(&frontend.at);
    let key = frontend_key(&frontend.at);
    let serves = |it: &&Virtual<'_>, pool| std::ptr::eq(it.port, port) && it.pool == pool;
    let found = |route: &Route| match (route.verdict, virtuals) {
        (Verdict::Forward(pool), None) => Found::Pool(port.pool(pool)),
        (Verdict::Forward(pool), Some(all)) => match all.iter().find(|it| serves(it, pool)) {
            Some(it) => Found::Virtual(*it),
            None => Found::Pool(&[]),
        },
        (Verdict::Reject, _) => Found::Reject,
        (Verdict::Drop, _) => Found::Drop,
    };
    let anyone = frontend.routes.for_anyone();
    if let Admit::Only(ranges) = &frontend.admit {
        out.push((SetId::Restricted, Element::new(key)));
        let admitted = |range: &IpNet| {
            Element::new(key.address(range.network())).through_parts(key.address(range.broadcast()))
        };
        out.extend(ranges.iter().map(|range| (SetId::Sources, admitted(range))));
    }
    if let Some(number) = memory(port, frontend).filter(|_| virtuals.is_none()) {
        out.push((SetId::Sticky(place), Element::data(key, Data::new().number(number))));
    }
    if is_split(frontend) {
        out.push((SetId::Split(place), Element::new(key)));
        if let Some(privileged) = frontend.routes.first() {
            found_elements(place, place, &key, found(privileged), out);
        }
        found_elements(place, place.local(), &key, found(&anyone), out);
    } else {
        found_elements(place, place, &key, found(&anyone), out);
        // Cluster IPs are masqueraded by who asks, which one rule decides for all of them.
        if anyone.masquerade == Masquerade::Yes && frontend.kind != FrontendKind::ClusterIp {
            out.push((SetId::Masquerade(place), Element::new(key)));
        }
    }
}

/// Whether pods or this node itself find another pool than anyone else.
fn is_split(frontend: &Frontend) -> bool {
    frontend.routes.iter().any(|route| route.from == SourceClass::ThisNode)
}

fn found_elements(
    address: Place,
    place: Place,
    key: &Key,
    found: Found<'_>,
    out: &mut Vec<(SetId, Element)>,
) {
    match found {
        Found::Reject => out.push((SetId::Reject(address), Element::new(*key))),
        Found::Drop => out.push((SetId::Drop(address), Element::new(*key))),
        Found::Pool([]) => {}
        Found::Virtual(it) => {
            let at = Key::new().address(it.ip).protocol(it.protocol).port(it.at);
            if at != *key {
                let data = Data::new().address(it.ip).port(it.at);
                out.push((SetId::Virtual(place), Element::data(*key, data)));
            }
        }
        Found::Pool(pool) => {
            out.push((SetId::Slots(place, slots_for(pool.len())), Element::new(*key)));
            for (slot, endpoint) in (0..).zip(pool) {
                let data = Data::new().address(endpoint.ip).port(endpoint.port);
                out.push((SetId::Endpoints(place), Element::data(key.number(slot), data)));
            }
        }
    }
}
