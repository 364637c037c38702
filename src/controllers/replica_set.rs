//! ReplicaSets: as many Pods as asked for (`pkg/controller/replicaset`).

use serde_json::{Value, json};

use sluice_cluster::api::Resource;

use crate::action::{Action, Event, status_update};
use crate::fields::{
    controller, is_active, is_controlled_by, is_deleted, is_true, list, name, namespace, number,
    owner_reference, selects, text, uid,
};

/// Who tells of Pods that come and go.
pub const BY: &str = "replicaset-controller";

/// The most Pods that are created or deleted at a time (`BurstReplicas`).
const BURST: usize = 500;

/// What a ReplicaSet needs, given the Pods of its namespace.
pub fn reconcile<'a>(set: &Value, pods: impl Iterator<Item = &'a Value>) -> Vec<Action> {
    let mut actions = Vec::new();
    let own = claim(set, pods, &mut actions);
    if !is_deleted(set) {
        keep_number(set, &own, &mut actions);
    }
    actions.extend(status_update(set, status(set, &own)));
    actions
}

/// The Pods of a set: orphans that it selects are adopted, those that it no longer selects released.
fn claim<'a>(
    set: &Value,
    pods: impl Iterator<Item = &'a Value>,
    actions: &mut Vec<Action>,
) -> Vec<&'a Value> {
    let mut own = Vec::new();
    for pod in pods {
        let selected = selects(&set["spec"]["selector"], pod);
        match (controller(pod), selected) {
            (Some(_), true) if is_controlled_by(pod, uid(set)) => own.push(pod),
            (Some(_), false) if is_controlled_by(pod, uid(set)) => actions.push(release(set, pod)),
            (None, true) if is_active(pod) && !is_deleted(set) => {
                let mut adopted = pod.clone();
                let mut owners = list(&pod["metadata"]["ownerReferences"]).to_vec();
                owners.push(owner_reference(set));
                adopted["metadata"]["ownerReferences"] = json!(owners);
                actions.push(Action::Update(adopted));
                own.push(pod);
            }
            _ => {}
        }
    }
    own
}

fn release(set: &Value, pod: &Value) -> Action {
    let mut released = pod.clone();
    let owners = list(&pod["metadata"]["ownerReferences"]).iter();
    let others: Vec<&Value> = owners.filter(|owner| text(&owner["uid"]) != uid(set)).collect();
    released["metadata"]["ownerReferences"] = json!(others);
    Action::Update(released)
}

fn keep_number(set: &Value, own: &[&Value], actions: &mut Vec<Action>) {
    let mut active: Vec<&Value> = own.iter().copied().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(number(&set["spec"]["replicas"])).unwrap_or_default();
    let missing = wanted.saturating_sub(active.len()).min(BURST);
    for _ in 0..missing {
        actions.push(Action::CreatePod { pod: new_pod(set), owner: set.clone() });
    }
    let surplus = active.len().saturating_sub(wanted).min(BURST);
    if surplus > 0 {
        active.sort_by(|a, b| victim_rank(a).cmp(&victim_rank(b)));
    }
    for pod in &active[..surplus] {
        let message = format!("Deleted pod: {}", name(pod));
        actions.push(Action::Delete { resource: Resource::Pods, object: (*pod).clone() });
        actions.push(Action::Tell(Event::normal(set, BY, "SuccessfulDelete", message)));
    }
}

/// Who goes first: those without a node, then those that do not run, those that are not ready, the younger
/// ones (`ActivePods` in `pkg/controller/controller_utils.go`).
fn victim_rank(pod: &Value) -> (bool, u8, bool, std::cmp::Reverse<&str>, &str) {
    let assigned = !text(&pod["spec"]["nodeName"]).is_empty();
    let phase = match pod["status"]["phase"].as_str() {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    };
    let created = std::cmp::Reverse(text(&pod["metadata"]["creationTimestamp"]));
    (assigned, phase, is_true(pod, "Ready"), created, name(pod))
}

fn new_pod(set: &Value) -> Value {
    let template = &set["spec"]["template"];
    // The name that the server makes of it has five characters more, and 63 at most.
    let prefix: String = name(set).chars().take(57).collect();
    let mut metadata = json!({
        "generateName": format!("{prefix}-"),
        "namespace": namespace(set),
        "ownerReferences": [owner_reference(set)],
    });
    for field in ["labels", "annotations"] {
        if let Some(value) = template["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

fn status(set: &Value, own: &[&Value]) -> Value {
    let active = || own.iter().filter(|pod| is_active(pod));
    let ready = active().filter(|pod| is_true(pod, "Ready")).count();
    let labels = json!({"matchLabels": set["spec"]["template"]["metadata"]["labels"]});
    json!({
        "replicas": active().count(),
        "fullyLabeledReplicas": active().filter(|pod| selects(&labels, pod)).count(),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "observedGeneration": set["metadata"]["generation"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{pod, replica_set, with};

    fn call(set: &Value, pods: &[Value]) -> Vec<Action> {
        reconcile(set, pods.iter())
    }

    /// Names of the Pods that are deleted, and how many are created.
    fn counts(actions: &[Action]) -> (usize, Vec<&str>) {
        let created = actions.iter().filter(|a| matches!(a, Action::CreatePod { .. })).count();
        let deleted = actions.iter().filter_map(|action| match action {
            Action::Delete { object, .. } => Some(name(object)),
            _ => None,
        });
        (created, deleted.collect())
    }

    fn owned(name: &str, set: &Value) -> Value {
        with(pod(name, "web", "node-a"), |pod| {
            pod["metadata"]["ownerReferences"] = json!([owner_reference(set)]);
        })
    }

    #[test]
    fn missing_pods_are_created_with_the_template_and_an_owner() {
        let set = replica_set("web-1", "web", 2);
        let actions = call(&set, &[owned("a", &set)]);
        assert_eq!(counts(&actions), (1, vec![]));
        let Action::CreatePod { pod, .. } = &actions[0] else { panic!("{actions:?}") };
        assert_eq!(pod["metadata"]["generateName"], "web-1-");
        assert_eq!(pod["metadata"]["labels"]["app"], "web");
        assert!(is_controlled_by(pod, uid(&set)));
    }

    #[test]
    fn pods_that_end_or_have_ended_do_not_count() {
        let set = replica_set("web-1", "web", 1);
        let ending = with(owned("a", &set), |p| p["metadata"]["deletionTimestamp"] = json!("t"));
        let over = with(owned("b", &set), |p| p["status"]["phase"] = json!("Failed"));
        assert_eq!(counts(&call(&set, &[ending, over])), (1, vec![]));
    }

    #[test]
    fn who_serves_least_goes_first() {
        let set = replica_set("web-1", "web", 1);
        let nowhere = with(owned("nowhere", &set), |p| p["spec"]["nodeName"] = json!(null));
        let pending = with(owned("pending", &set), |p| p["status"]["phase"] = json!("Pending"));
        let unready = with(owned("unready", &set), |p| p["status"]["conditions"] = json!([]));
        let young = with(owned("young", &set), |p| {
            p["metadata"]["creationTimestamp"] = json!("2026-02-02T00:00:00Z");
        });
        let pods = [owned("old", &set), young, unready, pending, nowhere];
        let order = ["nowhere", "pending", "unready", "young"];
        assert_eq!(counts(&call(&set, &pods)), (0, order.to_vec()));
    }

    #[test]
    fn orphans_are_adopted_and_pods_that_lost_their_label_released() {
        let set = replica_set("web-1", "web", 2);
        let orphan = pod("orphan", "web", "node-a");
        let lost = with(owned("lost", &set), |p| p["metadata"]["labels"]["app"] = json!("x"));
        let foreign = with(pod("foreign", "web", "node-a"), |p| {
            p["metadata"]["ownerReferences"] = json!([{"uid": "other", "controller": true}]);
        });
        let actions = call(&set, &[orphan, lost, foreign]);
        let written: Vec<(&str, bool)> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Update(pod) => Some((name(pod), is_controlled_by(pod, uid(&set)))),
                _ => None,
            })
            .collect();
        assert_eq!(written, [("orphan", true), ("lost", false)]);
        assert_eq!(counts(&actions), (1, vec![]), "the adopted one counts");
    }

    #[test]
    fn a_set_that_has_what_it_wants_writes_nothing() {
        let set = replica_set("web-1", "web", 1);
        let own = [owned("a", &set)];
        let actions = call(&set, &own);
        let [Action::UpdateStatus(current)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(current["status"]["readyReplicas"], 1);
        assert_eq!(call(current, &own), []);
    }

    #[test]
    fn a_deleted_set_creates_nothing() {
        let set = with(replica_set("web-1", "web", 3), |s| {
            s["metadata"]["deletionTimestamp"] = json!("t");
        });
        assert_eq!(counts(&call(&set, &[])), (0, vec![]));
    }
}
