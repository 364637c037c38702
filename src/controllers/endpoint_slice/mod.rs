//! EndpointSlices of Services with a selector, as upstream's controller writes them
//! (`staging/src/k8s.io/endpointslice/reconciler.go`).

mod endpoint;
mod packing;

use serde_json::{Value, json};

use crate::action::Action;
use crate::fields::{is_deleted, name, namespace, owner_reference, text};

/// Who writes the slices (`endpointslice.kubernetes.io/managed-by`).
pub const BY: &str = "endpointslice-controller.k8s.io";
/// The label with the name of the Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Whether a slice is this controller's.
pub fn is_ours(slice: &Value) -> bool {
    slice["metadata"]["labels"][MANAGED_BY] == BY
}

/// What a Service needs: its Pods are those of its namespace, its slices those with its name.
pub fn reconcile<'a>(
    service: &Value,
    pods: impl Iterator<Item = &'a Value>,
    slices: &[&Value],
    node: impl Fn(&str) -> Option<&'a Value>,
    now: &str,
) -> Vec<Action> {
    let own: Vec<&Value> = slices.iter().copied().filter(|slice| is_ours(slice)).collect();
    if service["spec"]["selector"].is_null() || is_deleted(service) {
        return Vec::new();
    }
    let types: &[&str] = match text(&service["spec"]["type"]) {
        "ExternalName" => &[],
        _ => &["IPv4", "IPv6"],
    };
    let families = &service["spec"]["ipFamilies"];
    let served = |family: &&&str| crate::fields::list(families).contains(&json!(family));
    let wanted: Vec<&str> = types.iter().filter(served).copied().collect();
    let pods: Vec<&Value> = pods.filter(|pod| endpoint::may_be_one(service, pod)).collect();
    let mut actions = Vec::new();
    for family in &wanted {
        let groups = endpoint::groups(service, &pods, family, &node);
        let own: Vec<&Value> =
            own.iter().copied().filter(|slice| slice["addressType"] == *family).collect();
        let frame = Frame { service, family, now };
        actions.extend(packing::pack(&frame, groups, &own));
    }
    let others = own.into_iter().filter(|slice| !wanted.contains(&text(&slice["addressType"])));
    actions.extend(others.map(packing::remove));
    actions
}

/// What all slices of a Service and family have in common.
struct Frame<'a> {
    service: &'a Value,
    family: &'a str,
    now: &'a str,
}

impl Frame<'_> {
    fn labels(&self) -> Value {
        let mut labels = json!({});
        let given = self.service["metadata"]["labels"].as_object().into_iter().flatten();
        for (key, value) in given.filter(|(key, _)| *key != HEADLESS) {
            labels[key] = value.clone();
        }
        if self.service["spec"]["clusterIP"] == "None" {
            labels[HEADLESS] = json!("");
        }
        labels[SERVICE_NAME] = json!(name(self.service));
        labels[MANAGED_BY] = json!(BY);
        labels
    }

    fn create(&self, ports: &Value, endpoints: &[Value]) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "generateName": format!("{}-", name(self.service)),
                "namespace": namespace(self.service),
                "labels": self.labels(),
                "annotations": {TRIGGER_TIME: self.now},
                "ownerReferences": [owner_reference(self.service)],
            },
            "addressType": self.family,
            "ports": ports,
            "endpoints": endpoints,
        })
    }

    /// A slice with other endpoints, or nothing if it is as it should be.
    fn update(&self, slice: &Value, ports: &Value, endpoints: &[Value]) -> Option<Value> {
        let mut new = slice.clone();
        new["metadata"]["labels"] = self.labels();
        new["ports"] = ports.clone();
        new["endpoints"] = json!(endpoints);
        if new == *slice {
            return None;
        }
        new["metadata"]["annotations"] = json!({TRIGGER_TIME: self.now});
        Some(new)
    }
}

#[cfg(test)]
mod tests;
