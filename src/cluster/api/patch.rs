//! The four kinds of patch (<https://kubernetes.io/docs/reference/using-api/api-concepts/>).
//!
//! Server-side apply merges fields without tracking who owns them: what a field manager applies
//! wins over what others wrote, and a field that it leaves out of its next apply is removed. There
//! are no conflicts, and `managedFields` stays empty.

use serde_json::{Map, Value};

use super::status::ApiError;

/// A change to an object.
#[derive(Debug, Clone)]
pub enum Patch {
    /// `application/json-patch+json`, RFC 6902.
    Json(Value),
    /// `application/merge-patch+json`, RFC 7396.
    Merge(Value),
    /// `application/strategic-merge-patch+json`: lists of named things are merged by name.
    Strategic(Value),
    /// `application/apply-patch+yaml`, server-side apply.
    Apply {
        /// The fields that the manager wants to have these values.
        fields: Value,
        /// The `fieldManager` parameter.
        manager: String,
    },
}

impl Patch {
    /// The patched object; `last_applied` is what the same manager applied the last time.
    pub(super) fn apply_to(
        &self,
        object: &Value,
        kind: &str,
        last_applied: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let mut patched = object.clone();
        match self {
            Patch::Json(operations) => {
                let operations: json_patch::Patch = serde_json::from_value(operations.clone())
                    .map_err(|e| ApiError::BadRequest(format!("invalid JSON patch: {e}")))?;
                json_patch::patch(&mut patched, &operations)
                    .map_err(|e| ApiError::UnprocessablePatch(e.to_string()))?;
            }
            Patch::Merge(patch) => json_patch::merge(&mut patched, patch),
            Patch::Strategic(patch) => {
                Merger { kind, keys: Keys::Strategic }.merge(&mut patched, patch, &mut Vec::new())
            }
            Patch::Apply { fields, .. } => {
                let merger = Merger { kind, keys: Keys::Apply };
                if let Some(last) = last_applied {
                    merger.prune(&mut patched, last, fields, &mut Vec::new());
                }
                merger.merge(&mut patched, fields, &mut Vec::new());
            }
        }
        Ok(patched)
    }
}

/// Which fields of a list's entries tell which entry is which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// `x-kubernetes-patch-merge-key`.
    Strategic,
    /// `x-kubernetes-list-map-keys`.
    Apply,
}

/// How two versions of a list become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListMerge {
    /// The new list replaces the old.
    Atomic,
    /// Entries with the same keys are one entry.
    Map(&'static [&'static str]),
    /// A set of plain values.
    Set,
}

struct Merger<'a> {
    kind: &'a str,
    keys: Keys,
}

impl Merger<'_> {
    /// How the list at a path is merged, from the `patchStrategy` and `listType` markers of
    /// `k8s.io/api`. `*` stands for an entry of a list.
    fn list_merge(&self, path: &[&str]) -> ListMerge {
        let ports: &[&str] = match (self.kind, self.keys) {
            ("Service", Keys::Strategic) => &["port"],
            ("Service", Keys::Apply) => &["port", "protocol"],
            (_, Keys::Strategic) => &["containerPort"],
            (_, Keys::Apply) => &["containerPort", "protocol"],
        };
        match (self.kind, path) {
            (_, ["metadata", "finalizers"]) => ListMerge::Set,
            (_, ["metadata", "ownerReferences"]) => ListMerge::Map(&["uid"]),
            (_, ["status", "conditions"]) => ListMerge::Map(&["type"]),
            ("Service", ["spec", "ports"])
            | ("Pod", ["spec", "containers" | "initContainers", "*", "ports"]) => {
                ListMerge::Map(ports)
            }
            ("Pod", ["spec", "containers" | "initContainers" | "volumes"])
            | ("Pod", ["spec", "containers" | "initContainers", "*", "env"]) => {
                ListMerge::Map(&["name"])
            }
            ("Pod", ["status", "podIPs" | "hostIPs"]) => ListMerge::Map(&["ip"]),
            ("Node", ["status", "addresses"]) => ListMerge::Map(&["type"]),
            ("Node", ["spec", "podCIDRs"]) => ListMerge::Set,
            _ => ListMerge::Atomic,
        }
    }

    fn merge<'p>(&self, target: &mut Value, patch: &'p Value, path: &mut Vec<&'p str>) {
        let Value::Object(changes) = patch else {
            *target = patch.clone();
            return;
        };
        if changes.get("$patch").is_some_and(|d| d == "replace") || !target.is_object() {
            *target = Value::Object(Map::new());
        }
        let Value::Object(fields) = target else { return };
        if let Some(Value::Array(kept)) = changes.get("$retainKeys") {
            fields.retain(|name, _| kept.iter().any(|k| k == name));
        }
        for (name, change) in changes {
            if name.starts_with('$') {
                delete_from_set(fields, name, change);
                continue;
            }
            path.push(name);
            match change {
                Value::Null => {
                    fields.remove(name);
                }
                Value::Object(inner) if inner.get("$patch").is_some_and(|d| d == "delete") => {
                    fields.remove(name);
                }
                Value::Array(entries) => {
                    let slot = fields.entry(name.clone()).or_insert_with(|| Value::Array(vec![]));
                    self.merge_list(slot, entries, path);
                }
                other => {
                    let slot = fields.entry(name.clone()).or_insert(Value::Null);
                    self.merge(slot, other, path);
                }
            }
            path.pop();
        }
        self.reorder(fields, changes, path);
    }

    fn merge_list<'p>(&self, slot: &mut Value, entries: &'p [Value], path: &mut Vec<&'p str>) {
        let replace = entries.iter().any(|e| e["$patch"] == "replace");
        let plain = || entries.iter().filter(|e| e.get("$patch").is_none()).cloned().collect();
        let how = self.list_merge(path);
        let Value::Array(list) = slot else {
            *slot = Value::Array(plain());
            return;
        };
        match how {
            _ if replace => *list = plain(),
            ListMerge::Atomic => *list = plain(),
            ListMerge::Set => {
                for entry in entries {
                    if !list.contains(entry) {
                        list.push(entry.clone());
                    }
                }
            }
            ListMerge::Map(keys) => {
                path.push("*");
                for entry in entries {
                    self.merge_entry(list, entry, keys, path);
                }
                path.pop();
            }
        }
    }

    fn merge_entry<'p>(
        &self,
        list: &mut Vec<Value>,
        entry: &'p Value,
        keys: &[&str],
        path: &mut Vec<&'p str>,
    ) {
        let found = list.iter().position(|item| same_entry(item, entry, keys));
        match (found, entry["$patch"] == "delete") {
            (Some(index), true) => {
                list.remove(index);
            }
            (None, true) => {}
            (Some(index), false) => self.merge(&mut list[index], entry, path),
            (None, false) => {
                let mut new = Value::Object(Map::new());
                self.merge(&mut new, entry, path);
                list.push(new);
            }
        }
    }

    /// `$setElementOrder/<field>`: the named entries come in this order, where the server has them;
    /// the others keep their places behind the entry they followed.
    fn reorder(
        &self,
        fields: &mut Map<String, Value>,
        changes: &Map<String, Value>,
        path: &[&str],
    ) {
        for (name, order) in changes {
            let Some(field) = name.strip_prefix("$setElementOrder/") else { continue };
            let (Some(Value::Array(list)), Value::Array(order)) = (fields.get_mut(field), order)
            else {
                continue;
            };
            let mut at: Vec<&str> = path.to_vec();
            at.push(field);
            let keys: &[&str] = match self.list_merge(&at) {
                ListMerge::Map(keys) => keys,
                ListMerge::Set | ListMerge::Atomic => &[],
            };
            let rank = |item: &Value| {
                order.iter().position(|o| match keys {
                    [] => o == item,
                    keys => same_entry(item, o, keys),
                })
            };
            let mut last = 0;
            let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(list.len());
            for item in list.drain(..) {
                last = rank(&item).unwrap_or(last);
                ranked.push((last, item));
            }
            ranked.sort_by_key(|(rank, _)| *rank);
            list.extend(ranked.into_iter().map(|(_, item)| item));
        }
    }

    /// Removes what was applied before and is not applied any more.
    fn prune<'p>(&self, target: &mut Value, last: &'p Value, now: &Value, path: &mut Vec<&'p str>) {
        let (Value::Object(fields), Value::Object(before)) = (target, last) else { return };
        for (name, old) in before {
            let Some(value) = fields.get_mut(name) else { continue };
            path.push(name);
            match (now.get(name), old) {
                (None, Value::Object(_)) => {
                    self.prune(value, old, &Value::Null, path);
                    if value.as_object().is_some_and(Map::is_empty) {
                        fields.remove(name);
                    }
                }
                (Some(new), Value::Object(_)) => self.prune(value, old, new, path),
                (new, Value::Array(old)) => {
                    let new = new.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                    self.prune_list(value, old, new, path);
                    if value.as_array().is_some_and(Vec::is_empty) {
                        fields.remove(name);
                    }
                }
                (None, _) => {
                    fields.remove(name);
                }
                (Some(_), _) => {}
            }
            path.pop();
        }
    }

    fn prune_list<'p>(
        &self,
        target: &mut Value,
        last: &'p [Value],
        now: &[Value],
        path: &mut Vec<&'p str>,
    ) {
        let how = self.list_merge(path);
        let Value::Array(list) = target else { return };
        match how {
            ListMerge::Atomic if now.is_empty() => list.clear(),
            ListMerge::Atomic => {}
            ListMerge::Set => list.retain(|i| !last.contains(i) || now.contains(i)),
            ListMerge::Map(keys) => {
                let among = |item: &Value, list: &[Value]| {
                    list.iter().any(|other| same_entry(item, other, keys))
                };
                list.retain(|item| !among(item, last) || among(item, now));
                path.push("*");
                for item in list.iter_mut() {
                    let old = last.iter().find(|o| same_entry(item, o, keys));
                    let new = now.iter().find(|n| same_entry(item, n, keys));
                    if let (Some(old), Some(new)) = (old, new) {
                        self.prune(item, old, new, path);
                    }
                }
                path.pop();
            }
        }
    }
}

/// `$deleteFromPrimitiveList/<field>`; the order directives are handled after the merge.
fn delete_from_set(fields: &mut Map<String, Value>, directive: &str, gone: &Value) {
    if let Some(list) = directive.strip_prefix("$deleteFromPrimitiveList/")
        && let (Some(Value::Array(items)), Value::Array(gone)) = (fields.get_mut(list), gone)
    {
        items.retain(|item| !gone.contains(item));
    }
}

/// Whether two entries of a list have the same keys. A protocol that is not named is TCP, as the
/// defaults of the API say.
fn same_entry(a: &Value, b: &Value, keys: &[&str]) -> bool {
    let tcp = Value::from("TCP");
    keys.iter().all(|key| {
        let value = |entry: &Value| match &entry[*key] {
            Value::Null if *key == "protocol" => tcp.clone(),
            other => other.clone(),
        };
        value(a) == value(b)
    })
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
