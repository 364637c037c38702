//! `sluice explain --what-if`: the same question after a change that has not happened.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::truth::{Gathered, files, operations};
use sluice_explain::compared::{self, Comparison};
use sluice_explain::{Explanation, Question, what_if};
use sluice_kubernetes::watch::manifests;

/// The state after the changes: files first, then what is said in words.
pub(super) fn changed(
    changes: &[String],
    before: &Gathered,
    objects: &[Value],
) -> Result<Gathered> {
    let (files, words): (Vec<&String>, Vec<&String>) =
        changes.iter().partition(|change| files::is_file(change));
    let mut snapshot = before.snapshot.clone();
    if !files.is_empty() {
        let mut objects = objects.to_vec();
        for file in files {
            for object in files::read_objects(Path::new(file))? {
                let object = kept(object, &objects);
                objects.push(object);
            }
        }
        snapshot = manifests::snapshot(&objects, &before.node).0;
    }
    for change in words {
        let what_if = what_if::parse(change)?;
        snapshot = what_if::apply(&snapshot, &before.known, &what_if, change)?.0;
    }
    Ok(before.with(snapshot))
}

/// Both answers, and what the change would have the node write.
pub(super) fn compared(
    changes: &[String],
    (before, answer): (&Gathered, Explanation),
    after: &Gathered,
    question: &Question,
) -> Result<Comparison> {
    let ours = !before.origin.other_proxy;
    let mode = ours.then(|| before.config.mode.to_string());
    let operations = if ours { operations(before, after) } else { Vec::new() };
    let answers = (answer, after.explain(question)?);
    Ok(compared::compare(&changes.join(", "), answers, mode.as_deref(), operations))
}

/// A changed object with what the API server allocated to the one before it.
fn kept(mut object: Value, before: &[Value]) -> Value {
    let same = |other: &&Value| {
        ["kind", "apiVersion"].iter().all(|field| other[*field] == object[*field])
            && ["namespace", "name"]
                .iter()
                .all(|field| other["metadata"][*field] == object["metadata"][*field])
    };
    let Some(old) = before.iter().find(same) else { return object };
    if object["kind"] == "Service" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "healthCheckNodePort"] {
            if object["spec"][field].is_null() && !old["spec"][field].is_null() {
                object["spec"][field] = old["spec"][field].clone();
            }
        }
        if object["status"].is_null() {
            object["status"] = old["status"].clone();
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applied_object_keeps_its_addresses() {
        let old = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80"]}});
        let new = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"externalTrafficPolicy": "Local"}});
        let kept = kept(new, &[old]);
        assert_eq!(kept["spec"]["clusterIP"], "10.96.0.80");
        assert_eq!(kept["spec"]["externalTrafficPolicy"], "Local");
    }
}
