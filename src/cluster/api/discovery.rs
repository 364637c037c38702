//! Discovery: versions, groups and resources.

use serde_json::{Value, json};

use super::resources::{Resource, Scope, Verb};

/// `/version`.
pub(super) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": "v1.36.0+sluice-lab",
        "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/api`.
pub(super) fn core_versions() -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    })
}

/// The named groups, in the order of the resource table.
fn groups() -> Vec<&'static str> {
    let mut groups = Vec::new();
    for group in Resource::ALL.into_iter().map(|r| r.info().group) {
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// `/apis`.
pub(super) fn group_list() -> Value {
    let groups: Vec<Value> = groups().into_iter().filter_map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub(super) fn group(name: &str) -> Option<Value> {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    groups().contains(&name).then(|| {
        json!({
            "kind": "APIGroup",
            "apiVersion": "v1",
            "name": name,
            "versions": [version],
            "preferredVersion": version,
        })
    })
}

fn of_group(group: &str) -> impl Iterator<Item = Resource> {
    Resource::ALL.into_iter().filter(move |r| r.info().group == group)
}

fn verbs() -> Vec<&'static str> {
    Verb::ALL.into_iter().map(Verb::as_str).collect()
}

const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// `/api/v1` and `/apis/<group>/v1`.
pub(super) fn resource_list(group: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for resource in of_group(group) {
        let info = resource.info();
        let mut entry = json!({
            "name": info.plural,
            "singularName": info.singular,
            "namespaced": info.scope == Scope::Namespaced,
            "kind": info.kind,
            "verbs": verbs(),
        });
        if !info.short_names.is_empty() {
            entry["shortNames"] = json!(info.short_names);
        }
        if !info.categories.is_empty() {
            entry["categories"] = json!(info.categories);
        }
        resources.push(entry);
        for subresource in info.subresources {
            let mut entry = json!({
                "name": format!("{}/{subresource}", info.plural),
                "singularName": "",
                "namespaced": info.scope == Scope::Namespaced,
                "kind": info.kind,
                "verbs": STATUS_VERBS,
            });
            if *subresource == "scale" {
                entry["group"] = json!("autoscaling");
                entry["version"] = json!("v1");
                entry["kind"] = json!("Scale");
            }
            resources.push(entry);
        }
    }
    let group_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    (!resources.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": resources,
        })
    })
}

/// The media type of aggregated discovery (KEP-3352).
pub(super) const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether an `Accept` header requests aggregated discovery.
pub(super) fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|media| {
        ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
            .into_iter()
            .all(|wanted| media.split(';').any(|part| part.trim() == wanted))
    })
}

/// `/api`, aggregated.
pub(super) fn aggregated_core() -> Value {
    aggregated(&[""])
}

/// `/apis`, aggregated.
pub(super) fn aggregated_groups() -> Value {
    aggregated(&groups())
}

fn aggregated(groups: &[&str]) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let resources: Vec<Value> = of_group(group).map(aggregated_resource).collect();
            json!({
                "metadata": {"name": group, "creationTimestamp": null},
                "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}],
            })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(resource: Resource) -> Value {
    let info = resource.info();
    let kind = json!({"group": info.group, "version": "v1", "kind": info.kind});
    let subresources: Vec<Value> = info
        .subresources
        .iter()
        .map(|name| {
            let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
            let kind = if *name == "scale" { &scale } else { &kind };
            json!({"subresource": name, "responseKind": kind, "verbs": STATUS_VERBS})
        })
        .collect();
    json!({
        "resource": info.plural,
        "responseKind": kind,
        "scope": if resource.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": verbs(),
        "shortNames": info.short_names,
        "categories": info.categories,
        "subresources": subresources,
    })
}
