//! Objects of the API from files: manifests, and what `kubectl get -o yaml` or `-o json` prints.
//!
//! They go through the same conversion as the objects of a watch, so what is computed from a file is what a
//! daemon would compute that is sent the same objects.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::Value;

use super::convert::{self, Converted, Interner};
use super::object::Object;
use sluice_core::model::{Change, Snapshot, Warning};

/// No input is longer: a cluster of 10,000 Services with 50,000 endpoints has a quarter of it.
pub const LONGEST: usize = 64 << 20;

/// The most documents in one file: an object each, in the largest cluster.
const MOST_DOCUMENTS: usize = 1 << 18;

/// The most values in one file, for a file that is within [`LONGEST`].
const MOST_VALUES: usize = 1 << 24;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum ManifestError {
    /// It is too long.
    #[error(
        "{file} has {length} bytes, and {LONGEST} are read at the most; leave objects out that are not needed"
    )]
    TooLong { file: String, length: usize },
    /// It is neither YAML nor JSON.
    #[error("{file} is neither YAML nor JSON: {reason}")]
    Syntax { file: String, reason: String },
    /// A document is no object of the API.
    #[error(
        "document {number} of {file} has no apiVersion and kind; expected objects as `kubectl get -o yaml` \
         prints them"
    )]
    NoObject { file: String, number: usize },
    /// There is nothing in it.
    #[error("{file} has no objects; expected what `kubectl get -o yaml` prints")]
    Empty { file: String },
}

/// Reads all objects of a text, those of lists one by one; `file` is for messages only.
///
/// # Errors
/// If the text is too long, cannot be decoded, or has something else than objects in it.
pub fn read(text: &str, file: &str) -> Result<Vec<Value>, ManifestError> {
    let file = || file.to_owned();
    if text.len() > LONGEST {
        return Err(ManifestError::TooLong { file: file(), length: text.len() });
    }
    let syntax = |reason: String| ManifestError::Syntax { file: file(), reason };
    let mut objects = Vec::new();
    for (number, document) in (1..).zip(documents(text)) {
        match document.map_err(syntax)? {
            Value::Null => {}
            value => take(value, &mut objects)
                .map_err(|()| ManifestError::NoObject { file: file(), number })?,
        }
    }
    if objects.is_empty() {
        return Err(ManifestError::Empty { file: file() });
    }
    Ok(objects)
}

fn documents(text: &str) -> Vec<Result<Value, String>> {
    if text.trim_start().starts_with('{') {
        let documents = serde_json::Deserializer::from_str(text).into_iter();
        return documents.map(|one| one.map_err(|error| error.to_string())).collect();
    }
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_documents: MOST_DOCUMENTS,
            max_nodes: MOST_VALUES,
            max_events: 2 * MOST_VALUES,
        },
    };
    let mut rest = text.as_bytes();
    let documents = serde_saphyr::read_with_options::<_, Value>(&mut rest, options);
    let mut all = Vec::new();
    for document in documents {
        let failed = document.is_err();
        all.push(document.map_err(|error| error.to_string()));
        if failed {
            break;
        }
    }
    all
}

/// An object, or the items of a list.
fn take(value: Value, objects: &mut Vec<Value>) -> Result<(), ()> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion").is_empty() || !text("kind").ends_with("List") {
        if text("apiVersion").is_empty() || text("kind").is_empty() {
            return Err(());
        }
        objects.push(value);
        return Ok(());
    }
    let item_kind = text("kind").trim_end_matches("List").to_owned();
    let api_version = text("apiVersion").to_owned();
    let Value::Object(mut list) = value else { return Err(()) };
    let Some(Value::Array(items)) = list.remove("items") else { return Ok(()) };
    for mut item in items {
        // The API server leaves both out of the items of its lists.
        if let Value::Object(fields) = &mut item
            && !item_kind.is_empty()
        {
            fields.entry("apiVersion").or_insert_with(|| api_version.clone().into());
            fields.entry("kind").or_insert_with(|| item_kind.clone().into());
        }
        take(item, objects)?;
    }
    Ok(())
}

/// The kind of an object, with its group: `Service`, `EndpointSlice.discovery.k8s.io`.
pub fn kind_of(object: &Value) -> String {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    match text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{}.{group}", text("kind")),
        None => text("kind").to_owned(),
    }
}

/// A text of an object's metadata.
fn metadata<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// The names of the Nodes among the objects.
pub fn nodes(objects: &[Value]) -> BTreeSet<&str> {
    let nodes = objects.iter().filter(|object| kind_of(object) == "Node");
    nodes.map(|node| metadata(node, "name")).collect()
}

/// The state of the API as the node `node` sees these objects, and what is wrong with them. Objects that no
/// proxy reads are left out; of two with the same name, the later one counts.
pub fn snapshot(objects: &[Value], node: &str) -> (Snapshot, Vec<Warning>) {
    let mut snapshot = Snapshot::default();
    let (mut names, mut warnings) = (Interner::default(), Vec::new());
    let mut cidrs: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
    let mut dirty = BTreeSet::new();
    for object in objects {
        let text = object.to_string();
        let json = Object::Json(&text);
        let change = match &*kind_of(object) {
            "Service" => {
                let found = told(convert::service(json, &mut names), &mut warnings);
                found.map(|(name, value)| value.map_or(Change::ServiceGone(name), Change::Service))
            }
            "EndpointSlice.discovery.k8s.io" => {
                let found = told(convert::slice(json, node, &mut names), &mut warnings);
                found.map(|(name, value)| value.map_or(Change::SliceGone(name), Change::Slice))
            }
            "Node" if metadata(object, "name") == node => {
                told(convert::node(json), &mut warnings).map(|(_, value)| Change::Node(value))
            }
            "ServiceCIDR.networking.k8s.io" => {
                let found = told(convert::service_cidr(json), &mut warnings);
                cidrs.extend(found.map(|(name, nets)| (name, nets.unwrap_or_default())));
                None
            }
            _ => None,
        };
        if let Some(change) = change {
            snapshot.apply(change, &mut dirty);
        }
    }
    let all = cidrs.into_values().flatten().collect();
    snapshot.apply(Change::ServiceCidrs(all), &mut dirty);
    (snapshot, warnings)
}

fn told<K, T>(found: Converted<K, T>, warnings: &mut Vec<Warning>) -> Option<(K, Option<T>)> {
    warnings.extend(found.warnings);
    found.key.map(|key| (key, found.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::model::ServiceName;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\n\
                           spec: {clusterIPs: [10.96.0.80], ports: [{port: 80}]}\n";
    const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
        metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}\n\
        ports: [{port: 8080}]\nendpoints: [{addresses: [10.244.1.2], nodeName: node-a}]\n";

    #[test]
    fn documents_and_lists_are_objects_one_by_one() {
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}]}"#;
        let typed = "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}}]\n";
        let table = [
            (
                format!("{SERVICE}---\n{SLICE}---\n"),
                vec!["Service", "EndpointSlice.discovery.k8s.io"],
            ),
            (list.to_owned(), vec!["Node"]),
            (format!("{list}\n{list}"), vec!["Node", "Node"]),
            (typed.to_owned(), vec!["Service"]),
        ];
        for (text, expected) in table {
            let objects = read(&text, "a.yaml").unwrap_or_else(|error| panic!("{text}: {error}"));
            let kinds: Vec<String> = objects.iter().map(kind_of).collect();
            assert_eq!(kinds, expected, "{text}");
        }
    }

    #[test]
    fn bad_input_is_one_error_that_names_the_file() {
        let table = [
            ("", "a.yaml has no objects"),
            ("# nothing\n", "a.yaml has no objects"),
            ("a: [", "a.yaml is neither YAML nor JSON"),
            ("{\"a\":", "a.yaml is neither YAML nor JSON"),
            ("just words", "document 1 of a.yaml has no apiVersion and kind"),
            ("kind: Service", "document 1 of a.yaml has no apiVersion and kind"),
        ];
        for (text, expected) in table {
            let error = read(text, "a.yaml").expect_err(text).to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let error = read(&"#".repeat(LONGEST + 1), "a.yaml").expect_err("too long").to_string();
        assert!(error.contains("67108865 bytes, and 67108864 are read"), "{error}");
    }

    #[test]
    fn a_node_sees_what_its_daemon_would_see() {
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: NAME}\n\
                    status: {addresses: [{type: InternalIP, address: 192.0.2.IP}]}\n";
        let node = |name, ip| node.replace("NAME", name).replace("IP}", &format!("{ip}}}"));
        let cidr = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: k}\n\
                    spec: {cidrs: [10.96.0.0/16]}\n";
        let later = SERVICE.replace("port: 80}", "port: 81}");
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";
        let (a, b) = (node("node-a", 1), node("node-b", 2));
        let text = [SERVICE, SLICE, &a, &b, cidr, pod, &later].join("---\n");
        let objects = read(&text, "a.yaml").expect("it can be read");
        assert_eq!(nodes(&objects), BTreeSet::from(["node-a", "node-b"]));
        let web = ServiceName::new("default", "web");
        for (name, address, local) in
            [("node-a", "192.0.2.1", true), ("node-b", "192.0.2.2", false)]
        {
            let (snapshot, warnings) = snapshot(&objects, name);
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!(snapshot.services[&web].ports[0].port, 81, "the later one counts");
            let mut endpoints = snapshot.slices[&web][0].endpoints.iter();
            assert_eq!(endpoints.next().map(|first| first.local), Some(local), "{name}");
            let addresses = snapshot.node.expect("a node").addresses;
            assert_eq!(addresses, [address.parse::<std::net::IpAddr>().expect("an address")]);
            assert_eq!(snapshot.service_cidrs.len(), 1);
        }
    }

    #[test]
    fn a_bad_object_is_a_warning_and_harms_no_other() {
        let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: 7\n";
        let objects = read(&[bad, SERVICE].join("---\n"), "a.yaml").expect("it can be read");
        let (snapshot, warnings) = snapshot(&objects, "");
        assert_eq!(snapshot.services.len(), 1);
        assert!(warnings.iter().any(|warning| warning.field == "spec"), "{warnings:?}");
    }
}
