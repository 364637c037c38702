//! The scheduler: a node for each Pod that has none (`pkg/scheduler`, its filters NodeName, NodeAffinity for
//! `nodeSelector`, and NodeUnschedulable).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::action::{Action, Event, status_update};
use crate::fields::{
    controller, dated, has_labels, is_active, is_deleted, is_over, is_true, list, name, namespace,
    text,
};

/// Who tells of Pods that got a node, or none.
pub const BY: &str = "default-scheduler";

/// Why a node does not take a Pod, in the scheduler's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    Selector,
    NotReady,
    Cordoned,
}

impl Refusal {
    fn words(self) -> &'static str {
        match self {
            Refusal::Selector => "didn't match Pod's node affinity/selector",
            Refusal::NotReady => "had untolerated taint(s)",
            Refusal::Cordoned => "were unschedulable",
        }
    }
}

/// Whether the scheduler has to look for a node.
pub fn is_waiting(pod: &Value) -> bool {
    text(&pod["spec"]["nodeName"]).is_empty() && !is_deleted(pod) && !is_over(pod)
}

/// Binds a Pod to a node, or says why there is none.
pub fn reconcile<'a>(
    pod: &Value,
    nodes: impl Iterator<Item = &'a Value>,
    pods: impl Iterator<Item = &'a Value>,
    now: &str,
) -> Vec<Action> {
    if !is_waiting(pod) {
        return Vec::new();
    }
    let nodes: Vec<&Value> = nodes.collect();
    let mut refusals: BTreeMap<Refusal, usize> = BTreeMap::new();
    let fitting: Vec<&Value> = nodes
        .iter()
        .copied()
        .filter(|node| match refusal(pod, node) {
            Some(refusal) => {
                *refusals.entry(refusal).or_default() += 1;
                false
            }
            None => true,
        })
        .collect();
    match emptiest(pod, &fitting, pods) {
        Some(node) => bind(pod, node, now),
        None => wait(pod, nodes.len(), &refusals, now),
    }
}

fn refusal(pod: &Value, node: &Value) -> Option<Refusal> {
    if !has_labels(node, &pod["spec"]["nodeSelector"]) {
        Some(Refusal::Selector)
    } else if node["spec"]["unschedulable"] == true && !tolerates_cordon(pod) {
        Some(Refusal::Cordoned)
    } else if !is_true(node, "Ready") {
        Some(Refusal::NotReady)
    } else {
        None
    }
}

fn tolerates_cordon(pod: &Value) -> bool {
    list(&pod["spec"]["tolerations"]).iter().any(|toleration| {
        let key = text(&toleration["key"]);
        let any = key.is_empty() && toleration["operator"] == "Exists";
        any || key == "node.kubernetes.io/unschedulable"
    })
}

/// The node with the fewest Pods of the same controller, then with the fewest Pods.
fn emptiest<'a>(
    pod: &Value,
    nodes: &[&'a Value],
    pods: impl Iterator<Item = &'a Value>,
) -> Option<&'a str> {
    let owner = controller(pod).map(|owner| &owner["uid"]);
    let mut counts: BTreeMap<&str, (usize, usize)> =
        nodes.iter().map(|node| (name(node), (0, 0))).collect();
    for other in pods.filter(|other| is_active(other)) {
        if let Some((siblings, all)) = counts.get_mut(text(&other["spec"]["nodeName"])) {
            let sibling = owner.is_some() && controller(other).map(|owner| &owner["uid"]) == owner;
            *siblings += usize::from(sibling);
            *all += 1;
        }
    }
    counts.into_iter().min_by_key(|(_, counts)| *counts).map(|(name, _)| name)
}

fn bind(pod: &Value, node: &str, now: &str) -> Vec<Action> {
    let mut bound = pod.clone();
    bound["spec"]["nodeName"] = json!(node);
    let message = format!("Successfully assigned {}/{} to {node}", namespace(pod), name(pod));
    let condition = json!({"type": "PodScheduled", "status": "True"});
    // The status first: once the Pod has a node, its status is the kubelet's. The second write is on top of the first
    // and names no version.
    let mut actions: Vec<Action> = with_condition(pod, condition, now).into_iter().collect();
    bound["metadata"]["resourceVersion"] = json!("");
    actions.push(Action::Update(bound));
    actions.push(Action::Tell(Event::normal(pod, BY, "Scheduled", message)));
    actions
}

fn wait(pod: &Value, nodes: usize, refusals: &BTreeMap<Refusal, usize>, now: &str) -> Vec<Action> {
    let why: Vec<String> = refusals
        .iter()
        .map(|(refusal, count)| format!("{count} node(s) {}", refusal.words()))
        .collect();
    let message = match nodes {
        0 => "no nodes available to schedule pods".to_owned(),
        _ => format!("0/{nodes} nodes are available: {}.", why.join(", ")),
    };
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
    });
    let Some(update) = with_condition(pod, condition, now) else { return Vec::new() };
    vec![update, Action::Tell(Event::warning(pod, BY, "FailedScheduling", message))]
}

fn with_condition(pod: &Value, condition: Value, now: &str) -> Option<Action> {
    let kind = condition["type"].clone();
    let mut conditions: Vec<Value> = list(&pod["status"]["conditions"]).to_vec();
    conditions.retain(|other| other["type"] != kind);
    conditions.push(dated(pod, condition, now));
    let mut status = pod["status"].clone();
    status["conditions"] = json!(conditions);
    status_update(pod, status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node, pod, with};

    fn waiting() -> Value {
        with(pod("new", "web", ""), |p| p["status"] = json!({"phase": "Pending"}))
    }

    fn chosen(pod: &Value, nodes: &[Value], pods: &[Value]) -> String {
        let actions = reconcile(pod, nodes.iter(), pods.iter(), "t");
        let Some(Action::Tell(event)) = actions.last() else { panic!("{actions:?}") };
        let bound = actions.iter().find_map(|action| match action {
            Action::Update(bound) => Some(text(&bound["spec"]["nodeName"]).to_owned()),
            _ => None,
        });
        bound.unwrap_or_else(|| event.message.clone())
    }

    #[test]
    fn the_node_with_the_fewest_pods_is_chosen() {
        let nodes = [node("node-a", "a"), node("node-b", "b")];
        let on_a = pod("x", "other", "node-a");
        assert_eq!(chosen(&waiting(), &nodes, &[]), "node-a");
        assert_eq!(chosen(&waiting(), &nodes, std::slice::from_ref(&on_a)), "node-b");
        let owned = |pod: Value| {
            with(pod, |p| {
                p["metadata"]["ownerReferences"] = json!([{"uid": "set", "controller": true}]);
            })
        };
        let sibling = owned(pod("y", "web", "node-b"));
        let pods = [on_a, sibling, pod("z", "other", "node-a")];
        let found = chosen(&owned(waiting()), &nodes, &pods);
        assert_eq!(found, "node-a", "siblings are spread first");
    }

    #[test]
    fn without_a_fitting_node_the_pod_says_why() {
        let cordoned = with(node("node-a", "a"), |n| n["spec"]["unschedulable"] = json!(true));
        let unready = with(node("node-b", "b"), |n| n["status"]["conditions"] = json!([]));
        let nodes = [cordoned, unready, node("node-c", "c")];
        let here = |key: &str, value: &str| {
            with(waiting(), |p| p["spec"]["nodeSelector"] = json!({key: value}))
        };
        let zone = "topology.kubernetes.io/zone";
        assert_eq!(chosen(&here(zone, "c"), &nodes, &[]), "node-c");
        let expected =
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
        assert_eq!(chosen(&here(zone, "x"), &nodes, &[]), expected);
        let expected = "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.";
        assert_eq!(chosen(&waiting(), &nodes[..2], &[]), expected);
        let tolerant =
            with(waiting(), |p| p["spec"]["tolerations"] = json!([{"operator": "Exists"}]));
        assert_eq!(chosen(&tolerant, &nodes[..2], &[]), "node-a");
        let none = "no nodes available to schedule pods";
        assert_eq!(chosen(&waiting(), &[], &[]), none);
    }

    #[test]
    fn a_pod_that_still_finds_no_node_is_not_written_again() {
        let actions = reconcile(&waiting(), [].iter(), [].iter(), "t");
        let Action::UpdateStatus(told) = &actions[0] else { panic!("{actions:?}") };
        assert_eq!(reconcile(told, [].iter(), [].iter(), "later"), []);
        assert_eq!(reconcile(&pod("a", "web", "node-a"), [].iter(), [].iter(), "t"), []);
    }
}
