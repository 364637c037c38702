//! The objects, their versions, and what happened to them lately.
//!
//! One counter numbers all writes, as etcd's revision does. Each resource keeps its last events in
//! a bounded ring. Watchers hold a position in it and read at their own pace, so a slow watcher
//! costs a writer nothing: one that falls out of the ring is told 410, like a client that comes
//! back too late. The ring also holds what was there before each event, so that a paged list can
//! be answered as of the version at which it began.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::alloc::Allocator;
use super::options::PodsEnd;
use super::protobuf;
use super::resources::Resource;
use super::status::ApiError;

/// Where an object is: collections are sorted by it, as etcd sorts its keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key {
    /// Namespace, empty for objects of the cluster.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of `namespace/name`; `namespace` is empty for objects of the cluster.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// One version of a stored object. It is kept as the bytes that clients get, plus what selectors
/// look at, since 60,000 parsed objects would take ten times the memory.
#[derive(Debug)]
pub struct Object {
    /// What it is.
    pub resource: Resource,
    /// Where it is.
    pub key: Key,
    /// Its `resourceVersion`.
    pub version: u64,
    /// When this version was written.
    pub written: Instant,
    labels: Vec<(String, String)>,
    json: Bytes,
    /// The same in protobuf, once it was asked for.
    message: OnceLock<Vec<u8>>,
}

impl Object {
    /// Makes a version of an object out of its value, which gets the version's number.
    pub(super) fn new(resource: Resource, mut value: Value, version: u64) -> Object {
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default();
        let labels = value["metadata"]["labels"].as_object().map_or_else(Vec::new, |labels| {
            labels
                .iter()
                .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
                .collect()
        });
        Object {
            resource,
            key: Key::new(text("namespace"), text("name")),
            version,
            written: Instant::now(),
            labels,
            json: Bytes::from(value.to_string()),
            message: OnceLock::new(),
        }
    }

    /// The object as JSON text.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The object as a protobuf message, without its envelope.
    pub fn message(&self) -> &[u8] {
        self.message.get_or_init(|| protobuf::message(self.resource, &self.value()))
    }

    /// The object, parsed at each call.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The same object under another version's number, for events.
    pub(super) fn renumbered(&self, version: u64) -> Object {
        Object::new(self.resource, self.value(), version)
    }
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One entry of a resource's history.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) change: Change,
    pub(super) object: Arc<Object>,
    pub(super) previous: Option<Arc<Object>>,
}

/// The objects of one resource, in order.
pub(super) type Objects = BTreeMap<Key, Arc<Object>>;

#[derive(Debug, Default)]
struct Collection {
    objects: Objects,
    history: VecDeque<Event>,
    /// Version of the newest event that is no longer in `history`.
    compacted: u64,
}

/// Everything that a write may change; see [`Store`] for how it is shared.
#[derive(Debug)]
pub(super) struct State {
    version: u64,
    collections: HashMap<Resource, Collection>,
    history_limit: usize,
    /// Addresses and node ports that Services hold.
    pub(super) allocator: Allocator,
    /// When a deleted Pod is gone.
    pub(super) pods_end: PodsEnd,
    /// What each field manager last applied to an object, so that a field which it leaves out of
    /// its next apply is removed.
    pub(super) applied: HashMap<(Resource, Key, String), Value>,
}

impl State {
    /// The version of the newest write.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The objects of a resource.
    pub(super) fn objects(&self, resource: Resource) -> &Objects {
        static NONE: Objects = Objects::new();
        self.collections.get(&resource.stored_as()).map_or(&NONE, |c| &c.objects)
    }

    /// One object.
    pub(super) fn get(&self, resource: Resource, key: &Key) -> Result<&Arc<Object>, ApiError> {
        self.objects(resource)
            .get(key)
            .ok_or_else(|| ApiError::NotFound { resource, name: key.name.clone() })
    }

    /// Writes an object, whether it is there already or not.
    pub(super) fn put(&mut self, resource: Resource, value: Value) -> Arc<Object> {
        self.version += 1;
        let resource = resource.stored_as();
        let object = Arc::new(Object::new(resource, value, self.version));
        let collection = self.collections.entry(resource).or_default();
        let previous = collection.objects.insert(object.key.clone(), Arc::clone(&object));
        let change = if previous.is_some() { Change::Modified } else { Change::Added };
        self.record(resource, change, Arc::clone(&object), previous);
        object
    }

    /// Removes an object. The result is its last state under the version of the removal.
    pub(super) fn remove(&mut self, resource: Resource, key: &Key) -> Option<Arc<Object>> {
        let resource = resource.stored_as();
        let previous = self.collections.get_mut(&resource)?.objects.remove(key)?;
        self.version += 1;
        let object = Arc::new(previous.renumbered(self.version));
        self.record(resource, Change::Deleted, Arc::clone(&object), Some(previous));
        self.applied.retain(|(r, k, _), _| *r != resource || k != key);
        Some(object)
    }

    fn record(
        &mut self,
        resource: Resource,
        change: Change,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
    ) {
        let collection = self.collections.entry(resource).or_default();
        let version = object.version;
        collection.history.push_back(Event { version, change, object, previous });
        while collection.history.len() > self.history_limit {
            if let Some(event) = collection.history.pop_front() {
                collection.compacted = event.version;
            }
        }
    }

    /// Forgets the history of all resources, as etcd's compaction does: older versions are 410
    /// from now on.
    pub(super) fn compact(&mut self) {
        for resource in Resource::ALL {
            let collection = self.collections.entry(resource).or_default();
            collection.history.clear();
            collection.compacted = self.version;
        }
    }

    /// The objects of a resource as they were at a version.
    pub(super) fn at(&self, resource: Resource, version: u64) -> Option<Objects> {
        let Some(collection) = self.collections.get(&resource.stored_as()) else {
            return Some(Objects::new());
        };
        if version < collection.compacted {
            return None;
        }
        let mut objects = collection.objects.clone();
        for event in collection.history.iter().rev().take_while(|e| e.version > version) {
            match &event.previous {
                Some(previous) => {
                    objects.insert(previous.key.clone(), Arc::clone(previous));
                }
                None => {
                    objects.remove(&event.object.key);
                }
            }
        }
        Some(objects)
    }

    /// What happened to a resource after a version, oldest first and at most `limit` events.
    pub(super) fn events_after(
        &self,
        resource: Resource,
        version: u64,
        limit: usize,
    ) -> Result<Vec<Event>, ApiError> {
        let Some(collection) = self.collections.get(&resource.stored_as()) else {
            return Ok(Vec::new());
        };
        if version < collection.compacted {
            let oldest = collection.compacted;
            let message = format!("too old resource version: {version} ({oldest})");
            return Err(ApiError::Expired(message));
        }
        let start = collection.history.partition_point(|e| e.version <= version);
        Ok(collection.history.range(start..).take(limit).cloned().collect())
    }
}

/// The state behind its lock, and the signal that it has changed.
#[derive(Debug)]
pub(super) struct Store {
    state: Mutex<State>,
    newest: watch::Sender<u64>,
}

impl Store {
    /// An empty store that keeps `history_limit` events per resource.
    pub(super) fn new(history_limit: usize, pods_end: PodsEnd, allocator: Allocator) -> Store {
        let state = State {
            version: 0,
            collections: HashMap::new(),
            history_limit,
            allocator,
            pods_end,
            applied: HashMap::new(),
        };
        Store { state: Mutex::new(state), newest: watch::Sender::new(0) }
    }

    /// The state, for reading. No caller may wait for anything while it holds this.
    pub(super) fn read(&self) -> MutexGuard<'_, State> {
        // Writers change the state only after their checks, so a panic leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes the watchers.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.read();
        let result = change(&mut state);
        let version = state.version;
        drop(state);
        self.newest.send_if_modified(|newest| {
            let grown = version > *newest;
            *newest = version.max(*newest);
            grown
        });
        result
    }

    /// A signal that fires after each write.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}
