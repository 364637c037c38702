//! The two forms of an Event: `v1`, in which it is stored, and `events.k8s.io/v1`
//! (`pkg/apis/events/v1/conversion.go` in Kubernetes).

use std::borrow::Cow;

use serde_json::{Value, json};

use super::resources::Resource;

const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The stored form of an object that was written to `resource`.
pub(super) fn to_stored(resource: Resource, mut value: Value) -> Value {
    if resource == Resource::NewEvents {
        rename(&mut value, "v1", NAMES.map(|(core, new)| (new, core)));
    }
    value
}

/// The form in which `resource` shows a stored object.
pub(super) fn to_shown(resource: Resource, stored: &Value) -> Cow<'_, Value> {
    if resource != Resource::NewEvents {
        return Cow::Borrowed(stored);
    }
    let mut value = stored.clone();
    rename(&mut value, "events.k8s.io/v1", NAMES);
    Cow::Owned(value)
}

fn rename(value: &mut Value, api_version: &str, names: [(&str, &str); 7]) {
    let Some(fields) = value.as_object_mut() else { return };
    fields.insert("apiVersion".to_owned(), json!(api_version));
    for (from, to) in names {
        if let Some(field) = fields.remove(from) {
            fields.insert(to.to_owned(), field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_all_fields_in_both_directions() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "reason": "r",
            "regarding": {"kind": "Node"}, "reportingController": "c", "deprecatedCount": 2,
        });
        let stored = to_stored(Resource::NewEvents, new.clone());
        assert_eq!((&stored["message"], &stored["apiVersion"]), (&json!("n"), &json!("v1")));
        assert_eq!(*to_shown(Resource::NewEvents, &stored), new);
        assert_eq!(*to_shown(Resource::Events, &stored), stored);
    }
}
