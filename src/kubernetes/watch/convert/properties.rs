//! Whatever its fields are, the object keeps its name.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{service_json, slice_json};
use super::*;
use crate::watch::object::Object;

/// JSON of any shape.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9.:/]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts the value somewhere into the object.
fn corrupt(object: &mut Value, path: &[prop::sample::Index], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *object = value;
        return;
    };
    match object {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(first.index(map.len())).expect("in range").clone();
            corrupt(&mut map[&key], rest, value);
        }
        Value::Array(list) if !list.is_empty() => {
            let i = first.index(list.len());
            corrupt(&mut list[i], rest, value);
        }
        _ => *object = value,
    }
}

proptest! {
    #[test]
    fn whatever_stands_in_a_field_the_object_keeps_its_name(
        path in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        value in any_json(),
    ) {
        let whole = json!({
            "spec": service_json(json!({
                "ports": [{ "name": "a", "port": 80, "nodePort": 1 }],
                "externalIPs": ["192.0.2.1"], "sessionAffinityConfig": { "clientIP": {} },
            }), json!({}))["spec"],
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } },
        });
        let mut object = whole;
        corrupt(&mut object, &path, value);
        object["metadata"] = json!({ "namespace": "ns", "name": "web" });
        let converted = service(Object::Json(&object.to_string()), &mut Interner::default());
        prop_assert!(converted.key.is_some());
    }

    #[test]
    fn whatever_stands_in_a_slice_it_keeps_its_name(
        path in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
        value in any_json(),
    ) {
        let mut object = slice_json(json!({ "endpoints": [
            { "addresses": ["10.1.0.1"], "conditions": { "ready": true }, "nodeName": "here",
              "hints": { "forZones": [{ "name": "a" }] } },
        ]}));
        corrupt(&mut object, &path, value);
        object["metadata"] = json!({ "namespace": "ns", "name": "web-1",
            "labels": { "kubernetes.io/service-name": "web" } });
        let converted = slice(Object::Json(&object.to_string()), "here", &mut Interner::default());
        prop_assert!(converted.key.is_some());
    }

    #[test]
    fn damaged_bytes_are_a_warning_and_never_a_panic(bytes in any::<Vec<u8>>()) {
        // A slice with a name, and anything.
        let metadata = [&b"\x0a\x0b\x0a\x03web\x5a\x04\x0a\x02xy"[..], &bytes].concat();
        for message in [&metadata[..], &bytes] {
            let damaged = Object::Protobuf(message);
            let converted = slice(damaged, "here", &mut Interner::default());
            prop_assert!(converted.key.is_some() || !converted.warnings.is_empty());
            prop_assert!(damaged.version().is_ok());
        }
    }
}
