//! Defaults and validation of Deployments and ReplicaSets (`pkg/apis/apps/v1/defaults.go`, `validation.go`).

use serde_json::{Value, json};

use super::resources::Resource;
use super::status::Cause;

/// Admits an object, and gives the `spec` of its Pods for their own defaults.
pub(super) fn admit<'a>(
    resource: Resource,
    new: &'a mut Value,
    old: Option<&Value>,
) -> Result<Option<&'a mut Value>, Vec<Cause>> {
    if !new["spec"].is_object() {
        return Err(vec![Cause::required("spec", "")]);
    }
    set_defaults(resource, &mut new["spec"]);
    let causes = check(&new["spec"], old.map(|old| &old["spec"]));
    if !causes.is_empty() {
        return Err(causes);
    }
    Ok(new["spec"]["template"].get_mut("spec"))
}

fn set_defaults(resource: Resource, spec: &mut Value) {
    if spec["replicas"].is_null() {
        spec["replicas"] = json!(1);
    }
    if resource != Resource::Deployments {
        return;
    }
    for (field, value) in [("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)] {
        if spec[field].is_null() {
            spec[field] = json!(value);
        }
    }
    if spec["strategy"]["type"].as_str().unwrap_or_default().is_empty() {
        spec["strategy"]["type"] = json!("RollingUpdate");
    }
    if spec["strategy"]["type"] == "RollingUpdate" {
        for field in ["maxSurge", "maxUnavailable"] {
            if spec["strategy"]["rollingUpdate"][field].is_null() {
                spec["strategy"]["rollingUpdate"][field] = json!("25%");
            }
        }
    }
}

fn check(spec: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if spec["replicas"].as_i64().is_some_and(|replicas| replicas < 0) {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid("spec.replicas", &spec["replicas"], why));
    }
    let selector = &spec["selector"];
    let labels = selector["matchLabels"].as_object().filter(|labels| !labels.is_empty());
    let own = &spec["template"]["metadata"]["labels"];
    match labels {
        None if selector["matchExpressions"].as_array().is_none_or(Vec::is_empty) => {
            causes.push(Cause::required("spec.selector", ""));
        }
        Some(labels) if labels.iter().any(|(key, value)| own.get(key) != Some(value)) => {
            let why = "`selector` does not match template `labels`";
            causes.push(Cause::invalid("spec.template.metadata.labels", own, why));
        }
        _ => {}
    }
    if spec["template"]["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        causes.push(Cause::required("spec.template.spec.containers", ""));
    }
    if old.is_some_and(|old| old["selector"] != *selector) {
        causes.push(Cause::invalid("spec.selector", selector, "field is immutable"));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(labels: Value) -> Value {
        json!({"spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a"}]}},
        }})
    }

    #[test]
    fn a_deployment_gets_defaults_and_its_selector_must_fit_its_template() {
        let mut good = deployment(json!({"app": "web"}));
        admit(Resource::Deployments, &mut good, None).expect("it is valid");
        assert_eq!(good["spec"]["replicas"], 1);
        assert_eq!(good["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        let mut other = deployment(json!({"app": "wep"}));
        let causes = admit(Resource::Deployments, &mut other, None).expect_err("it does not fit");
        assert_eq!(causes.len(), 1);
        let mut moved = good.clone();
        moved["spec"]["selector"]["matchLabels"] = json!({"tier": "x"});
        moved["spec"]["template"]["metadata"]["labels"] = json!({"tier": "x"});
        let causes = admit(Resource::Deployments, &mut moved, Some(&good));
        assert_eq!(causes.expect_err("a selector stays").len(), 1);
        let mut empty = json!({"spec": {}});
        let causes = admit(Resource::ReplicaSets, &mut empty, None).expect_err("it is empty");
        assert_eq!(causes.len(), 2);
    }
}
