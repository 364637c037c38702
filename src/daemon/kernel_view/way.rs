//! How packets get to endpoints and their answers back, as the kernel's routing says: asked for the packet itself, with its mark,
//! interface and port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_config::Mode;
use sluice_core::net::Family;
use sluice_core::plan::{Hit, Masquerade, PacketSource, PoolEndpoint};
use sluice_dataplane::userspace;
use sluice_explain::truth::{Problem, Way};
use sluice_kernel::NetlinkError;
use sluice_kernel::links::{Link, Links, forwards};
use sluice_kernel::route_lookup::{Passage, Passed, RouteLookup};

/// So many endpoints are asked about; the routes of a pool are few.
const MOST: usize = 64;

/// So many addresses are named with a route.
const NAMED: usize = 4;

/// Where routes and interfaces are asked for.
#[derive(Debug)]
pub(super) struct Routes {
    routes: RouteLookup,
    links: Links,
}

/// A packet of a connection, before and behind the proxy.
struct Connection<'a> {
    hit: &'a Hit<'a>,
    client: IpAddr,
    /// Where it arrives; none if this node sends it, or the proxy does in its place.
    arrival: Option<Link>,
    mark: u32,
    /// Whether endpoints see the client.
    shows_client: bool,
}

/// What has been found.
#[derive(Default)]
struct Findings {
    /// Endpoints by their route.
    routes: BTreeMap<String, Vec<IpAddr>>,
    mtus: Vec<(String, u32)>,
    problems: Vec<Problem>,
    blocked: usize,
}

impl Findings {
    fn problem(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

impl Routes {
    pub(super) fn open() -> Result<Routes, NetlinkError> {
        Ok(Routes { routes: RouteLookup::open()?, links: Links::open()? })
    }

    pub(super) fn way(
        &mut self,
        hit: &Hit<'_>,
        mode: Mode,
        endpoints: &[PoolEndpoint],
    ) -> Result<Way, NetlinkError> {
        let connection = self.connection(hit, mode)?;
        let mut found = Findings::default();
        if let Some(arrival) = &connection.arrival {
            found.mtus.push((arrival.name.to_string(), arrival.mtu));
        }
        let asked = &endpoints[..endpoints.len().min(MOST)];
        for endpoint in asked {
            if !self.endpoint(&connection, endpoint, &mut found)? {
                found.blocked += 1;
            }
        }
        let blocked = found.blocked == asked.len() && !asked.is_empty();
        Ok(Way { routes: shown(&found, endpoints.len()), problems: found.problems, blocked })
    }

    fn connection<'a>(
        &mut self,
        hit: &'a Hit<'a>,
        mode: Mode,
    ) -> Result<Connection<'a>, NetlinkError> {
        let relayed = mode == Mode::Userspace && userspace::is_relayed(hit.port.protocol);
        let masqueraded = hit.route.masquerade == Masquerade::Yes || relayed;
        let client = hit.packet.source.ip();
        let arrival = match &hit.packet.source {
            PacketSource::ThisNode(_) => None,
            // IPVS and relays send in the place of the client.
            PacketSource::Interface { .. } if relayed || mode == Mode::Ipvs => None,
            PacketSource::Interface { name, .. } => self.arrival(client, name)?,
        };
        let mark = if masqueraded { hit.table.host.masquerade_mark } else { 0 };
        Ok(Connection { hit, client, arrival, mark, shows_client: !masqueraded })
    }

    /// The interface that a client comes in by: the one that is named, else the one that leads to it.
    fn arrival(&mut self, client: IpAddr, name: &str) -> Result<Option<Link>, NetlinkError> {
        if !name.is_empty()
            && let Some(link) = self.links.named(name)?
        {
            return Ok(Some(link));
        }
        let back = Passage { to: client, from: None, arrives_at: None, mark: 0, port: None };
        match self.routes.passage(&back)? {
            Passed::Out { interface, .. } => self.links.at(interface),
            Passed::Here | Passed::NoRoute | Passed::NotTaken => Ok(None),
        }
    }

    /// Whether packets get to an endpoint, and its answers back.
    fn endpoint(
        &mut self,
        connection: &Connection<'_>,
        endpoint: &PoolEndpoint,
        found: &mut Findings,
    ) -> Result<bool, NetlinkError> {
        let Connection { hit, client, arrival, mark, .. } = connection;
        let there = Passage {
            to: endpoint.ip,
            from: arrival.as_ref().map(|_| *client),
            arrives_at: arrival.as_ref().map(|arrival| arrival.index),
            mark: *mark,
            port: Some((hit.port.protocol, endpoint.port)),
        };
        let at = arrival.as_ref().map(|arrival| format!(" that arrives at {}", arrival.name));
        let at = at.unwrap_or_default();
        // Without forwarding, the kernel says that there is no route.
        if let Some(arrival) = arrival
            && let Some(setting) = not_forwarded(hit.table.family, &arrival.name)
            && self.routes.passage(&Passage { arrives_at: None, from: None, ..there })?
                != Passed::Here
        {
            found.problem(Problem::ForwardingOff(format!(
                "this node does not forward what arrives at {}: {setting} is 0",
                arrival.name
            )));
            return Ok(false);
        }
        let (interface, router) = match self.routes.passage(&there)? {
            Passed::Here => {
                found.routes.entry("this node itself".to_owned()).or_default().push(endpoint.ip);
                return Ok(true);
            }
            Passed::Out { interface, router } => (interface, router),
            Passed::NoRoute => {
                let text = format!("no route leads to endpoint {}{at}", endpoint.ip);
                found.problem(Problem::NoRoute(text));
                return Ok(false);
            }
            Passed::NotTaken => {
                found.problem(Problem::ReversePath(format!(
                    "a packet from {client}{at} is dropped by its reverse path filter: replies to {client} would \
                     leave by another interface"
                )));
                return Ok(false);
            }
        };
        let link = self.links.at(interface)?;
        let name =
            link.as_ref().map_or_else(|| interface.to_string(), |link| link.name.to_string());
        let via = router.map(|router| format!("via {router} ")).unwrap_or_default();
        found.routes.entry(format!("{via}dev {name}")).or_default().push(endpoint.ip);
        found.mtus.extend(link.as_ref().map(|link| (name, link.mtu)));
        match (&connection.arrival, link) {
            (Some(_), Some(link)) => self.answer(connection, endpoint, &link, found),
            _ => Ok(true),
        }
    }

    /// Whether an answer that arrives from an endpoint gets back.
    fn answer(
        &mut self,
        connection: &Connection<'_>,
        endpoint: &PoolEndpoint,
        arrives_at: &Link,
        found: &mut Findings,
    ) -> Result<bool, NetlinkError> {
        // To an address of this node, it is translated back before it is routed on.
        let Connection { client, .. } = connection;
        let back = Passage {
            to: *client,
            from: Some(endpoint.ip),
            arrives_at: Some(arrives_at.index),
            mark: 0,
            port: None,
        };
        match self.routes.passage(&back)? {
            Passed::Here | Passed::Out { .. } => Ok(true),
            Passed::NoRoute => {
                let text =
                    format!("no route leads back to {client} for answers of {}", endpoint.ip);
                found.problem(Problem::NoRoute(text));
                Ok(false)
            }
            Passed::NotTaken => {
                let who =
                    if connection.shows_client { "sent to the client" } else { "translated back" };
                found.problem(Problem::ReversePath(format!(
                    "answers of endpoint {} that arrive at {} are dropped by its reverse path filter before they \
                     are {who}",
                    endpoint.ip, arrives_at.name
                )));
                Ok(false)
            }
        }
    }
}

fn not_forwarded(family: Family, arrives_at: &str) -> Option<String> {
    forwards(family, arrives_at).filter(|(forwards, _)| !forwards).map(|(_, setting)| setting)
}

/// `10.244.1.2 10.244.1.3 dev pods`, and the smallest packet size on the way.
fn shown(found: &Findings, endpoints: usize) -> Vec<String> {
    let route = |(route, ips): (&String, &Vec<IpAddr>)| {
        let named: Vec<String> = ips.iter().take(NAMED).map(ToString::to_string).collect();
        let more = match ips.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more} {route}", named.join(" "))
    };
    let mut lines: Vec<String> = found.routes.iter().map(route).collect();
    if endpoints > MOST {
        lines.push(format!("{} more not asked about", endpoints - MOST));
    }
    let least = found.mtus.iter().min_by_key(|(_, mtu)| *mtu);
    let most = found.mtus.iter().max_by_key(|(_, mtu)| *mtu);
    if let (Some((at, least)), Some((_, most))) = (least, most) {
        lines.push(if least == most {
            format!("mtu {least} all along")
        } else {
            format!("mtu {least} at {at}, {most} elsewhere: larger packets need ICMP to pass")
        });
    }
    if lines.is_empty() {
        lines.push("nothing gets to any endpoint".to_owned());
    }
    lines
}
