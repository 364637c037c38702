//! Defaults and validation, by resource.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::apps;
use super::identity;
use super::resources::Resource;
use super::service;
use super::status::Cause;
use super::store::{Object, State};

/// Applies defaults to an object that is created or replaces `old`, and validates it.
pub(super) fn admit(
    state: &mut State,
    resource: Resource,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<(), Vec<Cause>> {
    match resource.stored_as() {
        Resource::Services => {
            if old.is_none() {
                new["status"] = json!({"loadBalancer": {}});
            }
            service::admit(&mut state.allocator, new, old)
        }
        Resource::EndpointSlices => admit_slice(new, old),
        Resource::Namespaces => {
            admit_namespace(new);
            Ok(())
        }
        Resource::Pods => {
            admit_pod(new);
            Ok(())
        }
        Resource::Deployments | Resource::ReplicaSets => {
            if let Some(spec) = apps::admit(resource, new, old)? {
                default_pod_spec(spec);
            }
            Ok(())
        }
        Resource::ServiceCidrs => admit_service_cidr(new, old),
        Resource::Nodes | Resource::Events | Resource::NewEvents => Ok(()),
    }
}

/// Frees the allocations of a deleted object.
pub(super) fn release(state: &mut State, removed: &Object) {
    if removed.resource == Resource::Services {
        state.allocator.release(&service::claim(&removed.value()));
    }
}

/// Counts the allocations of an unvalidated object.
pub(super) fn hold_unchecked(
    state: &mut State,
    resource: Resource,
    new: &Value,
    old: Option<&Value>,
) {
    if resource == Resource::Services {
        if let Some(old) = old {
            state.allocator.release(&service::claim(old));
        }
        state.allocator.hold(&service::claim(new));
    }
}

/// The ranges of cluster IPs: those of the ServiceCIDR objects, the default one
/// (`kubernetes`) first.
pub(super) fn service_ranges(state: &State) -> Vec<IpNet> {
    let mut objects: Vec<_> = state.objects(Resource::ServiceCidrs).values().collect();
    objects.sort_by_key(|o| o.key.name != "kubernetes");
    let mut ranges = Vec::new();
    for object in objects {
        let value = object.value();
        let cidrs = value["spec"]["cidrs"].as_array().map_or(&[][..], Vec::as_slice);
        ranges.extend(cidrs.iter().filter_map(|c| c.as_str()?.parse::<IpNet>().ok()));
    }
    ranges
}

/// EndpointSlices are stored as written, with defaults that clients need.
fn admit_slice(new: &mut Value, old: Option<&Value>) -> Result<(), Vec<Cause>> {
    let address_type = &new["addressType"];
    let known = ["FQDN", "IPv4", "IPv6"];
    if address_type.is_null() || address_type == "" {
        return Err(vec![Cause::required("addressType", "")]);
    }
    if !known.iter().any(|k| address_type == k) {
        return Err(vec![Cause::not_supported("addressType", address_type, &known)]);
    }
    if old.is_some_and(|old| old["addressType"] != *address_type) {
        return Err(vec![Cause::invalid("addressType", address_type, "field is immutable")]);
    }
    if !new["endpoints"].is_array() {
        new["endpoints"] = json!([]);
    }
    let ports = new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    for port in ports.filter_map(Value::as_object_mut) {
        port.entry("name").or_insert_with(|| json!(""));
        port.entry("protocol").or_insert_with(|| json!("TCP"));
    }
    Ok(())
}

fn admit_namespace(new: &mut Value) {
    let name = new["metadata"]["name"].clone();
    if !new["metadata"]["labels"].is_object() {
        new["metadata"]["labels"] = json!({});
    }
    new["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    if !new["spec"].is_object() {
        new["spec"] = json!({"finalizers": ["kubernetes"]});
    }
    if new["status"]["phase"].is_null() {
        new["status"] = json!({"phase": "Active"});
    }
}

fn admit_pod(new: &mut Value) {
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    default_pod_spec(&mut new["spec"]);
    if new["status"]["phase"].is_null() {
        new["status"]["phase"] = json!("Pending");
    }
}

/// Defaults of a Pod, or of a template of Pods (`pkg/apis/core/v1/defaults.go`).
fn default_pod_spec(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("terminationGracePeriodSeconds", json!(30)),
    ] {
        spec.entry(field).or_insert(value);
    }
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let ports = container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
        for port in ports.filter_map(Value::as_object_mut) {
            port.entry("protocol").or_insert_with(|| json!("TCP"));
        }
        default_probe(container.get_mut("readinessProbe"));
    }
}

fn default_probe(probe: Option<&mut Value>) {
    let Some(probe) = probe.and_then(Value::as_object_mut) else { return };
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        probe.entry(field).or_insert_with(|| json!(value));
    }
    if let Some(get) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
        get.entry("path").or_insert_with(|| json!("/"));
        get.entry("scheme").or_insert_with(|| json!("HTTP"));
    }
}

fn admit_service_cidr(new: &mut Value, old: Option<&Value>) -> Result<(), Vec<Cause>> {
    let cidrs = new["spec"]["cidrs"].as_array().map_or(&[][..], Vec::as_slice);
    if cidrs.is_empty() {
        return Err(vec![Cause::required("spec.cidrs", "at least one CIDR required")]);
    }
    let mut causes = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        if cidr.as_str().and_then(|c| c.parse::<IpNet>().ok()).is_none() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(format!("spec.cidrs[{index}]"), cidr, why));
        }
    }
    if old.is_none() {
        new["status"] = json!({"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": identity::now(),
        }]});
    }
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}
