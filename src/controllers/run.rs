//! The loop: what is new goes into the world, what it concerns is looked at, and differences are written.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use sluice_cluster::api::{ApiError, ApiServer, Deletion, Feed, Key, Resource};

use crate::action::{Action, Event};
use crate::concern::{self, Task};
use crate::fields::{is_controlled_by, name, namespace, uid};
use crate::world::World;
use crate::{deployment, endpoint_slice, garbage, replica_set, scheduler};

/// What controllers look at.
const RESOURCES: [Resource; 6] = [
    Resource::Nodes,
    Resource::Services,
    Resource::Deployments,
    Resource::ReplicaSets,
    Resource::Pods,
    Resource::EndpointSlices,
];

/// Controllers that run on a thread of their own. Dropping this ends them.
#[derive(Debug)]
pub struct Controllers {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Controllers {
    /// Starts them.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(api: Arc<ApiServer>) -> io::Result<Controllers> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let feed = api.feed(&RESOURCES);
        let mut state = State { api, feed, world: World::default(), tasks: BTreeSet::new() };
        let run = async move {
            loop {
                state.work();
                tokio::select! {
                    () = stopped.cancelled() => return,
                    () = state.feed.changed() => {}
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("lab-controllers".to_owned())
            .spawn(move || runtime.block_on(run))?;
        Ok(Controllers { stop, thread: Some(thread) })
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already.
            let _ = thread.join();
        }
    }
}

struct State {
    api: Arc<ApiServer>,
    feed: Feed,
    world: World,
    tasks: BTreeSet<Task>,
}

impl State {
    /// Works until nothing is left to do. What was written is looked at before the next task: no task sees a world
    /// without the writes of the one before.
    fn work(&mut self) {
        loop {
            for notice in self.feed.take() {
                if let Some(change) = self.world.apply(&notice) {
                    self.tasks.extend(concern::tasks(&self.world, &change));
                }
            }
            let Some(task) = self.tasks.pop_first() else { return };
            let now = now();
            for action in self.actions(&task, &now) {
                if let Err(error) = self.execute(action, &now) {
                    report(&task, &error);
                }
            }
        }
    }

    fn actions(&self, task: &Task, now: &str) -> Vec<Action> {
        match task {
            Task::Deployment(key) => self.deployment(key, now),
            Task::ReplicaSet(key) => self.replica_set(key),
            Task::Schedule(key) => self.with(Resource::Pods, key, |pod| {
                let nodes = self.world.all(Resource::Nodes).map(|node| &**node);
                let pods = self.world.all(Resource::Pods).map(|pod| &**pod);
                scheduler::reconcile(pod, nodes, pods, now)
            }),
            Task::Slices(key) => self.slices(key, now),
            Task::Garbage(resource, key) => self.with(*resource, key, |object| {
                garbage::reconcile(*resource, object, |uid| self.world.has(uid))
            }),
            Task::Finalize(resource, key) => self.with(*resource, key, |object| {
                let dependents = self.world.dependents(uid(object));
                garbage::finalize(
                    object,
                    dependents.map(|(resource, object)| (resource, &**object)),
                )
            }),
        }
    }

    fn with(
        &self,
        resource: Resource,
        key: &Key,
        reconcile: impl FnOnce(&Value) -> Vec<Action>,
    ) -> Vec<Action> {
        self.world.get(resource, key).map(|object| reconcile(object)).unwrap_or_default()
    }

    fn deployment(&self, key: &Key, now: &str) -> Vec<Action> {
        self.with(Resource::Deployments, key, |object| {
            let dependents = self.world.dependents(uid(object));
            let sets: Vec<&Value> = dependents
                .filter(|(resource, set)| {
                    *resource == Resource::ReplicaSets && is_controlled_by(set, uid(object))
                })
                .map(|(_, set)| &**set)
                .collect();
            deployment::reconcile(object, &sets, now)
        })
    }

    fn replica_set(&self, key: &Key) -> Vec<Action> {
        self.with(Resource::ReplicaSets, key, |set| {
            let pods = self.world.within(Resource::Pods, &key.namespace);
            replica_set::reconcile(set, pods.map(|pod| &**pod))
        })
    }

    fn slices(&self, key: &Key, now: &str) -> Vec<Action> {
        self.with(Resource::Services, key, |service| {
            let dependents = self.world.dependents(uid(service));
            let slices: Vec<&Value> = dependents
                .filter(|(resource, _)| *resource == Resource::EndpointSlices)
                .map(|(_, slice)| &**slice)
                .collect();
            let pods = self.world.within(Resource::Pods, &key.namespace);
            let node = |name: &str| {
                self.world.get(Resource::Nodes, &Key::new("", name)).map(|node| &**node)
            };
            endpoint_slice::reconcile(service, pods.map(|pod| &**pod), &slices, node, now)
        })
    }

    fn execute(&self, action: Action, now: &str) -> Result<(), ApiError> {
        match action {
            Action::Create(object) => self.api.create(&object).map(drop),
            Action::Update(object) => self.api.update(&object).map(drop),
            Action::UpdateStatus(object) => self.api.update_status(&object).map(drop),
            Action::Delete { resource, object } => {
                let uid = Some(uid(&object).to_owned());
                let mut deletion = Deletion::default();
                deletion.preconditions.uid = uid;
                let (namespace, name) = (namespace(&object), name(&object));
                self.api.delete_if(resource, namespace, name, &deletion).map(drop)
            }
            Action::CreatePod { pod, owner } => {
                let created = self.api.create(&pod)?;
                let message = format!("Created pod: {}", created.key.name);
                let event = Event::normal(&owner, replica_set::BY, "SuccessfulCreate", message);
                self.api.create(&event.object(now)).map(drop)
            }
            Action::Tell(event) => self.api.create(&event.object(now)).map(drop),
        }
    }
}

/// What was changed or removed meanwhile is looked at again by itself.
fn report(task: &Task, error: &ApiError) {
    match error {
        ApiError::Conflict { .. } | ApiError::NotFound { .. } | ApiError::AlreadyExists { .. } => {
            tracing::debug!(?task, %error, "somebody else was faster");
        }
        _ => tracing::warn!(?task, %error, "the API server refuses what a controller writes"),
    }
}

/// The time in the API's form.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
