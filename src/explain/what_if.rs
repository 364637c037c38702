//! The same question with one thing changed: an endpoint gone, a field set, other objects.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::refusal::Refusal;
use crate::truth::Known;
use sluice_core::model::{
    Change, EndpointSlice, Service, ServiceName, Snapshot, SourceRanges, TrafficPolicy,
};

/// A change that has not happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhatIf {
    /// A pod and its endpoints are gone.
    PodGone(String),
    /// Endpoints with an address are gone.
    AddressGone(IpAddr),
    /// A Service is gone.
    ServiceGone(ServiceName),
    /// A field of a Service has another value.
    Field(ServiceName, Field),
}

/// A field of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// `externalTrafficPolicy`.
    ExternalPolicy(TrafficPolicy),
    /// `internalTrafficPolicy`.
    InternalPolicy(TrafficPolicy),
    /// `sessionAffinity`, with the API's default timeout.
    Affinity(bool),
    /// `loadBalancerSourceRanges`.
    SourceRanges(SourceRanges),
}

/// The API's default of the affinity timeout in seconds.
const AFFINITY_SECONDS: u32 = 10_800;

/// Understands `pod/NAME[.NS] gone`, `IP gone`, `svc/NAME[.NS] gone` and `svc/NAME[.NS] FIELD=VALUE`.
///
/// # Errors
/// If it is none of these.
pub fn parse(text: &str) -> Result<WhatIf, Refusal> {
    let wrong = |reason: &str| Refusal::WhatIf { text: text.to_owned(), reason: reason.to_owned() };
    let (what, change) = text.trim().split_once(' ').ok_or_else(|| {
        wrong("write 'pod/NAME gone', 'IP gone', 'svc/NAME gone', 'svc/NAME FIELD=VALUE', or a file of objects")
    })?;
    let (what, change) = (what.trim(), change.trim());
    if let Some(pod) = what.strip_prefix("pod/") {
        let gone = (change == "gone").then(|| WhatIf::PodGone(pod.to_owned()));
        return gone.ok_or_else(|| wrong("a pod can only be gone"));
    }
    if let Ok(ip) = what.parse::<IpAddr>() {
        let gone = (change == "gone").then_some(WhatIf::AddressGone(ip));
        return gone.ok_or_else(|| wrong("an endpoint can only be gone"));
    }
    let Some(service) = what.strip_prefix("svc/") else {
        return Err(wrong("it begins with pod/, svc/ or an IP address"));
    };
    let (name, namespace) = service.split_once('.').unwrap_or((service, "default"));
    let name = ServiceName::new(namespace, name);
    if change == "gone" {
        return Ok(WhatIf::ServiceGone(name));
    }
    let (field, value) =
        change.split_once('=').ok_or_else(|| wrong("write FIELD=VALUE, or gone"))?;
    let field = parse_field(field.trim(), value.trim()).map_err(|reason| wrong(&reason))?;
    Ok(WhatIf::Field(name, field))
}

fn parse_field(field: &str, value: &str) -> Result<Field, String> {
    let policy = || match value {
        "Cluster" => Ok(TrafficPolicy::Cluster),
        "Local" => Ok(TrafficPolicy::Local),
        _ => Err(format!("{field} is Cluster or Local")),
    };
    match field {
        "externalTrafficPolicy" => policy().map(Field::ExternalPolicy),
        "internalTrafficPolicy" => policy().map(Field::InternalPolicy),
        "sessionAffinity" => match value {
            "ClientIP" => Ok(Field::Affinity(true)),
            "None" => Ok(Field::Affinity(false)),
            _ => Err("sessionAffinity is ClientIP or None".to_owned()),
        },
        "loadBalancerSourceRanges" => ranges(value).map(Field::SourceRanges),
        _ => {
            Err("the fields are externalTrafficPolicy, internalTrafficPolicy, sessionAffinity and \
             loadBalancerSourceRanges; for others, give a file with the changed Service"
                .to_owned())
        }
    }
}

fn ranges(value: &str) -> Result<SourceRanges, String> {
    if value.is_empty() {
        return Ok(SourceRanges::Anyone);
    }
    let mut nets = Vec::new();
    for text in value.split(',') {
        let net = sluice_core::net::parse_cidr(text.trim());
        nets.push(net.ok_or_else(|| format!("{text} is no prefix like 10.0.0.0/8"))?);
    }
    Ok(SourceRanges::Only(nets))
}

/// The state of the API after the change, and the Services that it may affect.
///
/// # Errors
/// If what is to change is not there.
pub fn apply(
    snapshot: &Snapshot,
    known: &Known,
    what_if: &WhatIf,
    text: &str,
) -> Result<(Snapshot, BTreeSet<ServiceName>), Refusal> {
    let wrong = |reason: String| Refusal::WhatIf { text: text.to_owned(), reason };
    let (mut after, mut dirty) = (snapshot.clone(), BTreeSet::new());
    match what_if {
        WhatIf::PodGone(name) => {
            let ips = pod_ips(known, name);
            if ips.is_empty() {
                return Err(wrong(format!(
                    "no pod {name} with an address is known; name its IP address"
                )));
            }
            ips.into_iter().for_each(|ip| without(&mut after, ip, &mut dirty));
        }
        WhatIf::AddressGone(ip) => {
            without(&mut after, *ip, &mut dirty);
            if dirty.is_empty() {
                return Err(wrong(format!("no EndpointSlice has the address {ip}")));
            }
        }
        WhatIf::ServiceGone(name) => {
            after.apply(Change::ServiceGone(name.clone()), &mut dirty);
            if dirty.is_empty() {
                return Err(wrong(format!("there is no Service {name}")));
            }
        }
        WhatIf::Field(name, field) => {
            let service = after.services.get(name);
            let service = service.ok_or_else(|| wrong(format!("there is no Service {name}")))?;
            let service = with((**service).clone(), field);
            after.apply(Change::Service(service), &mut dirty);
        }
    }
    Ok((after, dirty))
}

fn pod_ips(known: &Known, text: &str) -> Vec<IpAddr> {
    let (name, namespace) = text.rsplit_once('.').unwrap_or((text, "default"));
    let pods = known.pods.seen().into_iter().flatten();
    let pods = pods.filter(|pod| pod.name == name && pod.namespace == namespace);
    let mut ips: Vec<IpAddr> = pods.flat_map(|pod| pod.ips.clone()).collect();
    let named = known.endpoints.iter().filter(|facts| {
        facts.pod.as_deref() == Some(name) && facts.service.split('/').next() == Some(namespace)
    });
    ips.extend(named.map(|facts| facts.ip));
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn without(after: &mut Snapshot, ip: IpAddr, dirty: &mut BTreeSet<ServiceName>) {
    let has = |slice: &&EndpointSlice| slice.endpoints.iter().any(|e| e.address == ip);
    let slices: Vec<EndpointSlice> = after.slices.values().flatten().filter(has).cloned().collect();
    for mut slice in slices {
        slice.endpoints = slice.endpoints.iter().filter(|other| other.address != ip).collect();
        after.apply(Change::Slice(slice), dirty);
    }
}

fn with(mut service: Service, field: &Field) -> Service {
    match field {
        Field::ExternalPolicy(policy) => service.external_policy = *policy,
        Field::InternalPolicy(policy) => service.internal_policy = *policy,
        Field::Affinity(on) => service.affinity = on.then_some(AFFINITY_SECONDS),
        Field::SourceRanges(ranges) => service.source_ranges = ranges.clone(),
    }
    service
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_written_as_people_write_them() {
        let web = || ServiceName::new("default", "web");
        let table = [
            ("pod/web-1 gone", WhatIf::PodGone("web-1".into())),
            ("10.244.1.2 gone", WhatIf::AddressGone([10, 244, 1, 2].into())),
            ("svc/web gone", WhatIf::ServiceGone(web())),
            (
                "svc/web externalTrafficPolicy=Local",
                WhatIf::Field(web(), Field::ExternalPolicy(TrafficPolicy::Local)),
            ),
            ("svc/web sessionAffinity=ClientIP", WhatIf::Field(web(), Field::Affinity(true))),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            "web gone",
            "pod/web-1 ready",
            "svc/web type=NodePort",
            "svc/web externalTrafficPolicy=All",
            "svc/web loadBalancerSourceRanges=10",
            "10.0.0.1 back",
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }
}
