mod settling;

use super::*;
use sluice_core::model::{Service, ServicePort, TrafficPolicy};
use sluice_core::plan::build;
use sluice_core::plan::fixtures::{NODE_IP, endpoint, host, ip, service, slice, snapshot};
use sluice_dataplane::{Report, Scope, SyncError};

use Condition::{Ready, Terminating, Unusable};

/// The one pod that is on another node.
const REMOTE: u8 = 77;

/// A state of the API.
#[derive(Clone, Default)]
struct Api {
    services: Vec<Service>,
    /// Service and its pods, as the last number of their address.
    pods: Vec<(&'static str, Vec<(u8, Condition)>)>,
}

impl Api {
    fn with(mut self, service: Service, pods: &[(u8, Condition)]) -> Api {
        let name: &'static str = match service.name.name() {
            "dns" => "dns",
            "web" => "web",
            other => panic!("no test Service {other}"),
        };
        self.services.push(service);
        self.pods.push((name, pods.to_vec()));
        self
    }

    fn snapshot(&self) -> Snapshot {
        let mut slices = Vec::new();
        for (service, pods) in &self.pods {
            let pod = |(n, condition): &(u8, Condition)| {
                endpoint(&format!("10.244.1.{n}"), *condition, *n != REMOTE)
            };
            for (index, protocol) in Protocol::ALL.into_iter().enumerate() {
                let endpoints = pods.iter().map(pod).collect();
                let mut slice = slice(service, &index.to_string(), endpoints);
                Arc::make_mut(&mut slice.ports)[0].protocol = protocol;
                slices.push(slice);
            }
        }
        snapshot(self.services.clone(), slices)
    }
}

/// A Service with this protocol on port 53, at this cluster IP and node port.
fn at(name: &str, protocol: Protocol, cluster_ip: &str, node_port: u16) -> Service {
    let port = ServicePort { name: "".into(), protocol, port: 53, node_port: Some(node_port) };
    Service { ports: vec![port], ..service(name, cluster_ip) }
}

fn dns(protocol: Protocol) -> Service {
    at("dns", protocol, "10.96.0.10", 30053)
}

/// A backend whose rules lead straight to endpoints.
struct Direct;

impl Backend for Direct {
    fn sync(&mut self, _: &ForwardingTable, _: &Scope) -> Result<Report, SyncError> {
        Ok(Report::default())
    }
}

/// When all changes of these tests came into force.
fn long_ago() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// The addresses of the node: one that accepts node ports, and one that does not.
fn local() -> BTreeSet<IpAddr> {
    [ip(NODE_IP), ip("172.16.0.2")].into()
}

fn world<'a>(
    table: &'a ForwardingTable,
    snapshot: &'a Snapshot,
    local: &'a BTreeSet<IpAddr>,
    backend: &'a mut dyn Backend,
) -> World<'a> {
    World { table, snapshot, local, on_localhost: false, backend }
}

impl Frontends {
    /// Applies a state of the API in which these Services have changed.
    fn see(&mut self, api: &Api, touched: &[&str]) {
        let snapshot = api.snapshot();
        let (table, _) = build(Family::V4, "node-a", host(), &snapshot);
        let (local, backend) = (local(), &mut Direct);
        let mut world = world(&table, &snapshot, &local, backend);
        let touched = touched.iter().map(|n| ServiceName::new("default", n)).collect();
        self.update(&mut world, &touched, long_ago());
    }

    /// Everything is checked, long after it was applied.
    fn look(&mut self) {
        self.settle(long_ago() + 10 * SETTLING);
    }

    /// The protocols of the flows that must be checked.
    fn suspected(&self) -> BTreeSet<Protocol> {
        self.wanted().into_keys().collect()
    }

    /// As after one successful reconciliation.
    fn settled(api: &Api, removed_tcp: RemovedTcp) -> Frontends {
        let mut frontends = Frontends::new(Family::V4, removed_tcp);
        frontends.see(api, &["dns", "web"]);
        frontends.look();
        frontends
    }

    fn judges(&self, protocol: Protocol, to: &str, by: &str) -> bool {
        let socket = |text: &str| text.parse().expect("address and port");
        self.is_stale(&Flow {
            protocol,
            source: socket("10.244.1.99:40000"),
            destination: socket(to),
            answered_by: socket(by),
            replied: true,
        })
    }
}

/// What the tables below ask about: flows to one Service from before a change.
const VIP: &str = "10.96.0.10:53";
const NODE_PORT: &str = "192.168.0.2:30053";
const POD_1: &str = "10.244.1.1:8080";
const POD_2: &str = "10.244.1.2:8080";

/// Before, after, and which of the flows (to, answered by) are stale.
#[track_caller]
fn check(
    protocol: Protocol,
    removed_tcp: RemovedTcp,
    pods: [&[(u8, Condition)]; 2],
    expected: [(&str, &str, bool); 4],
) {
    let [before, after] = pods.map(|pods| Api::default().with(dns(protocol), pods));
    let mut frontends = Frontends::settled(&before, removed_tcp);
    frontends.see(&after, &["dns"]);
    for (to, by, stale) in expected {
        assert_eq!(frontends.judges(protocol, to, by), stale, "{protocol} {to} by {by}: {pods:?}");
    }
}

#[test]
fn flows_to_an_endpoint_that_is_gone_are_stale() {
    let replaced: [&[_]; 2] = [&[(1, Ready)], &[(2, Ready)]];
    let old_only = [
        (VIP, POD_1, true),
        (NODE_PORT, POD_1, true),
        (VIP, POD_2, false),
        (NODE_PORT, POD_2, false),
    ];
    for protocol in [Protocol::Udp, Protocol::Sctp] {
        check(protocol, RemovedTcp::Keep, replaced, old_only);
    }
    // The same address with another port is another endpoint.
    let other_port = [
        (VIP, "10.244.1.2:8081", true),
        (VIP, POD_2, false),
        (VIP, VIP, true),
        (NODE_PORT, NODE_PORT, true),
    ];
    check(Protocol::Udp, RemovedTcp::Keep, replaced, other_port);
    // The last endpoint is one like any other.
    check(
        Protocol::Udp,
        RemovedTcp::Keep,
        [&[(1, Ready)], &[]],
        old_only.map(|(to, by, _)| (to, by, true)),
    );
    check(
        Protocol::Udp,
        RemovedTcp::Keep,
        [&[(1, Ready)], &[(1, Unusable)]],
        [
            (VIP, POD_1, true),
            (NODE_PORT, POD_1, true),
            // No endpoint could answer these.
            (VIP, VIP, false),
            (NODE_PORT, NODE_PORT, false),
        ],
    );
}

#[test]
fn flows_to_nobody_are_stale_once_there_is_an_endpoint() {
    check(
        Protocol::Udp,
        RemovedTcp::Keep,
        [&[], &[(1, Ready)]],
        [
            (VIP, VIP, true),
            (NODE_PORT, NODE_PORT, true),
            (VIP, POD_1, false),
            ("172.16.0.2:30053", "172.16.0.2:30053", false),
        ],
    );
}

#[test]
fn an_endpoint_that_still_serves_keeps_its_flows() {
    let pods: [&[_]; 2] = [&[(1, Ready), (2, Ready)], &[(1, Terminating), (2, Ready)]];
    let kept =
        [(VIP, POD_1, false), (VIP, POD_2, false), (NODE_PORT, POD_1, false), (VIP, VIP, false)];
    check(Protocol::Udp, RemovedTcp::Keep, pods, kept);
    check(Protocol::Tcp, RemovedTcp::Reset, pods, kept);
    // When it is gone at last, the pool of new connections does not change any more.
    check(
        Protocol::Udp,
        RemovedTcp::Keep,
        [&[(1, Terminating), (2, Ready)], &[(2, Ready)]],
        [
            (VIP, POD_1, true),
            (NODE_PORT, POD_1, true),
            (VIP, POD_2, false),
            (NODE_PORT, POD_2, false),
        ],
    );
}

#[test]
fn tcp_is_left_alone_unless_asked_for() {
    let replaced: [&[_]; 2] = [&[(1, Ready)], &[(2, Ready)]];
    check(
        Protocol::Tcp,
        RemovedTcp::Keep,
        replaced,
        [(VIP, POD_1, false), (NODE_PORT, POD_1, false), (VIP, VIP, false), (VIP, POD_2, false)],
    );
    check(
        Protocol::Tcp,
        RemovedTcp::Reset,
        replaced,
        [(VIP, POD_1, true), (NODE_PORT, POD_1, true), (VIP, VIP, false), (VIP, POD_2, false)],
    );
    // Nor where its next segment would be dropped: no endpoint of this node is left.
    let local = Service { internal_policy: TrafficPolicy::Local, ..dns(Protocol::Tcp) };
    let two = Api::default().with(local, &[(1, Ready), (REMOTE, Ready)]);
    let mut one = two.clone();
    one.pods[0].1.remove(0);
    let mut frontends = Frontends::settled(&two, RemovedTcp::Reset);
    frontends.see(&one, &["dns"]);
    assert!(!frontends.judges(Protocol::Tcp, VIP, POD_1), "it would hang");
    assert!(frontends.judges(Protocol::Tcp, NODE_PORT, POD_1), "policy Cluster");

    let mut frontends = Frontends::settled(
        &Api::default().with(dns(Protocol::Tcp), &[(1, Ready)]),
        RemovedTcp::Reset,
    );
    frontends.see(&Api::default(), &["dns"]);
    assert!(!frontends.judges(Protocol::Tcp, VIP, POD_1), "nothing would answer");
}

#[test]
fn flows_to_frontends_that_are_gone_are_stale_if_they_are_redirected() {
    let before = Api::default().with(dns(Protocol::Udp), &[(1, Ready)]);
    let moved = at("dns", Protocol::Udp, "10.96.0.10", 30054);
    let after = [
        ("deleted", Api::default(), [true, true]),
        ("node port moved", Api::default().with(moved, &[(1, Ready)]), [false, true]),
        (
            "address taken over by another",
            Api::default().with(at("web", Protocol::Udp, "10.96.0.10", 30055), &[(2, Ready)]),
            [true, true],
        ),
        ("protocol changed", Api::default().with(dns(Protocol::Sctp), &[(1, Ready)]), [true, true]),
    ];
    for (what, after, [vip, node_port]) in after {
        let mut frontends = Frontends::settled(&before, RemovedTcp::Keep);
        frontends.see(&after, &["dns", "web"]);
        assert!(frontends.suspected().contains(&Protocol::Udp), "{what}");
        assert_eq!(frontends.judges(Protocol::Udp, VIP, POD_1), vip, "{what}");
        assert_eq!(frontends.judges(Protocol::Udp, NODE_PORT, POD_1), node_port, "{what}");
        assert!(!frontends.judges(Protocol::Udp, NODE_PORT, NODE_PORT), "{what}: the node's own");
    }
}

#[test]
fn flows_of_others_are_never_touched() {
    let api = |pod| {
        let web = at("web", Protocol::Udp, "10.96.0.11", 30056);
        Api::default().with(dns(Protocol::Udp), &[(pod, Ready)]).with(web, &[(3, Ready)])
    };
    let mut frontends = Frontends::settled(&api(1), RemovedTcp::Keep);
    frontends.see(&api(2), &["dns"]);
    let others = [
        ("10.96.0.11:53", "10.244.1.9:8080"), // another Service: not a word about it
        ("10.96.0.11:53", "10.96.0.11:53"),
        ("10.96.0.10:54", POD_1),                 // another port
        (POD_1, POD_1),                           // straight to the pod
        ("192.168.0.3:30053", POD_1),             // another node's port
        ("172.16.0.2:30053", "172.16.0.2:30053"), // an address without node ports
        ("192.168.0.2:30056", "10.244.1.9:8080"),
    ];
    for (to, by) in others {
        assert!(!frontends.judges(Protocol::Udp, to, by), "{to} by {by}");
    }
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        assert!(!frontends.judges(protocol, VIP, POD_1), "{protocol}");
    }
}

#[test]
fn an_address_that_begins_to_accept_node_ports_may_have_flows_to_nobody() {
    let api = Api::default().with(dns(Protocol::Udp), &[(1, Ready)]);
    let mut frontends = Frontends::settled(&api, RemovedTcp::Keep);
    let snapshot = api.snapshot();
    let mut seen = |node_ports| {
        let host = sluice_core::plan::Host { node_ports, ..host() };
        let (table, _) = build(Family::V4, "node-a", host, &snapshot);
        let (local, backend) = (local(), &mut Direct);
        let mut world = world(&table, &snapshot, &local, backend);
        frontends.update(&mut world, &BTreeSet::new(), long_ago());
        let stale = |to, by| frontends.judges(Protocol::Udp, to, by);
        let second = "172.16.0.2:30053";
        let verdicts = [stale(second, second), stale(second, POD_2), stale(second, POD_1)];
        frontends.look();
        verdicts
    };
    assert_eq!(seen(NodePortAddresses::Only([ip(NODE_IP)].into())), [false; 3], "not one of ours");
    assert_eq!(seen(NodePortAddresses::AnyLocal), [true, true, false]);
    assert_eq!(seen(NodePortAddresses::AnyLocal), [false; 3], "settled");
}

#[test]
fn flows_to_node_ports_on_localhost_follow_where_these_answer() {
    let api = |pods: &[_]| Api::default().with(dns(Protocol::Udp), pods);
    let local = [ip(NODE_IP), ip("127.0.0.1")].into();
    for on_localhost in [false, true] {
        let mut frontends = Frontends::new(Family::V4, RemovedTcp::Keep);
        for pod in [1, 2] {
            frontends.look();
            let snapshot = api(&[(pod, Ready)]).snapshot();
            let host =
                sluice_core::plan::Host { node_ports: NodePortAddresses::AnyLocal, ..host() };
            let (table, _) = build(Family::V4, "node-a", host, &snapshot);
            let backend = &mut Direct;
            let mut world = World { on_localhost, ..world(&table, &snapshot, &local, backend) };
            let touched = [ServiceName::new("default", "dns")].into();
            frontends.update(&mut world, &touched, long_ago());
        }
        let stale = |to, by| frontends.judges(Protocol::Udp, to, by);
        assert_eq!(stale("127.0.0.1:30053", POD_1), on_localhost);
        assert!(!stale("127.0.0.1:30053", POD_2));
        assert!(stale(NODE_PORT, POD_1));
    }
}

/// As [`Frontends::judges`], for one flow of which nothing came back.
fn judges_silent(frontends: &Frontends, protocol: Protocol, to: &str) -> bool {
    let destination: SocketAddr = to.parse().expect("address and port");
    let source = "10.244.1.99:40000".parse().expect("address and port");
    let answered_by = destination;
    frontends.is_stale(&Flow { protocol, source, destination, answered_by, replied: false })
}

#[test]
fn a_connection_that_nobody_answered_is_stale_where_a_frontend_has_just_come() {
    let mut frontends = Frontends::settled(&Api::default(), RemovedTcp::Keep);
    let api = Api::default().with(dns(Protocol::Tcp), &[(1, Ready)]);
    frontends.see(&api, &["dns"]);
    assert_eq!(frontends.wanted(), [(Protocol::Tcp, Part::Unreplied)].into(), "no others are read");
    let tcp = Protocol::Tcp;
    for (to, stale) in [
        (VIP, true),
        (NODE_PORT, true),
        ("10.96.0.10:54", false),
        ("10.96.0.11:53", false),
        ("192.168.0.3:30053", false),
        ("172.16.0.2:30053", false),
        (POD_1, false),
    ] {
        assert_eq!(judges_silent(&frontends, tcp, to), stale, "{to}");
        assert!(!frontends.judges(tcp, to, to), "{to}: it was answered");
    }
    assert!(!frontends.judges(tcp, VIP, POD_2), "it is translated, if not to an endpoint of today");
    frontends.look();
    assert!(!judges_silent(&frontends, tcp, VIP), "the frontend is not new any more");
    assert!(frontends.wanted().is_empty());
    // Endpoints that come and go later are no reason, nor is the end of the Service.
    let others = Api::default().with(dns(Protocol::Tcp), &[(2, Ready)]);
    for later in [&others, &Api::default()] {
        frontends.see(later, &["dns"]);
        assert!(frontends.wanted().is_empty());
    }
}

/// Before, after, and whether untranslated flows at the cluster IP and at the node port are checked.
#[test]
fn flows_to_nobody_are_looked_at_whenever_sources_are_sent_to_an_endpoint_anew() {
    let local = |protocol| Service {
        internal_policy: TrafficPolicy::Local,
        external_policy: TrafficPolicy::Local,
        ..dns(protocol)
    };
    type Pods = &'static [(u8, Condition)];
    const NONE: Pods = &[];
    const HERE: Pods = &[(1, Ready)];
    const ELSEWHERE: Pods = &[(REMOTE, Ready)];
    const BOTH: Pods = &[(1, Ready), (REMOTE, Ready)];
    let table: [(Pods, Pods, bool); 9] = [
        (NONE, HERE, true),
        (NONE, BOTH, true),
        (ELSEWHERE, HERE, true),
        // Nothing that served is lost by this one: clients of elsewhere were dropped until now.
        (ELSEWHERE, BOTH, true),
        (BOTH, HERE, false),
        (HERE, BOTH, false),
        (HERE, ELSEWHERE, false),
        (BOTH, ELSEWHERE, false),
        (BOTH, NONE, false),
    ];
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (before, after, looked_at) in table {
            let api = |pods| Api::default().with(local(protocol), pods);
            let mut frontends = Frontends::settled(&api(before), RemovedTcp::Keep);
            frontends.see(&api(after), &["dns"]);
            for to in [VIP, NODE_PORT] {
                let what = format!("{protocol} {before:?} to {after:?}: {to}");
                let forwards = after.iter().any(|(pod, _)| *pod != REMOTE);
                if forwards || protocol == Protocol::Tcp {
                    let lost_one = protocol == Protocol::Udp && before.len() > after.len();
                    let expected = looked_at || lost_one;
                    assert_eq!(judges_silent(&frontends, protocol, to), expected, "{what}");
                }
            }
        }
    }
}

#[test]
fn sources_that_are_admitted_later_may_have_flows_to_nobody() {
    let with = |ranges: &str| {
        let source_ranges =
            sluice_core::model::SourceRanges::Only(vec![ranges.parse().expect("a range")]);
        let load_balancer_ips = vec![ip("198.51.100.9")];
        let service = Service { source_ranges, load_balancer_ips, ..dns(Protocol::Tcp) };
        Api::default().with(service, &[(1, Ready)])
    };
    let mut frontends = Frontends::settled(&with("10.0.0.0/8"), RemovedTcp::Keep);
    frontends.see(&with("10.0.0.0/7"), &["dns"]);
    assert!(judges_silent(&frontends, Protocol::Tcp, "198.51.100.9:53"));
    assert!(!judges_silent(&frontends, Protocol::Tcp, VIP), "anyone could all the time");
}
