//! Who connects: from FROM to the source of a packet.

use std::net::IpAddr;

use crate::explanation::From;
use crate::nearest::{hint, nearest};
use crate::question::FromText;
use crate::refusal::Refusal;
use crate::truth::{Looked, Pod, Truth};
use sluice_core::net::Family;
use sluice_core::plan::{PacketSource, PodDetector};

/// Who connects.
#[derive(Debug, Clone)]
pub struct Client {
    /// For the first line.
    pub shown: From,
    /// The namespace in which it looks names up.
    pub namespace: Option<String>,
    /// A source for each address that it has.
    pub sources: Vec<PacketSource>,
    /// Whether a configured interface is assumed to be its.
    pub assumed_interface: bool,
}

impl Client {
    /// Its source of a family.
    pub fn source(&self, family: Family) -> Option<&PacketSource> {
        self.sources.iter().find(|source| Family::of(source.ip()) == family)
    }
}

/// The node that a FROM is on, if that is known: who decides for it.
pub fn node_of<'a>(truth: &'a crate::Known, from: &FromText) -> Option<&'a str> {
    match from {
        FromText::Pod(text) => {
            let found = pod_called(truth.pods.seen()?, text)?;
            Some(found.node.as_str()).filter(|node| !node.is_empty())
        }
        FromText::Node(name) => truth.nodes.get_key_value(name).map(|(name, _)| name.as_str()),
        FromText::Ip(ip, _) => {
            let of_pod = truth.pods.seen().into_iter().flatten();
            let mut of_pod = of_pod.filter(|pod| pod.ips.contains(ip));
            let of_pod = of_pod.next().map(|pod| pod.node.as_str());
            let node = truth.nodes.iter().find(|(_, ips)| ips.contains(ip));
            of_pod.or_else(|| node.map(|(name, _)| name.as_str()))
        }
    }
}

/// Finds who connects.
///
/// # Errors
/// If there is no such client, it has no address, or another node decides for it.
pub fn client(truth: &Truth<'_>, text: &str, from: &FromText) -> Result<Client, Refusal> {
    match from {
        FromText::Pod(name) => of_pod(truth, text, name),
        FromText::Node(name) => of_node(truth, text, name),
        FromText::Ip(ip, device) => Ok(of_ip(truth, text, *ip, device.as_deref())),
    }
}

/// The pod with a name: of the default namespace, of the namespace that the name ends in, or of any.
fn pod_called<'a>(pods: &'a [Pod], text: &str) -> Option<&'a Pod> {
    let whole = |pod: &&Pod| pod.name == text && pod.namespace == "default";
    let split = |pod: &&Pod| {
        text.rsplit_once('.').is_some_and(|(name, ns)| pod.name == name && pod.namespace == ns)
    };
    let anywhere = |pod: &&Pod| pod.name == text;
    let found = pods.iter().find(whole).or_else(|| pods.iter().find(split));
    found.or_else(|| pods.iter().find(anywhere))
}

fn of_pod(truth: &Truth<'_>, text: &str, name: &str) -> Result<Client, Refusal> {
    let pods = match &truth.known.pods {
        Looked::At(pods) => pods,
        Looked::Not(reason) => return Err(Refusal::PodsUnknown { reason: reason.clone() }),
    };
    let Some(pod) = pod_called(pods, name) else { return Err(no_such_pod(pods, name)) };
    let full = format!("{}/{}", pod.namespace, pod.name);
    if !pod.node.is_empty() && pod.node != truth.node {
        let (node, here) = (pod.node.clone(), truth.node.to_owned());
        let command = if truth.origin.source == "daemon" {
            format!(
                "kubectl exec -n kube-system PROXY-POD-OF-{node} -- sluice explain {}",
                pod.ips.first().map_or_else(|| text.to_owned(), ToString::to_string)
            )
        } else {
            format!("--on {node}")
        };
        return Err(Refusal::OtherNode { pod: full, node, here, command });
    }
    if pod.ips.is_empty() {
        let reason = pod.not_ready.clone().unwrap_or_else(|| "it is not running".to_owned());
        return Err(Refusal::PodWithoutAddress { pod: full, reason });
    }
    let source = |ip: &IpAddr| {
        if pod.host_network {
            PacketSource::ThisNode(*ip)
        } else {
            PacketSource::Interface { ip: *ip, name: pod_interface(truth, Family::of(*ip)).1 }
        }
    };
    Ok(Client {
        shown: From {
            text: text.to_owned(),
            pod: Some(full),
            ip: pod.ips.first().map(ToString::to_string),
            node: Some(pod.node.clone()).filter(|node| !node.is_empty()),
        },
        namespace: Some(pod.namespace.clone()),
        sources: pod.ips.iter().map(source).collect(),
        assumed_interface: !pod.host_network
            && pod.ips.iter().any(|ip| pod_interface(truth, Family::of(*ip)).0),
    })
}

/// Whether pods are recognized by their interface, and a name that is one of a pod then.
fn pod_interface(truth: &Truth<'_>, family: Family) -> (bool, String) {
    match truth.table(family).map(|table| &table.host.pods) {
        Some(PodDetector::BridgeInterface(name) | PodDetector::InterfacePrefix(name)) => {
            (true, name.to_string())
        }
        _ => (false, String::new()),
    }
}

fn no_such_pod(pods: &[Pod], text: &str) -> Refusal {
    let (name, namespace) = text.rsplit_once('.').unwrap_or((text, "default"));
    let names = pods.iter().map(|pod| pod.name.as_str());
    let full = |near: &&str| {
        let pod = pods.iter().find(|pod| pod.name == **near);
        pod.map_or_else(
            || (*near).to_owned(),
            |pod| match pod.namespace.as_str() {
                "default" => format!("pod/{}", pod.name),
                namespace => format!("pod/{}.{namespace}", pod.name),
            },
        )
    };
    let elsewhere: Vec<&str> =
        pods.iter().filter(|pod| pod.name == name).map(|p| &*p.name).collect();
    let near = if elsewhere.is_empty() { nearest(name, names) } else { elsewhere };
    let near: Vec<String> = near.iter().map(full).collect();
    Refusal::NoSuchPod { namespace: namespace.to_owned(), name: name.to_owned(), hint: hint(&near) }
}

fn of_node(truth: &Truth<'_>, text: &str, name: &str) -> Result<Client, Refusal> {
    let own: Vec<IpAddr> =
        truth.snapshot.node.iter().flat_map(|node| node.addresses.clone()).collect();
    let ips = if name == truth.node { Some(&own) } else { truth.known.nodes.get(name) };
    let Some(ips) = ips else {
        if truth.known.served_only {
            let here = truth.node.to_owned();
            return Err(Refusal::OtherNodeUnknown { name: name.to_owned(), here });
        }
        let known = truth.known.nodes.keys().map(String::as_str).chain([truth.node]);
        let hint = hint(&nearest(name, known));
        return Err(Refusal::NoSuchNode { name: name.to_owned(), hint });
    };
    let source = |ip: &IpAddr| {
        if name == truth.node {
            PacketSource::ThisNode(*ip)
        } else {
            PacketSource::Interface { ip: *ip, name: String::new() }
        }
    };
    let mut sources: Vec<PacketSource> = ips.iter().map(source).collect();
    if name == truth.node && sources.is_empty() {
        // Without a Node object, any address of the node will do.
        let local = truth.local.iter().filter(|ip| !ip.is_loopback());
        sources.extend(local.map(|ip| PacketSource::ThisNode(*ip)));
    }
    Ok(Client {
        shown: From {
            text: text.to_owned(),
            pod: None,
            ip: sources.first().map(|source| source.ip().to_string()),
            node: Some(name.to_owned()),
        },
        namespace: None,
        sources,
        assumed_interface: false,
    })
}

fn of_ip(truth: &Truth<'_>, text: &str, ip: IpAddr, device: Option<&str>) -> Client {
    let pods = truth.known.pods.seen().into_iter().flatten();
    let pod = pods.filter(|pod| !pod.host_network).find(|pod| pod.ips.contains(&ip));
    let own_node = truth.snapshot.node.iter().any(|node| node.addresses.contains(&ip));
    let this_node = device.is_none() && (truth.local.contains(&ip) || own_node);
    let here = pod.is_some_and(|pod| pod.node == truth.node);
    let (assumed, name) = match device {
        Some(device) => (false, device.to_owned()),
        None if here => pod_interface(truth, Family::of(ip)),
        None => (false, String::new()),
    };
    let source =
        if this_node { PacketSource::ThisNode(ip) } else { PacketSource::Interface { ip, name } };
    let node = match pod {
        Some(pod) => Some(pod.node.clone()).filter(|node| !node.is_empty()),
        None if this_node => Some(truth.node.to_owned()),
        None => None,
    };
    Client {
        shown: From {
            text: text.to_owned(),
            pod: pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)),
            ip: Some(ip.to_string()),
            node,
        },
        namespace: pod.map(|pod| pod.namespace.clone()),
        sources: vec![source],
        assumed_interface: assumed,
    }
}
