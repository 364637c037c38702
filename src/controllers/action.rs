//! What a controller wants written.

use serde_json::{Value, json};

use sluice_cluster::api::Resource;

use crate::fields::{name, namespace, text, uid};

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create an object.
    Create(Value),
    /// Create a Pod for an object, and tell of it in an Event.
    CreatePod {
        /// The Pod, with a `generateName`.
        pod: Value,
        /// The object that keeps it.
        owner: Value,
    },
    /// Replace an object, but for its status. It has the version that it was made from.
    Update(Value),
    /// Replace an object's status.
    UpdateStatus(Value),
    /// Delete an object, if it is still this one.
    Delete {
        /// What it is.
        resource: Resource,
        /// The object.
        object: Value,
    },
    /// Tell people.
    Tell(Event),
}

/// What an Event says.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The object that it is about.
    pub about: Value,
    /// Who tells.
    pub by: &'static str,
    /// `Normal` or `Warning`.
    pub kind: &'static str,
    /// One word.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl Event {
    /// A normal Event.
    pub fn normal(about: &Value, by: &'static str, reason: &'static str, message: String) -> Event {
        Event { about: reference(about), by, kind: "Normal", reason, message }
    }

    /// A warning.
    pub fn warning(
        about: &Value,
        by: &'static str,
        reason: &'static str,
        message: String,
    ) -> Event {
        Event { about: reference(about), by, kind: "Warning", reason, message }
    }

    /// The object of the API.
    pub fn object(&self, now: &str) -> Value {
        let namespace = text(&self.about["namespace"]);
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "generateName": format!("{}.", text(&self.about["name"])),
                "namespace": if namespace.is_empty() { "default" } else { namespace },
            },
            "involvedObject": self.about,
            "type": self.kind,
            "reason": self.reason,
            "message": self.message,
            "source": {"component": self.by},
            "reportingComponent": self.by,
            "reportingInstance": "",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        })
    }
}

fn reference(object: &Value) -> Value {
    json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "namespace": namespace(object),
        "name": name(object),
        "uid": uid(object),
    })
}

/// The status of an object as a write, if it differs from the one that the object has.
pub fn status_update(object: &Value, status: Value) -> Option<Action> {
    if object["status"] == status {
        return None;
    }
    let mut new = object.clone();
    new["status"] = status;
    Some(Action::UpdateStatus(new))
}
