//! This node's Node (`pkg/proxy/node.go` upstream) and ServiceCIDRs.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Converted, Notes, undecodable};
use crate::watch::lenient::{Lenient, Text};
use crate::watch::object::Object;
use crate::watch::wire;
use sluice_core::model::Node;
use sluice_core::net::parse_ip;

/// The taint by which the cluster autoscaler announces that it will remove the node (KEP-3836).
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Converts a Node.
pub(in crate::watch) fn node(object: Object<'_>) -> Converted<String, Node> {
    let object: wire::Node<'_> = match object.decode() {
        Ok(object) => object,
        Err(error) => return undecodable("Node", &error),
    };
    let mut notes = match Notes::of("Node", &object.metadata) {
        Ok(notes) => notes,
        Err(nameless) => return nameless,
    };
    let meta = notes.meta;
    let name = notes.name.to_owned();
    let uid = notes.take(format_args!("metadata.uid"), meta.uid.clone());
    let spec = notes.take(format_args!("spec"), object.spec).unwrap_or_default();
    let status = notes.take(format_args!("status"), object.status).unwrap_or_default();
    let labels = match &meta.labels {
        Lenient::Is(labels) => labels.zone.clone(),
        Lenient::Absent | Lenient::Wrong(_) => Lenient::Absent,
    };
    let field = format_args!("metadata.labels[topology.kubernetes.io/zone]");
    let zone = notes.take(field, labels).map(|zone| zone.0.into_owned());
    let node = Node {
        uid: uid.map(|uid| uid.0.into_owned()).unwrap_or_default(),
        addresses: addresses(status, &mut notes),
        zone: zone.filter(|zone| !zone.is_empty()),
        leaving: meta.deletion_timestamp != Lenient::Absent || is_tainted(&spec),
        pod_cidrs: pod_cidrs(spec, &mut notes),
    };
    notes.done(Some(name), Some(node))
}

fn is_tainted(spec: &wire::NodeSpec<'_>) -> bool {
    let Lenient::Is(taints) = &spec.taints else { return false };
    taints.iter().any(|taint| {
        matches!(taint, Lenient::Is(wire::Taint { key: Lenient::Is(key) }) if key.0 == LEAVING_TAINT)
    })
}

/// Internal addresses before external ones, each in the API's order, as `GetNodeHostIPs` does.
fn addresses(status: wire::NodeStatus<'_>, notes: &mut Notes<'_>) -> Vec<IpAddr> {
    let entries =
        notes.take(format_args!("status.addresses"), status.addresses).unwrap_or_default();
    let (mut internal, mut external) = (Vec::new(), Vec::new());
    for (i, entry) in entries.into_iter().enumerate() {
        let field = format_args!("status.addresses[{i}]");
        let Some(entry) = notes.take_entry(field, entry) else { continue };
        let Lenient::Is(Text(kind)) = entry.kind else { continue };
        let list = match &*kind {
            "InternalIP" => &mut internal,
            "ExternalIP" => &mut external,
            // Host names.
            _ => continue,
        };
        let Some(text) = notes.take(field, entry.address) else { continue };
        match parse_ip(&text.0) {
            Some(ip) if !list.contains(&ip) => list.push(ip),
            Some(_) => {}
            None => notes.warn(field, format!("{:?} is not an IP address; it is ignored", text.0)),
        }
    }
    internal.append(&mut external);
    internal
}

fn pod_cidrs(spec: wire::NodeSpec<'_>, notes: &mut Notes<'_>) -> Vec<IpNet> {
    let nets = cidrs("spec.podCIDRs", spec.pod_cidrs, notes);
    if !nets.is_empty() {
        return nets;
    }
    let only = notes.take(format_args!("spec.podCIDR"), spec.pod_cidr);
    let only = only.filter(|text| !text.0.is_empty());
    only.and_then(|text| notes.take_cidr(format_args!("spec.podCIDR"), &text.0))
        .into_iter()
        .collect()
}

fn cidrs(field: &str, list: wire::Texts<'_>, notes: &mut Notes<'_>) -> Vec<IpNet> {
    let texts = notes.take(format_args!("{field}"), list).unwrap_or_default();
    let mut nets = Vec::with_capacity(texts.len());
    for (i, text) in texts.into_iter().enumerate() {
        let field = format_args!("{field}[{i}]");
        let text = notes.take_entry(field, text);
        nets.extend(text.and_then(|text| notes.take_cidr(field, &text.0)));
    }
    nets
}

/// Converts a ServiceCIDR.
pub(in crate::watch) fn service_cidr(object: Object<'_>) -> Converted<String, Vec<IpNet>> {
    let object: wire::ServiceCidr<'_> = match object.decode() {
        Ok(object) => object,
        Err(error) => return undecodable("ServiceCIDR", &error),
    };
    let mut notes = match Notes::of("ServiceCIDR", &object.metadata) {
        Ok(notes) => notes,
        Err(nameless) => return nameless,
    };
    let name = notes.name.to_owned();
    let spec = notes.take(format_args!("spec"), object.spec).unwrap_or_default();
    let nets = cidrs("spec.cidrs", spec.cidrs, &mut notes);
    notes.done(Some(name), Some(nets))
}
