//! The dashboard and the alerts of `manifests/monitoring`: they can be read, and every metric that they
//! use is one that the daemon has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::metrics::golden_file;
use super::support::Outcome;

/// Names of the samples in the golden list.
fn samples() -> BTreeSet<String> {
    let golden = fs::read_to_string(golden_file()).expect("the golden list is there");
    let lines = golden.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.split(['{', ' ']).next());
    names.map(str::to_owned).collect()
}

/// Words of an expression that look like metrics of this daemon.
fn metrics(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = ["kubeproxy_", "sluice_", "rest_client_", "process_", "kubernetes_"];
    words
        .filter(|word| ours.iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// Every text under a key, anywhere in a value.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == key => found.push(text),
                    other => texts(other, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, key, found)),
        _ => {}
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("manifests/monitoring")
}

pub(crate) fn checked() -> Outcome {
    let known = samples();
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(folder().join("dashboard.json"))?)?;
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(folder().join("alerts.yaml"))?)?;
    let mut expressions = Vec::new();
    texts(&dashboard, "expr", &mut expressions);
    let panels = expressions.len();
    assert!(panels >= 12, "the dashboard has {panels} expressions only");
    texts(&rules, "expr", &mut expressions);
    assert!(expressions.len() > panels + 5, "there are too few alerts");
    for expression in expressions {
        let used = metrics(expression);
        assert!(!used.is_empty(), "no metric in {expression}");
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {expression}");
    }
    let groups = rules["spec"]["groups"].as_array().map_or(&[][..], Vec::as_slice);
    let alerts: Vec<&Value> =
        groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
    assert!(!alerts.is_empty(), "no alerts");
    for alert in alerts {
        let about = &alert["annotations"];
        assert!(alert["alert"].is_string() && alert["labels"]["severity"].is_string(), "{alert}");
        assert!(about["summary"].is_string() && about["description"].is_string(), "{alert}");
    }
    Ok(())
}
