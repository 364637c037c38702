//! The part of the OpenAPI documents that kubectl reads: before a write, whether the server validates fields itself (it
//! does), and before an apply, whether the document has merge keys (it has not).

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::resources::Resource;

/// `/openapi/v3`: where the document of each group is.
pub(super) fn index() -> Value {
    let mut paths = Map::new();
    for resource in Resource::ALL {
        let place = place(resource.info().group);
        let url = format!("/openapi/v3/{place}?hash=1");
        paths.insert(place, json!({"serverRelativeURL": url}));
    }
    json!({ "paths": paths })
}

fn place(group: &str) -> String {
    match group {
        "" => "api/v1".to_owned(),
        group => format!("apis/{group}/v1"),
    }
}

/// `/openapi/v3/<place>`.
pub(super) fn document(wanted: &str) -> Option<Value> {
    let mut paths = Map::new();
    for resource in Resource::ALL {
        let info = resource.info();
        if place(info.group) == wanted {
            let namespace = if resource.is_namespaced() { "namespaces/{namespace}/" } else { "" };
            let path = format!("/{wanted}/{namespace}{}/{{name}}", info.plural);
            paths.insert(path, json!({ "patch": patch_operation(resource) }));
        }
    }
    (!paths.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": paths,
            "components": {"schemas": {}},
        })
    })
}

fn patch_operation(resource: Resource) -> Value {
    let info = resource.info();
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters = ["dryRun", "fieldManager", "fieldValidation", "force"].map(parameter);
    json!({
        "operationId": format!("patch{}", info.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {
            "group": info.group, "version": "v1", "kind": info.kind,
        },
    })
}

/// The media type of [`v2_protobuf`].
pub(super) const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2` as kubectl reads it: a `Document` message whose first field, `swagger`, is `2.0`.
pub(super) fn v2_protobuf() -> Bytes {
    Bytes::from_static(b"\x0a\x032.0")
}

/// `/openapi/v2` as JSON.
pub(super) fn v2() -> Value {
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": {},
        "definitions": {},
    })
}
