//! The daemon's answers to health checks of load balancers and operators, over real
//! connections in the lab.

mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{ChildStdin, ExitCode, Stdio};

use serde_json::{Value, json};
use sluice_cluster::api::{Outage, Part, Patch, Resource};
use sluice_cluster::proxy::Place;
use sluice_cluster::{Cluster, ClusterSpec, Host, Isolation, Proxy, prepare};
use sluice_core::net::{Family, Protocol};

use support::daemon::program;
use support::{Outcome, PATIENCE, eventually};

const HEALTHZ: u16 = 10256;
const WEB: u16 = 31001;
const SHOP: u16 = 31002;

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let trial = |name, run: fn() -> Outcome| libtest_mimic::Trial::test(name, run);
    let trials = vec![
        trial("balancers_hear_of_ready_pods_of_this_node_only", pods_come_and_go),
        trial("a_port_moves_between_services_and_others_are_not_touched", ports_move),
        trial("node_port_addresses_say_where_it_is_answered", addresses),
        trial("a_taken_port_is_warned_of_and_bound_once_it_is_free", taken_port),
        trial("healthz_tells_whether_the_node_stays", eligibility),
        trial("healthz_waits_for_its_address_or_ends_the_program", taken_healthz),
        trial("a_kernel_that_refuses_the_rules_makes_the_proxy_unhealthy", refused_rules),
        trial("a_family_that_no_service_needs_makes_nobody_unhealthy", unneeded_family),
        trial(
            "a_node_object_that_loses_its_addresses_or_is_made_again_closes_no_port",
            incomplete_node,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn cluster(configuration: &str) -> Result<Cluster, sluice_cluster::cluster::Error> {
    Cluster::new(ClusterSpec {
        nodes: 2,
        program: program().to_owned(),
        configuration: format!(
            "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
             detectLocalMode: ClusterCIDR\n\
             {configuration}"
        ),
    })
}

const FAST: &str = "nftables: {minSyncPeriod: 1ms}";

/// A dual-stack Service with health check node port `port`, for pods with `app` = `name`.
fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port,
            "selector": {"app": name}, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080},
                      {"name": "more", "port": 81, "targetPort": 8081}],
        },
    })
}

const PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 8080), (Protocol::Tcp, 8081)];

/// A response as it came over the wire.
#[derive(Debug)]
struct Reply {
    code: u16,
    /// The status line and the headers.
    head: String,
    body: String,
}

impl Reply {
    /// A header's value; names are compared as they are written.
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn connect(from: &Host, to: SocketAddr) -> io::Result<TcpStream> {
    let connected = from.namespace().run(move || TcpStream::connect_timeout(&to, PATIENCE));
    let stream = connected.expect("the host is there")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks over an open connection, and leaves it open.
fn ask(stream: &mut TcpStream, path: &str) -> io::Result<Reply> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let code = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status line");
    let mut reply = Reply { code, head, body: String::new() };
    let length: usize =
        reply.header("Content-Length").and_then(|text| text.parse().ok()).expect("a length");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    reply.body = String::from_utf8(body).expect("text");
    Ok(reply)
}

fn get(from: &Host, to: SocketAddr, path: &str) -> io::Result<Reply> {
    ask(&mut connect(from, to)?, path)
}

/// Waits until `to` answers in a certain way.
#[track_caller]
fn wait(
    what: &str,
    from: &Host,
    to: SocketAddr,
    path: &str,
    want: impl Fn(&Reply) -> bool,
) -> Reply {
    eventually(what, || get(from, to, path).ok().filter(|reply| want(reply)))
}

/// Waits until `to` is closed.
#[track_caller]
fn wait_closed(what: &str, from: &Host, to: SocketAddr) {
    eventually(what, || {
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        connect(from, to).is_err_and(refused).then_some(())
    });
}

/// Waits in both families until the health check has this count, and checks the rest of the answer.
#[track_caller]
fn wait_count(from: &Host, node: &Host, port: u16, name: &str, count: usize) {
    for family in Family::BOTH {
        let what = format!("{count} endpoints of {name} over {family}");
        let weight = count.to_string();
        let reply = wait(&what, from, node.socket_addr(family, port), "/any/path", |reply| {
            reply.header("X-Load-Balancing-Endpoint-Weight") == Some(&weight)
        });
        assert_eq!(reply.code, if count > 0 { 200 } else { 503 }, "{reply:?}");
        assert_eq!(reply.header("Content-Type"), Some("application/json"));
        assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"));
        let expected = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
             \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": true\n}}"
        );
        assert_eq!(reply.body, expected);
    }
}

/// Marks every endpoint of a Service as one that ends but still serves.
fn terminate_endpoints(cluster: &Cluster, service: &str) -> Outcome {
    for family in ["ipv4", "ipv6"] {
        let name = format!("{service}-{family}-0");
        let slice = cluster.api().get(Resource::EndpointSlices, "default", &name)?;
        let mut slice = slice.value();
        for endpoint in slice["endpoints"].as_array_mut().into_iter().flatten() {
            endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
        }
        cluster.api().update(&slice)?;
    }
    Ok(())
}

fn pods_come_and_go() -> Outcome {
    let cluster = cluster(FAST)?;
    cluster.create_service(&service("web", WEB))?;
    for node in ["node-a", "node-b"] {
        cluster.start_proxy(node)?;
    }
    let (client, lab) = (cluster.lab().client(), cluster.lab());
    let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
    wait_count(&client, &a, WEB, "web", 0);
    let (one, _) = cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    wait_count(&client, &a, WEB, "web", 1);
    let (two, _) = cluster.add_pod("web-2", "web", "node-a", &PORTS)?;
    wait_count(&client, &a, WEB, "web", 2);
    wait_count(&client, &b, WEB, "web", 0);
    cluster.add_pod("web-3", "web", "node-b", &PORTS)?;
    wait_count(&client, &b, WEB, "web", 1);
    wait_count(&client, &a, WEB, "web", 2);
    cluster.remove_pod(&two)?;
    wait_count(&client, &a, WEB, "web", 1);
    // They still get traffic, but load balancers must choose other nodes.
    terminate_endpoints(&cluster, "web")?;
    wait_count(&client, &a, WEB, "web", 0);
    cluster.publish()?;
    wait_count(&client, &a, WEB, "web", 1);
    cluster.remove_pod(&one)?;
    wait_count(&client, &a, WEB, "web", 0);
    wait_count(&client, &b, WEB, "web", 1);
    Ok(())
}

fn ports_move() -> Outcome {
    let cluster = cluster(FAST)?;
    cluster.create_service(&service("web", WEB))?;
    cluster.create_service(&service("shop", SHOP))?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    cluster.start_proxy("node-a")?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    wait_count(&client, &node, WEB, "web", 1);
    wait_count(&client, &node, SHOP, "shop", 0);
    let mut held = connect(&client, node.socket_addr(Family::V4, SHOP))?;
    assert_eq!(ask(&mut held, "/")?.code, 503);

    cluster.api().delete(Resource::Services, "default", "web")?;
    wait_closed("the port of a deleted Service", &client, node.socket_addr(Family::V4, WEB));
    wait_closed("the port of a deleted Service", &client, node.socket_addr(Family::V6, WEB));
    let mut heir = service("heir", WEB);
    heir["spec"]["selector"] = json!({"app": "web"});
    cluster.create_service(&heir)?;
    wait_count(&client, &node, WEB, "heir", 1);

    // The API takes the port back when the balancer does not need it any more.
    let policy = Patch::Merge(json!({"spec": {"externalTrafficPolicy": "Cluster"}}));
    cluster.api().patch(Resource::Services, "default", "heir", Part::Whole, &policy)?;
    wait_closed("the port of policy Cluster", &client, node.socket_addr(Family::V6, WEB));
    wait_closed("the port of policy Cluster", &client, node.socket_addr(Family::V4, WEB));
    let policy = json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": 31003}});
    let policy = Patch::Merge(policy);
    cluster.api().patch(Resource::Services, "default", "heir", Part::Whole, &policy)?;
    wait_count(&client, &node, 31003, "heir", 1);

    assert_eq!(ask(&mut held, "/")?.code, 503, "a connection about another Service lives on");
    cluster.stop_proxy("node-a")?;
    wait_closed("the port of a daemon that ended", &client, node.socket_addr(Family::V4, SHOP));
    Ok(())
}

fn ip(node: &Host, arguments: &[&str]) -> Outcome {
    let status = node.command("ip")?.args(arguments).status()?;
    assert!(status.success(), "ip {arguments:?}");
    Ok(())
}

fn addresses() -> Outcome {
    let cluster = cluster(FAST)?;
    cluster.create_service(&service("web", WEB))?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    let second: [IpAddr; 2] = ["172.18.0.77".parse()?, "fd00:172:18::77".parse()?];
    let with_prefix = ["172.18.0.77/24", "fd00:172:18::77/64"];
    for address in with_prefix {
        ip(&node, &["address", "add", address, "dev", "eth0"])?;
    }
    // The default of this mode is the node's primary addresses.
    cluster.start_proxy("node-a")?;
    wait_count(&client, &node, WEB, "web", 1);
    for address in second {
        wait_closed("an address that is not primary", &client, (address, WEB).into());
    }
    cluster.stop_proxy("node-a")?;

    let prefixes = "nodePortAddresses: [172.18.0.0/24, 'fd00:172:18::/64']";
    cluster.start_proxy_with("node-a", prefixes)?;
    wait_count(&client, &node, WEB, "web", 1);
    for (address, with_prefix) in second.into_iter().zip(with_prefix) {
        let at = SocketAddr::new(address, WEB);
        wait("a second address", &client, at, "/", |reply| reply.code == 200);
        ip(&node, &["address", "delete", with_prefix, "dev", "eth0"])?;
        ip(&node, &["address", "add", with_prefix, "dev", "eth0"])?;
        wait("an address that came back", &client, at, "/", |reply| reply.code == 200);
    }
    cluster.stop_proxy("node-a")?;

    cluster.start_proxy_with("node-a", "nodePortAddresses: [0.0.0.0/0, '::/0']")?;
    for address in second.into_iter().chain(Family::BOTH.map(|family| node.ip(family))) {
        let at = SocketAddr::new(address, WEB);
        wait("every address", &client, at, "/", |reply| reply.code == 200);
    }
    Ok(())
}

fn taken_port() -> Outcome {
    let cluster = cluster(FAST)?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    let taken = node.socket_addr(Family::V4, WEB);
    let stranger = node.namespace().run(move || TcpListener::bind(taken))??;
    cluster.create_service(&service("web", WEB))?;
    cluster.create_service(&service("shop", SHOP))?;
    cluster.start_proxy("node-a")?;
    wait_count(&client, &node, SHOP, "shop", 0);
    // The other family's socket is another one.
    let other = node.socket_addr(Family::V6, WEB);
    wait("the other family", &client, other, "/", |reply| reply.code == 503);
    let warnings = || cluster.with_proxy("node-a", |proxy| proxy.lines_with(&taken.to_string()));
    let warnings = || -> Vec<String> { warnings().into_iter().flatten().collect() };
    let [line] = &eventually("a warning", || Some(warnings()).filter(|w| !w.is_empty()))[..] else {
        panic!("warned more than once: {:?}", warnings());
    };
    assert!(line.contains("WARN") && line.contains("default/web"), "{line}");
    drop(stranger);
    wait_count(&client, &node, WEB, "web", 0);
    assert_eq!(warnings().iter().filter(|line| line.contains("WARN")).count(), 1);
    Ok(())
}

/// Waits in both families until `/healthz` or `/livez` has this code, and checks the answer.
#[track_caller]
fn wait_health(from: &Host, node: &Host, path: &str, code: u16, eligible: Option<bool>) {
    for family in Family::BOTH {
        let what = format!("{path} says {code} over {family}");
        let at = node.socket_addr(family, HEALTHZ);
        let reply = wait(&what, from, at, path, |reply| {
            reply.code == code && reply.json()["nodeEligible"] == json!(eligible)
        });
        assert_eq!(reply.header("Content-Type"), Some("application/json"));
        assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"));
        let body = reply.json();
        assert_eq!(body["healthy"], true, "{body}");
        for family in Family::BOTH {
            assert_eq!(body["status"][family.to_string()]["healthy"], true, "{body}");
        }
        if code == 200 {
            assert_eq!(body["lastUpdated"], body["currentTime"], "{body}");
        }
    }
}

fn eligibility() -> Outcome {
    let cluster = cluster(FAST)?;
    cluster.start_proxy("node-a")?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    let patch = |patch: Value| {
        let patch = Patch::Merge(patch);
        cluster.api().patch(Resource::Nodes, "", "node-a", Part::Whole, &patch).map(|_| ())
    };
    let staying = || {
        wait_health(&client, &node, "/healthz", 200, Some(true));
        wait_health(&client, &node, "/livez", 200, None);
    };
    let leaving = || {
        wait_health(&client, &node, "/healthz", 503, Some(false));
        wait_health(&client, &node, "/livez", 200, None);
    };
    staying();
    for path in ["/", "/metrics", "/healthz/x"] {
        let reply = get(&client, node.socket_addr(Family::V4, HEALTHZ), path)?;
        assert_eq!((reply.code, reply.body.as_str()), (404, "404 page not found\n"));
    }
    let taint = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
    patch(taint("ToBeDeletedByClusterAutoscaler"))?;
    leaving();
    patch(taint("something-else"))?;
    staying();
    cluster.api().faults().set_outage(Outage::Disconnected);
    let noticed = |proxy: &mut Proxy| proxy.wait_for("no changes arrive", 0, PATIENCE);
    cluster.with_proxy("node-a", noticed).ok_or("no daemon")??;
    staying();
    cluster.api().faults().set_outage(Outage::None);
    patch(json!({"metadata": {"finalizers": ["example.com/hold"]}}))?;
    cluster.api().delete(Resource::Nodes, "", "node-a")?;
    leaving();
    // The Service's health check does not change: load balancers drain in their own way.
    cluster.create_service(&service("web", WEB))?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    wait_count(&client, &node, WEB, "web", 1);
    Ok(())
}

fn taken_healthz() -> Outcome {
    let cluster = cluster(FAST)?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    let take = || node.namespace().run(|| TcpListener::bind(("0.0.0.0", HEALTHZ)));
    let stranger = take()??;
    let configuration = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
                         kind: KubeProxyConfiguration\n\
                         mode: nftables\n\
                         hostnameOverride: node-a\n\
                         bindAddressHardFail: true\n";
    let place = Place::On(&node);
    let mut hard = Proxy::start(program(), place, &cluster.api().url(), configuration)?;
    assert_eq!(hard.wait_for_exit(PATIENCE)?.code(), Some(1));
    let last = hard.log().lines().last().unwrap_or_default().to_owned();
    for words in ["sluice: ", "/healthz", "0.0.0.0:10256", "in use", "bindAddressHardFail"] {
        assert!(last.contains(words), "{words} is missing: {last}");
    }

    cluster.start_proxy("node-a")?;
    let said = cluster.with_proxy("node-a", |proxy| proxy.lines_with("cannot serve /healthz"));
    assert_eq!(said.map(|lines| lines.len()), Some(1));
    drop(stranger);
    wait_health(&client, &node, "/healthz", 200, Some(true));
    Ok(())
}

/// Holds a table that only its owner may change: the kernel refuses changes by others until the
/// program ends.
fn own_table(node: &Host, family: &str) -> Result<(std::process::Child, ChildStdin), io::Error> {
    let mut command = node.command("nft").expect("the host is there");
    let mut child = command.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    writeln!(
        stdin,
        "delete table {family} kube-proxy; add table {family} kube-proxy {{ flags owner; }}"
    )?;
    Ok((child, stdin))
}

fn refused_rules() -> Outcome {
    let cluster = cluster("nftables: {minSyncPeriod: 1ms, syncPeriod: 2s}")?;
    cluster.create_service(&service("web", WEB))?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    cluster.start_proxy("node-a")?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    wait_count(&client, &node, WEB, "web", 1);
    let (mut owner, stdin) = own_table(&node, "ip6")?;
    let at = |port| node.socket_addr(Family::V4, port);
    let reply = wait("an unhealthy proxy", &client, at(HEALTHZ), "/livez", |r| r.code == 503);
    let body = reply.json();
    assert_eq!(body["healthy"], false, "{body}");
    assert_eq!(body["status"]["IPv4"]["healthy"], true, "{body}");
    assert_eq!(body["status"]["IPv6"]["healthy"], false, "{body}");
    assert_ne!(body["lastUpdated"], body["currentTime"], "{body}");
    let reply = get(&client, at(HEALTHZ), "/healthz")?;
    assert_eq!((reply.code, &reply.json()["nodeEligible"]), (503, &json!(true)));
    let reply = get(&client, at(WEB), "/")?;
    let body = reply.json();
    assert_eq!((reply.code, &body["localEndpoints"]), (503, &json!(1)), "{body}");
    assert_eq!(body["serviceProxyHealthy"], false, "{body}");
    // The table goes with its owner.
    drop(stdin);
    owner.wait()?;
    wait_health(&client, &node, "/healthz", 200, Some(true));
    wait_count(&client, &node, WEB, "web", 1);
    Ok(())
}

fn unneeded_family() -> Outcome {
    let cluster = cluster("nftables: {minSyncPeriod: 1ms, syncPeriod: 1s}")?;
    let mut single = service("web", WEB);
    single["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    cluster.create_service(&single)?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    cluster.start_proxy("node-a")?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    let (mut owner, stdin) = own_table(&node, "ip6")?;
    let at = node.socket_addr(Family::V4, HEALTHZ);
    let counts = |reply: &Reply, family: Family| {
        reply.json()["status"][family.to_string()]["healthy"].as_bool()
    };
    let left_out = |reply: &Reply| counts(reply, Family::V6).is_none();
    let reply = wait("IPv6 is left out", &client, at, "/livez", left_out);
    assert_eq!((reply.code, counts(&reply, Family::V4)), (200, Some(true)), "{reply:?}");
    let said = || {
        let lines = cluster.with_proxy("node-a", |proxy| proxy.lines_with("IPv6 is left out"));
        lines.unwrap_or_default().len()
    };
    eventually("it is said", || (said() > 0).then_some(()));

    // Now a Service needs it.
    cluster.create_service(&service("shop", SHOP))?;
    let reply = wait("an unhealthy proxy", &client, at, "/livez", |reply| reply.code == 503);
    assert_eq!((counts(&reply, Family::V4), counts(&reply, Family::V6)), (Some(true), Some(false)));
    cluster.api().delete(Resource::Services, "default", "shop")?;
    wait("IPv6 is left out again", &client, at, "/livez", |reply| {
        reply.code == 200 && left_out(reply)
    });
    drop(stdin);
    owner.wait()?;
    let reply = wait("IPv6 counts again", &client, at, "/livez", |reply| {
        counts(reply, Family::V6) == Some(true)
    });
    assert_eq!((reply.code, counts(&reply, Family::V4)), (200, Some(true)));
    assert_eq!(said(), 2, "once each time");
    Ok(())
}

/// Says whether the ports of `web` are still open once the daemon has heard of a change: it has when it
/// says so, or closes them.
fn still_open(cluster: &Cluster, client: &Host, node: &Host, words: &str, before: usize) -> bool {
    let open = || {
        let at = |family, port| node.socket_addr(family, port);
        let node_ports = Family::BOTH.map(|family| at(family, NODE_PORT));
        let health_ports = Family::BOTH.map(|family| at(family, WEB));
        node_ports.into_iter().chain(health_ports).all(|at| connect(client, at).is_ok())
    };
    let said = || {
        let lines = cluster.with_proxy("node-a", |proxy| proxy.lines_with(words));
        lines.unwrap_or_default().len()
    };
    eventually("the daemon hears of it", || (said() > before || !open()).then_some(()));
    open()
}

const NODE_PORT: u16 = 30_080;

fn incomplete_node() -> Outcome {
    let cluster = cluster(FAST)?;
    let mut web = service("web", WEB);
    web["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    cluster.create_service(&web)?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    cluster.start_proxy("node-a")?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    wait_count(&client, &node, WEB, "web", 1);
    let object = cluster.api().get(Resource::Nodes, "", "node-a")?.value();
    let addresses = |addresses: &Value| {
        let patch = Patch::Merge(json!({"status": {"addresses": addresses}}));
        cluster.api().patch(Resource::Nodes, "", "node-a", Part::Status, &patch).map(drop)
    };
    let (lost, again) = ("its last known values stay in use", "the Node object is complete again");
    addresses(&Value::Null)?;
    assert!(still_open(&cluster, &client, &node, lost, 0), "the addresses are gone");
    addresses(&object["status"]["addresses"])?;
    assert!(still_open(&cluster, &client, &node, again, 0));
    cluster.api().delete(Resource::Nodes, "", "node-a")?;
    assert!(still_open(&cluster, &client, &node, lost, 1), "the object is gone");

    // It is made again, without addresses, and the daemon is started anew: it waits for them.
    cluster.stop_proxy("node-a")?;
    let mut bare = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}});
    bare["metadata"]["labels"] = object["metadata"]["labels"].clone();
    cluster.api().create(&bare)?;
    let configuration = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
         hostnameOverride: node-a\nclusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n{FAST}\n"
    );
    let mut proxy =
        Proxy::start(program(), Place::On(&node), &cluster.api().url(), &configuration)?;
    let heard = |proxy: &Proxy, words: &str| !proxy.lines_with(words).is_empty();
    eventually("it waits, or does not", || {
        let waits = heard(&proxy, "waiting for it") || heard(&proxy, "first sync done family=IPv6");
        waits.then_some(())
    });
    let open = || {
        let at = Family::BOTH.map(|family| node.socket_addr(family, NODE_PORT));
        at.into_iter().all(|at| connect(&client, at).is_ok())
    };
    assert!(open(), "a daemon that starts does not know the addresses");
    addresses(&object["status"]["addresses"])?;
    proxy.wait_for("first sync done family=IPv6", 0, PATIENCE)?;
    wait_count(&client, &node, WEB, "web", 1);
    assert!(open());
    proxy.terminate(PATIENCE)?;
    Ok(())
}
