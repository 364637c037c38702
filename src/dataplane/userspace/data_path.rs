//! The service table of the userspace mode: pools are sockets of this process, with rules for the relays' own
//! traffic and its replies.

use std::collections::BTreeSet;

use super::redirected::is_relayed;
use super::return_path::delivery_mark;
use super::visible_source::VisibleSource;
use crate::nftables::{ToEndpoints, drawn};
use crate::packet_path::PacketPath;
use crate::service_table::{
    Conditions, Connection, DataPath, Elements, FrontendClass, Hooks, KernelTable, MANGLE, OwnSet,
    Rules, ServiceTable, SetId, packet_path, slot_elements,
};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{Hit, Host, ServicePlan};
use sluice_kernel::nft::statement::{self, Statement};
use sluice_kernel::nft::{
    ApplyError, Chain, ChainKind, CtDirection, Element, Field, Hook, Key, Rule, Set, address_type,
    ct_state, ct_status,
};

/// The slots of the two sockets of a pool ([`VisibleSource::Client`]): for traffic whose source is kept,
/// and for traffic that is masqueraded.
pub(super) const KEPT: u32 = 0;
pub(super) const MASQUERADED: u32 = 1;

/// Ports of this process that only redirected traffic may use.
const RELAY_PORTS: SetId = SetId::Own(&OwnSet {
    name: "relay-ports",
    comment: "ports of sluice that only redirected traffic may use",
    shape: |name, _| Set::set(name, vec![Field::L4Proto, Field::Dport]),
});

/// The table that redirects to relays, for one IP family: pools of its forwarding tables are sockets of
/// this process.
pub fn table<T: KernelTable>(kernel: T, visible: VisibleSource) -> ServiceTable<T> {
    ServiceTable::new(kernel, Box::new(ToRelays(visible)))
}

/// Tries whether the kernel takes the rule by which answers to clients' addresses are delivered here;
/// nothing stays of it.
///
/// # Errors
/// If it does not, or if nf_tables cannot be used.
pub fn try_sockets(connection: &Connection, family: Family) -> Result<(), ApplyError> {
    let chain = Chain::base("socket", ChainKind::Filter, Hook::Prerouting, 0);
    connection.try_out(family, chain, Rule::of("socket", [statement::socket_is_transparent()]))
}

/// The path of a packet that has found a frontend. Relays are sockets of the running daemon, so that their ports are
/// not known here.
pub fn path(hit: &Hit<'_>) -> PacketPath {
    if !is_relayed(hit.port.protocol) {
        return packet_path(hit, Some(&ToEndpoints), drawn);
    }
    let relay = format!("relay of {} {}", hit.service, hit.port.name).trim_end().to_owned();
    packet_path(hit, None, |_, _| vec![relay])
}

/// Destinations are translated to relays, those of SCTP to endpoints.
#[derive(Debug)]
pub(super) struct ToRelays(pub(super) VisibleSource);

impl DataPath for ToRelays {
    fn balances(&self, protocol: Protocol) -> bool {
        !is_relayed(protocol)
    }

    fn remembers_clients(&self) -> bool {
        true
    }

    fn sets(&self) -> Vec<SetId> {
        let endpoints = FrontendClass::ALL.map(SetId::Endpoints);
        endpoints.into_iter().chain([RELAY_PORTS]).collect()
    }

    /// What relays send themselves is never redirected to relays.
    fn hooks(&self, host: &Host) -> Hooks {
        Hooks { exempt: Some(statement::mark_has(host.masquerade_mark)), ..Hooks::default() }
    }

    /// Relays are on this node, so loopback addresses, too, accept node ports.
    fn conditions(&self, family: Family) -> Conditions {
        Conditions { node_port_addresses: Statement::new(), ..Conditions::new(family) }
    }

    /// Only redirected traffic reaches relays. Their own traffic has the mark until `filter-output`.
    /// Redirected connections keep their source, which session affinity needs.
    fn rules(&self, rules: &mut Rules<'_>) {
        let mark = rules.table.host.masquerade_mark;
        let port = || statement::is_in(&[Field::L4Proto, Field::Dport], &RELAY_PORTS.name());
        let untranslated = || statement::ct_status_lacks(ct_status::DNAT);
        let new = statement::ct_state(ct_state::NEW);
        rules.rule("filter-input", [new, port(), untranslated(), Rules::refuse()]);
        let unmark = statement::flip_mark_bits(mark);
        rules.rule("filter-output", [statement::mark_has(mark), untranslated(), unmark]);
        let here = statement::destination_type(address_type::LOCAL);
        rules.rule("masquerading", [port(), here, statement::leave()]);
        if self.0 == VisibleSource::Client {
            mark_answers(rules);
        }
    }

    fn deliver(&self, rules: &mut Rules<'_>, frontends: FrontendClass) {
        let two = || rules.slots_in_use(frontends).any(|(slots, _)| slots == 2);
        if self.0 == VisibleSource::Client && two() {
            choose_by_source(rules, frontends);
        }
        rules.draw_endpoints(frontends);
    }

    fn elements(&self, plan: &ServicePlan, out: &mut Elements) {
        slot_elements(plan, out);
        for port in plan.ports.iter().filter(|port| is_relayed(port.protocol)) {
            let relays: BTreeSet<u16> =
                port.cluster.iter().chain(&*port.local).map(|relay| relay.port).collect();
            let relay = |n| Element::new(Key::new().protocol(port.protocol).port(n));
            out.extend(relays.into_iter().map(|port| (RELAY_PORTS, relay(port))));
        }
    }
}

/// Replies to a relay that stands before an endpoint with a client's address are for this node, wherever
/// the client is: the mark makes routing deliver them. Only packets in the reply direction match, so that
/// nothing on its way to a client is stolen by a program here that listens at all addresses.
fn mark_answers(rules: &mut Rules<'_>) {
    let chain = "filter-prerouting-mark";
    rules.chain(Chain::base(chain, ChainKind::Filter, Hook::Prerouting, MANGLE));
    let mark = statement::set_mark_bits(delivery_mark(rules.table.host.masquerade_mark));
    let reply = statement::ct_direction(CtDirection::Reply);
    rules.rule(chain, [reply, statement::socket_is_transparent(), mark]);
}

/// Traffic to be masqueraded goes to the relay that uses the node's address, all other traffic to the one
/// that uses the client's; only this table decides which.
fn choose_by_source(rules: &mut Rules<'_>, frontends: FrontendClass) {
    let (family, mark) = (rules.family(), rules.table.host.masquerade_mark);
    let relayed = || statement::not_protocol(Protocol::Sctp);
    let to = |slot| {
        let key = frontends.slot_key(family, slot);
        statement::dnat_to_data_of(family, &key, &SetId::Endpoints(frontends).name())
    };
    let draw = Rules::draw_chain(frontends, 2);
    rules.rule(&draw, [relayed(), statement::mark_has(mark), to(MASQUERADED)]);
    rules.rule(&draw, [relayed(), to(KEPT)]);
}
