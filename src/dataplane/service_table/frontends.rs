//! The frontends of a Service as keys of sets, and which of its pools each of them leads to.

use std::fmt;

use sluice_core::net::Family;
use sluice_core::plan::{Address, Frontend, PoolKind, Route, SourceClass, Verdict};
use sluice_kernel::nft::{Field, Key};

/// Frontends that are looked up in the same sets by the same key.
///
/// Most frontends use one pool for all traffic. One whose external policy is Local has a second pool,
/// for traffic from outside, which is looked up in sets of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum FrontendClass {
    /// Virtual IPs.
    Vip,
    /// Virtual IPs, for traffic from outside.
    VipLocal,
    /// Node ports.
    NodePort,
    /// Node ports, for traffic from outside.
    NodePortLocal,
}

impl FrontendClass {
    pub(crate) const ALL: [FrontendClass; 4] = [
        FrontendClass::Vip,
        FrontendClass::VipLocal,
        FrontendClass::NodePort,
        FrontendClass::NodePortLocal,
    ];

    /// The class of an address, for all traffic.
    pub(crate) fn of(address: &Address) -> FrontendClass {
        match address {
            Address::Vip { .. } => FrontendClass::Vip,
            Address::NodePort { .. } => FrontendClass::NodePort,
        }
    }

    /// The same addresses for all traffic: sets that do not depend on the source have these only.
    pub(crate) fn whole(self) -> FrontendClass {
        match self {
            FrontendClass::Vip | FrontendClass::VipLocal => FrontendClass::Vip,
            FrontendClass::NodePort | FrontendClass::NodePortLocal => FrontendClass::NodePort,
        }
    }

    /// The same addresses for traffic from outside.
    pub(crate) fn local(self) -> FrontendClass {
        match self {
            FrontendClass::Vip | FrontendClass::VipLocal => FrontendClass::VipLocal,
            FrontendClass::NodePort | FrontendClass::NodePortLocal => FrontendClass::NodePortLocal,
        }
    }

    /// What a packet's frontend is found by.
    pub(crate) fn key(self, family: Family) -> Vec<Field> {
        match self {
            FrontendClass::Vip | FrontendClass::VipLocal => {
                vec![Field::Daddr(family), Field::L4Proto, Field::Dport]
            }
            FrontendClass::NodePort | FrontendClass::NodePortLocal => {
                vec![Field::L4Proto, Field::Dport]
            }
        }
    }

    /// What an endpoint is found by: the frontend, and a slot drawn from `size`.
    pub(crate) fn drawn_slot_key(self, family: Family, size: u32) -> Vec<Field> {
        let mut key = self.key(family);
        key.push(Field::Random { modulus: size });
        key
    }

    /// What the endpoint in a certain slot is found by.
    pub(crate) fn slot_key(self, family: Family, number: u32) -> Vec<Field> {
        let mut key = self.key(family);
        key.push(Field::Slot { number });
        key
    }

    /// The frontend, then the source: the admitted sources of a restricted frontend.
    pub(super) fn source_key(self, family: Family) -> Vec<Field> {
        let mut key = self.key(family);
        key.push(Field::Saddr(family));
        key
    }

    /// What the names of its sets and chains begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            FrontendClass::Vip => "service",
            FrontendClass::VipLocal => "service-local",
            FrontendClass::NodePort => "nodeport",
            FrontendClass::NodePortLocal => "nodeport-local",
        }
    }
}

impl fmt::Display for FrontendClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix())
    }
}

/// The part of an element's key that names a frontend.
pub(crate) fn frontend_key(address: &Address) -> Key {
    match *address {
        Address::Vip { ip, protocol, port } => Key::new().address(ip).protocol(protocol).port(port),
        Address::NodePort { protocol, port } => Key::new().protocol(protocol).port(port),
    }
}

/// Whether pods and this node find another pool at a frontend than traffic from outside.
pub(super) fn is_split(frontend: &Frontend) -> bool {
    frontend.routes.iter().any(|route| route.from == SourceClass::ThisNode)
}

/// Where traffic to a frontend is looked up, with the route that says what becomes of it there. Whom else
/// a class of sources is masqueraded for is not in the route: rules decide that.
pub(crate) fn lookups(frontend: &Frontend) -> impl Iterator<Item = (FrontendClass, Route)> {
    let class = FrontendClass::of(&frontend.at);
    let anyone = frontend.routes.for_anyone();
    let privileged = frontend.routes.first().filter(|_| is_split(frontend)).copied();
    let rest = if privileged.is_some() { class.local() } else { class };
    privileged.map(|route| (class, route)).into_iter().chain([(rest, anyone)])
}

/// The pool that traffic to a frontend finds at each of its look-ups.
pub(crate) fn pools_of(frontend: &Frontend) -> impl Iterator<Item = (FrontendClass, PoolKind)> {
    lookups(frontend).filter_map(|(class, route)| match route.verdict {
        Verdict::Forward(pool) => Some((class, pool)),
        Verdict::Reject | Verdict::Drop => None,
    })
}
