//! Building and changing the lab's network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::address::{self, CLIENT, FIRST_POD, GATEWAY, LAST_POD, MAX_NODES};
use super::claim::{self, Claim, LabId};
use super::host::{Host, Node, Pod, interface_name};
use super::sysctl;
pub use super::topology_error::Error;
use super::wiring::{
    attach_pod, connect, create_host, default_routes, give_block, in_host, lay_fabric, port_name,
    reject_unknown_pods, remove_routes, set_routes,
};
use sluice_core::net::{Family, Protocol};

/// Options of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabSpec {
    /// How many nodes it starts with: `node-a`, `node-b`, ... (at least one, at most
    /// [`MAX_NODES`]).
    pub nodes: u8,
}

impl Default for LabSpec {
    fn default() -> LabSpec {
        LabSpec { nodes: 2 }
    }
}

/// The network. It can be shared between threads, and changed at any time; dropping it removes
/// everything. Its methods block for some milliseconds; from async code, call them where blocking
/// is allowed.
#[derive(Debug)]
pub struct Lab {
    hosts: Mutex<Hosts>,
    // Fields drop in order: the claim ends after the names are gone.
    claim: Claim,
}

#[derive(Debug)]
struct Hosts {
    fabric: Host,
    bridge: u32,
    client: Host,
    client_gateway: u8,
    nodes: BTreeMap<u8, Node>,
    pods: BTreeMap<String, Pod>,
    /// The last pod number of each node, so that addresses are reused late.
    last_pod: BTreeMap<u8, u8>,
}

impl Lab {
    /// Removes leftovers of dead labs, and builds a new one.
    pub fn new(spec: LabSpec) -> Result<Lab, Error> {
        claim::remove_leftovers()?;
        let claim = Claim::new()?;
        let fabric = create_host(&claim, "fabric", GATEWAY, &[])?;
        let bridge = lay_fabric(&fabric)?;
        let client = create_host(&claim, "client", CLIENT, &[])?;
        connect(&fabric, bridge, &client)?;
        let hosts = Hosts {
            fabric,
            bridge,
            client,
            client_gateway: 1,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            last_pod: BTreeMap::new(),
        };
        let lab = Lab { hosts: Mutex::new(hosts), claim };
        for _ in 0..spec.nodes.max(1) {
            lab.add_node()?;
        }
        lab.set_client_gateway(&lab.node(&address::node_name(1))?)?;
        Ok(lab)
    }

    /// Identifies the lab; the names of its namespaces start with it.
    pub fn id(&self) -> LabId {
        self.claim.id()
    }

    /// The host outside the cluster. Its default route is through a node, `node-a` at first, so
    /// that it reaches service addresses; pods it reaches through their own nodes.
    pub fn client(&self) -> Host {
        self.hosts().client.clone()
    }

    /// The host in the middle of the wire: the first address of the lab's prefix, outside of every
    /// node.
    pub fn fabric(&self) -> Host {
        self.hosts().fabric.clone()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<Node, Error> {
        self.hosts().node(name).cloned()
    }

    /// All nodes, in the order of their numbers.
    pub fn nodes(&self) -> Vec<Node> {
        self.hosts().nodes.values().cloned().collect()
    }

    /// A pod by name.
    pub fn pod(&self, name: &str) -> Result<Pod, Error> {
        let pod = self.hosts().pods.get(name).cloned();
        pod.ok_or_else(|| Error::NoSuchPod(name.to_owned()))
    }

    /// All pods, in the order of their names.
    pub fn pods(&self) -> Vec<Pod> {
        self.hosts().pods.values().cloned().collect()
    }

    /// Adds a node with the lowest free number.
    pub fn add_node(&self) -> Result<Node, Error> {
        let mut hosts = self.hosts();
        let number = (1..=MAX_NODES)
            .find(|number| !hosts.nodes.contains_key(number))
            .ok_or(Error::TooManyNodes)?;
        let name = address::node_name(number);
        let host = create_host(&self.claim, &name, address::node(number), sysctl::NODE)?;
        connect(&hosts.fabric, hosts.bridge, &host)?;
        let node = Node::new(host, number);
        set_routes(&node, default_routes(GATEWAY))?;
        reject_unknown_pods(&node)?;
        for other in hosts.nodes.values() {
            set_routes(&node, pod_routes(other))?;
        }
        for host in hosts.routed_hosts() {
            set_routes(host, pod_routes(&node))?;
        }
        hosts.nodes.insert(number, node.clone());
        Ok(node)
    }

    /// Removes a node with its pods.
    pub fn remove_node(&self, node: &Node) -> Result<(), Error> {
        let mut hosts = self.hosts();
        let node = hosts.node(node.name())?.clone();
        if hosts.client_gateway == node.number() {
            return Err(Error::IsClientGateway(node.name().to_owned()));
        }
        let pods: Vec<Pod> =
            hosts.pods.values().filter(|pod| pod.node() == node.name()).cloned().collect();
        for pod in pods {
            hosts.remove_pod(&pod)?;
        }
        hosts.nodes.remove(&node.number());
        hosts.last_pod.remove(&node.number());
        let port = port_name(node.name());
        in_host(&hosts.fabric, |wire| async move { wire.remove_link(&port).await })?;
        for host in hosts.routed_hosts() {
            remove_routes(host, pod_routes(&node))?;
        }
        Ok(node.namespace().close()?)
    }

    /// Adds a pod to a node, and starts a responder on each of the ports, in both families.
    pub fn add_pod(
        &self,
        name: &str,
        node: &Node,
        ports: &[(Protocol, u16)],
    ) -> Result<Pod, Error> {
        let mut hosts = self.hosts();
        let node = hosts.node(node.name())?.clone();
        hosts.check_name(name)?;
        let number = hosts.free_pod_number(&node)?;
        let host = create_host(&self.claim, name, address::pod(node.number(), number), &[])?;
        let interface = interface_name(name, number);
        attach_pod(&node, &host, &interface)?;
        if let Err(source) = host.serve(name, ports) {
            in_host(&node, |wire| async move { wire.remove_link(&interface).await })?;
            return Err(Error::Responders { pod: name.to_owned(), source });
        }
        let pod = Pod::new(host, &node, number, ports);
        hosts.last_pod.insert(node.number(), number);
        hosts.pods.insert(name.to_owned(), pod.clone());
        Ok(pod)
    }

    /// Routes a block of addresses to a pod on its node: programs that listen on all addresses of the pod answer at each
    /// of them. Several nodes may have a pod with the same block.
    pub fn give_block(&self, pod: &Pod, block: IpNet) -> Result<(), Error> {
        let node = self.hosts().node(pod.node())?.clone();
        give_block(&node, pod, block)
    }

    /// Removes a pod; its connections break.
    pub fn remove_pod(&self, pod: &Pod) -> Result<(), Error> {
        let mut hosts = self.hosts();
        let known = hosts.pods.get(pod.name()).cloned();
        hosts.remove_pod(&known.ok_or_else(|| Error::NoSuchPod(pod.name().to_owned()))?)
    }

    /// Chooses the node that the client's traffic to service addresses goes through.
    pub fn set_client_gateway(&self, node: &Node) -> Result<(), Error> {
        let mut hosts = self.hosts();
        let node = hosts.node(node.name())?.clone();
        set_routes(&hosts.client, default_routes(node.addresses()))?;
        hosts.client_gateway = node.number();
        Ok(())
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Explicitly, because handles that are still around would keep the namespaces alive.
        let hosts = self.hosts();
        let others = [&hosts.client, &hosts.fabric];
        let all = hosts.pods.values().map(|pod| &**pod).chain(hosts.nodes.values().map(|n| &**n));
        for host in all.chain(others) {
            if let Err(error) = host.namespace().close() {
                tracing::warn!(%error, "the next lab will remove it");
            }
        }
    }
}

impl Hosts {
    fn node(&self, name: &str) -> Result<&Node, Error> {
        let found = self.nodes.values().find(|node| node.name() == name);
        found.ok_or_else(|| Error::NoSuchNode(name.to_owned()))
    }

    /// The hosts that have a route to every node's pods.
    fn routed_hosts(&self) -> impl Iterator<Item = &Host> {
        self.nodes.values().map(|node| &**node).chain([&self.client])
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        let allowed = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        if !(1..=63).contains(&name.len()) || !name.bytes().all(allowed) {
            return Err(Error::BadName(name.to_owned()));
        }
        // Nodes that may come later have their names already.
        let reserved = ["client", "fabric"].contains(&name)
            || (1..=MAX_NODES).any(|number| address::node_name(number) == name);
        if reserved || self.pods.contains_key(name) {
            return Err(Error::NameTaken(name.to_owned()));
        }
        Ok(())
    }

    /// The next free number after the last one, so that addresses are reused late.
    fn free_pod_number(&self, node: &Node) -> Result<u8, Error> {
        let on_node = self.pods.values().filter(|pod| pod.node() == node.name());
        let used: BTreeSet<u8> = on_node.map(Pod::number).collect();
        let last = self.last_pod.get(&node.number()).copied().unwrap_or(FIRST_POD - 1);
        (last + 1..=LAST_POD)
            .chain(FIRST_POD..=last)
            .find(|number| !used.contains(number))
            .ok_or_else(|| Error::TooManyPods(node.name().to_owned()))
    }

    fn remove_pod(&mut self, pod: &Pod) -> Result<(), Error> {
        self.pods.remove(pod.name());
        let interface = pod.node_interface();
        let node = self.node(pod.node())?;
        // Not left to the end of the pod's namespace, which the kernel delays.
        in_host(node, |wire| async move { wire.remove_link(&interface).await })?;
        Ok(pod.namespace().close()?)
    }
}

/// How others reach the pods of a node.
fn pod_routes(node: &Node) -> [(IpNet, IpAddr); 2] {
    Family::BOTH.map(|family| (node.pod_cidr(family), node.ip(family)))
}
