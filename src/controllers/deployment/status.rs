//! What a Deployment says of itself, as `kubectl rollout status` reads it (`sync.go`, `progress.go`).

use serde_json::{Value, json};

use super::rolling;
use crate::fields::{dated, name, number};

pub(super) fn status(
    deployment: &Value,
    sets: &[&Value],
    current: Option<&Value>,
    now: &str,
) -> Value {
    let sum = |field: &str| sets.iter().map(|set| number(&set["status"][field])).sum::<i64>();
    let updated = current.map_or(0, |set| number(&set["status"]["replicas"]));
    let (total, ready, available) =
        (sum("replicas"), sum("readyReplicas"), sum("availableReplicas"));
    let desired = number(&deployment["spec"]["replicas"]);
    let complete = updated == desired && total == updated && available == desired;
    let conditions = [
        availability(available >= rolling::least_available(deployment)),
        progress(deployment, current, complete),
    ];
    let mut status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "conditions": conditions.map(|c| with_dates(deployment, c, now)),
    });
    for (field, value) in [
        ("replicas", total),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", (desired.max(total) - available).max(0)),
    ] {
        if value > 0 {
            status[field] = json!(value);
        }
    }
    status
}

fn availability(enough: bool) -> Value {
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    json!({"type": "Available", "status": status, "reason": reason, "message": message})
}

fn progress(deployment: &Value, current: Option<&Value>, complete: bool) -> Value {
    if deployment["spec"]["paused"] == true {
        return json!({
            "type": "Progressing", "status": "Unknown", "reason": "DeploymentPaused",
            "message": "Deployment is paused",
        });
    }
    let (reason, message) = match current {
        None => {
            ("NewReplicaSetCreated", format!("Deployment {:?} begins a rollout.", name(deployment)))
        }
        Some(set) if complete => (
            "NewReplicaSetAvailable",
            format!("ReplicaSet {:?} has successfully progressed.", name(set)),
        ),
        Some(set) => ("ReplicaSetUpdated", format!("ReplicaSet {:?} is progressing.", name(set))),
    };
    json!({"type": "Progressing", "status": "True", "reason": reason, "message": message})
}

/// A condition that is as it was keeps both of its times.
fn with_dates(deployment: &Value, condition: Value, now: &str) -> Value {
    let before =
        crate::fields::condition(deployment, condition["type"].as_str().unwrap_or_default());
    let mut new = dated(deployment, condition, now);
    let same = before.filter(|before| {
        ["status", "reason", "message"].iter().all(|field| before[*field] == new[*field])
    });
    new["lastUpdateTime"] =
        same.map_or_else(|| json!(now), |before| before["lastUpdateTime"].clone());
    new
}
