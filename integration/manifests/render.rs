//! Rendering manifests, and comparing their fields with the API's.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::manifests;

/// What a renderer printed.
pub(crate) struct Rendered {
    pub(crate) objects: Vec<Value>,
}

impl Rendered {
    fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
    }

    #[track_caller]
    pub(crate) fn object(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// The data of a ConfigMap, if it is among the objects.
    pub(crate) fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let data = self.find("ConfigMap", name)?["data"].clone();
        Some(serde_json::from_value(data).expect("data is text"))
    }
}

/// The documents of a YAML stream.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// An overlay, rendered, unless `kubectl` is not installed.
pub(crate) fn overlay(name: &str) -> Option<Rendered> {
    let path = manifests().join("overlays").join(name).display().to_string();
    render("kubectl", &["kustomize", &path])
}

/// The chart with these values, rendered, unless `helm` is not installed.
pub(crate) fn chart(values: &[&str]) -> Option<Rendered> {
    let path = manifests().join("helm/sluice").display().to_string();
    let mut arguments = vec!["template", "sluice", &path, "--namespace", "kube-system"];
    arguments.extend(["--set", "apiServer=https://control-plane.example:6443"]);
    arguments.extend(["--set", "clusterCIDR=10.244.0.0/16"]);
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    render("helm", &arguments)
}

fn render(program: &str, arguments: &[&str]) -> Option<Rendered> {
    let output = match Command::new(program).args(arguments).output() {
        // A directory of the path that may not be searched is reported as a lack of permission.
        Err(error)
            if [ErrorKind::NotFound, ErrorKind::PermissionDenied].contains(&error.kind()) =>
        {
            eprintln!("{program} is not installed: nothing is rendered, nothing is checked");
            return None;
        }
        output => output.unwrap_or_else(|error| panic!("{program}: {error}")),
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    Some(Rendered { objects: documents(&String::from_utf8_lossy(&output.stdout)) })
}

/// Fails if an object has a field that its kind does not have, or one of another type.
#[track_caller]
pub(crate) fn check_fields(object: &Value) {
    let kind = object["kind"].as_str().expect("an object has a kind");
    let known = match kind {
        "DaemonSet" => known_part::<DaemonSet>(object),
        "ConfigMap" => known_part::<ConfigMap>(object),
        "ServiceAccount" => known_part::<ServiceAccount>(object),
        "ClusterRoleBinding" => known_part::<ClusterRoleBinding>(object),
        other => panic!("{other} is not expected among the manifests"),
    };
    let mut lost = Vec::new();
    find_lost(object, &known, "", &mut lost);
    assert!(lost.is_empty(), "{kind} has no such fields: {lost:?}");
}

/// The type drops what it does not know.
fn known_part<T: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("{error}: {object:#}"));
    serde_json::to_value(typed).expect("what was read can be written")
}

fn find_lost(object: &Value, known: &Value, path: &str, lost: &mut Vec<String>) {
    match (object, known) {
        (Value::Object(fields), Value::Object(known)) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(known) => find_lost(value, known, &path, lost),
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(items), Value::Array(known)) if items.len() == known.len() => {
            for (at, (item, known)) in items.iter().zip(known).enumerate() {
                find_lost(item, known, &format!("{path}[{at}]"), lost);
            }
        }
        (object, known) if object == known => {}
        _ => lost.push(path.to_owned()),
    }
}
