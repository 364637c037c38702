//! TCP connections attempted before their address belonged to a Service, and those established by then.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_cluster::Probe;
use sluice_core::net::{Family, Protocol};

use super::support::{Outcome, eventually};
use super::{Connection, NODE_PORT, World, program, served, vip, web};

/// The addresses that the load balancer gives to the Service.
const GIVEN: [&str; 2] = ["198.51.100.9", "2001:db8::9"];
/// Addresses that no host has.
const OTHERS: [&str; 2] = ["198.51.100.10", "2001:db8::10"];
/// How long a client waits: its SYN is repeated after 1, 3 and 7 seconds.
const PATIENCE: Duration = Duration::from_secs(20);

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 80)
}

/// The Service of type LoadBalancer, with its addresses.
fn balanced() -> Value {
    let mut service = web();
    service["spec"]["type"] = json!("LoadBalancer");
    let ingress: Vec<Value> = GIVEN.iter().map(|ip| json!({"ip": ip})).collect();
    service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    service
}

/// The first SYN had no answer; conntrack has its flow.
pub(crate) fn made() -> Outcome {
    let world = World::new(program())?;
    world.cluster.start_proxy("node-a")?;
    world.pod("web-1", "web")?;
    let mut service = balanced();
    service["status"] = json!({});
    world.cluster.create_service(&service)?;
    let asked = |ips: [&'static str; 2]| ips.map(at);
    std::thread::scope(|scope| -> Outcome {
        let connect = |to: SocketAddr, patience: Duration| {
            let client = &world.client;
            let open = move || TcpStream::connect_timeout(&to, patience);
            let attempt = scope.spawn(move || client.namespace().run(open));
            let tracked = || world.flows_to(Protocol::Tcp, to).first().map(drop);
            eventually("its SYN is tracked", tracked);
            (to, attempt)
        };
        let others = asked(OTHERS).map(|to| connect(to, Duration::from_millis(500)));
        let attempts = asked(GIVEN).map(|to| connect(to, PATIENCE));
        let of_others = || others.each_ref().map(|(to, _)| world.flows_to(Protocol::Tcp, *to));
        let before = of_others();
        world.cluster.api().update_status(&balanced())?;
        for (to, attempt) in attempts {
            let made = attempt.join().map_err(|_| "the client")??;
            assert!(made.is_ok(), "{to}: {made:?}");
        }
        assert_eq!(of_others(), before, "no address of the Service");
        Ok(())
    })
}

/// With a server of the node's own at what becomes a node port, and with a host whose address the
/// Service claims as well.
pub(crate) fn answered_live() -> Outcome {
    let world = World::new(program())?;
    world.node.serve("of-the-node", &[(Protocol::Tcp, NODE_PORT)])?;
    world.neighbour.serve("of-the-neighbour", &[(Protocol::Tcp, 80)])?;
    world.cluster.start_proxy("node-a")?;
    let mut connections = Vec::new();
    for family in Family::BOTH {
        let ways =
            [world.node.socket_addr(family, NODE_PORT), world.neighbour.socket_addr(family, 80)];
        for to in ways {
            connections.push(Connection::open(&world.client, to)?);
        }
    }
    world.pod("web-1", "web")?;
    let mut service = web();
    service["spec"]["externalIPs"] = json!(Family::BOTH.map(|family| world.neighbour.ip(family)));
    // The deletion of a datagram's flow shows when conntrack was checked.
    for family in Family::BOTH {
        world.client.probe(&super::udp(world.node.socket_addr(family, NODE_PORT)))?;
    }
    world.until_removed(|world| world.cluster.create_service(&service))?;
    for family in Family::BOTH {
        served(&world.client, Probe::tcp(vip(family)));
        served(&world.client, Probe::tcp(world.neighbour.socket_addr(family, 80)));
    }
    for connection in &mut connections {
        let echo = connection.exchange();
        assert!(echo.is_ok(), "{}: {echo:?}", connection.way);
    }
    Ok(())
}
