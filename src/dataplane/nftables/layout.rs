//! The names and shapes of what varies: sets and maps, and which element of them says what.
//!
//! A frontend with n endpoints holds the slots 0 to n-1 of a map `…-endpoints`, keyed by its address
//! and the slot. Which set `…-slots-N` it is in says how large a number to draw: N is n rounded up to
//! a power of two, so that N changes rarely and there are few sets. A draw that hits no slot is
//! repeated (see `rules`). There is no verdict map: the kernel walks through all elements of one
//! whenever an element that jumps is added, so the cost of a change would grow with the cluster.

use std::fmt;
use std::sync::Arc;

use sluice_core::net::{Family, Protocol};
use sluice_core::plan::Address;
use sluice_kernel::nft::{Counting, Field, Key, Set, SetFlags};

/// The name of our table, the one that the Go kube-proxy uses too: starting one over the other takes
/// the node over in one transaction.
pub(crate) const TABLE: &str = "kube-proxy";

/// Who carries traffic to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Carrier {
    /// The kernel, which translates addresses.
    #[default]
    Kernel,
    /// Sockets of this process, but for SCTP. Endpoints of the forwarding table are these sockets.
    Relays(Sight),
    /// IPVS, after the kernel has translated to the address of a virtual service.
    Ipvs,
}

/// Whom endpoints see where the forwarding table keeps the source of what relays carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sight {
    /// This node, as where it does not. A pool is one socket.
    Node,
    /// The client, as far as routing allows. A pool is two sockets: for traffic whose source is kept,
    /// and for traffic that is masqueraded.
    Client,
}

impl Carrier {
    /// Whether the endpoints of a port with this protocol are sockets of this process.
    pub(super) fn relays(self, protocol: Protocol) -> bool {
        matches!(self, Carrier::Relays(_)) && is_relayed(protocol)
    }
}

/// The slots of the two sockets of a pool ([`Sight::Client`]).
pub(crate) const KEPT: u32 = 0;
/// The other one.
pub(crate) const MASQUERADED: u32 = 1;

/// Whether sockets of this process carry a protocol in userspace mode. SCTP stays with the kernel: a
/// relay would lose its streams and its unordered and partly reliable messages.
pub fn is_relayed(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Tcp | Protocol::Udp => true,
        Protocol::Sctp => false,
    }
}

/// Where frontends are looked up.
///
/// Most frontends use one pool for all traffic. One whose external policy is Local has a second pool,
/// for traffic that comes from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    /// Virtual IPs.
    Service,
    /// Virtual IPs, for traffic from elsewhere.
    ServiceLocal,
    /// Node ports.
    NodePort,
    /// Node ports, for traffic from elsewhere.
    NodePortLocal,
}

impl Place {
    pub(super) const ALL: [Place; 4] =
        [Place::Service, Place::ServiceLocal, Place::NodePort, Place::NodePortLocal];

    /// The place of an address.
    pub(super) fn of(address: &Address) -> Place {
        match address {
            Address::Vip { .. } => Place::Service,
            Address::NodePort { .. } => Place::NodePort,
        }
    }

    /// The place of the same address for all traffic: what its frontends have only once is kept there.
    pub(super) fn whole(self) -> Place {
        match self {
            Place::Service | Place::ServiceLocal => Place::Service,
            Place::NodePort | Place::NodePortLocal => Place::NodePort,
        }
    }

    /// The place of the same address for traffic from elsewhere.
    pub(super) fn local(self) -> Place {
        match self {
            Place::Service | Place::ServiceLocal => Place::ServiceLocal,
            Place::NodePort | Place::NodePortLocal => Place::NodePortLocal,
        }
    }

    /// What frontends are found by.
    pub(super) fn key(self, family: Family) -> Vec<Field> {
        match self {
            Place::Service | Place::ServiceLocal => {
                vec![Field::Daddr(family), Field::L4Proto, Field::Dport]
            }
            Place::NodePort | Place::NodePortLocal => vec![Field::L4Proto, Field::Dport],
        }
    }

    /// What endpoints are found by: the frontend and a slot drawn from `size`.
    pub(super) fn slot_key(self, family: Family, size: u32) -> Vec<Field> {
        let mut key = self.key(family);
        key.push(Field::Random { modulus: size });
        key
    }

    /// What the endpoint in a certain slot is found by.
    pub(super) fn certain_slot_key(self, family: Family, number: u32) -> Vec<Field> {
        let mut key = self.key(family);
        key.push(Field::Slot { number });
        key
    }

    /// The frontend, then the source: whom a restricted frontend admits.
    pub(super) fn source_key(self, family: Family) -> Vec<Field> {
        let mut key = self.key(family);
        key.push(Field::Saddr(family));
        key
    }

    fn prefix(self) -> &'static str {
        match self {
            Place::Service => "service",
            Place::ServiceLocal => "service-local",
            Place::NodePort => "nodeport",
            Place::NodePortLocal => "nodeport-local",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix())
    }
}

/// A set or map of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum SetId {
    /// Cluster IPs in use.
    ClusterIps,
    /// Addresses of this node that accept node ports.
    NodePortIps,
    /// Connections from an endpoint of this node to itself.
    Hairpin,
    /// Frontends without endpoints.
    Reject(Place),
    /// Frontends whose endpoints are all elsewhere, for traffic that may only use local ones.
    Drop(Place),
    /// Frontends whose traffic is always masqueraded.
    Masquerade(Place),
    /// Frontends with a second pool for traffic from elsewhere, or none for it.
    Split(Place),
    /// Frontends that draw from so many slots.
    Slots(Place, u32),
    /// The same for those with session affinity, if there is more than one slot: what a client is
    /// remembered for comes before the draw.
    StickySlots(Place, u32),
    /// Endpoints by frontend and slot.
    Endpoints(Place),
    /// Frontends that only some sources may use.
    Restricted,
    /// Those sources, by frontend.
    Sources,
    /// Frontends with session affinity, and the number under which their clients are remembered.
    Sticky(Place),
    /// Those numbers, by the timeout in seconds.
    Remembered(u32),
    /// The identity of the endpoint in each slot of a frontend with session affinity.
    SlotIds(Place),
    /// The same identity by the frontend's number and the endpoint.
    EndpointIds,
    /// Clients, each with the number of a frontend that it uses, and with the identity of the endpoint
    /// that it uses there. Rules write to it.
    Affinity,
    /// Addresses of virtual services by frontend, where they differ ([`Carrier::Ipvs`]).
    Virtual(Place),
    /// Virtual services that clients address.
    VirtualServices,
    /// Virtual services that only translated traffic may address.
    VirtualTranslated,
    /// Frontends, each with the number of new connections to it.
    Counters(Place),
    /// Ports of this process that only redirected traffic may use.
    RelayPorts,
}

/// How many clients of frontends the kernel remembers at the most; beyond that, new ones have no
/// affinity.
const MOST_CLIENTS: u32 = 1 << 20;

/// The entries of a client: under the number of the frontend, and under the endpoint.
const ENTRIES_OF_CLIENT: u32 = 2;

/// The largest number of slots that `typeof` announces; of no consequence to the kernel.
const SLOTS_SHOWN: u32 = 65536;

impl SetId {
    /// The sets that are always there.
    pub(super) fn permanent(carrier: Carrier) -> impl Iterator<Item = SetId> {
        let per_address = [Place::Service, Place::NodePort].into_iter().flat_map(|place| {
            [
                SetId::Reject(place),
                SetId::Drop(place),
                SetId::Masquerade(place),
                SetId::Split(place),
            ]
        });
        use SetId::{ClusterIps, Hairpin, NodePortIps, Restricted, Sources};
        [ClusterIps, NodePortIps, Hairpin, Restricted, Sources]
            .into_iter()
            .chain(per_address)
            .chain(SetId::carrying(carrier))
    }

    /// Those of them that only this carrier needs.
    fn carrying(carrier: Carrier) -> Vec<SetId> {
        let endpoints = Place::ALL.map(SetId::Endpoints).into_iter();
        match carrier {
            Carrier::Kernel => endpoints.collect(),
            Carrier::Relays(_) => endpoints.chain([SetId::RelayPorts]).collect(),
            Carrier::Ipvs => {
                let shared = [SetId::VirtualServices, SetId::VirtualTranslated];
                Place::ALL.map(SetId::Virtual).into_iter().chain(shared).collect()
            }
        }
    }

    /// Its name in the kernel.
    pub(super) fn name(self) -> Arc<str> {
        match self {
            SetId::ClusterIps => "cluster-ips".into(),
            SetId::NodePortIps => "nodeport-ips".into(),
            SetId::Hairpin => "hairpin-connections".into(),
            SetId::Reject(place) => format!("{place}-reject").into(),
            SetId::Drop(place) => format!("{place}-drop").into(),
            SetId::Masquerade(place) => format!("{place}-masquerade").into(),
            SetId::Split(place) => format!("{place}-split").into(),
            SetId::Slots(place, size) => format!("{place}-slots-{size}").into(),
            SetId::StickySlots(place, size) => format!("{place}-sticky-slots-{size}").into(),
            SetId::Endpoints(place) => format!("{place}-endpoints").into(),
            SetId::Restricted => "service-restricted".into(),
            SetId::Sources => "service-sources".into(),
            SetId::Sticky(place) => format!("{place}-sticky").into(),
            // Not `affinity-`: by that the Go kube-proxy knows its own sets. It deletes those that it
            // does not need, and cannot start where rules that it leaves alone still use one
            // (upstream: `pkg/proxy/nftables/proxier.go`, isAffinitySetName).
            SetId::Remembered(timeout) => format!("remember-{timeout}").into(),
            SetId::SlotIds(place) => format!("{place}-endpoint-ids").into(),
            SetId::EndpointIds => "endpoint-ids".into(),
            SetId::Affinity => "affinity".into(),
            SetId::Virtual(place) => format!("{place}-virtual").into(),
            SetId::VirtualServices => "virtual-services".into(),
            SetId::VirtualTranslated => "virtual-translated".into(),
            SetId::Counters(place) => format!("{place}-counters").into(),
            SetId::RelayPorts => "relay-ports".into(),
        }
    }

    /// Whether its elements are the rules' own.
    pub(super) fn written_by_rules(self) -> bool {
        self == SetId::Affinity
    }

    /// How many slots its frontends draw from, if it is such a set of this place.
    pub(super) fn slots_of(&self, wanted: Place) -> Option<u32> {
        match *self {
            SetId::Slots(place, size) | SetId::StickySlots(place, size) if place == wanted => {
                Some(size)
            }
            _ => None,
        }
    }

    /// Whether it is there only while frontends are in it; the other sets always are.
    pub(super) fn varies(self) -> bool {
        use SetId::{Counters, EndpointIds, Remembered, SlotIds, Slots, Sticky, StickySlots};
        let of_affinity =
            matches!(self, StickySlots(..) | Sticky(_) | Remembered(_) | SlotIds(_) | EndpointIds);
        of_affinity || matches!(self, Slots(..) | Counters(_))
    }

    /// The set of ours that has this name.
    pub(super) fn from_name(name: &str) -> Option<SetId> {
        let place = |prefix: &str| Place::ALL.into_iter().find(|place| place.prefix() == prefix);
        let found = if let Some((prefix, size)) = name.rsplit_once("-sticky-slots-") {
            SetId::StickySlots(place(prefix)?, size.parse().ok()?)
        } else if let Some((prefix, size)) = name.rsplit_once("-slots-") {
            SetId::Slots(place(prefix)?, size.parse().ok()?)
        } else if let Some(prefix) = name.strip_suffix("-sticky") {
            SetId::Sticky(place(prefix)?)
        } else if let Some(prefix) = name.strip_suffix("-endpoint-ids") {
            SetId::SlotIds(place(prefix)?)
        } else if name == "endpoint-ids" {
            SetId::EndpointIds
        } else if let Some(prefix) = name.strip_suffix("-counters") {
            SetId::Counters(place(prefix)?)
        } else if let Some(timeout) = name.strip_prefix("remember-") {
            SetId::Remembered(timeout.parse().ok()?)
        } else if name == "affinity" {
            SetId::Affinity
        } else {
            let all = SetId::permanent(Carrier::Relays(Sight::Node))
                .chain(SetId::carrying(Carrier::Ipvs));
            return { all }.find(|id| *id.name() == *name);
        };
        // Others may write a number in another way, such as 04.
        Some(found).filter(|id| *id.name() == *name)
    }

    /// Its definition.
    pub(super) fn definition(self, family: Family) -> Set {
        let (daddr, saddr) = (Field::Daddr(family), Field::Saddr(family));
        let (protocol, port) = (Field::L4Proto, Field::Dport);
        let name = self.name();
        let (mut set, comment) = match self {
            SetId::ClusterIps => {
                (Set::set(name, vec![daddr]), "cluster IPs: other ports of them are rejected")
            }
            SetId::NodePortIps => {
                (Set::set(name, vec![daddr]), "addresses of this node that accept node ports")
            }
            SetId::Hairpin => (
                Set::set(name, vec![saddr, daddr, protocol, port]),
                "an endpoint that reaches itself must see another source",
            ),
            SetId::Reject(place) => {
                (Set::set(name, place.key(family)), "no endpoint anywhere: rejected")
            }
            SetId::Drop(place) => {
                (Set::set(name, place.key(family)), "policy Local, no endpoint here: dropped")
            }
            SetId::Masquerade(place) => {
                (Set::set(name, place.key(family)), "source becomes this node's address")
            }
            SetId::Split(place) => (
                Set::set(name, place.key(family)),
                "policy Local: pods and this node itself may use any endpoint, others local ones",
            ),
            SetId::Slots(place, _) => {
                (Set::set(name, place.key(family)), "frontends by the number of slots to draw from")
            }
            SetId::StickySlots(place, _) => (
                Set::set(name, place.key(family)),
                "frontends with session affinity by the number of slots to draw from",
            ),
            SetId::Endpoints(place) => (
                Set::map(name, place.slot_key(family, SLOTS_SHOWN), vec![daddr, port]),
                "the endpoint in each slot of a frontend",
            ),
            SetId::Restricted => (
                Set::set(name, Place::Service.key(family)),
                "load balancer addresses that only service-sources may use",
            ),
            SetId::Sources => {
                let mut set = Set::set(name, Place::Service.source_key(family));
                set.flags = SetFlags::INTERVAL;
                (set, "who may use which restricted address")
            }
            SetId::Sticky(place) => (
                Set::map(name, place.key(family), vec![Field::Priority]),
                "session affinity: the number that clients are remembered under",
            ),
            SetId::Remembered(_) => (
                Set::set(name, vec![Field::Priority]),
                "session affinity: numbers by the timeout in seconds",
            ),
            SetId::SlotIds(place) => (
                Set::map(name, place.slot_key(family, SLOTS_SHOWN), vec![Field::Priority]),
                "session affinity: the identity of the endpoint in each slot of a frontend",
            ),
            SetId::EndpointIds => (
                Set::map(name, vec![Field::Priority, daddr, port], vec![Field::Priority]),
                "session affinity: the identity of each endpoint under a number",
            ),
            SetId::Affinity => {
                let mut set = Set::set(name, client_key(family).to_vec());
                set.flags = SetFlags::DYNAMIC | SetFlags::TIMEOUT;
                set.size = Some(MOST_CLIENTS * ENTRIES_OF_CLIENT);
                (set, "session affinity: clients, with the endpoints that they use")
            }
            SetId::Virtual(place) => (
                Set::map(name, place.key(family), vec![daddr, port]),
                "the address of the virtual service that serves a frontend; its own where none does",
            ),
            SetId::VirtualServices => (
                Set::set(name, Place::Service.key(family)),
                "virtual services that clients address: other ports of cluster IPs are rejected",
            ),
            SetId::VirtualTranslated => (
                Set::set(name, Place::Service.key(family)),
                "virtual services that only translated traffic may address",
            ),
            SetId::Counters(place) => {
                let mut set = Set::set(name, place.key(family));
                set.counting = Counting::On;
                (set, "new connections to each frontend")
            }
            SetId::RelayPorts => (
                Set::set(name, vec![protocol, port]),
                "ports of sluice that only redirected traffic may use",
            ),
        };
        set.comment = Some(comment.into());
        set
    }
}

/// What a client is remembered by, beside the number or identity in the packet's priority. That is there
/// from before its destination is translated until after that.
///
/// A map from clients to endpoints would need one look-up, but no saved ruleset would have it: `nft` 1.0.6
/// cannot read a rule that writes to a map with IPv6 addresses (it dies of a failed assertion), and leaves
/// writes to any map out of its JSON.
pub(super) fn client_key(family: Family) -> [Field; 2] {
    [Field::Saddr(family), Field::Priority]
}

/// The part of a key that names a frontend.
pub(super) fn frontend_key(address: &Address) -> Key {
    match *address {
        Address::Vip { ip, protocol, port } => Key::new().address(ip).protocol(protocol).port(port),
        Address::NodePort { protocol, port } => Key::new().protocol(protocol).port(port),
    }
}

/// How many slots `endpoints` (at least one) are drawn from: the next power of two, so that a draw
/// hits with a probability of more than one half.
pub(super) fn slots_for(endpoints: usize) -> u32 {
    u32::try_from(endpoints.next_power_of_two()).unwrap_or(1 << 31)
}
