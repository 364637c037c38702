//! The elements of one Service that every mode has.

use ipnet::IpNet;

use super::counters;
use super::frontends::{FrontendClass, frontend_key, is_split, lookups};
use super::sets::SetId;
use sluice_core::model::ServiceName;
use sluice_core::plan::{Admit, Frontend, FrontendKind, Masquerade, ServicePlan, Verdict};
use sluice_kernel::nft::{Element, Key};

/// Elements, each with its set.
pub(crate) type Elements = Vec<(SetId, Element)>;

/// The cluster IP of a Service, which no other Service has.
pub(super) fn cluster_ip_element(plan: &ServicePlan, out: &mut Elements) {
    if let Some(ip) = plan.cluster_ip {
        out.push((SetId::ClusterIps, Element::new(Key::new().address(ip))));
    }
}

/// Elements of one frontend: who may use it, whether it is masqueraded, and what it refuses.
pub(super) fn frontend_elements(frontend: &Frontend, out: &mut Elements) {
    let class = FrontendClass::of(&frontend.at);
    let key = frontend_key(&frontend.at);
    if let Admit::Only(ranges) = &frontend.admit {
        out.push((SetId::Restricted, Element::new(key)));
        let admitted = |range: &IpNet| {
            Element::new(key.address(range.network())).through_parts(key.address(range.broadcast()))
        };
        out.extend(ranges.iter().map(|range| (SetId::Sources, admitted(range))));
    }
    let masquerade = frontend.routes.for_anyone().masquerade;
    if is_split(frontend) {
        out.push((SetId::Split(class), Element::new(key)));
    } else if masquerade == Masquerade::Yes && frontend.kind != FrontendKind::ClusterIp {
        // Masquerading of cluster IPs depends on the source; one rule decides it for all of them.
        out.push((SetId::Masquerade(class), Element::new(key)));
    }
    for (_, route) in lookups(frontend) {
        match route.verdict {
            Verdict::Forward(_) => {}
            Verdict::Reject => out.push((SetId::Reject(class), Element::new(key))),
            Verdict::Drop => out.push((SetId::Drop(class), Element::new(key))),
        }
    }
}

/// The counters of a Service: one element per frontend, whose comment names the owner.
pub(super) fn counter_elements(name: &ServiceName, plan: &ServicePlan, out: &mut Elements) {
    out.extend(plan.ports.iter().flat_map(|port| {
        let owner = counters::owner(name, port);
        port.frontends.iter().filter_map(move |frontend| {
            let element = Element::new(frontend_key(&frontend.at)).with_comment(owner.as_deref()?);
            Some((SetId::Counters(FrontendClass::of(&frontend.at)), element))
        })
    }));
}

/// Elements that several Services may need at once: they exist while any Service needs them.
pub(super) fn shared_elements(plan: &ServicePlan, out: &mut Elements) {
    for port in &plan.ports {
        let here = port.cluster.iter().chain(&*port.local).filter(|endpoint| endpoint.local);
        out.extend(here.map(|endpoint| {
            let to_itself = Key::new().address(endpoint.ip).address(endpoint.ip);
            let key = to_itself.protocol(port.protocol).port(endpoint.port);
            (SetId::Hairpin, Element::new(key))
        }));
    }
}
