//! The service table of the IPVS mode: frontends lead to virtual services, and IPVS chooses the endpoint.
//!
//! Cluster IPs are addresses of this node here, so rules must ensure that only IPVS answers there, and that
//! no other rule translates traffic to them.

use std::sync::Arc;

use super::virtual_services::{Reach, VirtualService, virtual_services};
use crate::packet_path::PacketPath;
use crate::service_table::{
    self, Conditions, DSTNAT, DataPath, Elements, FrontendClass, Hooks, KernelTable, OwnSet, Rules,
    Ruleset, ServiceTable, SetId, all, frontend_key, lookups, packet_path,
};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{
    Address, ForwardingTable, Frontend, FrontendKind, Hit, Host, Packet, PortPlan, ServicePlan,
    Verdict,
};
use sluice_kernel::nft::statement;
use sluice_kernel::nft::{Data, Element, Field, Key, Set, ct_status};

/// After address translation of the node's own traffic, and before IPVS takes it
/// (`ip_vs_ops4` in `net/netfilter/ipvs/ip_vs_core.c`: `NF_IP_PRI_NAT_DST + 2`).
const BEFORE_IPVS: i32 = DSTNAT + 1;

/// Before iptables, whichever of the two was there first: cluster IPs are addresses of this node, and the
/// first translation counts.
const BEFORE_IPTABLES: i32 = DSTNAT - 1;

const TRANSLATION: &str =
    "the address of the virtual service that serves a frontend; its own where none does";

static VIPS: OwnSet =
    translated_by("service-virtual", |name, family| to_service(FrontendClass::Vip, name, family));
static VIPS_LOCAL: OwnSet = translated_by("service-local-virtual", |name, family| {
    to_service(FrontendClass::VipLocal, name, family)
});
static NODE_PORTS: OwnSet = translated_by("nodeport-virtual", |name, family| {
    to_service(FrontendClass::NodePort, name, family)
});
static NODE_PORTS_LOCAL: OwnSet = translated_by("nodeport-local-virtual", |name, family| {
    to_service(FrontendClass::NodePortLocal, name, family)
});

const fn translated_by(name: &'static str, shape: fn(Arc<str>, Family) -> Set) -> OwnSet {
    OwnSet { name, comment: TRANSLATION, shape }
}

/// A map from frontends of a class to the virtual services that serve them.
fn to_service(class: FrontendClass, name: Arc<str>, family: Family) -> Set {
    Set::map(name, class.key(family), vec![Field::Daddr(family), Field::Dport])
}

/// Virtual services that clients address.
static DIRECT: OwnSet = OwnSet {
    name: "virtual-services",
    comment: "virtual services that clients address: other ports of cluster IPs are rejected",
    shape: |name, family| Set::set(name, FrontendClass::Vip.key(family)),
};

/// Virtual services that only translated traffic may address.
static TRANSLATED: OwnSet = OwnSet {
    name: "virtual-translated",
    comment: "virtual services that only translated traffic may address",
    shape: |name, family| Set::set(name, FrontendClass::Vip.key(family)),
};

/// The virtual service of each frontend of a class.
pub(super) fn translation(class: FrontendClass) -> SetId {
    SetId::Own(match class {
        FrontendClass::Vip => &VIPS,
        FrontendClass::VipLocal => &VIPS_LOCAL,
        FrontendClass::NodePort => &NODE_PORTS,
        FrontendClass::NodePortLocal => &NODE_PORTS_LOCAL,
    })
}

/// The virtual services that may be addressed in a certain way.
pub(super) fn reached(reach: Reach) -> SetId {
    SetId::Own(match reach {
        Reach::Direct => &DIRECT,
        Reach::Translated => &TRANSLATED,
    })
}

/// The table of this mode for one IP family, to be given to [`Ipvs`](super::Ipvs).
pub fn table<T: KernelTable>(kernel: T) -> ServiceTable<T> {
    ServiceTable::new(kernel, Box::new(ToVirtualServices))
}

/// The path of a packet that has found a frontend.
pub fn path(hit: &Hit<'_>) -> PacketPath {
    let services = virtual_services(hit.plan);
    let pool = match hit.route.verdict {
        Verdict::Forward(pool) => Some(pool),
        Verdict::Reject | Verdict::Drop => None,
    };
    let serves =
        |it: &&VirtualService<'_>| std::ptr::eq(it.port, hit.port) && Some(it.pool) == pool;
    let service = services.iter().find(serves).filter(|_| hit.is_forwarded());
    let here = hit.frontend.kind == FrontendKind::ClusterIp;
    let to_this_node = hit.packet.to_this_node || here;
    let packet = Packet { to_this_node, ..hit.packet.clone() };
    let virtual_service = service.map(|it| {
        let protocol = it.protocol.to_string().to_uppercase();
        format!("{protocol} {}", std::net::SocketAddr::new(it.ip, it.at))
    });
    let last = |_, _| {
        let service = virtual_service.iter().map(|service| format!("IPVS {service}"));
        ["dnat".to_owned()].into_iter().chain(service).collect()
    };
    let mut path = packet_path(&Hit { packet: &packet, ..*hit }, Some(&ToVirtualServices), last);
    for endpoint in service.into_iter().flat_map(|it| it.port.pool(it.pool)) {
        let to = std::net::SocketAddr::new(endpoint.ip, endpoint.port);
        path.objects.push((virtual_service.clone().unwrap_or_default(), format!("-> {to} Masq")));
    }
    path
}

/// Destinations are translated to virtual services, if they are none.
#[derive(Debug)]
pub(super) struct ToVirtualServices;

/// The table that the mode writes into an empty kernel.
pub fn ruleset(table: &ForwardingTable) -> Ruleset {
    service_table::ruleset(table, &ToVirtualServices)
}

impl DataPath for ToVirtualServices {
    fn balances(&self, _: Protocol) -> bool {
        false
    }

    fn remembers_clients(&self) -> bool {
        false
    }

    fn sets(&self) -> Vec<SetId> {
        let reached = [Reach::Direct, Reach::Translated].map(reached);
        FrontendClass::ALL.map(translation).into_iter().chain(reached).collect()
    }

    fn hooks(&self, _: &Host) -> Hooks {
        Hooks {
            dstnat: BEFORE_IPTABLES,
            output: BEFORE_IPVS,
            input_checks: &["virtual-ips-check"],
            forward_checks: &["virtual-absent"],
            ..Hooks::default()
        }
    }

    fn conditions(&self, family: Family) -> Conditions {
        use Field::{Daddr, Dport, L4Proto, OriginalDaddr, Saddr};
        let conditions = Conditions::new(family);
        let first = [Saddr(family), OriginalDaddr(family), L4Proto, Dport];
        let cluster_ips = SetId::ClusterIps.name();
        let no_cluster_ip = statement::is_not_in(&[Daddr(family)], &cluster_ips);
        Conditions {
            // This node's own traffic to a cluster IP, which is one of its addresses, has that as its
            // source too.
            masqueraded: Some(statement::is_in(&[Saddr(family)], &cluster_ips)),
            // IPVS leaves no sign of its translation; but then it wanted to go to another address.
            through_a_service: statement::is_not_in(&first, &SetId::Hairpin.name()),
            node_port_addresses: all([conditions.node_port_addresses, no_cluster_ip]),
            // Whatever the guard is: they are addresses of this node.
            other_ports: Some("virtual-check"),
        }
    }

    /// What IPVS does not serve would reach the node's own programs; and for as long as a cluster IP is not
    /// yet or no longer an address of this node, what IPVS serves would leave the node.
    fn rules(&self, rules: &mut Rules<'_>) {
        let key = FrontendClass::Vip.key(rules.family());
        let served = || statement::is_in(&key, &reached(Reach::Direct).name());
        let translated = || {
            let member = statement::is_in(&key, &reached(Reach::Translated).name());
            all([statement::ct_status(ct_status::DNAT), member])
        };
        let check = statement::goto(&"virtual-check".into());
        rules.rule("virtual-ips-check", [rules.to_cluster_ip(), check]);
        rules.rule("virtual-check", [served(), statement::leave()]);
        rules.rule("virtual-check", [translated(), statement::leave()]);
        rules.rule("virtual-check", [Rules::refuse()]);
        rules.rule("virtual-absent", [served(), statement::drop()]);
        rules.rule("virtual-absent", [translated(), statement::drop()]);
    }

    fn deliver(&self, rules: &mut Rules<'_>, frontends: FrontendClass) {
        let family = rules.family();
        let at = translation(frontends).name();
        let to_virtual_service = statement::dnat_to_data_of(family, &frontends.key(family), &at);
        rules.rule(&Rules::pools(frontends), [to_virtual_service]);
    }

    fn elements(&self, plan: &ServicePlan, out: &mut Elements) {
        let services = virtual_services(plan);
        for port in &plan.ports {
            for frontend in &port.frontends {
                translations(port, frontend, &services, out);
            }
        }
    }

    /// While a cluster IP changes hands, it may have virtual services of several Services.
    fn shared_elements(&self, plan: &ServicePlan, out: &mut Elements) {
        out.extend(virtual_services(plan).into_iter().map(|it| {
            let key = Key::new().address(it.ip).protocol(it.protocol).port(it.at);
            (reached(it.reach), Element::new(key))
        }));
    }
}

/// Where a frontend's traffic is translated to.
fn translations(
    port: &PortPlan,
    frontend: &Frontend,
    services: &[VirtualService<'_>],
    out: &mut Elements,
) {
    let key = frontend_key(&frontend.at);
    // A cluster IP that is an address of this node. Then all of it is translated, what IPVS serves there and
    // what is refused to that same address: rules of others for addresses of this node (a host port's) come
    // later, and a connection is translated once (k/k#66103).
    let itself = match frontend.at {
        Address::Vip { ip, port, .. } if frontend.kind == FrontendKind::ClusterIp => {
            Some(Data::new().address(ip).port(port))
        }
        _ => None,
    };
    for (class, route) in lookups(frontend) {
        let serves =
            |it: &&VirtualService<'_>, pool| std::ptr::eq(it.port, port) && it.pool == pool;
        let to = match route.verdict {
            Verdict::Forward(pool) => {
                let service = services.iter().find(|it| serves(it, pool));
                service.map(|it| Data::new().address(it.ip).port(it.at))
            }
            Verdict::Reject | Verdict::Drop => itself,
        };
        out.extend(to.map(|to| (translation(class), Element::data(key, to))));
    }
}
