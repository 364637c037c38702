//! Sets and maps: their names, types and the meaning of their elements.
//!
//! A frontend with n endpoints has the slots 0 to n-1 of a map `…-endpoints`, keyed by its address and the
//! slot. It is in one set `…-slots-N`, where N is n rounded up to a power of two, so that N changes rarely
//! and there are few sets. A draw of an empty slot is repeated (see `rules::draw`). There is no verdict map:
//! the kernel visits all elements of one whenever an element with a jump is added, so the cost of a change
//! would grow with the cluster.
//!
//! A set of a single mode is an [`OwnSet`] in the mode's folder.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::frontends::FrontendClass;
use sluice_core::net::Family;
use sluice_kernel::nft::{Counting, Field, Set, SetFlags};

/// The name of our table, the one that the Go kube-proxy uses too: starting one over the other takes
/// the node over in one transaction.
pub(crate) const TABLE: &str = "kube-proxy";

/// A set or map of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SetId {
    /// Cluster IPs in use.
    ClusterIps,
    /// Addresses of this node that accept node ports.
    NodePortIps,
    /// Connections from an endpoint of this node to itself.
    Hairpin,
    /// Frontends without endpoints.
    Reject(FrontendClass),
    /// Frontends whose endpoints are all elsewhere, for traffic that may only use local ones.
    Drop(FrontendClass),
    /// Frontends whose traffic is always masqueraded.
    Masquerade(FrontendClass),
    /// Frontends with a second pool for traffic from outside, or none for it.
    Split(FrontendClass),
    /// Frontends that draw from so many slots.
    Slots(FrontendClass, u32),
    /// The same for those with session affinity, if there is more than one slot: the affinity entry is looked
    /// up before the draw.
    StickySlots(FrontendClass, u32),
    /// Endpoints by frontend and slot.
    Endpoints(FrontendClass),
    /// Frontends that only some sources may use.
    Restricted,
    /// Those sources, by frontend.
    Sources,
    /// Frontends with session affinity, and the number of their affinity entries.
    Sticky(FrontendClass),
    /// Those numbers, by the timeout in seconds.
    Remembered(u32),
    /// The identity of the endpoint in each slot of a frontend with session affinity.
    SlotIds(FrontendClass),
    /// The same identity by the frontend's number and the endpoint.
    EndpointIds,
    /// Clients, each with the number of a frontend that it uses, and with the identity of the endpoint
    /// that it uses there. Rules write to it.
    Affinity,
    /// Frontends, each with the number of new connections to it.
    Counters(FrontendClass),
    /// A set that the mode has for itself.
    Own(&'static OwnSet),
}

/// A set or map that one mode has for itself. It is always there.
#[derive(Debug)]
pub(crate) struct OwnSet {
    pub(crate) name: &'static str,
    /// What it is for, for people who list it.
    pub(crate) comment: &'static str,
    /// The set under its name.
    pub(crate) shape: fn(Arc<str>, Family) -> Set,
}

/// No two sets of a table have the same name.
impl PartialEq for OwnSet {
    fn eq(&self, other: &OwnSet) -> bool {
        self.name == other.name
    }
}

impl Eq for OwnSet {}

impl PartialOrd for OwnSet {
    fn partial_cmp(&self, other: &OwnSet) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OwnSet {
    fn cmp(&self, other: &OwnSet) -> Ordering {
        self.name.cmp(other.name)
    }
}

impl Hash for OwnSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// The maximum number of affinity entries; beyond that, new clients have no affinity.
const MOST_CLIENTS: u32 = 1 << 20;

/// The entries of a client: under the number of the frontend, and under the endpoint.
const ENTRIES_OF_CLIENT: u32 = 2;

/// The largest number of slots that `typeof` announces; of no consequence to the kernel.
const SLOTS_SHOWN: u32 = 65536;

impl SetId {
    /// The sets that are always there, with those of the mode.
    pub(super) fn permanent(of_mode: Vec<SetId>) -> impl Iterator<Item = SetId> {
        use SetId::{ClusterIps, Hairpin, NodePortIps, Restricted, Sources};
        let by_class =
            [FrontendClass::Vip, FrontendClass::NodePort].into_iter().flat_map(|class| {
                [
                    SetId::Reject(class),
                    SetId::Drop(class),
                    SetId::Masquerade(class),
                    SetId::Split(class),
                ]
            });
        [ClusterIps, NodePortIps, Hairpin, Restricted, Sources]
            .into_iter()
            .chain(by_class)
            .chain(of_mode)
    }

    /// Its name in the kernel.
    pub(crate) fn name(self) -> Arc<str> {
        match self {
            SetId::ClusterIps => "cluster-ips".into(),
            SetId::NodePortIps => "nodeport-ips".into(),
            SetId::Hairpin => "hairpin-connections".into(),
            SetId::Reject(class) => format!("{class}-reject").into(),
            SetId::Drop(class) => format!("{class}-drop").into(),
            SetId::Masquerade(class) => format!("{class}-masquerade").into(),
            SetId::Split(class) => format!("{class}-split").into(),
            SetId::Slots(class, size) => format!("{class}-slots-{size}").into(),
            SetId::StickySlots(class, size) => format!("{class}-sticky-slots-{size}").into(),
            SetId::Endpoints(class) => format!("{class}-endpoints").into(),
            SetId::Restricted => "service-restricted".into(),
            SetId::Sources => "service-sources".into(),
            SetId::Sticky(class) => format!("{class}-sticky").into(),
            // Not `affinity-`: by that the Go kube-proxy knows its own sets. It deletes those that it
            // does not need, and cannot start where rules that it leaves alone still use one
            // (upstream: `pkg/proxy/nftables/proxier.go`, isAffinitySetName).
            SetId::Remembered(timeout) => format!("remember-{timeout}").into(),
            SetId::SlotIds(class) => format!("{class}-endpoint-ids").into(),
            SetId::EndpointIds => "endpoint-ids".into(),
            SetId::Affinity => "affinity".into(),
            SetId::Counters(class) => format!("{class}-counters").into(),
            SetId::Own(set) => set.name.into(),
        }
    }

    /// Whether its elements are the rules' own.
    pub(super) fn written_by_rules(self) -> bool {
        self == SetId::Affinity
    }

    /// How many slots its frontends draw from, if it is such a set of this class.
    pub(super) fn slots_of(&self, wanted: FrontendClass) -> Option<u32> {
        match *self {
            SetId::Slots(class, size) | SetId::StickySlots(class, size) if class == wanted => {
                Some(size)
            }
            _ => None,
        }
    }

    /// Whether it is there only while frontends are in it; the other sets always are.
    pub(super) fn is_on_demand(self) -> bool {
        use SetId::{Counters, EndpointIds, Remembered, SlotIds, Slots, Sticky, StickySlots};
        let of_affinity =
            matches!(self, StickySlots(..) | Sticky(_) | Remembered(_) | SlotIds(_) | EndpointIds);
        of_affinity || matches!(self, Slots(..) | Counters(_))
    }

    /// The set of ours that has this name: one of those that are always there, or one on demand.
    pub(super) fn from_name(name: &str, permanent: &[(SetId, Arc<str>)]) -> Option<SetId> {
        let class =
            |prefix: &str| FrontendClass::ALL.into_iter().find(|class| class.prefix() == prefix);
        let found = if let Some((prefix, size)) = name.rsplit_once("-sticky-slots-") {
            SetId::StickySlots(class(prefix)?, size.parse().ok()?)
        } else if let Some((prefix, size)) = name.rsplit_once("-slots-") {
            SetId::Slots(class(prefix)?, size.parse().ok()?)
        } else if let Some(prefix) = name.strip_suffix("-sticky") {
            SetId::Sticky(class(prefix)?)
        } else if let Some(prefix) = name.strip_suffix("-endpoint-ids") {
            SetId::SlotIds(class(prefix)?)
        } else if name == "endpoint-ids" {
            SetId::EndpointIds
        } else if let Some(prefix) = name.strip_suffix("-counters") {
            SetId::Counters(class(prefix)?)
        } else if let Some(timeout) = name.strip_prefix("remember-") {
            SetId::Remembered(timeout.parse().ok()?)
        } else if name == "affinity" {
            SetId::Affinity
        } else {
            return permanent.iter().find(|(_, known)| **known == *name).map(|(id, _)| *id);
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
            SetId::Reject(class) => {
                (Set::set(name, class.key(family)), "no endpoint anywhere: rejected")
            }
            SetId::Drop(class) => {
                (Set::set(name, class.key(family)), "policy Local, no endpoint here: dropped")
            }
            SetId::Masquerade(class) => {
                (Set::set(name, class.key(family)), "source becomes this node's address")
            }
            SetId::Split(class) => (
                Set::set(name, class.key(family)),
                "policy Local: pods and this node itself may use any endpoint, others local ones",
            ),
            SetId::Slots(class, _) => {
                (Set::set(name, class.key(family)), "frontends by the number of slots to draw from")
            }
            SetId::StickySlots(class, _) => (
                Set::set(name, class.key(family)),
                "frontends with session affinity by the number of slots to draw from",
            ),
            SetId::Endpoints(class) => (
                Set::map(name, class.drawn_slot_key(family, SLOTS_SHOWN), vec![daddr, port]),
                "the endpoint in each slot of a frontend",
            ),
            SetId::Restricted => (
                Set::set(name, FrontendClass::Vip.key(family)),
                "load balancer addresses that only service-sources may use",
            ),
            SetId::Sources => {
                let mut set = Set::set(name, FrontendClass::Vip.source_key(family));
                set.flags = SetFlags::INTERVAL;
                (set, "who may use which restricted address")
            }
            SetId::Sticky(class) => (
                Set::map(name, class.key(family), vec![Field::Priority]),
                "session affinity: the number that clients are remembered under",
            ),
            SetId::Remembered(_) => (
                Set::set(name, vec![Field::Priority]),
                "session affinity: numbers by the timeout in seconds",
            ),
            SetId::SlotIds(class) => (
                Set::map(name, class.drawn_slot_key(family, SLOTS_SHOWN), vec![Field::Priority]),
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
            SetId::Counters(class) => {
                let mut set = Set::set(name, class.key(family));
                set.counting = Counting::On;
                (set, "new connections to each frontend")
            }
            SetId::Own(set) => ((set.shape)(name, family), set.comment),
        };
        set.comment = Some(comment.into());
        set
    }
}

/// The client part of an affinity entry's key; the other part is the number or id in the packet's priority,
/// which is set from before DNAT until after it.
///
/// A map from clients to endpoints would need one look-up, but no saved ruleset would have it: `nft` 1.0.6
/// cannot read a rule that writes to a map with IPv6 addresses (it dies of a failed assertion), and leaves
/// writes to any map out of its JSON.
pub(super) fn client_key(family: Family) -> [Field; 2] {
    [Field::Saddr(family), Field::Priority]
}

/// How many slots `endpoints` (at least one) are drawn from: the next power of two, so that a draw
/// hits with a probability of more than one half.
pub(super) fn slots_for(endpoints: usize) -> u32 {
    u32::try_from(endpoints.next_power_of_two()).unwrap_or(1 << 31)
}
