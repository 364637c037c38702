//! This node's Node object.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::net::Family;

/// The Node object of the machine that Sluice runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `metadata.uid`: it changes when the object is recreated.
    pub uid: String,
    /// `status.addresses` of type InternalIP, then those of type ExternalIP, in the API's order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The Node has a deletionTimestamp or the taint ToBeDeletedByClusterAutoscaler: load balancers should stop sending
    /// new connections to it (KEP-3836).
    pub leaving: bool,
}

impl Node {
    /// The node's primary address of a family: the first one.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// The Node `object`, completed with values that it lacks from the Node `before` (whose own completed values are
    /// `kept`); and a list of the values so kept. `None` is an object without values.
    ///
    /// Nodes in use do not lose addresses and pod CIDRs, but a cloud controller may clear them for a while, or delete and
    /// recreate the object; node ports would close, and pods would not be recognized. (Upstream keeps the values of its
    /// start.) Families are completed separately. A zone label, however, may be removed on purpose: the zone is kept only
    /// if the object was recreated and has not had one yet.
    #[must_use]
    pub fn completed(
        object: Option<Node>,
        before: Option<Node>,
        kept: &[Kept],
    ) -> (Option<Node>, Vec<Kept>) {
        let Some(known) = before else { return (object, Vec::new()) };
        let waits = kept.iter().any(|kept| matches!(kept, Kept::Zone(_)));
        let (mut node, mut kept) = (object.unwrap_or_default(), Vec::new());
        for family in Family::BOTH {
            if node.primary(family).is_none() {
                let lost = known.addresses.iter().filter(|ip| Family::of(**ip) == family);
                node.addresses.extend(lost);
                kept.extend(known.primary(family).map(Kept::Address));
            }
            let is_of = |net: &&IpNet| Family::of_net(net) == family;
            if !node.pod_cidrs.iter().any(|net| is_of(&net)) {
                let lost: Vec<IpNet> = known.pod_cidrs.iter().filter(is_of).copied().collect();
                kept.extend(lost.iter().copied().map(Kept::PodCidr));
                node.pod_cidrs.extend(lost);
            }
        }
        if node.zone.is_none() && (node.uid != known.uid || waits) {
            node.zone.clone_from(&known.zone);
            kept.extend(node.zone.clone().map(Kept::Zone));
        }
        (Some(node), kept)
    }
}

/// A value of this node that has disappeared from its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The first address of its family.
    Address(IpAddr),
    /// A prefix of this node's pods.
    PodCidr(IpNet),
    /// The zone.
    Zone(String),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::Address(ip) => write!(f, "address {ip}"),
            Kept::PodCidr(net) => write!(f, "pod CIDR {net}"),
            Kept::Zone(zone) => write!(f, "zone {zone}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, addresses: &[&str], pod_cidrs: &[&str], zone: &str) -> Node {
        Node {
            uid: uid.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            pod_cidrs: pod_cidrs.iter().map(|text| text.parse().expect("a prefix")).collect(),
            zone: Some(zone.to_owned()).filter(|zone| !zone.is_empty()),
            leaving: false,
        }
    }

    /// The completed Node after these objects, and the kept values.
    fn after(objects: Vec<Option<Node>>) -> (Option<Node>, String) {
        let (node, kept) = objects
            .into_iter()
            .fold((None, Vec::new()), |(node, kept), object| Node::completed(object, node, &kept));
        (node, kept.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn what_a_node_does_not_say_any_more_stays() {
        let both = ["192.0.2.1", "fd00::1", "198.51.100.1"];
        let v4_first = ["192.0.2.1", "198.51.100.1", "fd00::1"];
        let pods = ["10.1.0.0/24", "fd00:1::/64"];
        let full = || Some(node("a", &both, &pods, "z"));
        let again =
            |addresses: &[&str], pods: &[&str], zone| Some(node("b", addresses, pods, zone));
        let bare = |uid| Some(node(uid, &[], &[], ""));
        let whole =
            "address 192.0.2.1, pod CIDR 10.1.0.0/24, address fd00::1, pod CIDR fd00:1::/64";
        let and_zone = format!("{whole}, zone z");
        let table = [
            ("it says all", vec![full()], full(), ""),
            ("there is no object", vec![None], None, ""),
            ("nothing was known", vec![None, bare("a")], bare("a"), ""),
            (
                "it says nothing; a label may be removed on purpose",
                vec![full(), bare("a")],
                Some(node("a", &v4_first, &pods, "")),
                whole,
            ),
            ("it is gone", vec![full(), None], Some(node("", &v4_first, &pods, "z")), &and_zone),
            (
                "it is gone, and comes again with nothing",
                vec![full(), None, bare("b")],
                again(&v4_first, &pods, "z"),
                &and_zone,
            ),
            (
                "it was made again, which was not seen",
                vec![full(), bare("b"), bare("b")],
                again(&v4_first, &pods, "z"),
                &and_zone,
            ),
            (
                "it comes to its address first",
                vec![full(), None, bare("b"), again(&["192.0.2.2"], &[], "")],
                again(&["192.0.2.2", "fd00::1"], &pods, "z"),
                "pod CIDR 10.1.0.0/24, address fd00::1, pod CIDR fd00:1::/64, zone z",
            ),
            (
                "it is complete again",
                vec![full(), None, bare("b"), again(&both, &pods, "y")],
                again(&both, &pods, "y"),
                "",
            ),
            (
                "it is complete again, and its label is removed",
                vec![full(), None, bare("b"), again(&both, &pods, "y"), again(&both, &pods, "")],
                again(&both, &pods, ""),
                "",
            ),
            (
                "one family is said anew, the other not any more",
                vec![full(), Some(node("a", &["192.0.2.7"], &["10.7.0.0/24"], "y"))],
                Some(node("a", &["192.0.2.7", "fd00::1"], &["10.7.0.0/24", "fd00:1::/64"], "y")),
                "address fd00::1, pod CIDR fd00:1::/64",
            ),
        ];
        for (story, objects, expected, kept) in table {
            assert_eq!(after(objects), (expected, kept.to_owned()), "{story}");
        }
    }
}
