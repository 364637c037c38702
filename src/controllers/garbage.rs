//! Garbage collection: what is owned goes with its owners (`pkg/controller/garbagecollector`).

use serde_json::{Value, json};

use sluice_cluster::api::Resource;

use crate::action::Action;
use crate::fields::{is_deleted, list, text, uid};

/// Deletes an object whose owners are all gone. `is_there` knows uids of the kinds that the lab serves; owners of
/// other kinds are taken for living.
pub fn reconcile(
    resource: Resource,
    object: &Value,
    is_there: impl Fn(&str) -> bool,
) -> Vec<Action> {
    let owners = list(&object["metadata"]["ownerReferences"]);
    let lives = |owner: &Value| {
        let known = Resource::of_kind(text(&owner["apiVersion"]), text(&owner["kind"])).is_some();
        !known || is_there(text(&owner["uid"]))
    };
    if owners.is_empty() || owners.iter().any(lives) || is_deleted(object) {
        return Vec::new();
    }
    vec![Action::Delete { resource, object: object.clone() }]
}

/// Finishes a deletion that waits for the dependents of an object: they are deleted before it, or let go.
pub fn finalize<'a>(
    object: &Value,
    dependents: impl Iterator<Item = (Resource, &'a Value)>,
) -> Vec<Action> {
    let waits = |name: &str| list(&object["metadata"]["finalizers"]).contains(&json!(name));
    if !is_deleted(object) {
        return Vec::new();
    }
    let mut actions = Vec::new();
    if waits("foregroundDeletion") {
        let mut left = 0;
        for (resource, dependent) in dependents {
            left += 1;
            if !is_deleted(dependent) {
                actions.push(Action::Delete { resource, object: dependent.clone() });
            }
        }
        if left == 0 {
            actions.push(without(object, "foregroundDeletion"));
        }
    } else if waits("orphan") {
        actions.extend(dependents.map(|(_, dependent)| let_go(object, dependent)));
        actions.push(without(object, "orphan"));
    }
    actions
}

fn without(object: &Value, finalizer: &str) -> Action {
    let mut new = object.clone();
    let finalizers = list(&object["metadata"]["finalizers"]).iter();
    let others: Vec<&Value> = finalizers.filter(|other| **other != finalizer).collect();
    new["metadata"]["finalizers"] = json!(others);
    Action::Update(new)
}

fn let_go(owner: &Value, dependent: &Value) -> Action {
    let mut new = dependent.clone();
    let owners = list(&dependent["metadata"]["ownerReferences"]).iter();
    let others: Vec<&Value> = owners.filter(|other| text(&other["uid"]) != uid(owner)).collect();
    new["metadata"]["ownerReferences"] = json!(others);
    Action::Update(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::owner_reference;
    use crate::fixtures::{pod, replica_set, with};

    fn owned(owners: Value) -> Value {
        with(pod("a", "web", "node-a"), |p| p["metadata"]["ownerReferences"] = owners)
    }

    #[test]
    fn an_object_goes_when_all_its_owners_are_gone() {
        let set = |uid: &str| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": uid});
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "uid": "unknown"});
        for (owners, goes) in [
            (json!([]), false),
            (json!([set("gone")]), true),
            (json!([set("there")]), false),
            (json!([set("gone"), set("there")]), false),
            (json!([job]), false),
        ] {
            let found = reconcile(Resource::Pods, &owned(owners.clone()), |uid| uid == "there");
            assert_eq!(!found.is_empty(), goes, "{owners}");
        }
        let ending = with(owned(json!([set("gone")])), |p| {
            p["metadata"]["deletionTimestamp"] = json!("t");
        });
        assert_eq!(reconcile(Resource::Pods, &ending, |_| false), []);
    }

    #[test]
    fn a_deletion_in_the_foreground_waits_for_the_dependents() {
        let set = with(replica_set("web", "web", 1), |s| {
            s["metadata"]["deletionTimestamp"] = json!("t");
            s["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        });
        let pod = owned(json!([owner_reference(&set)]));
        let found = finalize(&set, [(Resource::Pods, &pod)].into_iter());
        assert!(matches!(&found[..], [Action::Delete { .. }]), "{found:?}");
        let ending = with(pod, |p| p["metadata"]["deletionTimestamp"] = json!("t"));
        assert_eq!(finalize(&set, [(Resource::Pods, &ending)].into_iter()), []);
        let found = finalize(&set, std::iter::empty());
        let [Action::Update(free)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(free["metadata"]["finalizers"], json!([]));
    }

    #[test]
    fn orphans_lose_their_owner_and_stay() {
        let set = with(replica_set("web", "web", 1), |s| {
            s["metadata"]["deletionTimestamp"] = json!("t");
            s["metadata"]["finalizers"] = json!(["orphan"]);
        });
        let pod = owned(json!([owner_reference(&set)]));
        let found = finalize(&set, [(Resource::Pods, &pod)].into_iter());
        let [Action::Update(pod), Action::Update(set)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(pod["metadata"]["ownerReferences"], json!([]));
        assert_eq!(set["metadata"]["finalizers"], json!([]));
    }
}
