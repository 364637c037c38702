//! Which Services the API refuses, and with which words (`ValidateService` in
//! `pkg/apis/core/validation` of Kubernetes is the reference; the rules that no proxy depends on
//! are left out).

use serde_json::{Value, json};

use super::service_fields::{is_external, is_headless, kind, needs_health_check_port, ports};
use super::status::Cause;
use sluice_core::net::{Family, parse_cidr, parse_ip};

/// What is wrong with a spec that has its defaults, and with the change from `old` to it.
pub(super) fn check(spec: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    check_names(spec, &mut causes);
    check_ports(spec, &mut causes);
    check_cluster_ips(spec, &mut causes);
    check_affinity(spec, &mut causes);
    check_external(spec, &mut causes);
    if let Some(old) = old {
        check_change(spec, old, &mut causes);
    }
    causes
}

fn one_of(spec: &Value, field: &str, known: &[&str], causes: &mut Vec<Cause>) {
    let value = &spec[field];
    if !value.is_null() && !known.iter().any(|k| value == k) {
        causes.push(Cause::not_supported(format!("spec.{field}"), value, known));
    }
}

fn check_names(spec: &Value, causes: &mut Vec<Cause>) {
    one_of(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], causes);
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], causes);
    one_of(spec, "internalTrafficPolicy", &["Cluster", "Local"], causes);
    one_of(spec, "externalTrafficPolicy", &["Cluster", "Local"], causes);
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    one_of(spec, "ipFamilyPolicy", &policies, causes);
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    one_of(spec, "trafficDistribution", &distributions, causes);
    let families = spec["ipFamilies"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if family != "IPv4" && family != "IPv6" {
            causes.push(Cause::not_supported(field, family, &["IPv4", "IPv6"]));
        } else if families[..index].contains(family) {
            causes.push(Cause::duplicate(field, family));
        }
    }
    if kind(spec) == "ExternalName" && spec["externalName"].as_str().is_none_or(str::is_empty) {
        causes.push(Cause::required("spec.externalName", ""));
    }
}

fn check_ports(spec: &Value, causes: &mut Vec<Cause>) {
    let ports = ports(spec);
    if ports.is_empty() && !is_headless(spec) && kind(spec) != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let before = &ports[..index];
        check_port(port, &format!("spec.ports[{index}]"), ports.len(), before, causes);
        let number = &port["nodePort"];
        let field = format!("spec.ports[{index}].nodePort");
        if number.as_u64().is_none_or(|n| n == 0) {
            continue;
        }
        if matches!(kind(spec), "ClusterIP" | "ExternalName") {
            let why = format!("may not be used when `type` is '{}'", kind(spec));
            causes.push(Cause::forbidden(field, why));
        } else if before
            .iter()
            .any(|p| p["nodePort"] == *number && p["protocol"] == port["protocol"])
        {
            causes.push(Cause::duplicate(field, number));
        }
    }
}

fn check_port(port: &Value, path: &str, count: usize, before: &[Value], causes: &mut Vec<Cause>) {
    let name = &port["name"];
    match name.as_str().unwrap_or_default() {
        "" if count > 1 => causes.push(Cause::required(format!("{path}.name"), "")),
        "" => {}
        text if !is_dns_label(text) => {
            causes.push(Cause::invalid(format!("{path}.name"), name, DNS_LABEL));
        }
        _ if before.iter().any(|p| p["name"] == *name) => {
            causes.push(Cause::duplicate(format!("{path}.name"), name));
        }
        _ => {}
    }
    if !is_port_number(&port["port"]) {
        causes.push(Cause::invalid(format!("{path}.port"), &zero(&port["port"]), PORT_NUMBER));
    }
    let target = &port["targetPort"];
    let target_path = format!("{path}.targetPort");
    match target.as_str() {
        Some(text) if !is_port_name(text) => {
            let why = "must contain at least one letter (a-z), only alphanumerics and '-', and be no more than 15 characters";
            causes.push(Cause::invalid(target_path, target, why));
        }
        None if !is_port_number(target) && is_port_number(&port["port"]) => {
            causes.push(Cause::invalid(target_path, target, PORT_NUMBER));
        }
        _ => {}
    }
    let protocols = ["SCTP", "TCP", "UDP"];
    if !protocols.iter().any(|p| port["protocol"] == *p) {
        let field = format!("{path}.protocol");
        causes.push(Cause::not_supported(field, &port["protocol"], &protocols));
    }
    let same = |p: &Value| p["port"] == port["port"] && p["protocol"] == port["protocol"];
    if before.iter().any(same) {
        let value = json!({"port": port["port"], "protocol": port["protocol"]});
        causes.push(Cause::duplicate(path, &value));
    }
}

const PORT_NUMBER: &str = "must be between 1 and 65535, inclusive";
const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// A missing number is shown as Go's zero value.
fn zero(value: &Value) -> Value {
    if value.is_null() { json!(0) } else { value.clone() }
}

fn is_port_number(value: &Value) -> bool {
    value.as_u64().is_some_and(|n| (1..=65535).contains(&n))
}

/// RFC 6335: at most 15 letters, digits and single hyphens, at least one letter.
fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && is_dns_label(text)
        && !text.contains("--")
        && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// An RFC 1123 label.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

fn check_cluster_ips(spec: &Value, causes: &mut Vec<Cause>) {
    let ips = spec["clusterIPs"].as_array().map_or(&[][..], Vec::as_slice);
    if kind(spec) == "ExternalName" {
        if !ips.is_empty() {
            let why = "may not be used when `type` is 'ExternalName'";
            causes.push(Cause::forbidden("spec.clusterIPs", why));
        }
        return;
    }
    if ips.first().is_some_and(|first| *first != spec["clusterIP"]) {
        let why = "first value must match `clusterIP`";
        causes.push(Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], why));
    }
    if ips.len() > 2 {
        let why = "may only hold up to 2 values";
        causes.push(Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], why));
    }
    if is_headless(spec) {
        if matches!(kind(spec), "NodePort" | "LoadBalancer") {
            let why = format!("may not be set to 'None' for {} services", kind(spec));
            causes.push(Cause::invalid("spec.clusterIPs[0]", &json!("None"), why));
        }
        return;
    }
    for (index, ip) in ips.iter().enumerate() {
        if parse_strictly(ip).is_none() {
            causes.push(Cause::invalid(format!("spec.clusterIPs[{index}]"), ip, NO_ADDRESS));
        }
    }
    let families: Vec<Family> = ips.iter().filter_map(parse_strictly).map(Family::of).collect();
    if matches!(families[..], [a, b] if a == b) {
        let why = "may specify no more than one IP for each IP family";
        causes.push(Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], why));
    }
}

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

fn parse_strictly(ip: &Value) -> Option<std::net::IpAddr> {
    ip.as_str()?.parse().ok()
}

fn check_affinity(spec: &Value, causes: &mut Vec<Cause>) {
    let config = &spec["sessionAffinityConfig"];
    if spec["sessionAffinity"] == "ClientIP" {
        let seconds = &config["clientIP"]["timeoutSeconds"];
        if !seconds.as_u64().is_some_and(|s| (1..=86400).contains(&s)) {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let why = "must be greater than 0 and less than 86400";
            causes.push(Cause::invalid(field, seconds, why));
        }
    } else if !config.is_null() {
        let why = "must not be set when session affinity is None";
        causes.push(Cause::forbidden("spec.sessionAffinityConfig", why));
    }
}

fn check_external(spec: &Value, causes: &mut Vec<Cause>) {
    let policy = &spec["externalTrafficPolicy"];
    if !policy.is_null() && !is_external(spec) {
        let why = "may only be set for externally-accessible services";
        causes.push(Cause::invalid("spec.externalTrafficPolicy", policy, why));
    }
    let health = &spec["healthCheckNodePort"];
    if health.as_u64().is_some_and(|n| n != 0) && !needs_health_check_port(spec) {
        let why =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid("spec.healthCheckNodePort", health, why));
    }
    let external_ips = spec["externalIPs"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, ip) in external_ips.iter().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        match ip.as_str().and_then(parse_ip) {
            None => causes.push(Cause::invalid(field, ip, NO_ADDRESS)),
            Some(address) if address.is_loopback() => {
                let why = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
                causes.push(Cause::invalid(field, ip, why));
            }
            Some(address) if address.is_unspecified() => {
                let why = format!("may not be unspecified ({address})");
                causes.push(Cause::invalid(field, ip, why));
            }
            Some(_) => {}
        }
    }
    let ranges = spec["loadBalancerSourceRanges"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, range) in ranges.iter().enumerate() {
        if range.as_str().and_then(|r| parse_cidr(r.trim())).is_none() {
            let field = format!("spec.loadBalancerSourceRanges[{index}]");
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(field, range, why));
        }
    }
    if !ranges.is_empty() && kind(spec) != "LoadBalancer" {
        let why = "may only be used when `type` is 'LoadBalancer'";
        causes.push(Cause::forbidden("spec.loadBalancerSourceRanges", why));
    }
}

/// The cluster IPs and the health check port stay once they are set, unless the type changes.
fn check_change(spec: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let had_ip = kind(old) != "ExternalName" && !old["clusterIP"].is_null();
    if had_ip && kind(spec) != "ExternalName" {
        for index in 0..2 {
            let (before, now) = (&old["clusterIPs"][index], &spec["clusterIPs"][index]);
            let secondary_released = index == 1 && now.is_null();
            if !before.is_null() && before != now && !secondary_released {
                let field = format!("spec.clusterIPs[{index}]");
                let list = &spec["clusterIPs"];
                causes.push(Cause::invalid(field, list, "may not change once set"));
            }
        }
        let (before, now) = (&old["ipFamilies"][0], &spec["ipFamilies"][0]);
        if !before.is_null() && !now.is_null() && before != now {
            let list = &spec["ipFamilies"];
            causes.push(Cause::invalid("spec.ipFamilies[0]", list, "may not change once set"));
        }
    }
    let (before, now) = (&old["healthCheckNodePort"], &spec["healthCheckNodePort"]);
    if needs_health_check_port(old) && needs_health_check_port(spec) && before != now {
        causes.push(Cause::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
}
