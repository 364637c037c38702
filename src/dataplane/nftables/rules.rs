//! The chains and rules: a constant number of them, whatever the number of Services.
//!
//! ```text
//!             nat-prerouting, nat-output ──▶ services ──▶ service-pools ──▶ service-draw-N ──▶ dnat
//!                                               │  └────▶ nodeports ──▶ nodeport-pools ──▶ …
//!                                               └───────▶ service-split ──▶ service-local-pools ──▶ …
//! filter-input, filter-forward, filter-output ──▶ service-check, nodeport-check, cluster-ips-check
//! filter-prerouting-pre-dnat, filter-output-pre-dnat ──▶ sources-check
//! filter-prerouting-post-dnat, filter-output-post-dnat ──▶ affinity (only where it is asked for)
//!                              nat-postrouting ──▶ masquerading
//! ```
//!
//! Base chains have the names, hooks and priorities of the Go kube-proxy's (upstream:
//! `pkg/proxy/nftables/proxier.go`, nftablesBaseChains), and checks happen in the same hooks: reject
//! and drop after address translation, where only traffic that found no endpoint still has a service
//! address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::layout::{Carrier, KEPT, MASQUERADED, Place, SetId, Sight};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{ForwardingTable, NodePortAddresses, PodDetector};
use sluice_kernel::nft::{
    Chain, ChainKind, CtDirection, Field, Hook, NatFlags, Rule, Set, address_type, ct_state,
    ct_status,
    statement::{self, Statement},
};

/// `NF_IP_PRI_*` of `linux/netfilter_ipv4.h`.
const FILTER: i32 = 0;
const MANGLE: i32 = -150;
const DSTNAT: i32 = -100;
const BEFORE_DSTNAT: i32 = DSTNAT - 10;
pub(super) const AFTER_DSTNAT: i32 = DSTNAT + 10;
const SRCNAT: i32 = 100;
/// After address translation of the node's own traffic, and before IPVS takes it
/// (`ip_vs_ops4` in `net/netfilter/ipvs/ip_vs_core.c`: `NF_IP_PRI_NAT_DST + 2`).
const BEFORE_IPVS: i32 = DSTNAT + 1;
/// Before iptables, whichever of the two was there first: cluster IPs are addresses of this node beside IPVS,
/// and the first translation counts.
const BEFORE_IPTABLES: i32 = DSTNAT - 1;

/// How often a draw that hit no slot is repeated, in two factors. Each draw misses with a probability
/// below one half, so all of them miss less often than the last bit of the kernel's random number is
/// wrong; then slot 0, which always exists, is taken.
const DRAWS_PER_CHAIN: usize = 4;
const CHAINS_OF_DRAWS: usize = 8;

/// All sets, chains and rules, as values; elements are in `elements`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Schema {
    pub(super) sets: BTreeMap<Arc<str>, Set>,
    /// Chains with their rules.
    pub(super) chains: BTreeMap<Arc<str>, (Chain, Vec<Rule>)>,
}

/// The schema for a forwarding table whose frontends are in these sets that vary.
pub(super) fn schema(
    table: &ForwardingTable,
    varying: BTreeSet<SetId>,
    carrier: Carrier,
) -> Schema {
    let schema = Schema::default();
    let mut writer = Writer { family: table.family, carrier, varying, schema };
    let remembers = |set: &SetId| matches!(set, SetId::Remembered(_));
    let memory = writer.varying.iter().any(remembers).then_some(SetId::Affinity);
    for set in SetId::permanent(carrier).chain(writer.varying.clone()).chain(memory) {
        writer.schema.sets.insert(set.name(), set.definition(table.family));
    }
    writer.hooks(table);
    if let Carrier::Relays(sight) = carrier {
        writer.relays(table.host.masquerade_mark);
        if sight == Sight::Client {
            writer.answers(table.host.masquerade_mark);
        }
    }
    writer.affinity(table);
    writer.services(table);
    writer.node_ports(table);
    for place in Place::ALL {
        writer.pools(place, table);
    }
    writer.checks(table);
    writer.masquerading(table);
    writer.schema
}

/// A schema that is being written.
pub(super) struct Writer {
    pub(super) family: Family,
    carrier: Carrier,
    /// The sets in use of those that are not always there.
    pub(super) varying: BTreeSet<SetId>,
    schema: Schema,
}

fn all(statements: impl IntoIterator<Item = Statement>) -> Statement {
    statements.into_iter().flatten().collect()
}

impl Writer {
    pub(super) fn chain(&mut self, chain: Chain) {
        self.schema.chains.insert(Arc::clone(&chain.name), (chain, Vec::new()));
    }

    pub(super) fn rule(&mut self, chain: &str, statements: impl IntoIterator<Item = Statement>) {
        let (chain, rules) = self
            .schema
            .chains
            .entry(chain.into())
            .or_insert_with(|| (Chain::regular(chain), Vec::new()));
        rules.push(Rule::new(Arc::clone(&chain.name), all(statements)));
    }

    /// `FRONTEND @set` of the packet.
    fn frontend_in(&self, set: SetId, place: Place) -> Statement {
        statement::is_in(&place.key(self.family), &set.name())
    }

    fn hooks(&mut self, table: &ForwardingTable) {
        use ChainKind::{Filter, Nat};
        use Hook::{Forward, Input, Output, Postrouting, Prerouting};
        let new = || statement::ct_state(ct_state::NEW);
        let (input, forward, output): (&[&str], &[&str], i32) = match self.carrier {
            Carrier::Kernel | Carrier::Relays(_) => (
                &["nodeport-check", "service-check"],
                &["service-check", "cluster-ips-check"],
                FILTER,
            ),
            Carrier::Ipvs => (
                &["nodeport-check", "service-check", "virtual-ips-check"],
                &["service-check", "virtual-absent", "cluster-ips-check"],
                BEFORE_IPVS,
            ),
        };
        let dstnat = if self.carrier == Carrier::Ipvs { BEFORE_IPTABLES } else { DSTNAT };
        let hooks: [(&str, ChainKind, Hook, i32, &[&str]); 8] = [
            ("filter-prerouting-pre-dnat", Filter, Prerouting, BEFORE_DSTNAT, &["sources-check"]),
            ("filter-output-pre-dnat", Filter, Output, BEFORE_DSTNAT, &["sources-check"]),
            ("filter-input", Filter, Input, FILTER, input),
            ("filter-forward", Filter, Forward, FILTER, forward),
            ("filter-output", Filter, Output, output, &["service-check", "cluster-ips-check"]),
            ("nat-prerouting", Nat, Prerouting, dstnat, &["services"]),
            ("nat-output", Nat, Output, dstnat, &["services"]),
            ("nat-postrouting", Nat, Postrouting, SRCNAT, &["masquerading"]),
        ];
        for (name, kind, hook, priority, targets) in hooks {
            self.chain(Chain::base(name, kind, hook, priority));
            if matches!(self.carrier, Carrier::Relays(_)) && name == "nat-output" {
                // What relays send themselves is never redirected to relays.
                let theirs = statement::mark_has(table.host.masquerade_mark);
                self.rule(name, [theirs, statement::leave()]);
            }
            for target in targets {
                let condition = if kind == Filter { new() } else { Statement::new() };
                self.rule(name, [condition, statement::jump(&(*target).into())]);
            }
        }
    }

    /// Relays of this process: only what was redirected reaches them. What they send themselves
    /// carries the mark until here. Who is redirected to them keeps its source, by which clients are
    /// remembered.
    fn relays(&mut self, mark: u32) {
        let port = || statement::is_in(&[Field::L4Proto, Field::Dport], &SetId::RelayPorts.name());
        let untranslated = || statement::ct_status_lacks(ct_status::DNAT);
        let reject = statement::goto(&"reject-chain".into());
        self.rule(
            "filter-input",
            [statement::ct_state(ct_state::NEW), port(), untranslated(), reject],
        );
        let unmark = statement::flip_mark_bits(mark);
        self.rule("filter-output", [statement::mark_has(mark), untranslated(), unmark]);
        let here = statement::destination_type(address_type::LOCAL);
        self.rule("masquerading", [port(), here, statement::leave()]);
    }

    /// Finding the frontend counts it. Only the first packet of a connection comes here.
    fn counter(&mut self, chain: &str, place: Place) {
        if self.varying.contains(&SetId::Counters(place)) {
            let found = self.frontend_in(SetId::Counters(place), place);
            self.rule(chain, [found]);
        }
    }

    /// What endpoints answer to relays that stand before them with a client's address is for this
    /// node, wherever the client is: the mark makes routing know. Only replies are looked at: what is on
    /// its way to a client is nobody's but its own, even if some program here listens at all addresses.
    fn answers(&mut self, masquerade_mark: u32) {
        let priority = MANGLE;
        let chain =
            Chain::base("filter-prerouting-mark", ChainKind::Filter, Hook::Prerouting, priority);
        self.chain(chain);
        self.rule(
            "filter-prerouting-mark",
            [
                statement::ct_direction(CtDirection::Reply),
                statement::socket_is_transparent(),
                statement::set_mark_bits(delivery_mark(masquerade_mark)),
            ],
        );
    }

    fn services(&mut self, table: &ForwardingTable) {
        let host = &table.host;
        self.counter("services", Place::Service);
        let mark = || statement::set_mark_bits(host.masquerade_mark);
        let daddr = Field::Daddr(self.family);
        let to_cluster_ip = || statement::is_in(&[daddr], &SetId::ClusterIps.name());
        if host.masquerade_all {
            self.rule("services", [to_cluster_ip(), mark()]);
        } else if host.pods != PodDetector::None {
            self.rule("services", [to_cluster_ip(), self.not_from_pod(&host.pods), mark()]);
        }
        if self.carrier == Carrier::Ipvs {
            // This node's own traffic to a cluster IP, which is one of its addresses, has that as
            // its source too.
            let own = statement::is_in(&[Field::Saddr(self.family)], &SetId::ClusterIps.name());
            self.rule("services", [own, mark()]);
        }
        let masquerade = self.frontend_in(SetId::Masquerade(Place::Service), Place::Service);
        self.rule("services", [masquerade, mark()]);
        let split = self.frontend_in(SetId::Split(Place::Service), Place::Service);
        self.rule("services", [split, statement::goto(&"service-split".into())]);
        self.split("service-split", Place::Service, table);
        self.rule("services", [statement::jump(&pools(Place::Service))]);
        let node_ports = statement::jump(&"nodeports".into());
        self.rule("services", [self.to_node_port_address(&host.node_ports), node_ports]);
        if !host.cluster_ip_guard.refuses_ports() {
            // What the Service has no port for passes as it came.
            let bit = host.masquerade_mark;
            let marked =
                [to_cluster_ip(), statement::mark_has(bit), statement::flip_mark_bits(bit)];
            self.rule("services", marked);
        }
    }

    fn node_ports(&mut self, table: &ForwardingTable) {
        let place = Place::NodePort;
        self.counter("nodeports", place);
        let masquerade = self.frontend_in(SetId::Masquerade(place), place);
        let mark = statement::set_mark_bits(table.host.masquerade_mark);
        self.rule("nodeports", [masquerade, mark]);
        let split = self.frontend_in(SetId::Split(place), place);
        self.rule("nodeports", [split, statement::goto(&"nodeport-split".into())]);
        self.split("nodeport-split", place, table);
        self.rule("nodeports", [statement::goto(&pools(place))]);
    }

    /// Policy Local: pods and this node are sent on as if through the load balancer and back.
    fn split(&mut self, chain: &str, place: Place, table: &ForwardingTable) {
        for from_pod in self.of_pods(&table.host.pods) {
            self.rule(chain, [from_pod, statement::goto(&pools(place))]);
        }
        let from_node = || statement::source_type(address_type::LOCAL);
        self.rule(chain, [from_node(), statement::set_mark_bits(table.host.masquerade_mark)]);
        self.rule(chain, [from_node(), statement::goto(&pools(place))]);
        self.rule(chain, [statement::goto(&pools(place.local()))]);
    }

    /// Finds the number of slots that a frontend draws from, and draws.
    fn pools(&mut self, place: Place, table: &ForwardingTable) {
        self.chain(Chain::regular(pools(place)));
        if self.carrier == Carrier::Ipvs {
            let at = SetId::Virtual(place).name();
            let to_virtual = statement::dnat_to_data_of(self.family, &place.key(self.family), &at);
            return self.rule(&pools(place), [to_virtual]);
        }
        let slots = self.varying.iter().filter_map(|set| Some((set.slots_of(place)?, *set)));
        let slots: Vec<(u32, SetId)> = slots.collect();
        for &(size, set) in &slots {
            let member = self.frontend_in(set, place);
            let next = match set {
                SetId::StickySlots(..) => self.recall(place, size),
                _ => draw(place, size),
            };
            self.rule(&pools(place), [member, statement::goto(&next)]);
        }
        let sizes: BTreeSet<u32> = slots.into_iter().map(|(size, _)| size).collect();
        for size in sizes {
            self.draw(place, size, table);
        }
    }

    /// The draw of an endpoint out of so many slots.
    fn draw(&mut self, place: Place, size: u32, table: &ForwardingTable) {
        let draw = draw(place, size);
        if size == 2 && self.carrier == Carrier::Relays(Sight::Client) {
            self.of_two_relays(place, &draw, table.host.masquerade_mark);
        }
        if size > 2 {
            let again: Arc<str> = format!("{draw}-again").into();
            for _ in 0..CHAINS_OF_DRAWS {
                self.rule(&draw, [statement::jump(&again)]);
            }
            for _ in 0..DRAWS_PER_CHAIN {
                self.rule(&again, [self.dnat(place, size)]);
            }
            self.rule(&draw, [self.dnat(place, 1)]);
        } else {
            self.rule(&draw, [self.dnat(place, size)]);
        }
    }

    /// What is to be masqueraded goes to the relay that shows endpoints the node's address, all else to
    /// the one that shows them the client's; nobody but this table decides which it is.
    fn of_two_relays(&mut self, place: Place, draw: &str, mark: u32) {
        let relayed = || statement::not_protocol(Protocol::Sctp);
        let to = |slot| {
            let key = place.certain_slot_key(self.family, slot);
            statement::dnat_to_data_of(self.family, &key, &SetId::Endpoints(place).name())
        };
        let (masqueraded, kept) = (to(MASQUERADED), to(KEPT));
        self.rule(draw, [relayed(), statement::mark_has(mark), masqueraded]);
        self.rule(draw, [relayed(), kept]);
    }

    fn dnat(&self, place: Place, size: u32) -> Statement {
        let key = place.slot_key(self.family, size);
        statement::dnat_to_data_of(self.family, &key, &SetId::Endpoints(place).name())
    }

    fn checks(&mut self, table: &ForwardingTable) {
        let place = Place::Service;
        let restricted = self.frontend_in(SetId::Restricted, place);
        let strangers =
            statement::is_not_in(&place.source_key(self.family), &SetId::Sources.name());
        self.rule("sources-check", [restricted, strangers, statement::drop()]);

        let reject = statement::goto(&self.reject());
        let without = self.frontend_in(SetId::Reject(place), place);
        self.rule("service-check", [without, reject.clone()]);
        let elsewhere = self.frontend_in(SetId::Drop(place), place);
        self.rule("service-check", [elsewhere, statement::drop()]);

        let place = Place::NodePort;
        let address = || self.to_node_port_address(&table.host.node_ports);
        let without = all([address(), self.frontend_in(SetId::Reject(place), place)]);
        let elsewhere = all([address(), self.frontend_in(SetId::Drop(place), place)]);
        self.rule("nodeport-check", [without, reject.clone()]);
        self.rule("nodeport-check", [elsewhere, statement::drop()]);

        let daddr = Field::Daddr(self.family);
        let to_cluster_ip = || statement::is_in(&[daddr], &SetId::ClusterIps.name());
        let guard = table.host.cluster_ip_guard;
        // Hooks jump to it, whether or not there is anything to check.
        self.chain(Chain::regular("cluster-ips-check"));
        match self.carrier {
            Carrier::Kernel | Carrier::Relays(_) if guard.refuses_ports() => {
                self.rule("cluster-ips-check", [to_cluster_ip(), reject])
            }
            Carrier::Kernel | Carrier::Relays(_) => {}
            // Whatever the guard says: they are addresses of this node here.
            Carrier::Ipvs => {
                let check = || statement::goto(&"virtual-check".into());
                self.rule("virtual-ips-check", [to_cluster_ip(), check()]);
                self.rule("cluster-ips-check", [to_cluster_ip(), check()]);
                self.virtual_checks(reject);
            }
        }
        for cidr in table.service_cidrs.iter().filter(|_| guard.drops_addresses()) {
            self.rule("cluster-ips-check", [statement::within(daddr, *cidr), statement::drop()]);
        }
    }

    /// Cluster IPs are addresses of this node here, so what IPVS does not serve would reach the
    /// node's own programs; and for as long as one is not yet or no longer an address of this node,
    /// what it serves would leave the node.
    fn virtual_checks(&mut self, reject: Statement) {
        let served =
            || statement::is_in(&Place::Service.key(self.family), &SetId::VirtualServices.name());
        let translated = || {
            let key = Place::Service.key(self.family);
            let member = statement::is_in(&key, &SetId::VirtualTranslated.name());
            all([statement::ct_status(ct_status::DNAT), member])
        };
        let rules = [
            ("virtual-check", [served(), statement::leave()]),
            ("virtual-check", [translated(), statement::leave()]),
            ("virtual-absent", [served(), statement::drop()]),
            ("virtual-absent", [translated(), statement::drop()]),
        ];
        for (chain, statements) in rules {
            self.rule(chain, statements);
        }
        self.rule("virtual-check", [reject]);
    }

    /// The chain that refuses, by a reset for TCP: a client whose connection connection tracking has
    /// forgotten would ignore an ICMP error.
    fn reject(&mut self) -> Arc<str> {
        let chain: Arc<str> = "reject-chain".into();
        self.rule(&chain, [statement::protocol(Protocol::Tcp), statement::reject_by_reset()]);
        self.rule(&chain, [statement::reject(self.family)]);
        chain
    }

    fn masquerading(&mut self, table: &ForwardingTable) {
        let bit = table.host.masquerade_mark;
        let masquerade = || statement::masquerade(NatFlags::FULLY_RANDOM);
        self.rule(
            "masquerading",
            [statement::mark_has(bit), statement::flip_mark_bits(bit), masquerade()],
        );
        let hairpin = SetId::Hairpin.definition(self.family);
        let to_itself = statement::is_in(&hairpin.key, &hairpin.name);
        let through_a_service = match self.carrier {
            Carrier::Kernel | Carrier::Relays(_) => statement::ct_status(ct_status::DNAT),
            // IPVS leaves no such sign; but then it wanted to go to another address.
            Carrier::Ipvs => {
                use Field::{Dport, L4Proto, OriginalDaddr, Saddr};
                let family = self.family;
                let first = [Saddr(family), OriginalDaddr(family), L4Proto, Dport];
                statement::is_not_in(&first, &hairpin.name)
            }
        };
        self.rule("masquerading", [through_a_service, to_itself, masquerade()]);
    }

    pub(super) fn to_node_port_address(&self, addresses: &NodePortAddresses) -> Statement {
        let daddr = Field::Daddr(self.family);
        match addresses {
            NodePortAddresses::Only(_) => statement::is_in(&[daddr], &SetId::NodePortIps.name()),
            NodePortAddresses::AnyLocal => {
                let loopback = match self.family {
                    Family::V4 => IpNet::V4(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)),
                    Family::V6 => IpNet::from(std::net::IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16])),
                };
                // Relays are on this node; what is sent from loopback does not get farther.
                let other = match self.carrier {
                    Carrier::Relays(_) => Statement::new(),
                    Carrier::Kernel | Carrier::Ipvs => statement::outside(daddr, loopback),
                };
                let vips = match self.carrier {
                    Carrier::Kernel | Carrier::Relays(_) => Statement::new(),
                    Carrier::Ipvs => statement::is_not_in(&[daddr], &SetId::ClusterIps.name()),
                };
                all([statement::destination_type(address_type::LOCAL), other, vips])
            }
        }
    }

    /// Matches traffic that no pod sent.
    fn not_from_pod(&self, detector: &PodDetector) -> Statement {
        match detector {
            PodDetector::None => Statement::new(),
            PodDetector::Cidrs(nets) => {
                let saddr = Field::Saddr(self.family);
                all(nets.iter().map(|net| statement::outside(saddr, *net)))
            }
            PodDetector::BridgeInterface(name) => statement::not_input_interface(name),
            PodDetector::InterfacePrefix(prefix) => {
                statement::not_input_interface(&format!("{prefix}*"))
            }
        }
    }

    /// Each of these matches traffic that some pods sent.
    fn of_pods(&self, detector: &PodDetector) -> Vec<Statement> {
        match detector {
            PodDetector::None => Vec::new(),
            PodDetector::Cidrs(nets) => {
                let saddr = Field::Saddr(self.family);
                nets.iter().map(|net| statement::within(saddr, *net)).collect()
            }
            PodDetector::BridgeInterface(name) => vec![statement::input_interface(name)],
            PodDetector::InterfacePrefix(prefix) => {
                vec![statement::input_interface(&format!("{prefix}*"))]
            }
        }
    }
}

/// The bit of the packet mark by which packets are delivered to this node: the one below that for
/// masquerading, or above it if there is none below.
pub(crate) fn delivery_mark(masquerade_mark: u32) -> u32 {
    if masquerade_mark > 1 { masquerade_mark >> 1 } else { 2 }
}

pub(super) fn draw(place: Place, size: u32) -> Arc<str> {
    format!("{place}-draw-{size}").into()
}

fn pools(place: Place) -> Arc<str> {
    format!("{place}-pools").into()
}
