//! Fields of objects that several controllers read.

use serde_json::{Value, json};

/// A text, empty if there is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The members of a list, none if there is none.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A number, 0 if there is none.
pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// The name of an object.
pub fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

/// The namespace of an object.
pub fn namespace(object: &Value) -> &str {
    text(&object["metadata"]["namespace"])
}

/// The uid of an object.
pub fn uid(object: &Value) -> &str {
    text(&object["metadata"]["uid"])
}

/// Whether an object is being deleted.
pub fn is_deleted(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Whether labels have everything that a set of labels asks for.
pub fn has_labels(object: &Value, wanted: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    wanted.as_object().into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a `LabelSelector` selects an object; an empty one selects all.
pub fn selects(selector: &Value, object: &Value) -> bool {
    has_labels(object, &selector["matchLabels"])
        && list(&selector["matchExpressions"]).iter().all(|term| fits(term, object))
}

fn fits(term: &Value, object: &Value) -> bool {
    let value = object["metadata"]["labels"].get(text(&term["key"]));
    let listed = value.is_some_and(|value| list(&term["values"]).contains(value));
    match text(&term["operator"]) {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// The `ownerReference` of the controller of an object.
pub fn controller(object: &Value) -> Option<&Value> {
    list(&object["metadata"]["ownerReferences"]).iter().find(|owner| owner["controller"] == true)
}

/// Whether this is the uid of an object's controller.
pub fn is_controlled_by(object: &Value, uid: &str) -> bool {
    controller(object).is_some_and(|owner| text(&owner["uid"]) == uid)
}

/// The `ownerReference` to an object as a controller.
pub fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// A condition of an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&object["status"]["conditions"]).iter().find(|condition| condition["type"] == *kind)
}

/// Whether a condition of an object is true.
pub fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Whether a Pod has ended for good.
pub fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Whether a Pod counts for who keeps a number of Pods.
pub fn is_active(pod: &Value) -> bool {
    !is_over(pod) && !is_deleted(pod)
}

/// A condition with the time since when it has its status, which the object may already have.
pub fn dated(object: &Value, mut condition: Value, now: &str) -> Value {
    let before = self::condition(object, text(&condition["type"]));
    let same = before.filter(|before| before["status"] == condition["status"]);
    let since = same.map_or_else(|| json!(now), |same| same["lastTransitionTime"].clone());
    condition["lastTransitionTime"] = since;
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_has_labels_and_expressions() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        let term = |operator: &str, key: &str, values: &[&str]| json!({"matchExpressions": [{"operator": operator, "key": key, "values": values}]});
        let table = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "web", "x": "y"}}), false),
            (term("In", "tier", &["back", "front"]), true),
            (term("In", "none", &["front"]), false),
            (term("NotIn", "tier", &["front"]), false),
            (term("NotIn", "none", &["front"]), true),
            (term("Exists", "tier", &[]), true),
            (term("DoesNotExist", "tier", &[]), false),
            (term("Near", "tier", &[]), false),
        ];
        for (selector, expected) in table {
            assert_eq!(selects(&selector, &object), expected, "{selector}");
        }
    }
}
