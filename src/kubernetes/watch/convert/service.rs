//! Services: `pkg/proxy/serviceport.go` and `pkg/proxy/util/utils.go` upstream.

use std::net::IpAddr;

use super::{Converted, Interner, Notes, undecodable};
use crate::watch::lenient::{Lenient, Text};
use crate::watch::object::Object;
use crate::watch::wire;
use sluice_core::model::{
    Service, ServiceName, ServicePort, ServiceType, SourceRanges, TrafficPolicy,
};
use sluice_core::net::{Family, Protocol};

/// The API's default of `sessionAffinityConfig.clientIP.timeoutSeconds`, three hours.
const AFFINITY_DEFAULT: u32 = 10_800;
/// The API's greatest affinity timeout, one day.
const AFFINITY_LONGEST: u32 = 86_400;

/// Converts a Service. Headless and ExternalName ones, and those of other proxies, have no value.
pub(in crate::watch) fn service(
    object: Object<'_>,
    names: &mut Interner,
) -> Converted<ServiceName, Service> {
    let object: wire::Service<'_> = match object.decode() {
        Ok(object) => object,
        Err(error) => return undecodable("Service", &error),
    };
    let mut notes = match Notes::of("Service", &object.metadata) {
        Ok(notes) => notes,
        Err(nameless) => return nameless,
    };
    let name = ServiceName::new(notes.namespace, notes.name);
    let spec = notes.take(format_args!("spec"), object.spec).unwrap_or_default();
    let status = notes.take(format_args!("status"), object.status).unwrap_or_default();
    let value = if is_foreign(notes.meta) {
        None
    } else {
        let created = created(&mut notes);
        convert(name.clone(), created, spec, status, &mut notes, names)
    };
    notes.done(Some(name), value)
}

/// Whether another proxy is named; the label's value does not matter.
fn is_foreign(meta: &wire::Meta<'_>) -> bool {
    matches!(&meta.labels, Lenient::Is(labels) if labels.service_proxy_name != Lenient::Absent)
}

/// Seconds since 1970.
fn created(notes: &mut Notes<'_>) -> i64 {
    let field = format_args!("metadata.creationTimestamp");
    let time = notes.take_time(field, notes.meta.creation_timestamp.clone());
    time.map_or(0, jiff::Timestamp::as_second)
}

fn convert(
    name: ServiceName,
    created: i64,
    spec: wire::ServiceSpec<'_>,
    status: wire::ServiceStatus<'_>,
    notes: &mut Notes<'_>,
    names: &mut Interner,
) -> Option<Service> {
    let kind = kind(spec.kind, notes)?;
    let cluster_ips = cluster_ips(spec.cluster_ip, spec.cluster_ips, notes)?;
    let external_policy = policy("spec.externalTrafficPolicy", spec.external_traffic_policy, notes);
    // Used only if upstream's NeedsHealthCheck holds.
    let checked = kind == ServiceType::LoadBalancer && external_policy == TrafficPolicy::Local;
    let health_port =
        notes.take_port(format_args!("spec.healthCheckNodePort"), spec.health_check_node_port);
    Some(Service {
        name,
        created,
        kind,
        cluster_ips,
        external_ips: notes.take_ips("spec.externalIPs", spec.external_ips),
        load_balancer_ips: load_balancer_ips(status, notes),
        source_ranges: source_ranges(spec.load_balancer_source_ranges, notes),
        internal_policy: policy("spec.internalTrafficPolicy", spec.internal_traffic_policy, notes),
        external_policy,
        affinity: affinity(spec.session_affinity, spec.session_affinity_config, notes),
        health_check_node_port: health_port.filter(|_| checked),
        ports: ports(spec.ports, notes, names),
    })
}

/// `None` for ExternalName, which has no virtual IP.
fn kind(value: Lenient<Text<'_>>, notes: &mut Notes<'_>) -> Option<ServiceType> {
    let field = format_args!("spec.type");
    let text = notes.take(field, value);
    Some(match text.as_ref().map_or("", |text| &*text.0) {
        "" | "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => return None,
        other => {
            notes.warn(field, format!("{other:?} is no known type; ClusterIP is assumed"));
            ServiceType::ClusterIp
        }
    })
}

/// The virtual IPs, one of a family at most; `None` if there are none, as in headless Services.
fn cluster_ips(
    first: Lenient<Text<'_>>,
    all: wire::Texts<'_>,
    notes: &mut Notes<'_>,
) -> Option<Vec<IpAddr>> {
    let headless = |text: &Lenient<Text<'_>>| matches!(text, Lenient::Is(t) if t.0 == "None");
    let any_headless = matches!(&all, Lenient::Is(list) if list.iter().any(headless));
    if headless(&first) || any_headless {
        return None;
    }
    let mut ips = notes.take_ips("spec.clusterIPs", all);
    if ips.is_empty() {
        ips = notes.take_ips(
            "spec.clusterIP",
            Lenient::Is(vec![first].into_iter().filter(|f| *f != Lenient::Absent).collect()),
        );
    }
    let mut kept: Vec<IpAddr> = Vec::with_capacity(ips.len());
    for ip in ips {
        if kept.iter().any(|other| Family::of(*other) == Family::of(ip)) {
            let problem = format!("{ip} is a second {} address; it is ignored", Family::of(ip));
            notes.warn(format_args!("spec.clusterIPs"), problem);
        } else {
            kept.push(ip);
        }
    }
    Some(kept).filter(|kept| !kept.is_empty())
}

fn policy(field: &str, value: Lenient<Text<'_>>, notes: &mut Notes<'_>) -> TrafficPolicy {
    let text = notes.take(format_args!("{field}"), value);
    match text.as_ref().map_or("", |text| &*text.0) {
        "" | "Cluster" => TrafficPolicy::Cluster,
        "Local" => TrafficPolicy::Local,
        other => {
            let problem = format!("{other:?} is no known policy; Cluster is assumed");
            notes.warn(format_args!("{field}"), problem);
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(
    value: Lenient<Text<'_>>,
    config: Lenient<wire::AffinityConfig>,
    notes: &mut Notes<'_>,
) -> Option<u32> {
    let field = format_args!("spec.sessionAffinity");
    let text = notes.take(field, value)?;
    match &*text.0 {
        "" | "None" => return None,
        "ClientIP" => {}
        other => {
            notes.warn(field, format!("{other:?} is no known affinity; None is assumed"));
            return None;
        }
    }
    let config = notes.take(format_args!("spec.sessionAffinityConfig"), config).unwrap_or_default();
    let client_ip = notes
        .take(format_args!("spec.sessionAffinityConfig.clientIP"), config.client_ip)
        .unwrap_or_default();
    let field = format_args!("spec.sessionAffinityConfig.clientIP.timeoutSeconds");
    let Some(seconds) = notes.take(field, client_ip.timeout_seconds) else {
        return Some(AFFINITY_DEFAULT);
    };
    let in_range = u32::try_from(seconds).ok().filter(|s| (1..=AFFINITY_LONGEST).contains(s));
    if in_range.is_none() {
        let problem = format!(
            "{seconds} is not from 1 to {AFFINITY_LONGEST}; the default {AFFINITY_DEFAULT} is used"
        );
        notes.warn(field, problem);
    }
    Some(in_range.unwrap_or(AFFINITY_DEFAULT))
}

/// Addresses whose traffic the node may short-circuit: ipMode VIP, the default.
fn load_balancer_ips(status: wire::ServiceStatus<'_>, notes: &mut Notes<'_>) -> Vec<IpAddr> {
    const FIELD: &str = "status.loadBalancer.ingress";
    let balancer =
        notes.take(format_args!("status.loadBalancer"), status.load_balancer).unwrap_or_default();
    let ingress = notes.take(format_args!("{FIELD}"), balancer.ingress).unwrap_or_default();
    let mut ips = Vec::with_capacity(ingress.len());
    for (i, entry) in ingress.into_iter().enumerate() {
        let Some(entry) = notes.take_entry(format_args!("{FIELD}[{i}]"), entry) else { continue };
        let mode = notes.take(format_args!("{FIELD}[{i}].ipMode"), entry.ip_mode);
        let is_vip = mode.is_none_or(|mode| mode.0 == "VIP");
        let field = format_args!("{FIELD}[{i}].ip");
        // Balancers with a host name have no address.
        let Some(text) = notes.take(field, entry.ip).filter(|t| is_vip && !t.0.is_empty()) else {
            continue;
        };
        if let Some(ip) = notes.usable_ip(field, &text.0)
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
    }
    ips
}

/// A family with a range of length zero is not restricted. An invalid range admits no source, so a list of
/// only invalid ranges admits none.
fn source_ranges(value: wire::Texts<'_>, notes: &mut Notes<'_>) -> SourceRanges {
    const FIELD: &str = "spec.loadBalancerSourceRanges";
    let texts = notes.take(format_args!("{FIELD}"), value).unwrap_or_default();
    let mut nets = Vec::with_capacity(texts.len());
    let mut restricted = false;
    for (i, text) in texts.into_iter().enumerate() {
        let field = format_args!("{FIELD}[{i}]");
        let text = notes.take_entry(field, text);
        // The API server lets padding and empty entries pass.
        let trimmed = text.as_ref().map_or("?", |text| text.0.trim());
        if trimmed.is_empty() {
            continue;
        }
        restricted = true;
        nets.extend(text.as_ref().and_then(|_| notes.take_cidr(field, trimmed)));
    }
    let open = |family| nets.iter().any(|n| Family::of_net(n) == family && n.prefix_len() == 0);
    let named = |family| nets.iter().any(|n| Family::of_net(n) == family);
    let lifted = !nets.is_empty() && Family::BOTH.into_iter().all(|f| open(f) || !named(f));
    if !restricted || lifted {
        return SourceRanges::Anyone;
    }
    nets.sort_unstable();
    nets.dedup();
    SourceRanges::Only(nets)
}

fn ports(
    value: Lenient<Vec<Lenient<wire::ServicePort<'_>>>>,
    notes: &mut Notes<'_>,
    names: &mut Interner,
) -> Vec<ServicePort> {
    let entries = notes.take(format_args!("spec.ports"), value).unwrap_or_default();
    let mut ports: Vec<ServicePort> = Vec::with_capacity(entries.len());
    for (i, entry) in entries.into_iter().enumerate() {
        let entry = notes.take_entry(format_args!("spec.ports[{i}]"), entry);
        let Some(mut port) = entry.and_then(|entry| one_port(i, entry, notes, names)) else {
            continue;
        };
        let of_protocol = |other: &&ServicePort| other.protocol == port.protocol;
        if ports.iter().filter(of_protocol).any(|other| other.port == port.port) {
            let problem =
                format!("{} {} is there already; this entry is ignored", port.protocol, port.port);
            notes.warn(format_args!("spec.ports[{i}].port"), problem);
            continue;
        }
        let same_node_port = |other: &ServicePort| other.node_port == port.node_port;
        if port.node_port.is_some() && ports.iter().filter(of_protocol).any(same_node_port) {
            let problem = "is there already; it is ignored";
            notes.warn(format_args!("spec.ports[{i}].nodePort"), problem);
            port.node_port = None;
        }
        ports.push(port);
    }
    ports
}

fn one_port(
    i: usize,
    entry: wire::ServicePort<'_>,
    notes: &mut Notes<'_>,
    names: &mut Interner,
) -> Option<ServicePort> {
    let name = notes.take(format_args!("spec.ports[{i}].name"), entry.name).unwrap_or_default();
    let protocol = notes.take(format_args!("spec.ports[{i}].protocol"), entry.protocol);
    let protocol_name = protocol.as_ref().map(|text| &*text.0);
    let Some(protocol) = Protocol::from_api(protocol_name) else {
        let unknown = protocol_name.unwrap_or_default();
        let problem = format!("{unknown:?} is no known protocol; the port is ignored");
        notes.warn(format_args!("spec.ports[{i}].protocol"), problem);
        return None;
    };
    let told = notes.warnings.len() + notes.untold;
    let port = notes.take_port(format_args!("spec.ports[{i}].port"), entry.port);
    if port.is_none() && told == notes.warnings.len() + notes.untold {
        notes.warn(format_args!("spec.ports[{i}].port"), "is missing; the port is ignored");
    }
    let node_port = notes.take_port(format_args!("spec.ports[{i}].nodePort"), entry.node_port);
    Some(ServicePort { name: names.name(&name.0), protocol, port: port?, node_port })
}
