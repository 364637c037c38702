//! Whether a written object has the shape that the API documents: the types of `k8s-openapi` are
//! the schema, so that a typing mistake in a manifest is reported as a real server reports it.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::resources::Resource;
use super::status::ApiError;

/// Removes the fields from an object that its kind does not have, and returns their paths. A field
/// of a wrong type is an error.
pub(super) fn drop_unknown(resource: Resource, value: &mut Value) -> Result<Vec<String>, ApiError> {
    let decoded = match resource {
        Resource::Namespaces => round_trip::<core::Namespace>(value),
        Resource::Nodes => round_trip::<core::Node>(value),
        Resource::Services => round_trip::<core::Service>(value),
        Resource::Pods => round_trip::<core::Pod>(value),
        Resource::Events => round_trip::<core::Event>(value),
        Resource::EndpointSlices => round_trip::<EndpointSlice>(value),
        Resource::ServiceCidrs => round_trip::<ServiceCIDR>(value),
        Resource::Deployments => round_trip::<apps::Deployment>(value),
        Resource::ReplicaSets => round_trip::<apps::ReplicaSet>(value),
        Resource::NewEvents => round_trip::<Event>(value),
    };
    let decoded = decoded.map_err(|e| {
        let kind = resource.info().kind;
        ApiError::BadRequest(format!("{kind} in version \"v1\" cannot be handled as a {kind}: {e}"))
    })?;
    let mut unknown = Vec::new();
    drop_missing(value, &decoded, &mut String::new(), &mut unknown);
    Ok(unknown)
}

fn round_trip<T: DeserializeOwned + Serialize>(value: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(T::deserialize(value)?)
}

/// Removes what is in `given` and not in `known`, and collects the paths.
fn drop_missing(given: &mut Value, known: &Value, path: &mut String, dropped: &mut Vec<String>) {
    let length = path.len();
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.retain(|name, value| {
            if value.is_null() {
                return true;
            }
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            match known.get(name) {
                Some(known) => drop_missing(value, known, path, dropped),
                None => dropped.push(path.clone()),
            }
            path.truncate(length);
            known.contains_key(name)
        }),
        (Value::Array(given), Value::Array(known)) => {
            for (index, (value, known)) in given.iter_mut().zip(known).enumerate() {
                path.push_str(&format!("[{index}]"));
                drop_missing(value, known, path, dropped);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_misspelt_field_is_found_and_a_wrong_type_is_refused() {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "x", "creationTimestamp": null, "labels": {"a": "b"}},
            "spec": {"ports": [{"port": 80, "targetport": 1}], "clusterIp": "None",
                     "selector": {}, "externalIPs": []},
            "status": {"loadBalancer": {}},
        });
        let unknown = drop_unknown(Resource::Services, &mut service).expect("types are right");
        assert_eq!(unknown, ["spec.clusterIp", "spec.ports[0].targetport"]);
        assert_eq!(service["spec"]["ports"], json!([{"port": 80}]));
        let mut wrong = service;
        wrong["spec"]["ports"][0]["port"] = json!("80");
        let error = drop_unknown(Resource::Services, &mut wrong).expect_err("port is a number");
        assert_eq!(error.code_and_reason(), (400, "BadRequest"));
    }
}
