//! Create, update, patch and delete: what the API server does between a request and the store.

use std::sync::Arc;

use serde_json::{Value, json};

use super::admission::{admit, release};
use super::events::{to_shown, to_stored};
use super::identity::{self, Preconditions};
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

fn is_finished(value: &Value) -> bool {
    let metadata = &value["metadata"];
    !metadata["deletionTimestamp"].is_null() && !has_finalizers(value)
}

fn has_finalizers(value: &Value) -> bool {
    value["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

/// Deletes an object, or marks it as being deleted while it has finalizers. The grace period of
/// a Pod is not waited for: nothing runs behind the object.
pub(super) fn delete(
    state: &mut State,
    target: &Target,
    preconditions: &Preconditions,
    persist: Persist,
) -> Result<Arc<Object>, ApiError> {
    let Target { resource, key, .. } = target;
    let current = Arc::clone(state.get(*resource, key)?);
    let mut value = current.value();
    identity::check_preconditions(*resource, key, &value, preconditions)?;
    if *resource == Resource::Namespaces && matches!(key.name.as_str(), "default" | "kube-system") {
        let why = "this namespace may not be deleted".to_owned();
        return Err(ApiError::Refused { resource: *resource, name: key.name.clone(), why });
    }
    if !has_finalizers(&value) {
        return Ok(finish_deletion(state, *resource, key, persist).unwrap_or(current));
    }
    if persist == Persist::DryRun || !value["metadata"]["deletionTimestamp"].is_null() {
        return Ok(current);
    }
    value["metadata"]["deletionTimestamp"] = json!(identity::now());
    value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
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
    persist: Persist,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let selected: Vec<Arc<Object>> =
        state.objects(resource).values().filter(|o| selector.matches(o)).map(Arc::clone).collect();
    for object in &selected {
        let target = Target { resource, key: object.key.clone(), part: Part::Whole };
        delete(state, &target, &Preconditions::default(), persist)?;
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
