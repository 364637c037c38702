//! The subresource `scale`: the number of replicas of an object as a `Scale` (`autoscaling/v1`).

use serde_json::{Value, json};

use super::status::ApiError;

/// An object as a `Scale`.
pub(super) fn shown(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let labels = object["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
    let labels: Vec<String> =
        labels.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {
            "replicas": object["status"]["replicas"].as_u64().unwrap_or_default(),
            "selector": labels.join(","),
        },
    })
}

/// The object with the number that a `Scale` has. A version in it must be the object's.
pub(super) fn scaled(mut object: Value, scale: &Value) -> Result<Value, ApiError> {
    let Some(replicas) = scale["spec"]["replicas"].as_u64() else {
        let message = "Scale: spec.replicas must be a number that is not negative".to_owned();
        return Err(ApiError::BadRequest(message));
    };
    object["spec"]["replicas"] = json!(replicas);
    if let Some(version) = scale["metadata"]["resourceVersion"].as_str().filter(|v| !v.is_empty()) {
        object["metadata"]["resourceVersion"] = json!(version);
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_changes_the_number_of_replicas_only() {
        let object = json!({
            "metadata": {"name": "web", "resourceVersion": "7"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}},
            "status": {"replicas": 2},
        });
        let mut scale = shown(&object);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
        scale["spec"]["replicas"] = json!(5);
        let mut expected = object.clone();
        expected["spec"]["replicas"] = json!(5);
        assert_eq!(scaled(object.clone(), &scale).expect("a scale"), expected);
        scale["spec"]["replicas"] = json!(-1);
        assert!(scaled(object, &scale).is_err());
    }
}
