//! Deployments: one ReplicaSet for each template, and the way from one to the next (`pkg/controller/deployment`).

mod rolling;
mod status;

use serde_json::{Value, json};

use sluice_cluster::api::Resource;

use crate::action::{Action, Event, status_update};
use crate::fields::{is_deleted, name, namespace, number, owner_reference, text};

/// Who tells of sets that are scaled.
pub const BY: &str = "deployment-controller";

const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";

/// Annotations of a Deployment that its sets do not get (`skipCopyAnnotation`).
const NOT_COPIED: [&str; 3] = [
    REVISION,
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
];

/// What a Deployment needs, given the ReplicaSets that it owns.
pub fn reconcile(deployment: &Value, sets: &[&Value], now: &str) -> Vec<Action> {
    if is_deleted(deployment) {
        return Vec::new();
    }
    let mut actions = Vec::new();
    let current = sets.iter().copied().find(|set| same_template(deployment, set));
    let old: Vec<&Value> = sets.iter().copied().filter(|set| Some(*set) != current).collect();
    let paused = deployment["spec"]["paused"] == true;
    match current {
        None if !paused => actions.push(create_set(deployment, &old)),
        None => {}
        Some(set) => actions.extend(keep_revision(deployment, set, &old)),
    }
    if let (Some(set), true) = (current, actions.is_empty()) {
        for (set, replicas) in rolling::scale(deployment, set, &old) {
            actions.extend(scale(deployment, set, replicas));
        }
        if actions.is_empty() {
            actions.extend(forget_old(deployment, &old));
        }
    }
    actions.extend(status_update(deployment, status::status(deployment, sets, current, now)));
    actions
}

/// The template of the Pods, without the label that tells sets apart.
fn template(object: &Value) -> Value {
    let mut template = object["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH);
    }
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    template
}

fn same_template(deployment: &Value, set: &Value) -> bool {
    template(deployment) == template(set)
}

/// A hash of the template in the alphabet of names (FNV-1a, as upstream; over other bytes).
fn hash(template: &Value) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = 0x811c_9dc5_u32;
    for byte in template.to_string().bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let digits = hash.to_string();
    digits.bytes().map(|digit| char::from(ALPHABET[usize::from(digit - b'0')])).collect()
}

fn revision(object: &Value) -> i64 {
    text(&object["metadata"]["annotations"][REVISION]).parse().unwrap_or_default()
}

fn next_revision(old: &[&Value]) -> i64 {
    old.iter().map(|set| revision(set)).max().unwrap_or_default() + 1
}

fn annotations(deployment: &Value, revision: i64) -> Value {
    let mut annotations = json!({});
    for (key, value) in deployment["metadata"]["annotations"].as_object().into_iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations[key] = value.clone();
        }
    }
    annotations[REVISION] = json!(revision.to_string());
    annotations
}

fn create_set(deployment: &Value, old: &[&Value]) -> Action {
    let mut template = template(deployment);
    let hash = hash(&template);
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = json!(hash);
    Action::Create(json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)),
            "namespace": namespace(deployment),
            "labels": template["metadata"]["labels"],
            "annotations": annotations(deployment, next_revision(old)),
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": rolling::first_replicas(deployment, old),
            "selector": selector,
            "template": template,
        },
    }))
}

/// The newest template has the highest revision, also after a way back to an old one.
fn keep_revision(deployment: &Value, set: &Value, old: &[&Value]) -> Vec<Action> {
    let revision = next_revision(old).max(revision(set));
    let mut actions = Vec::new();
    let wanted = annotations(deployment, revision);
    if set["metadata"]["annotations"] != wanted {
        let mut new = set.clone();
        new["metadata"]["annotations"] = wanted;
        actions.push(Action::Update(new));
    }
    if text(&deployment["metadata"]["annotations"][REVISION]) != revision.to_string() {
        let mut new = deployment.clone();
        if !new["metadata"]["annotations"].is_object() {
            new["metadata"]["annotations"] = json!({});
        }
        new["metadata"]["annotations"][REVISION] = json!(revision.to_string());
        actions.push(Action::Update(new));
    }
    actions
}

fn scale(deployment: &Value, set: &Value, replicas: i64) -> Vec<Action> {
    let before = number(&set["spec"]["replicas"]);
    let mut new = set.clone();
    new["spec"]["replicas"] = json!(replicas);
    let way = if replicas > before { "up" } else { "down" };
    let message = format!("Scaled {way} replica set {} from {before} to {replicas}", name(set));
    let event = Event::normal(deployment, BY, "ScalingReplicaSet", message);
    vec![Action::Update(new), Action::Tell(event)]
}

/// Deletes the oldest of the sets that are kept for a way back.
fn forget_old(deployment: &Value, old: &[&Value]) -> Vec<Action> {
    let kept = deployment["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10);
    let empty = |set: &&Value| {
        number(&set["spec"]["replicas"]) == 0
            && number(&set["status"]["replicas"]) == 0
            && !is_deleted(set)
    };
    let mut empty: Vec<&Value> = old.iter().copied().filter(empty).collect();
    empty.sort_by_key(|set| revision(set));
    let surplus = empty.len().saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX));
    let sets = empty.into_iter().take(surplus);
    sets.map(|set| Action::Delete { resource: Resource::ReplicaSets, object: set.clone() })
        .collect()
}

#[cfg(test)]
mod tests;
