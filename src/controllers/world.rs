//! The objects that controllers look at, kept current by the store's notices, with what owns what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use sluice_cluster::api::{Key, Notice, Resource};

use crate::fields::{list, text, uid};

/// Where an object is.
pub type Place = (Resource, Key);

/// The objects.
#[derive(Debug, Default)]
pub struct World {
    objects: BTreeMap<Resource, BTreeMap<Key, Arc<Value>>>,
    /// Which objects name a uid as an owner.
    dependents: BTreeMap<String, BTreeSet<Place>>,
    /// The uids that are there.
    places: BTreeMap<String, Place>,
}

/// What happened to an object, parsed.
#[derive(Debug, Clone)]
pub struct Change {
    /// What it is.
    pub resource: Resource,
    /// Where it is.
    pub key: Key,
    /// The object now; nothing if it was removed.
    pub now: Option<Arc<Value>>,
    /// The object before; nothing if it is new.
    pub before: Option<Arc<Value>>,
}

impl World {
    /// Takes a notice in, and gives what it changed.
    pub fn apply(&mut self, notice: &Notice) -> Option<Change> {
        let key = notice.now.as_ref().or(notice.before.as_ref())?.key.clone();
        let now = notice.now.as_ref().map(|object| Arc::new(object.value()));
        Some(self.set(notice.resource, key, now))
    }

    /// Puts an object in, or takes it out.
    pub fn set(&mut self, resource: Resource, key: Key, now: Option<Arc<Value>>) -> Change {
        let objects = self.objects.entry(resource).or_default();
        let before = match &now {
            Some(now) => objects.insert(key.clone(), Arc::clone(now)),
            None => objects.remove(&key),
        };
        let place = (resource, key.clone());
        if let Some(before) = &before {
            self.places.remove(uid(before));
            for owner in owners(before) {
                if let Some(places) = self.dependents.get_mut(owner) {
                    places.remove(&place);
                    if places.is_empty() {
                        self.dependents.remove(owner);
                    }
                }
            }
        }
        if let Some(now) = &now {
            self.places.insert(uid(now).to_owned(), place.clone());
            for owner in owners(now) {
                self.dependents.entry(owner.to_owned()).or_default().insert(place.clone());
            }
        }
        Change { resource, key, now, before }
    }

    /// One object.
    pub fn get(&self, resource: Resource, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&resource)?.get(key)
    }

    /// The objects of a resource in a namespace.
    pub fn within<'a>(
        &'a self,
        resource: Resource,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Value>> {
        let from = Key::new(namespace, "");
        let objects = self.objects.get(&resource).into_iter();
        let objects = objects.flat_map(move |objects| objects.range(from.clone()..));
        objects.take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }

    /// All objects of a resource.
    pub fn all(&self, resource: Resource) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.get(&resource).into_iter().flat_map(BTreeMap::values)
    }

    /// The objects that name a uid as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = (Resource, &Arc<Value>)> {
        let places = self.dependents.get(uid).into_iter().flatten();
        places.filter_map(|(resource, key)| Some((*resource, self.get(*resource, key)?)))
    }

    /// Whether an object with this uid is there.
    pub fn has(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    list(&object["metadata"]["ownerReferences"]).iter().map(|owner| text(&owner["uid"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dependents_follow_their_objects() {
        let mut world = World::default();
        let pod = |owner: &str| {
            let owners = json!([{"uid": owner}]);
            Some(Arc::new(json!({"metadata": {"uid": "p", "ownerReferences": owners}})))
        };
        let key = Key::new("a", "p");
        world.set(Resource::Pods, key.clone(), pod("one"));
        assert_eq!(world.dependents("one").count(), 1);
        world.set(Resource::Pods, key.clone(), pod("two"));
        assert_eq!((world.dependents("one").count(), world.dependents("two").count()), (0, 1));
        assert!(world.has("p"));
        let change = world.set(Resource::Pods, key, None);
        assert!(change.before.is_some() && !world.has("p"));
        assert_eq!(world.dependents("two").count(), 0);
        assert_eq!(world.dependents.len(), 0, "nothing stays behind");
    }

    #[test]
    fn a_namespace_has_its_own_objects_only() {
        let mut world = World::default();
        for (namespace, name) in [("a", "x"), ("a", "y"), ("ab", "x"), ("b", "x")] {
            let object = json!({"metadata": {"uid": format!("{namespace}/{name}")}});
            world.set(Resource::Pods, Key::new(namespace, name), Some(Arc::new(object)));
        }
        assert_eq!(world.within(Resource::Pods, "a").count(), 2);
        assert_eq!(world.all(Resource::Pods).count(), 4);
    }
}
