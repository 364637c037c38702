//! What the API server adds to a Service before it stores it: defaults, IP families, cluster IPs
//! and node ports (`pkg/apis/core/v1/defaults.go` and `pkg/registry/core/service/storage` in
//! Kubernetes are the reference).

use std::net::IpAddr;

use serde_json::{Value, json};

use super::alloc::{AllocError, Allocator, Claim};
use super::service_fields::{
    has_cluster_ip, has_node_ports, is_external, is_headless, kind, needs_health_check_port, ports,
};
use super::service_rules;
use super::status::Cause;
use sluice_core::net::{Family, parse_ip};

/// Completes and checks a Service that is created or replaces `old`, and takes what it needs from
/// the allocator. After an error the allocator is as it was before.
pub(super) fn admit(
    allocator: &mut Allocator,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<(), Vec<Cause>> {
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    if let Some(old) = old {
        carry_over(&mut new["spec"], &old["spec"]);
        drop_unneeded(&mut new["spec"], &old["spec"]);
    }
    sync_cluster_ips(&mut new["spec"], old.map(|o| &o["spec"]));
    set_defaults(&mut new["spec"]);
    let mut causes = service_rules::check(&new["spec"], old.map(|o| &o["spec"]));
    if causes.is_empty() {
        causes = set_families(&mut new["spec"], &allocator.families()).err().unwrap_or_default();
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    let held = old.map(claim).unwrap_or_default();
    allocate(allocator, &mut new["spec"], &held)?;
    let kept = claim(new);
    allocator.release(&held.beyond(&kept));
    Ok(())
}

/// What a stored Service holds.
pub(super) fn claim(service: &Value) -> Claim {
    let spec = &service["spec"];
    let mut claim = Claim::default();
    let lone = std::slice::from_ref(&spec["clusterIP"]);
    let addresses = spec["clusterIPs"].as_array().map_or(lone, Vec::as_slice);
    for ip in addresses.iter().filter_map(Value::as_str).filter_map(parse_ip) {
        claim.addresses.push(ip);
    }
    let numbers = ports(spec).iter().map(|p| &p["nodePort"]);
    for number in numbers.chain([&spec["healthCheckNodePort"]]) {
        let number = number.as_u64().and_then(|n| u16::try_from(n).ok());
        if let Some(port) = number.filter(|n| *n != 0 && !claim.ports.contains(n)) {
            claim.ports.push(port);
        }
    }
    claim
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(_) | Value::Object(_) => false,
    }
}

fn set_default(spec: &mut Value, field: &str, value: Value) {
    if is_unset(&spec[field]) {
        spec[field] = value;
    }
}

fn remove(spec: &mut Value, field: &str) {
    if let Some(fields) = spec.as_object_mut() {
        fields.remove(field);
    }
}

/// Keeps what was allocated when the writer of a new version does not mention it: people replace
/// Services with manifests that have no cluster IP.
fn carry_over(new: &mut Value, old: &Value) {
    if has_cluster_ip(new) && has_cluster_ip(old) && is_unset(&new["clusterIP"]) {
        for field in ["clusterIP", "clusterIPs"] {
            if is_unset(&new[field]) && !is_unset(&old[field]) {
                new[field] = old[field].clone();
            }
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if has_cluster_ip(new) && has_cluster_ip(old) && is_unset(&new[field]) {
            new[field] = old[field].clone();
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        carry_node_ports(new, old);
    }
    if needs_health_check_port(new) && needs_health_check_port(old) {
        set_default(new, "healthCheckNodePort", old["healthCheckNodePort"].clone());
    }
    trim_to_single_stack(new, old);
}

/// Node ports follow the names of ports, unless another port of the new version has the number.
fn carry_node_ports(new: &mut Value, old: &Value) {
    let mut used: Vec<Value> = ports(new).iter().map(|p| p["nodePort"].clone()).collect();
    let Some(new_ports) = new["ports"].as_array_mut() else { return };
    for port in new_ports.iter_mut().filter(|p| p.is_object() && is_unset(&p["nodePort"])) {
        let before = ports(old).iter().find(|o| o["name"] == port["name"]);
        if let Some(number) = before.map(|o| &o["nodePort"]).filter(|n| !is_unset(n))
            && !used.contains(number)
        {
            port["nodePort"] = number.clone();
            used.push(number.clone());
        }
    }
}

/// Frees the secondary address when the policy changes to SingleStack, unless another field keeps it.
fn trim_to_single_stack(new: &mut Value, old: &Value) {
    if new["ipFamilyPolicy"] != "SingleStack" || old["ipFamilyPolicy"] == "SingleStack" {
        return;
    }
    for field in ["clusterIPs", "ipFamilies"] {
        if new[field] == old[field]
            && let Some(items) = new[field].as_array_mut()
        {
            items.truncate(1);
        }
    }
}

/// Removes the fields that a change of type has made meaningless, if the writer left them as they
/// were.
fn drop_unneeded(new: &mut Value, old: &Value) {
    let mut unneeded = Vec::new();
    if !has_cluster_ip(new) && has_cluster_ip(old) {
        unneeded.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
        unneeded.push("internalTrafficPolicy");
    }
    if !needs_health_check_port(new) && needs_health_check_port(old) {
        unneeded.push("healthCheckNodePort");
    }
    if kind(new) != "LoadBalancer" {
        unneeded.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if !is_external(new) {
        unneeded.push("externalTrafficPolicy");
    }
    for field in unneeded {
        if new[field] == old[field] {
            remove(new, field);
        }
    }
    if has_node_ports(new) || !has_node_ports(old) {
        return;
    }
    let Some(new_ports) = new["ports"].as_array_mut() else { return };
    for port in new_ports.iter_mut().filter(|p| p.is_object()) {
        if ports(old).iter().any(|o| o["nodePort"] == port["nodePort"]) {
            remove(port, "nodePort");
        }
    }
}

/// `clusterIP` is `clusterIPs[0]`; writing one of them sets both.
fn sync_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let first_changed = old.is_some_and(|old| old["clusterIP"] != new["clusterIP"]);
    let list_changed = old.is_some_and(|old| old["clusterIPs"] != new["clusterIPs"]);
    if first_changed && !list_changed {
        remove(new, "clusterIPs");
    }
    match (is_unset(&new["clusterIP"]), is_unset(&new["clusterIPs"])) {
        (false, true) => new["clusterIPs"] = json!([new["clusterIP"]]),
        (true, false) => new["clusterIP"] = new["clusterIPs"][0].clone(),
        _ => {}
    }
}

fn set_defaults(spec: &mut Value) {
    set_default(spec, "type", json!("ClusterIP"));
    set_default(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" && is_unset(&spec["sessionAffinityConfig"]) {
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
    }
    if is_external(spec) {
        set_default(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if has_cluster_ip(spec) {
        set_default(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if kind(spec) == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    let Some(ports) = spec["ports"].as_array_mut() else { return remove_nulls(spec) };
    for port in ports.iter_mut().filter(|p| p.is_object()) {
        set_default(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        set_default(port, "targetPort", number);
        remove_nulls(port);
    }
    remove_nulls(spec);
}

/// Looking a field up by index leaves a null behind where it is missing; the API has no nulls.
fn remove_nulls(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, v| !v.is_null());
    }
}

fn family_name(family: Family) -> Value {
    json!(family.to_string())
}

/// Chooses the IP families from the requested addresses, the policy and the cluster's ranges.
fn set_families(spec: &mut Value, cluster: &[Family]) -> Result<(), Vec<Cause>> {
    let Some(default) = cluster.first().copied().filter(|_| has_cluster_ip(spec)) else {
        return Ok(());
    };
    let mut families = wanted_families(spec, cluster)?;
    let several =
        families.len() > 1 || spec["clusterIPs"].as_array().is_some_and(|ips| ips.len() > 1);
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let anywhere = is_headless(spec) && selectorless;
    if is_unset(&spec["ipFamilyPolicy"]) {
        let dual = several || (anywhere && families.is_empty());
        spec["ipFamilyPolicy"] = json!(if dual { "RequireDualStack" } else { "SingleStack" });
    }
    let single = spec["ipFamilyPolicy"] == "SingleStack";
    if single && several {
        let why = "may only hold up to one value when `ipFamilyPolicy` is SingleStack";
        return Err(vec![Cause::invalid("spec.ipFamilies", &spec["ipFamilies"], why)]);
    }
    if spec["ipFamilyPolicy"] == "RequireDualStack" && cluster.len() < 2 && !anywhere {
        let why = "this cluster is not configured for dual-stack services";
        let policy = &spec["ipFamilyPolicy"];
        return Err(vec![Cause::invalid("spec.ipFamilyPolicy", policy, why)]);
    }
    if families.is_empty() {
        families.push(default);
    }
    if !single && families.len() == 1 {
        let other = Family::BOTH.into_iter().find(|f| *f != families[0]);
        families.extend(other.filter(|f| anywhere || cluster.contains(f)));
    }
    spec["ipFamilies"] = families.into_iter().map(family_name).collect();
    Ok(())
}

/// The requested families, by name or by address.
fn wanted_families(spec: &Value, cluster: &[Family]) -> Result<Vec<Family>, Vec<Cause>> {
    let mut families = Vec::new();
    let named = spec["ipFamilies"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, name) in named.iter().enumerate() {
        let Some(family) = Family::BOTH.into_iter().find(|f| family_name(*f) == *name) else {
            continue; // The rules have refused it.
        };
        if !cluster.contains(&family) && !is_headless(spec) {
            let field = format!("spec.ipFamilies[{index}]");
            return Err(vec![Cause::invalid(field, name, "not configured on this cluster")]);
        }
        families.push(family);
    }
    for (index, ip) in cluster_ips(spec).into_iter().enumerate() {
        let family = Family::of(ip);
        match families.get(index) {
            Some(named) if *named != family => {
                let field = format!("spec.clusterIPs[{index}]");
                let why =
                    format!("expected an {named} value as indicated by `ipFamilies[{index}]`");
                return Err(vec![Cause::invalid(field, &json!(ip), why)]);
            }
            Some(_) => {}
            None => families.push(family),
        }
    }
    Ok(families)
}

fn cluster_ips(spec: &Value) -> Vec<IpAddr> {
    let ips = spec["clusterIPs"].as_array().map_or(&[][..], Vec::as_slice);
    ips.iter().filter_map(Value::as_str).filter_map(parse_ip).collect()
}

/// Takes the addresses and ports that are named in the spec and not held yet, and fills in those
/// that are not named.
fn allocate(allocator: &mut Allocator, spec: &mut Value, held: &Claim) -> Result<(), Vec<Cause>> {
    let mut taken = Claim::default();
    let result = allocate_addresses(allocator, spec, held, &mut taken)
        .and_then(|()| allocate_node_ports(allocator, spec, held, &mut taken))
        .and_then(|()| allocate_health_port(allocator, spec, held, &mut taken));
    result.map_err(|cause| {
        allocator.release(&taken);
        vec![cause]
    })
}

fn allocate_addresses(
    allocator: &mut Allocator,
    spec: &mut Value,
    held: &Claim,
    taken: &mut Claim,
) -> Result<(), Cause> {
    if !has_cluster_ip(spec) || is_headless(spec) {
        return Ok(());
    }
    let mut addresses = cluster_ips(spec);
    let refused =
        |ips: &[IpAddr], error: AllocError| Cause::invalid("spec.clusterIPs", &json!(ips), error);
    for ip in &addresses {
        if !held.addresses.contains(ip) {
            allocator.take_address(*ip).map_err(|e| refused(&[*ip], e))?;
            taken.addresses.push(*ip);
        }
    }
    let families = spec["ipFamilies"].as_array().map_or(&[][..], Vec::as_slice);
    for name in families.iter().skip(addresses.len()) {
        let family = if *name == "IPv6" { Family::V6 } else { Family::V4 };
        let ip = allocator.next_address(family).map_err(|e| refused(&addresses, e))?;
        taken.addresses.push(ip);
        addresses.push(ip);
    }
    if let Some(first) = addresses.first() {
        spec["clusterIP"] = json!(first);
        spec["clusterIPs"] = json!(addresses);
    }
    Ok(())
}

fn allocate_node_ports(
    allocator: &mut Allocator,
    spec: &mut Value,
    held: &Claim,
    taken: &mut Claim,
) -> Result<(), Cause> {
    if !has_node_ports(spec) {
        return Ok(());
    }
    let fill = kind(spec) == "NodePort" || spec["allocateLoadBalancerNodePorts"] != false;
    let Some(ports) = spec["ports"].as_array_mut() else { return Ok(()) };
    for (index, port) in ports.iter_mut().enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        if let Some(number) = named_port(&port["nodePort"]) {
            // A TCP and a UDP port of one Service may share a number.
            if !held.ports.contains(&number) && !taken.ports.contains(&number) {
                let taking = allocator.take_port(number);
                taking.map_err(|e| Cause::invalid(field, &port["nodePort"], e))?;
                taken.ports.push(number);
            }
        } else if fill {
            let number = allocator.next_port();
            let number = number.map_err(|e| Cause::invalid(field, &port["nodePort"], e))?;
            taken.ports.push(number);
            port["nodePort"] = json!(number);
        }
        remove_nulls(port);
    }
    Ok(())
}

fn allocate_health_port(
    allocator: &mut Allocator,
    spec: &mut Value,
    held: &Claim,
    taken: &mut Claim,
) -> Result<(), Cause> {
    if !needs_health_check_port(spec) {
        return Ok(());
    }
    let field = "spec.healthCheckNodePort";
    match named_port(&spec["healthCheckNodePort"]) {
        Some(number) if held.ports.contains(&number) => {}
        Some(number) => {
            let taking = allocator.take_port(number);
            taking.map_err(|e| Cause::invalid(field, &json!(number), e))?;
            taken.ports.push(number);
        }
        None => {
            let number =
                allocator.next_port().map_err(|e| Cause::invalid(field, &Value::Null, e))?;
            taken.ports.push(number);
            spec["healthCheckNodePort"] = json!(number);
        }
    }
    Ok(())
}

fn named_port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}
