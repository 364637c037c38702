//! The cluster that is measured, as API objects: pure arithmetic, so that every Service and endpoint
//! has an address derived from its number.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};

use sluice_core::net::Protocol;

/// Where every Service listens.
const SERVICE_PORT: u16 = 80;

/// Where every endpoint listens.
pub(super) const ENDPOINT_PORT: u16 = 8080;

/// Of so many Services one is of UDP, as DNS is; the others are of TCP.
const UDP_EVERY: u32 = 8;

/// As many endpoints as the control plane puts into one EndpointSlice (`--max-endpoints-per-slice`).
const PER_SLICE: u32 = 100;

/// The first cluster IP. Below are the addresses that the API server gives out by itself.
const FIRST_CLUSTER_IP: u32 = u32::from_be_bytes([10, 96, 1, 0]);

/// The Service whose endpoint is changed, beside the counted ones.
const CHANGED: (&str, Ipv4Addr) = ("changed", Ipv4Addr::new(10, 96, 0, 10));

/// The addresses of all endpoints: 10.128.0.0/10.
const FIRST_ENDPOINT: u32 = u32::from_be_bytes([10, 128, 0, 0]);
const ENDPOINT_BITS: u8 = 10;

/// The endpoints that the changed Service has in turn, at the end of the block.
const TURNS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 191, 255, 1), Ipv4Addr::new(10, 191, 255, 2)];

/// The most Services that there is room for.
pub const MOST_SERVICES: u32 = 60_000;

/// The most endpoints of all Services together that there is room for.
pub const MOST_ENDPOINTS: u32 = 4_000_000;

/// The block that all endpoints' addresses are from.
pub(super) fn block() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(FIRST_ENDPOINT), ENDPOINT_BITS))
}

/// How many of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
}

impl Scale {
    fn protocol(service: u32) -> Protocol {
        if service % UDP_EVERY == 1 { Protocol::Udp } else { Protocol::Tcp }
    }

    fn name(service: u32) -> String {
        format!("service-{service:05}")
    }

    /// Where a Service is reached.
    fn address(service: u32) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from_bits(FIRST_CLUSTER_IP + service), SERVICE_PORT)
    }

    fn endpoint(self, service: u32, number: u32) -> Ipv4Addr {
        // The block's first address stays free, as in any prefix.
        Ipv4Addr::from_bits(FIRST_ENDPOINT + 1 + service * self.endpoints + number)
    }

    /// Whether an address is an endpoint of the Service at another address.
    pub(super) fn leads_to(self, service: SocketAddrV4, endpoint: Ipv4Addr) -> bool {
        let service = service.ip().to_bits().wrapping_sub(FIRST_CLUSTER_IP);
        let first = self.endpoint(service, 0).to_bits();
        (first..first + self.endpoints).contains(&endpoint.to_bits())
    }

    /// Addresses of Services of a protocol, spread over all of them, first and last included.
    pub(super) fn spread(self, protocol: Protocol, count: usize) -> Vec<SocketAddrV4> {
        let all: Vec<u32> =
            (0..self.services).filter(|service| Scale::protocol(*service) == protocol).collect();
        let (count, last) = (count.min(all.len()), all.len().saturating_sub(1));
        let index = |n: usize| n * last / count.saturating_sub(1).max(1);
        (0..count).map(|n| Scale::address(all[index(n)])).collect()
    }

    /// Endpoints, spread over all of them, as they are reached without a proxy.
    pub(super) fn direct(self, count: usize) -> Vec<SocketAddrV4> {
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.services);
        let step = self.services / count.max(1);
        let at = |n| SocketAddrV4::new(self.endpoint(n * step, 0), ENDPOINT_PORT);
        (0..count).map(at).collect()
    }

    /// All objects.
    pub fn objects(self) -> Vec<Value> {
        let mut objects = Vec::new();
        for number in 0..self.services {
            let (name, protocol) = (Scale::name(number), Scale::protocol(number));
            objects.push(service(&name, *Scale::address(number).ip(), protocol));
            objects.extend(self.slices(number, 0));
        }
        objects.push(service(CHANGED.0, CHANGED.1, Protocol::Tcp));
        objects.push(changed(0));
        objects
    }

    /// The EndpointSlices of a Service, of whose endpoints the first `replaced` have given way to
    /// others.
    pub fn slices(self, service: u32, replaced: u32) -> Vec<Value> {
        let address = |n| match self.endpoint(service, n) {
            ip if n < replaced => Ipv4Addr::from_bits(ip.to_bits() + MOST_ENDPOINTS / 2),
            ip => ip,
        };
        let all: Vec<Ipv4Addr> = (0..self.endpoints).map(address).collect();
        let (name, protocol) = (Scale::name(service), Scale::protocol(service));
        let chunks = all.chunks(PER_SLICE as usize).enumerate();
        chunks.map(|(index, addresses)| slice(&name, index, addresses, protocol)).collect()
    }
}

/// Where the Service is reached whose endpoint is changed.
pub(super) fn changed_address() -> SocketAddrV4 {
    SocketAddrV4::new(CHANGED.1, SERVICE_PORT)
}

/// The endpoint that it has after so many changes.
pub(super) fn turn(changes: usize) -> Ipv4Addr {
    TURNS[changes % TURNS.len()]
}

/// Its EndpointSlice after so many changes.
pub(super) fn changed(changes: usize) -> Value {
    slice(CHANGED.0, 0, &[turn(changes)], Protocol::Tcp)
}

fn service(name: &str, cluster_ip: Ipv4Addr, protocol: Protocol) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "clusterIP": cluster_ip,
            "selector": {"app": name},
            "ports": [{"name": "main", "protocol": protocol.to_string().to_uppercase(), "port": SERVICE_PORT,
                       "targetPort": ENDPOINT_PORT}],
        },
    })
}

fn slice(service: &str, index: usize, addresses: &[Ipv4Addr], protocol: Protocol) -> Value {
    let endpoint = |ip: &Ipv4Addr| {
        let pod = format!("{service}-{}", ip.to_bits());
        json!({
            "addresses": [ip],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "elsewhere",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": pod},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{index}"), "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<Value>>(),
        "ports": [{"name": "main", "port": ENDPOINT_PORT, "protocol": protocol.to_string().to_uppercase()}],
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn probed_services_include_the_first_and_the_last_of_their_protocol() {
        let scale = Scale { services: 1000, endpoints: 5 };
        let probed = scale.spread(Protocol::Tcp, 20);
        assert_eq!(probed.len(), 20);
        assert_eq!(probed.first(), Some(&Scale::address(0)));
        assert_eq!(probed.last(), Some(&Scale::address(999)));
        let small = Scale { services: 2, endpoints: 1 };
        assert_eq!(small.spread(Protocol::Udp, 20), [Scale::address(1)]);
        assert_eq!(small.spread(Protocol::Tcp, 20), [Scale::address(0)]);
    }

    #[test]
    fn every_endpoint_belongs_to_one_service_and_to_the_block() {
        let scale = Scale { services: 300, endpoints: 7 };
        let last = scale.endpoint(299, 6);
        assert!(scale.leads_to(Scale::address(299), last));
        assert!(!scale.leads_to(Scale::address(298), last));
        assert!(!scale.leads_to(Scale::address(0), turn(0)));
        let most = Scale { services: MOST_SERVICES, endpoints: MOST_ENDPOINTS / MOST_SERVICES };
        for ip in [last, most.endpoint(MOST_SERVICES - 1, most.endpoints - 1), turn(0), turn(1)] {
            assert!(block().contains(&IpAddr::V4(ip)), "{ip}");
        }
        assert!(most.endpoint(MOST_SERVICES - 1, most.endpoints - 1) < turn(0));
    }

    #[test]
    fn a_large_service_has_several_slices() {
        let objects = Scale { services: 2, endpoints: 250 }.objects();
        let count = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).count();
        assert_eq!((count("Service"), count("EndpointSlice")), (3, 7));
        assert_ne!(changed(0), changed(1));
        assert_eq!(changed(0), changed(2));
    }
}
