//! Create, update, patch and delete: what the API server does between a request and the store.

use std::sync::Arc;

use serde_json::{Value, json};

use super::admission::{admit, release};
use super::events::{to_shown, to_stored};
use super::identity::{self, Preconditions};
use super::options::PodsEnd;
use super::patch::Patch;
use super::resources::Resource;
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Key, Object, State};

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status, where the resource has a path of its own for that.
    Whole,
    /// The status (`…/status`).
    Status,
}

/// Whether a write is to last (`dryRun=All`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persist {
    Yes,
    DryRun,
}

/// The outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Created,
    Updated,
}

/// The object that a request names.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) resource: Resource,
    pub(super) key: Key,
    pub(super) part: Part,
}

/// Creates an object. `namespace` is that of the path, if there is one.
pub(super) fn create(
    state: &mut State,
    resource: Resource,
    namespace: Option<&str>,
    value: Value,
    persist: Persist,
) -> Result<Arc<Object>, ApiError> {
    let mut new = to_stored(resource, value);
    let key = identity::for_create(resource, namespace, &mut new)?;
    if state.get(resource, &key).is_ok() {
        return Err(ApiError::AlreadyExists { resource, name: key.name });
    }
    if resource.is_namespaced() {
        let namespace = state.get(Resource::Namespaces, &Key::new("", &key.namespace))?.value();
        if !namespace["metadata"]["deletionTimestamp"].is_null() {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                key.namespace
            );
            return Err(ApiError::Refused { resource, name: key.name, why });
        }
    }
    identity::stamp(resource, &mut new);
    store(state, resource, &key, new, None, persist)
}

/// Admits an object and stores it; a dry run leaves no trace.
fn store(
    state: &mut State,
    resource: Resource,
    key: &Key,
    mut new: Value,
    old: Option<&Value>,
    persist: Persist,
) -> Result<Arc<Object>, ApiError> {
    let before = (persist == Persist::DryRun).then(|| state.allocator.clone());
    let admitted = admit(state, resource, &mut new, old);
    if let Some(allocator) = before {
        state.allocator = allocator;
    }
    admitted.map_err(|causes| ApiError::invalid(resource, &key.name, causes))?;
    if let Some(old) = old {
        identity::set_generation(resource, &mut new, old);
        if new == *old {
            return state.get(resource, key).map(Arc::clone);
        }
    }
    if persist == Persist::DryRun {
        let version = old.and_then(identity::version_of).unwrap_or_default();
        return Ok(Arc::new(Object::new(resource.stored_as(), new, version)));
    }
    let object = state.put(resource, new);
    refresh_ranges(state, resource);
    Ok(object)
}

/// ServiceCIDR objects say which cluster IPs there are.
fn refresh_ranges(state: &mut State, resource: Resource) {
    if resource == Resource::ServiceCidrs {
        let ranges = super::admission::service_ranges(state);
        state.allocator.set_ranges(ranges);
    }
}

/// Replaces an object.
pub(super) fn update(
    state: &mut State,
    target: &Target,
    value: Value,
    persist: Persist,
) -> Result<(Arc<Object>, Outcome), ApiError> {
    let Target { resource, key, part } = target;
    let mut new = to_stored(*resource, value);
    let Ok(current) = state.get(*resource, key).map(Arc::clone) else {
        let upsert = matches!(resource.stored_as(), Resource::Services | Resource::Events);
        if !upsert || *part == Part::Status {
            return Err(ApiError::NotFound { resource: *resource, name: key.name.clone() });
        }
        new["metadata"]["name"] = json!(key.name);
        let created = create(state, resource.stored_as(), Some(&key.namespace), new, persist)?;
        return Ok((created, Outcome::Created));
    };
    let old = current.value();
    identity::for_update(*resource, key, &mut new, &old)?;
    keep_other_part(*resource, *part, &mut new, &old);
    if is_finished(&new) {
        let object = finish_deletion(state, *resource, key, persist).unwrap_or(current);
        return Ok((object, Outcome::Updated));
    }
    let object = store(state, *resource, key, new, Some(&old), persist)?;
    Ok((object, Outcome::Updated))
}

/// A write to the object leaves its status alone and the other way round.
fn keep_other_part(resource: Resource, part: Part, new: &mut Value, old: &Value) {
    if !resource.has_status() {
        return;
    }
    let kept = match part {
        Part::Whole => "status",
        Part::Status => "spec",
    };
    if let Some(fields) = new.as_object_mut() {
        fields.remove(kept);
        if let Some(value) = old.get(kept) {
            fields.insert(kept.to_owned(), value.clone());
        }
    }
}

/// Changes an object, or creates it by apply; `check` may refuse or correct what comes out.
pub(super) fn patch(
    state: &mut State,
    target: &Target,
    patch: &Patch,
    persist: Persist,
    check: impl FnOnce(&mut Value) -> Result<(), ApiError>,
) -> Result<(Arc<Object>, Outcome), ApiError> {
    let Target { resource, key, .. } = target;
    let memory = match patch {
        Patch::Apply { manager, .. } => {
            Some((resource.stored_as(), key.clone(), format!("{manager}/{:?}", target.part)))
        }
        _ => None,
    };
    let result = match (state.get(*resource, key).map(|o| o.value()), patch) {
        (Ok(old), _) => {
            let remembered = memory.as_ref().and_then(|m| state.applied.get(m)).cloned();
            let last = remembered.or_else(|| applied_by_client(&old, patch));
            let shown = to_shown(*resource, &old);
            let mut new = patch.apply_to(&shown, resource.info().kind, last.as_ref())?;
            check(&mut new)?;
            update(state, target, new, persist)
        }
        (Err(_), Patch::Apply { fields, .. }) if target.part == Part::Whole => {
            let mut new = fields.clone();
            new["metadata"]["name"] = json!(key.name);
            check(&mut new)?;
            let namespace = resource.is_namespaced().then_some(key.namespace.as_str());
            create(state, *resource, namespace, new, persist).map(|o| (o, Outcome::Created))
        }
        (Err(error), _) => Err(error),
    }?;
    if let (Some(memory), Patch::Apply { fields, .. }, Persist::Yes) = (memory, patch, persist) {
        state.applied.insert(memory, fields.clone());
    }
    Ok(result)
}

/// The object of an earlier client-side `kubectl apply`: the same manager, so that the
/// fields that it leaves out now are removed.
fn applied_by_client(old: &Value, patch: &Patch) -> Option<Value> {
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    match patch {
        Patch::Apply { manager, .. } if manager == "kubectl" => {
            serde_json::from_str(old["metadata"]["annotations"][annotation].as_str()?).ok()
        }
        _ => None,
    }
}

/// Whether a deleted object may go: nothing holds it, and no kubelet still ends it.
fn is_finished(value: &Value) -> bool {
    let metadata = &value["metadata"];
    let ending = metadata["deletionGracePeriodSeconds"].as_u64().is_some_and(|grace| grace > 0);
    !metadata["deletionTimestamp"].is_null() && !has_finalizers(value) && !ending
}

fn has_finalizers(value: &Value) -> bool {
    value["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

/// What becomes of the objects that an object owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cascade {
    /// They are deleted after it.
    #[default]
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// Options of a deletion (`DeleteOptions`).
#[derive(Debug, Clone, Default)]
pub struct Deletion {
    /// What must hold.
    pub preconditions: Preconditions,
    /// How long a Pod has to end; its own period if unset.
    pub grace_seconds: Option<u64>,
    /// What becomes of its dependents.
    pub cascade: Cascade,
}

impl Deletion {
    /// At once, and only if the object is still this one.
    pub fn now(uid: &str) -> Deletion {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), version: None };
        Deletion { preconditions, grace_seconds: Some(0), cascade: Cascade::Background }
    }

    /// Adds the finalizer by which the garbage collector learns of the kind of deletion.
    fn leave_to_collector(&self, value: &mut Value) {
        let name = match self.cascade {
            Cascade::Background => return,
            Cascade::Foreground => "foregroundDeletion",
            Cascade::Orphan => "orphan",
        };
        if !value["metadata"]["finalizers"].is_array() {
            value["metadata"]["finalizers"] = json!([]);
        }
        if let Some(list) = value["metadata"]["finalizers"].as_array_mut()
            && !list.contains(&json!(name))
        {
            list.push(json!(name));
        }
    }

    /// How many seconds a kubelet has to end a Pod; 0 if there is nothing to end
    /// (`pkg/registry/core/pod/strategy.go`, `CheckGracefulDelete`).
    fn grace(&self, state: &State, resource: Resource, value: &Value) -> u64 {
        let on_node = value["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        let over = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if resource != Resource::Pods || state.pods_end == PodsEnd::AtOnce || !on_node || over {
            return 0;
        }
        let own = || value["spec"]["terminationGracePeriodSeconds"].as_u64();
        self.grace_seconds.or_else(own).unwrap_or(30)
    }
}

/// Deletes an object, or marks it as being deleted while it has finalizers or a Pod has to end.
pub(super) fn delete(
    state: &mut State,
    target: &Target,
    deletion: &Deletion,
    persist: Persist,
) -> Result<Arc<Object>, ApiError> {
    let Target { resource, key, .. } = target;
    let current = Arc::clone(state.get(*resource, key)?);
    let mut value = current.value();
    identity::check_preconditions(*resource, key, &value, &deletion.preconditions)?;
    if *resource == Resource::Namespaces && matches!(key.name.as_str(), "default" | "kube-system") {
        let why = "this namespace may not be deleted".to_owned();
        return Err(ApiError::Refused { resource: *resource, name: key.name.clone(), why });
    }
    deletion.leave_to_collector(&mut value);
    let grace = deletion.grace(state, *resource, &value);
    if !has_finalizers(&value) && grace == 0 {
        return Ok(finish_deletion(state, *resource, key, persist).unwrap_or(current));
    }
    let before = value["metadata"]["deletionGracePeriodSeconds"].as_u64();
    let marked = !value["metadata"]["deletionTimestamp"].is_null();
    if persist == Persist::DryRun || (marked && before.is_none_or(|before| before <= grace)) {
        return Ok(current);
    }
    value["metadata"]["deletionTimestamp"] = json!(identity::in_seconds(grace));
    value["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    Ok(state.put(*resource, value))
}

/// Removes an object and what it holds; a namespace takes its objects along.
fn finish_deletion(
    state: &mut State,
    resource: Resource,
    key: &Key,
    persist: Persist,
) -> Option<Arc<Object>> {
    if persist == Persist::DryRun {
        return None;
    }
    if resource == Resource::Namespaces {
        for inner in Resource::ALL.into_iter().filter(|r| r.is_namespaced()) {
            let keys: Vec<Key> =
                state.objects(inner).keys().filter(|k| k.namespace == key.name).cloned().collect();
            for key in keys {
                finish_deletion(state, inner, &key, persist);
            }
        }
    }
    let removed = state.remove(resource, key)?;
    release(state, &removed);
    refresh_ranges(state, resource);
    Some(removed)
}

/// Deletes what a selector selects, and returns what was there.
pub(super) fn delete_collection(
    state: &mut State,
    resource: Resource,
    selector: &Selector,
    deletion: &Deletion,
    persist: Persist,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let selected: Vec<Arc<Object>> =
        state.objects(resource).values().filter(|o| selector.matches(o)).map(Arc::clone).collect();
    for object in &selected {
        let target = Target { resource, key: object.key.clone(), part: Part::Whole };
        delete(state, &target, deletion, persist)?;
    }
    Ok(selected)
}

/// Writes an object past all checks, whether or not it is there: for tests of how clients cope
/// with objects that no server should have accepted.
pub(super) fn write_unchecked(
    state: &mut State,
    resource: Resource,
    value: Value,
) -> Result<Arc<Object>, ApiError> {
    let mut new = to_stored(resource, value);
    let key = identity::unchecked(resource, &mut new)?;
    let old = state.get(resource, &key).map(|o| o.value()).ok();
    identity::inherit(resource, &mut new, old.as_ref());
    super::admission::hold_unchecked(state, resource, &new, old.as_ref());
    let object = state.put(resource, new);
    refresh_ranges(state, resource);
    Ok(object)
}
