//! A dump: all that decisions of this node follow from, as sorted YAML documents that `-f` reads again.
//!
//! The first document is ours (`kind: Dump`): versions, mode, settings, a digest of the plan, what the kernel lacks.
//! The others are plain objects of Kubernetes, with the fields that a proxy reads.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::answers::Answers;
use super::redact::Redaction;
use crate::sync::Facts;
use sluice_core::model::ServiceName;
use sluice_core::net::{Family, fnv1a};
use sluice_explain::API_VERSION;
use sluice_kubernetes::watch::export;

/// The whole dump.
pub(super) fn text(answers: &Answers, redact: bool) -> String {
    let mut documents = vec![own(answers)];
    documents.extend(export::surroundings(&answers.view.node(), &answers.node));
    let names = answers.view.names();
    let mut slices = Vec::new();
    for name in &names {
        let Some((service, of_service)) = answers.view.service(name) else { continue };
        documents.push(export::service(&service));
        slices.extend(of_service.iter().map(|slice| export::slice(slice, &answers.node)));
    }
    documents.append(&mut slices);
    if redact {
        Redaction::of(&documents).apply(&mut documents);
    }
    let mut text = String::new();
    for document in &documents {
        // Writing to a string does not fail.
        let _ = writeln!(text, "---\n{}", yaml(document).trim_end());
    }
    text
}

fn yaml(document: &Value) -> String {
    serde_saphyr::to_string(document).unwrap_or_else(|error| format!("# {error}"))
}

fn own(answers: &Answers) -> Value {
    let facts = answers.view.facts();
    let digests = answers.view.families().into_iter().map(|family| {
        let digest = digest(answers, family);
        (family.to_string(), json!(format!("{digest:016x}")))
    });
    let digests: serde_json::Map<String, Value> = digests.collect();
    let unsettled = answers.status().unsettled;
    let configuration = (answers.configuration)();
    let settings: Value = serde_json::from_str(&configuration).unwrap_or_default();
    let Facts { addresses, lost, .. } = facts;
    let lost: Vec<String> = lost.into_keys().collect();
    json!({
        "apiVersion": API_VERSION, "kind": "Dump",
        "version": sluice_config::version(), "node": answers.node, "mode": answers.mode.to_string(),
        "at": Timestamp::now().to_string(),
        "settings": settings, "addresses": addresses, "lost": lost,
        "plan": digests, "unsettled": unsettled,
    })
}

/// The same for the same plans, whatever came before.
fn digest(answers: &Answers, family: Family) -> u64 {
    let plans = answers.view.plans(family);
    let one = |(name, plan): &(ServiceName, _)| format!("{name} {plan:?}\n");
    plans.iter().fold(fnv1a(b""), |hash, plan| hash.and(one(plan).as_bytes())).whole()
}
