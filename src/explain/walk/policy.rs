//! Who is admitted, which pool is used, and which addresses are translated.

use std::net::IpAddr;

use crate::explanation::{Stage, StageName};
use crate::findings::{Code, Finding};
use crate::truth::Truth;
use sluice_config::Mode;
use sluice_core::model::{Service, TrafficPolicy};
use sluice_core::net::Protocol;
use sluice_core::plan::Hit;
use sluice_core::plan::{
    Admit, FrontendKind, Masquerade, PacketSource, PodDetector, PoolEndpoint, PoolKind, is_pod,
};

/// Where a packet comes from, as policies distinguish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Pod,
    ThisNode,
    Outside,
}

/// Whether the internal policy counts.
pub(super) fn is_internal(hit: &Hit<'_>) -> bool {
    hit.frontend.kind == FrontendKind::ClusterIp
}

fn class(hit: &Hit<'_>) -> Class {
    if is_pod(&hit.table.host.pods, &hit.packet.source) {
        Class::Pod
    } else if matches!(hit.packet.source, PacketSource::ThisNode(_)) {
        Class::ThisNode
    } else {
        Class::Outside
    }
}

fn service<'a>(truth: &'a Truth<'_>, hit: &Hit<'_>) -> Option<&'a Service> {
    truth.snapshot.services.get(hit.service).map(|service| &**service)
}

/// The policy of the Service for this kind of frontend.
fn traffic_policy(truth: &Truth<'_>, hit: &Hit<'_>) -> TrafficPolicy {
    service(truth, hit).map_or(TrafficPolicy::Cluster, |service| match hit.frontend.kind {
        FrontendKind::ClusterIp => service.internal_policy,
        _ => service.external_policy,
    })
}

/// The pool that the policy selects for this source, whether or not there is an endpoint in it.
pub(super) fn pool(truth: &Truth<'_>, hit: &Hit<'_>) -> PoolKind {
    let local = match (traffic_policy(truth, hit), hit.frontend.kind) {
        (TrafficPolicy::Cluster, _) => false,
        (TrafficPolicy::Local, FrontendKind::ClusterIp) => true,
        (TrafficPolicy::Local, _) => class(hit) == Class::Outside,
    };
    if local { PoolKind::Local } else { PoolKind::Cluster }
}

/// Source ranges.
pub(super) fn admission(hit: &Hit<'_>) -> (Stage, Option<Finding>) {
    let ip = hit.packet.source.ip();
    let ranges = match (&hit.frontend.admit, hit.frontend.kind) {
        (Admit::Only(ranges), _) => ranges,
        (Admit::Anyone, FrontendKind::LoadBalancer) => {
            let text = "everybody: no source range of this family restricts it";
            return (Stage::new(StageName::Admission, Some(true), text).by(&["S-22"]), None);
        }
        (Admit::Anyone, kind) => {
            let kind = match kind {
                FrontendKind::ClusterIp => "cluster IPs",
                FrontendKind::ExternalIp => "external IPs",
                _ => "node ports",
            };
            let text = format!("everybody: source ranges do not restrict {kind}");
            return (Stage::new(StageName::Admission, Some(true), text).by(&["S-23"]), None);
        }
    };
    if let Some(net) = ranges.iter().find(|net| net.contains(&ip)) {
        let rule = if net.addr() == hit.packet.destination { "S-24" } else { "S-21" };
        let text = format!("{ip} is in {net} of loadBalancerSourceRanges");
        return (Stage::new(StageName::Admission, Some(true), text).by(&[rule]), None);
    }
    let listed: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    let listed = if listed.is_empty() { "no valid range".to_owned() } else { listed.join(", ") };
    let text = format!("{ip} is in none of loadBalancerSourceRanges ({listed}): dropped");
    let stage = Stage::new(StageName::Admission, Some(false), text).by(&["S-21", "S-51"]);
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let fix = format!(
        "add \"{ip}/{length}\" to spec.loadBalancerSourceRanges: kubectl edit service -n {} {}",
        hit.service.namespace(),
        hit.service.name()
    );
    let text = format!(
        "{ip} is in none of the loadBalancerSourceRanges of Service {} ({listed}): its packets are dropped without an answer",
        hit.service
    );
    (stage, Some(Code::SourceNotAdmitted.finding(text, Some(fix))))
}

/// Which pool.
pub(super) fn policy(truth: &Truth<'_>, hit: &Hit<'_>) -> Stage {
    let internal = hit.frontend.kind == FrontendKind::ClusterIp;
    let name = if internal { "internalTrafficPolicy" } else { "externalTrafficPolicy" };
    let (text, rules): (String, &[&str]) = match (traffic_policy(truth, hit), class(hit)) {
        (TrafficPolicy::Cluster, _) => {
            (format!("{name} Cluster: endpoints on any node"), &["S-47"])
        }
        (TrafficPolicy::Local, _) if internal => {
            (format!("{name} Local: endpoints on {} only", truth.node), &["S-42"])
        }
        (TrafficPolicy::Local, Class::Pod) => {
            (format!("{name} Local, and a pod: endpoints on any node"), &["S-45"])
        }
        (TrafficPolicy::Local, Class::ThisNode) => {
            (format!("{name} Local, and this node itself: endpoints on any node"), &["S-46"])
        }
        (TrafficPolicy::Local, Class::Outside) => {
            (format!("{name} Local, and from outside: endpoints on {} only", truth.node), &["S-43"])
        }
    };
    Stage::new(StageName::Policy, Some(true), text).by(rules)
}

/// Whether the source is replaced, and by which rule.
fn masquerade(truth: &Truth<'_>, hit: &Hit<'_>) -> (Masquerade, &'static str, &'static str) {
    let host = &hit.table.host;
    if hit.frontend.kind == FrontendKind::ClusterIp {
        return match class(hit) {
            _ if host.masquerade_all => (Masquerade::Yes, "masqueradeAll is set", "S-72"),
            _ if host.pods == PodDetector::None => {
                (Masquerade::No, "no pods are recognized", "S-79")
            }
            Class::Pod => (Masquerade::No, "it is a pod", "S-73"),
            _ => (Masquerade::Yes, "it is no pod", "S-73"),
        };
    }
    match (traffic_policy(truth, hit), class(hit)) {
        (TrafficPolicy::Cluster, _) => {
            (Masquerade::Yes, "externalTrafficPolicy is Cluster", "S-74")
        }
        (TrafficPolicy::Local, Class::Pod) => (Masquerade::No, "it is a pod", "S-45"),
        (TrafficPolicy::Local, Class::ThisNode) => {
            (Masquerade::Yes, "it is this node itself", "S-46")
        }
        (TrafficPolicy::Local, Class::Outside) => {
            (Masquerade::No, "externalTrafficPolicy is Local", "S-43")
        }
    }
}

/// Which addresses are translated.
pub(super) fn rewrite(
    truth: &Truth<'_>,
    hit: &Hit<'_>,
    pool: &[PoolEndpoint],
) -> (Stage, Masquerade) {
    let (masquerade, why, rule) = masquerade(truth, hit);
    let relayed = truth.mode == Mode::Userspace && hit.packet.protocol != Protocol::Sctp;
    let mut rules = vec![rule];
    let text = match masquerade {
        _ if relayed => {
            "the daemon accepts the connection and makes one of its own to the endpoint".to_owned()
        }
        Masquerade::Yes => {
            format!("destination to the endpoint; source to an address of {}: {why}", truth.node)
        }
        Masquerade::No => format!("destination to the endpoint; source kept: {why}"),
    };
    let mut notes = Vec::new();
    let ip: IpAddr = hit.packet.source.ip();
    if masquerade == Masquerade::No && pool.iter().any(|e| e.local && e.ip == ip) {
        notes.push(format!("if it is sent to itself ({ip}), the source is replaced, too"));
        rules.push("S-71");
    }
    let mut stage = Stage::new(StageName::Rewrite, Some(true), text).by(&rules);
    stage.notes = notes;
    (stage, masquerade)
}

/// A client from outside that endpoints do not see.
pub(super) fn hidden_source(
    truth: &Truth<'_>,
    hit: &Hit<'_>,
    masquerade: Masquerade,
) -> Option<Finding> {
    let hidden = masquerade == Masquerade::Yes
        && class(hit) == Class::Outside
        && hit.frontend.kind != FrontendKind::ClusterIp;
    hidden.then(|| {
        let text = format!(
            "endpoints of Service {} see an address of {} and not the client's, because externalTrafficPolicy is Cluster",
            hit.service, truth.node
        );
        let fix = format!(
            "if they need the client's address: kubectl patch service -n {} {} -p \
             '{{\"spec\":{{\"externalTrafficPolicy\":\"Local\"}}}}'",
            hit.service.namespace(),
            hit.service.name()
        );
        Code::MasqueradeHidesSource.finding(text, Some(fix))
    })
}
