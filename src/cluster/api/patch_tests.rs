//! Tables of patches.

use serde_json::json;

use super::*;

fn service() -> Value {
    json!({"spec": {"ports": [
        {"name": "a", "port": 80, "protocol": "TCP", "nodePort": 30080},
        {"name": "b", "port": 53, "protocol": "UDP"},
    ], "selector": {"app": "x"}}, "metadata": {"finalizers": ["f/1", "f/2"]}})
}

fn strategic(patch: Value) -> Value {
    Patch::Strategic(patch).apply_to(&service(), "Service", None).expect("applies")
}

fn names(value: &Value) -> Vec<&str> {
    let ports = value["spec"]["ports"].as_array().expect("ports");
    ports.iter().filter_map(|p| p["name"].as_str()).collect()
}

#[test]
fn a_strategic_patch_merges_ports_by_number() {
    let patched = strategic(json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}));
    let port = &patched["spec"]["ports"][0];
    assert_eq!((&port["targetPort"], &port["nodePort"]), (&json!(8080), &json!(30080)));
    assert_eq!(names(&patched), ["a", "b"]);
}

#[test]
fn a_strategic_patch_deletes_replaces_and_reorders() {
    let delete = json!({"spec": {"ports": [{"$patch": "delete", "port": 80}]}});
    assert_eq!(names(&strategic(delete)), ["b"]);
    let replace = json!({"spec": {"ports": [{"$patch": "replace"}, {"name": "c", "port": 1}]}});
    assert_eq!(names(&strategic(replace)), ["c"]);
    let order = json!({"spec": {
        "$setElementOrder/ports": [{"port": 9}, {"port": 53}, {"port": 80}],
        "ports": [{"name": "c", "port": 9}],
    }});
    assert_eq!(names(&strategic(order)), ["c", "b", "a"]);
    let set = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["f/1"], "finalizers": ["f/3"],
    }});
    assert_eq!(strategic(set)["metadata"]["finalizers"], json!(["f/2", "f/3"]));
    let map = json!({"spec": {"selector": {"$patch": "replace", "tier": "y"}}});
    assert_eq!(strategic(map)["spec"]["selector"], json!({"tier": "y"}));
    let null = json!({"spec": {"selector": null}});
    assert_eq!(strategic(null)["spec"].get("selector"), None);
}

#[test]
fn a_merge_patch_replaces_lists() {
    let patch = Patch::Merge(json!({"spec": {"ports": [{"port": 1}], "selector": {"app": null}}}));
    let patched = patch.apply_to(&service(), "Service", None).expect("applies");
    assert_eq!(patched["spec"], json!({"ports": [{"port": 1}], "selector": {}}));
}

#[test]
fn a_json_patch_is_all_or_nothing() {
    let good = json!([{"op": "replace", "path": "/spec/ports/0/port", "value": 81}]);
    let patched = Patch::Json(good).apply_to(&service(), "Service", None).expect("applies");
    assert_eq!(patched["spec"]["ports"][0]["port"], 81);
    let bad = json!([{"op": "test", "path": "/spec/ports/0/port", "value": 1}]);
    let error = Patch::Json(bad).apply_to(&service(), "Service", None).expect_err("test fails");
    assert_eq!(error.code_and_reason().0, 422);
    let nonsense = Patch::Json(json!({"op": "add"})).apply_to(&service(), "Service", None);
    assert_eq!(nonsense.expect_err("not a patch").code_and_reason().0, 400);
}

#[test]
fn apply_removes_what_the_manager_leaves_out() {
    let first = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 53, "protocol": "UDP"}],
        "selector": {"app": "x", "tier": "y"}}});
    let second = json!({"spec": {"ports": [{"port": 80, "name": "a"}], "selector": {"app": "x"}}});
    let apply = |fields: &Value| Patch::Apply { fields: fields.clone(), manager: "m".to_owned() };
    let one = apply(&first).apply_to(&service(), "Service", None).expect("applies");
    assert_eq!(one["spec"]["ports"].as_array().map(Vec::len), Some(2));
    let two = apply(&second).apply_to(&one, "Service", Some(&first)).expect("applies");
    assert_eq!(names(&two), ["a"]);
    assert_eq!(two["spec"]["ports"][0]["nodePort"], 30080, "another's field stays");
    assert_eq!(two["spec"]["selector"], json!({"app": "x"}));
}
