//! Which packets to send: those that a case states, and more that follow from the forwarding table.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{Address, Admit, NodePortAddresses};

use super::case::{Expected, PacketLine};
use super::mode::Mode;
use super::oracle::{Oracle, Outcome, Shot};
use super::packets::{Check, Rigour};
use super::plan::{self, address_of, twin};

/// The packet of a line in one family, unless the line is for the other one.
pub(crate) fn stated(line: &PacketLine, family: Family) -> Result<Option<Shot>, String> {
    if line.only.is_some_and(|only| only != family) {
        return Ok(None);
    }
    let nobody = |name: &str| format!("{name:?} is nobody");
    let to = match (address_of(&line.to, family), line.to.parse::<Ipv4Addr>()) {
        (Some(ip), _) => ip,
        (None, Ok(ip)) => twin(ip, family),
        (None, Err(_)) => return Err(nobody(&line.to)),
    };
    let source = match line.source {
        Some(ip) => twin(ip, family),
        None => address_of(&line.from, family).ok_or_else(|| nobody(&line.from))?,
    };
    let to = SocketAddr::new(to, line.port);
    let (from, source_port) = (line.from.clone(), line.source_port);
    Ok(Some(Shot { from, source, source_port, protocol: line.protocol, to }))
}

/// Compares the expectation of a line with the result of `decide`.
pub(crate) fn compare(
    line: &PacketLine,
    mode: Mode,
    family: Family,
    oracle: &Oracle,
    shot: &Shot,
) -> Result<(), String> {
    let outcome = &oracle.outcome(shot);
    let expected = line.expected_in(mode);
    let wrong = || Err(format!("{}: {mode}: decided otherwise: {outcome:?}", line.text));
    let Expected::Pods(pods) = expected else {
        let same = matches!(
            (expected, outcome),
            (Expected::Refuse, Outcome::Refuse)
                | (Expected::Silence, Outcome::Silence)
                | (Expected::Pass, Outcome::Pass)
        );
        return if same { Ok(()) } else { wrong() };
    };
    let Outcome::Forward { to, .. } = outcome else { return wrong() };
    if to.len() != pods.len() {
        return wrong();
    }
    for pod in pods {
        let ip = address_of(&pod.name, family);
        let found = to
            .iter()
            .find(|(at, _)| Some(at.ip()) == ip && pod.port.is_none_or(|port| port == at.port()));
        let Some((_, seen)) = found else { return wrong() };
        // Where the sender is the node, both are the same to the pod.
        let visible = !oracle.local.contains(&shot.source);
        if visible && pod.source.is_some_and(|source| source != *seen) {
            return wrong();
        }
    }
    Ok(())
}

/// Every frontend from every source, and its neighbourhood: other protocols, the next port, sources at both ends of
/// each range and next to them, and unallocated addresses.
pub(crate) fn generated(oracle: &Oracle, family: Family) -> Vec<Shot> {
    let mut shots = BTreeSet::new();
    let table = &oracle.table;
    let ports = || table.services.values().flat_map(|service| &service.ports);
    let frontends = || ports().flat_map(|port| &port.frontends);
    let taken: BTreeSet<(IpAddr, Protocol, u16)> =
        frontends().flat_map(|frontend| places(oracle, &frontend.at, family)).collect();
    for frontend in frontends() {
        for (ip, protocol, port) in places(oracle, &frontend.at, family) {
            let mut shoot = |from: &str, protocol, port| {
                let Some(source) = address_of(from, family) else { return };
                let to = SocketAddr::new(ip, port);
                let (from, source_port) = (from.to_owned(), None);
                shots.insert(Shot { from, source, source_port, protocol, to });
            };
            plan::VANTAGES.iter().for_each(|from| shoot(from, protocol, port));
            let beside = Protocol::ALL.map(|other| (other, port));
            for (protocol, port) in beside.into_iter().chain([(protocol, port + 1)]) {
                if !taken.contains(&(ip, protocol, port)) {
                    ["pod", "client"].iter().for_each(|from| shoot(from, protocol, port));
                }
            }
            if let Admit::Only(ranges) = &frontend.admit {
                for source in edges(ranges, family) {
                    let (from, to) = ("client".to_owned(), SocketAddr::new(ip, port));
                    shots.insert(Shot { from, source, source_port: None, protocol, to });
                }
            }
        }
    }
    shots.into_iter().collect()
}

/// Where packets for a frontend can be sent to: node ports on all addresses of the node.
fn places(oracle: &Oracle, at: &Address, family: Family) -> Vec<(IpAddr, Protocol, u16)> {
    match *at {
        Address::Vip { ip, protocol, port } => vec![(ip, protocol, port)],
        Address::NodePort { protocol, port } => {
            let usable = |ip: &&IpAddr| {
                let linked = match ip {
                    IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback(),
                    IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_loopback(),
                };
                Family::of(**ip) == family && !linked
            };
            let mut all: BTreeSet<IpAddr> = oracle.local.iter().filter(usable).copied().collect();
            if let NodePortAddresses::Only(ips) = &oracle.table.host.node_ports {
                all.extend(ips.iter().filter(|ip| oracle.local.contains(ip)));
            }
            all.into_iter().map(|ip| (ip, protocol, port)).collect()
        }
    }
}

/// The addresses at both ends of each range and next to them, as far as the client has them.
fn edges(ranges: &[IpNet], family: Family) -> BTreeSet<IpAddr> {
    let Ok(mine) = plan::twin_net(plan::CLIENT_RANGE, family) else { return BTreeSet::new() };
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let address = |n: u128| match family {
        Family::V4 => u32::try_from(n).ok().map(|n| IpAddr::from(Ipv4Addr::from(n))),
        Family::V6 => Some(IpAddr::from(n.to_be_bytes())),
    };
    let mut all = BTreeSet::new();
    for range in ranges {
        let (first, last) = (number(range.network()), number(range.broadcast()));
        let near = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
        all.extend(near.into_iter().filter_map(address));
    }
    // The first and the last address of the client's own prefix are no hosts.
    let host = |ip: &IpAddr| mine.contains(ip) && *ip != mine.network() && *ip != mine.broadcast();
    all.retain(host);
    all
}

/// Whether a pod might be sent to itself by a Service that does not know it to be here: it would hear
/// from itself, and not answer.
fn lost_in_itself(oracle: &Oracle, shot: &Shot) -> bool {
    let pools = oracle.table.services.values().flat_map(|service| &service.ports);
    let mut endpoints = pools.flat_map(|port| &port.cluster);
    endpoints.any(|endpoint| endpoint.ip == shot.source && !endpoint.local)
}

/// Which packets of a step to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Those that the case states.
    Stated,
    /// Generated ones, too.
    All,
}

/// The checks of one step.
pub(crate) fn checks(
    extent: Extent,
    lines: &[PacketLine],
    oracle: &Oracle,
    family: Family,
) -> Result<Vec<Check>, String> {
    let mut all = Vec::new();
    let mut known = BTreeSet::new();
    let check = |label: String, shot: Shot, rigour| Check {
        label,
        outcome: oracle.outcome(&shot),
        to_node: oracle.to_node(&shot),
        shot,
        rigour,
    };
    for line in lines {
        if let Some(shot) = stated(line, family)? {
            known.insert(shot.clone());
            all.push(check(line.text.clone(), shot, Rigour::Stated));
        }
    }
    if extent == Extent::Stated {
        return Ok(all);
    }
    for shot in generated(oracle, family) {
        if known.insert(shot.clone()) && !lost_in_itself(oracle, &shot) {
            let Shot { from, source, protocol, to, .. } = &shot;
            let label = format!("generated: {from} ({source}) -> {to}/{protocol}");
            let mut check = check(label, shot, Rigour::Generated);
            // That affinity is shared by all addresses is for a case of its own.
            if let Outcome::Forward { affinity: Some(key), .. } = &mut check.outcome {
                key.push_str(&check.shot.to.to_string());
            }
            all.push(check);
        }
    }
    // What is silent takes longest.
    all.sort_by_key(|check| check.outcome != Outcome::Silence);
    Ok(all)
}
