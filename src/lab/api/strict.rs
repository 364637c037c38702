//! Whether a written object has the shape that the API documents: the types of `k8s-openapi` are
//! the schema, so that a typing mistake in a manifest is reported as a real server reports it.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::resources::Resource;
use super::status::ApiError;

/// The fields of an object that its kind does not have. A field of a wrong type is an error.
pub(super) fn unknown_fields(resource: Resource, value: &Value) -> Result<Vec<String>, ApiError> {
    let decoded = match resource {
        Resource::Namespaces => round_trip::<core::Namespace>(value),
        Resource::Nodes => round_trip::<core::Node>(value),
        Resource::Services => round_trip::<core::Service>(value),
        Resource::Pods => round_trip::<core::Pod>(value),
        Resource::Events => round_trip::<core::Event>(value),
        Resource::EndpointSlices => round_trip::<EndpointSlice>(value),
        Resource::ServiceCidrs => round_trip::<ServiceCIDR>(value),
        Resource::NewEvents => round_trip::<Event>(value),
    };
    let decoded = decoded.map_err(|e| {
        let kind = resource.info().kind;
        ApiError::BadRequest(format!("{kind} in version \"v1\" cannot be handled as a {kind}: {e}"))
    })?;
    let mut unknown = Vec::new();
    missing(value, &decoded, &mut String::new(), &mut unknown);
    Ok(unknown)
}

fn round_trip<T: DeserializeOwned + Serialize>(value: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(T::deserialize(value)?)
}

/// Collects the paths that are in `given` and not in `known`.
fn missing(given: &Value, known: &Value, path: &mut String, unknown: &mut Vec<String>) {
    let length = path.len();
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given.iter().filter(|(_, v)| !v.is_null()) {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                match known.get(name) {
                    Some(known) => missing(value, known, path, unknown),
                    None => unknown.push(path.clone()),
                }
                path.truncate(length);
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (value, known)) in given.iter().zip(known).enumerate() {
                path.push_str(&format!("[{index}]"));
                missing(value, known, path, unknown);
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
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "x", "creationTimestamp": null, "labels": {"a": "b"}},
            "spec": {"ports": [{"port": 80, "targetport": 1}], "clusterIp": "None",
                     "selector": {}, "externalIPs": []},
            "status": {"loadBalancer": {}},
        });
        let unknown = unknown_fields(Resource::Services, &service).expect("types are right");
        assert_eq!(unknown, ["spec.clusterIp", "spec.ports[0].targetport"]);
        let mut wrong = service;
        wrong["spec"]["ports"][0]["port"] = json!("80");
        let error = unknown_fields(Resource::Services, &wrong).expect_err("port is a number");
        assert_eq!(error.code_and_reason(), (400, "BadRequest"));
    }
}
