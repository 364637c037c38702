//! An object's metadata: its name, its namespace, and the fields that only the server may write.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::resources::Resource;
use super::service_rules::is_dns_label;
use super::status::{ApiError, Cause};
use super::store::Key;

/// 128 pseudo-random bits.
fn unique() -> (u64, u64) {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Each RandomState has its own keys, the only randomness in the standard library.
    (RandomState::new().hash_one(count), RandomState::new().hash_one(count))
}

/// A fresh random (version 4) UUID.
fn new_uid() -> String {
    let (high, low) = unique();
    let (high, low) = (high & !0xf000 | 0x4000, low & !(0b11 << 62) | (0b10 << 62));
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
}

/// The five characters that `generateName` gets, from the alphabet of
/// `k8s.io/apimachinery/pkg/util/rand`.
fn name_suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = unique().0;
    std::iter::repeat_with(|| {
        let index = usize::try_from(rest % 27).unwrap_or_default();
        rest /= 27;
        char::from(ALPHABET[index])
    })
    .take(5)
    .collect()
}

/// The time in the API's form, with whole seconds.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The time so many seconds ahead, in the same form.
pub(super) fn in_seconds(seconds: u64) -> String {
    let ahead = std::time::Duration::from_secs(seconds);
    let then = jiff::Timestamp::now().checked_add(ahead).unwrap_or(jiff::Timestamp::MAX);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The version in an object's metadata.
pub(super) fn version_of(value: &Value) -> Option<u64> {
    value["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// Makes sure that a body is an object of this kind with metadata.
fn check_kind(resource: Resource, value: &mut Value) -> Result<(), ApiError> {
    // Events have their stored form by now.
    let resource = resource.stored_as();
    let kind = resource.info().kind;
    let given = (value["apiVersion"].as_str(), value["kind"].as_str());
    if !value.is_object() {
        let message = "the object provided is unrecognized (must be of type Object)".to_owned();
        return Err(ApiError::BadRequest(message));
    }
    if let (Some(given_version), Some(given_kind)) = given
        && (given_version != resource.api_version() || given_kind != kind)
    {
        return Err(ApiError::BadRequest(format!(
            "{given_kind} in version {given_version:?} cannot be handled as a {kind}: no kind {given_kind:?} is registered for version {given_version:?}"
        )));
    }
    value["apiVersion"] = json!(resource.api_version());
    value["kind"] = json!(kind);
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    Ok(())
}

/// Determines the name and the namespace of an object to be created.
pub(super) fn for_create(
    resource: Resource,
    namespace: Option<&str>,
    new: &mut Value,
) -> Result<Key, ApiError> {
    check_kind(resource, new)?;
    set_namespace(resource, namespace, new)?;
    let metadata = &mut new["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    let prefix = metadata["generateName"].as_str().unwrap_or_default();
    let name = match (name.as_str(), prefix) {
        ("", "") => {
            let why = "name or generateName is required";
            let causes = vec![Cause::required("metadata.name", why)];
            return Err(ApiError::invalid(resource, "", causes));
        }
        ("", prefix) => format!("{prefix}{}", name_suffix()),
        _ => name,
    };
    check_name(resource, &name)?;
    metadata["name"] = json!(name);
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    Ok(Key::new(namespace, &name))
}

fn set_namespace(
    resource: Resource,
    namespace: Option<&str>,
    new: &mut Value,
) -> Result<(), ApiError> {
    let Some(metadata) = new["metadata"].as_object_mut() else { return Ok(()) };
    if !resource.is_namespaced() {
        metadata.remove("namespace");
        return Ok(());
    }
    let own = metadata.get("namespace").and_then(Value::as_str).filter(|n| !n.is_empty());
    match (own, namespace) {
        (Some(own), Some(path)) if own != path => {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            Err(ApiError::BadRequest(message.to_owned()))
        }
        (Some(_), _) => Ok(()),
        (None, path) => {
            metadata.insert("namespace".to_owned(), json!(path.unwrap_or("default")));
            Ok(())
        }
    }
}

fn check_name(resource: Resource, name: &str) -> Result<(), ApiError> {
    let label = matches!(resource, Resource::Services | Resource::Namespaces);
    let valid = match label {
        true => is_dns_label(name),
        false => name.len() <= 253 && name.split('.').all(is_dns_label),
    };
    if valid {
        return Ok(());
    }
    let what = if label { "label" } else { "subdomain" };
    let why = format!(
        "a lowercase RFC 1123 {what} must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character"
    );
    let causes = vec![Cause::invalid("metadata.name", &json!(name), why)];
    Err(ApiError::invalid(resource, name, causes))
}

/// Sets the server's fields in a new object's metadata.
pub(super) fn stamp(resource: Resource, new: &mut Value) {
    let Some(metadata) = new["metadata"].as_object_mut() else { return };
    for field in ["managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), json!(new_uid()));
    metadata.insert("creationTimestamp".to_owned(), json!(now()));
    if has_generation(resource) {
        metadata.insert("generation".to_owned(), json!(1));
    }
}

fn has_generation(resource: Resource) -> bool {
    !matches!(resource.stored_as(), Resource::Namespaces | Resource::Nodes | Resource::Events)
}

/// Counts a change to anything but metadata and status.
pub(super) fn set_generation(resource: Resource, new: &mut Value, old: &Value) {
    if !has_generation(resource) {
        return;
    }
    let counted = |value: &Value| -> Vec<(String, Value)> {
        let fields = value.as_object().into_iter().flatten();
        fields
            .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let before = old["metadata"]["generation"].as_u64().unwrap_or(1);
    let changed = counted(new) != counted(old);
    new["metadata"]["generation"] = json!(before + u64::from(changed));
}

/// Checks that a new version belongs to the object that it replaces, and keeps the server's fields.
pub(super) fn for_update(
    resource: Resource,
    key: &Key,
    new: &mut Value,
    old: &Value,
) -> Result<(), ApiError> {
    check_kind(resource, new)?;
    let path = resource.is_namespaced().then_some(key.namespace.as_str());
    set_namespace(resource, path, new)?;
    let metadata = &mut new["metadata"];
    match metadata["name"].as_str().unwrap_or_default() {
        "" => metadata["name"] = json!(key.name),
        name if name != key.name => {
            return Err(ApiError::BadRequest(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                key.name
            )));
        }
        _ => {}
    }
    let text = |field: &str| metadata[field].as_str().filter(|t| !t.is_empty());
    let preconditions = Preconditions {
        uid: text("uid").map(str::to_owned),
        version: text("resourceVersion").map(str::to_owned),
    };
    check_preconditions(resource, key, old, &preconditions)?;
    keep(metadata, &old["metadata"], &SERVER_FIELDS);
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("managedFields");
    }
    Ok(())
}

const SERVER_FIELDS: [&str; 7] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
    "generation",
];

fn keep(metadata: &mut Value, old: &Value, names: &[&str]) {
    let Some(fields) = metadata.as_object_mut() else { return };
    for name in names {
        fields.remove(*name);
        if let Some(value) = old.get(name) {
            fields.insert((*name).to_owned(), value.clone());
        }
    }
}

/// What must hold for an update or a deletion (`DeleteOptions.preconditions`).
#[derive(Debug, Clone, Default)]
pub struct Preconditions {
    /// The object's uid.
    pub uid: Option<String>,
    /// Its `resourceVersion`.
    pub version: Option<String>,
}

/// Whether an object is still the one that the client saw.
pub(super) fn check_preconditions(
    resource: Resource,
    key: &Key,
    current: &Value,
    preconditions: &Preconditions,
) -> Result<(), ApiError> {
    let conflict = |why: String| Err(ApiError::Conflict { resource, name: key.name.clone(), why });
    let uid = current["metadata"]["uid"].as_str().unwrap_or_default();
    if let Some(wanted) = preconditions.uid.as_deref().filter(|w| *w != uid) {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
        );
        return conflict(why);
    }
    let version = current["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if preconditions.version.as_deref().is_some_and(|wanted| wanted != version) {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        return conflict(why.to_owned());
    }
    Ok(())
}

/// The key of an unvalidated object. Even invalid objects have a name.
pub(super) fn unchecked(resource: Resource, new: &mut Value) -> Result<Key, ApiError> {
    check_kind(resource, new)?;
    set_namespace(resource, None, new)?;
    let metadata = &new["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    if name.is_empty() {
        let causes = vec![Cause::required("metadata.name", "")];
        return Err(ApiError::invalid(resource, "", causes));
    }
    Ok(Key::new(namespace, name))
}

/// Sets the metadata of an unvalidated object: its predecessor's, or new ones.
pub(super) fn inherit(resource: Resource, new: &mut Value, old: Option<&Value>) {
    match old {
        Some(old) => {
            keep(&mut new["metadata"], &old["metadata"], &SERVER_FIELDS);
            set_generation(resource, new, old);
        }
        None => stamp(resource, new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4_and_differ() {
        let (a, b) = (new_uid(), new_uid());
        assert_ne!(a, b);
        assert_eq!((a.len(), &a[14..15]), (36, "4"), "{a}");
        assert!("89ab".contains(&a[19..20]), "{a}");
    }

    #[test]
    fn generated_names_have_five_more_characters() {
        let mut value = json!({"metadata": {"generateName": "a-"}});
        let key = for_create(Resource::Pods, Some("x"), &mut value).expect("has a name");
        assert_eq!((key.name.len(), key.namespace.as_str()), (7, "x"));
        assert_eq!(value["metadata"]["name"], json!(key.name));
    }
}
