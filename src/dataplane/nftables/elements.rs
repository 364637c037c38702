//! The elements that say what the forwarding table says about one Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::counters;
use super::layout::{Carrier, Place, SetId, frontend_key, slots_for};
use super::virtuals::{Reach, Virtual, virtuals};
use sluice_core::model::ServiceName;
use sluice_core::net::fnv1a;
use sluice_core::plan::{
    Address, Admit, Affinity, Frontend, FrontendKind, Masquerade, PoolEndpoint, PoolKind, PortPlan,
    Route, ServicePlan, SourceClass, Verdict,
};
use sluice_kernel::nft::{Data, Element, Key};

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
            let known: BTreeSet<_> = remembered(port)
                .map(|(number, endpoint)| (number, endpoint.ip, endpoint.port))
                .collect();
            elements.extend(known.into_iter().map(|(number, ip, port)| {
                let key = Key::new().number(number).address(ip).port(port);
                let id = Data::new().number(endpoint_id(number, ip, port));
                (SetId::EndpointIds, Element::data(key, id))
            }));
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
    Some(1 << 31 | affinity.id << 2 | endpoints)
}

/// Every number of a port, with each endpoint that clients may be remembered for under it. Some may
/// come several times.
pub(super) fn remembered(port: &PortPlan) -> impl Iterator<Item = (u32, &PoolEndpoint)> {
    port.frontends.iter().filter_map(|frontend| Some((memory(port, frontend)?, frontend))).flat_map(
        |(number, frontend)| {
            let endpoints = pools_of(frontend).flat_map(|(_, kind)| port.pool(kind));
            endpoints.map(move |endpoint| (number, endpoint))
        },
    )
}

/// The identity under which clients are remembered for an endpoint. It follows from the number and the
/// endpoint, so that a restart finds it again. It lacks the highest bit, which numbers have.
///
/// Two endpoints of one number have the same identity with a probability of 2^-31; a client of one of
/// them may then be sent to the other.
pub(super) fn endpoint_id(number: u32, ip: IpAddr, port: u16) -> u32 {
    let hash = fnv1a(&number.to_be_bytes());
    let hash = match ip {
        IpAddr::V4(ip) => hash.and(&ip.octets()),
        IpAddr::V6(ip) => hash.and(&ip.octets()),
    };
    hash.and(&port.to_be_bytes()).fold(31)
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
    let itself = match frontend.at {
        Address::Vip { ip, port, .. } if virtuals.is_some() => {
            Some(Data::new().address(ip).port(port))
        }
        _ => None,
    };
    let itself = itself.filter(|_| frontend.kind == FrontendKind::ClusterIp);
    if let Admit::Only(ranges) = &frontend.admit {
        out.push((SetId::Restricted, Element::new(key)));
        let admitted = |range: &IpNet| {
            Element::new(key.address(range.network())).through_parts(key.address(range.broadcast()))
        };
        out.extend(ranges.iter().map(|range| (SetId::Sources, admitted(range))));
    }
    let number = memory(port, frontend).filter(|_| virtuals.is_none());
    if let Some(number) = number {
        out.push((SetId::Sticky(place), Element::data(key, Data::new().number(number))));
    }
    let at = |place| FrontendKey { place, key, number, itself };
    if is_split(frontend) {
        out.push((SetId::Split(place), Element::new(key)));
        if let Some(privileged) = frontend.routes.first() {
            found_elements(&at(place), found(privileged), out);
        }
        found_elements(&at(place.local()), found(&anyone), out);
    } else {
        found_elements(&at(place), found(&anyone), out);
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

/// Where some traffic to a frontend is looked up.
struct FrontendKey {
    place: Place,
    key: Key,
    /// Under which clients are remembered, if they are.
    number: Option<u32>,
    /// A cluster IP that is an address of this node. Then all of it is translated, what IPVS serves there and
    /// what is refused to that same address: rules of others for addresses of this node (a host port's) come
    /// later, and a connection is translated once (k/k#66103).
    itself: Option<Data>,
}

fn found_elements(at: &FrontendKey, found: Found<'_>, out: &mut Vec<(SetId, Element)>) {
    let FrontendKey { place, key, number, itself } = *at;
    if let (Some(data), Found::Reject | Found::Drop) = (itself, &found) {
        out.push((SetId::Virtual(place), Element::data(key, data)));
    }
    match found {
        Found::Reject => out.push((SetId::Reject(place.whole()), Element::new(key))),
        Found::Drop => out.push((SetId::Drop(place.whole()), Element::new(key))),
        Found::Pool([]) => {}
        Found::Virtual(it) => {
            let data = Data::new().address(it.ip).port(it.at);
            out.push((SetId::Virtual(place), Element::data(key, data)));
        }
        Found::Pool(pool) => {
            // A single endpoint needs no memory.
            let number = number.filter(|_| pool.len() > 1);
            let slots = slots_for(pool.len());
            let set = match number {
                Some(_) => SetId::StickySlots(place, slots),
                None => SetId::Slots(place, slots),
            };
            out.push((set, Element::new(key)));
            for (slot, endpoint) in (0..).zip(pool) {
                let key = key.number(slot);
                let data = Data::new().address(endpoint.ip).port(endpoint.port);
                out.push((SetId::Endpoints(place), Element::data(key, data)));
                if let Some(number) = number {
                    let id = endpoint_id(number, endpoint.ip, endpoint.port);
                    let id = Data::new().number(id);
                    out.push((SetId::SlotIds(place), Element::data(key, id)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel remembers clients under them while a new version of this program comes in.
    #[test]
    fn identities_of_endpoints_are_the_same_in_every_version() {
        let table = [
            (1 << 31, "10.244.1.1", 8080, 1_736_184_724),
            (1 << 31 | 1, "10.244.1.1", 8080, 1_995_671_566),
            (1 << 31, "10.244.1.2", 8080, 1_052_159_893),
            (1 << 31, "fd00:10:244:1::1", 8080, 1_166_042_930),
        ];
        for (number, ip, port, expected) in table {
            let ip = ip.parse().expect("an address");
            assert_eq!(endpoint_id(number, ip, port), expected, "{number:#x} {ip} {port}");
        }
    }
}
