//! Which controllers a change concerns: the work follows the change, not the cluster.

use serde_json::Value;

use sluice_cluster::api::{Key, Resource};

use crate::endpoint_slice::SERVICE_NAME;
use crate::fields::{
    controller, has_labels, is_deleted, list, name, namespace, selects, text, uid,
};
use crate::scheduler::is_waiting;
use crate::world::{Change, World};

/// What has to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// A Deployment.
    Deployment(Key),
    /// A ReplicaSet.
    ReplicaSet(Key),
    /// A Pod without a node.
    Schedule(Key),
    /// The EndpointSlices of a Service.
    Slices(Key),
    /// An object whose owners may be gone.
    Garbage(Resource, Key),
    /// A deletion that waits for dependents.
    Finalize(Resource, Key),
}

/// What a change concerns.
pub fn tasks(world: &World, change: &Change) -> Vec<Task> {
    let mut tasks = Vec::new();
    for object in change.now.iter().chain(&change.before) {
        of_owner(object, &mut tasks);
        match change.resource {
            Resource::Deployments => tasks.push(Task::Deployment(change.key.clone())),
            Resource::ReplicaSets => tasks.push(Task::ReplicaSet(change.key.clone())),
            Resource::Services => tasks.push(Task::Slices(change.key.clone())),
            Resource::EndpointSlices => {
                let service = text(&object["metadata"]["labels"][SERVICE_NAME]);
                tasks.push(Task::Slices(Key::new(&change.key.namespace, service)));
            }
            Resource::Pods => of_pod(world, object, &mut tasks),
            _ => {}
        }
    }
    match &change.now {
        Some(now) => {
            if is_deleted(now) {
                tasks.push(Task::Finalize(change.resource, change.key.clone()));
            }
            if !list(&now["metadata"]["ownerReferences"]).is_empty() && change.before.is_none() {
                tasks.push(Task::Garbage(change.resource, change.key.clone()));
            }
        }
        None => of_removed(world, change, &mut tasks),
    }
    if change.resource == Resource::Nodes {
        of_node(world, change, &mut tasks);
    }
    tasks.sort();
    tasks.dedup();
    tasks
}

/// The controller of an object counts it, and an owner that is being deleted waits for it.
fn of_owner(object: &Value, tasks: &mut Vec<Task>) {
    for owner in list(&object["metadata"]["ownerReferences"]) {
        let key = Key::new(namespace(object), text(&owner["name"]));
        let kind = Resource::of_kind(text(&owner["apiVersion"]), text(&owner["kind"]));
        match kind {
            Some(Resource::Deployments) => tasks.push(Task::Deployment(key.clone())),
            Some(Resource::ReplicaSets) => tasks.push(Task::ReplicaSet(key.clone())),
            _ => {}
        }
        tasks.extend(kind.map(|kind| Task::Finalize(kind, key)));
    }
}

fn of_pod(world: &World, pod: &Value, tasks: &mut Vec<Task>) {
    let within = namespace(pod);
    for service in world.within(Resource::Services, within) {
        let selector = &service["spec"]["selector"];
        if !selector.is_null() && has_labels(pod, selector) {
            tasks.push(Task::Slices(Key::new(within, name(service))));
        }
    }
    if is_waiting(pod) {
        tasks.push(Task::Schedule(Key::new(within, name(pod))));
    }
    if controller(pod).is_none() {
        for set in world.within(Resource::ReplicaSets, within) {
            if selects(&set["spec"]["selector"], pod) {
                tasks.push(Task::ReplicaSet(Key::new(within, name(set))));
            }
        }
    }
}

fn of_removed(world: &World, change: &Change, tasks: &mut Vec<Task>) {
    let Some(before) = &change.before else { return };
    let dependents = world.dependents(uid(before));
    tasks.extend(dependents.map(|(resource, object)| {
        Task::Garbage(resource, Key::new(namespace(object), name(object)))
    }));
}

/// A node that changed may take Pods that wait, and its zone is that of its endpoints.
fn of_node(world: &World, change: &Change, tasks: &mut Vec<Task>) {
    let waiting = world.all(Resource::Pods).filter(|pod| is_waiting(pod));
    tasks.extend(waiting.map(|pod| Task::Schedule(Key::new(namespace(pod), name(pod)))));
    let labels = |node: &Option<std::sync::Arc<Value>>| {
        node.as_ref().map(|node| node["metadata"]["labels"].clone())
    };
    if labels(&change.now) != labels(&change.before) {
        let services = world.all(Resource::Services);
        tasks.extend(services.map(|s| Task::Slices(Key::new(namespace(s), name(s)))));
    }
}
