//! Objects as rows for people: `kubectl get` prints what the server makes
//! (`pkg/printers/internalversion` in Kubernetes is the reference for columns).

use serde_json::{Value, json};

use super::events::to_shown;
use super::query::RowObject;
use super::resources::Resource;
use super::service_fields;

/// Whether a table names its columns; in a stream only the first does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    Shown,
    Hidden,
}

/// A `Table` of objects in their stored form.
pub(super) fn table(
    resource: Resource,
    metadata: &Value,
    objects: impl Iterator<Item = Value>,
    row: RowObject,
    header: Header,
) -> Value {
    let now = jiff::Timestamp::now();
    let rows: Vec<Value> = objects
        .map(|object| {
            let mut entry = json!({"cells": cells(resource.stored_as(), &object, now)});
            match row {
                RowObject::None => {}
                RowObject::Metadata => entry["object"] = metadata_of(&object),
                RowObject::Whole => {
                    entry["object"] = to_shown(resource, &object).into_owned();
                }
            }
            entry
        })
        .collect();
    let mut table = json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "rows": rows,
    });
    table["columnDefinitions"] = match header {
        Header::Shown => columns(resource.stored_as()).iter().map(column).collect(),
        Header::Hidden => json!([]),
    };
    table
}

/// The `PartialObjectMetadata` of an object.
pub(super) fn metadata_of(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// Name and priority; columns with priority 1 appear with `-o wide`.
type Column = (&'static str, u8);

fn columns(resource: Resource) -> &'static [Column] {
    match resource {
        Resource::Services => &[
            ("Name", 0),
            ("Type", 0),
            ("Cluster-IP", 0),
            ("External-IP", 0),
            ("Port(s)", 0),
            ("Age", 0),
            ("Selector", 1),
        ],
        Resource::Nodes => &[
            ("Name", 0),
            ("Status", 0),
            ("Roles", 0),
            ("Age", 0),
            ("Version", 0),
            ("Internal-IP", 1),
            ("External-IP", 1),
            ("OS-Image", 1),
            ("Kernel-Version", 1),
            ("Container-Runtime", 1),
        ],
        Resource::EndpointSlices => {
            &[("Name", 0), ("AddressType", 0), ("Ports", 0), ("Endpoints", 0), ("Age", 0)]
        }
        Resource::Pods => &[
            ("Name", 0),
            ("Ready", 0),
            ("Status", 0),
            ("Restarts", 0),
            ("Age", 0),
            ("IP", 1),
            ("Node", 1),
            ("Nominated Node", 1),
            ("Readiness Gates", 1),
        ],
        Resource::Deployments => &[
            ("Name", 0),
            ("Ready", 0),
            ("Up-to-date", 0),
            ("Available", 0),
            ("Age", 0),
            ("Containers", 1),
            ("Images", 1),
            ("Selector", 1),
        ],
        Resource::ReplicaSets => &[
            ("Name", 0),
            ("Desired", 0),
            ("Current", 0),
            ("Ready", 0),
            ("Age", 0),
            ("Containers", 1),
            ("Images", 1),
            ("Selector", 1),
        ],
        Resource::Namespaces => &[("Name", 0), ("Status", 0), ("Age", 0)],
        Resource::ServiceCidrs => &[("Name", 0), ("CIDRs", 0), ("Age", 0)],
        Resource::Events | Resource::NewEvents => &[
            ("Last Seen", 0),
            ("Type", 0),
            ("Reason", 0),
            ("Object", 0),
            ("Subobject", 1),
            ("Source", 1),
            ("Message", 0),
            ("First Seen", 1),
            ("Count", 1),
            ("Name", 1),
        ],
    }
}

fn column(&(name, priority): &Column) -> Value {
    let format = if name == "Name" { "name" } else { "" };
    json!({
        "name": name,
        "type": "string",
        "format": format,
        "description": "",
        "priority": priority,
    })
}

fn cells(resource: Resource, object: &Value, now: jiff::Timestamp) -> Value {
    let name = &object["metadata"]["name"];
    let age = age(&object["metadata"]["creationTimestamp"], now);
    match resource {
        Resource::Services => {
            let spec = &object["spec"];
            json!([
                name,
                text(&spec["type"], "<none>"),
                text(&spec["clusterIP"], "<none>"),
                external_ip(object),
                service_ports(spec),
                age,
                selector(&spec["selector"]),
            ])
        }
        Resource::Nodes => node(object, &age),
        Resource::EndpointSlices => {
            json!([name, object["addressType"], slice_ports(object), slice_endpoints(object), age])
        }
        Resource::Pods => pod(object, &age),
        Resource::Deployments => replicas(object, &age, |status, wanted| {
            let ready = format!("{}/{wanted}", count(&status["readyReplicas"]));
            let numbers = [&status["updatedReplicas"], &status["availableReplicas"]].map(count);
            [json!(ready), json!(numbers[0]), json!(numbers[1])]
        }),
        Resource::ReplicaSets => replicas(object, &age, |status, wanted| {
            let numbers = [&status["replicas"], &status["readyReplicas"]].map(count);
            [json!(wanted), json!(numbers[0]), json!(numbers[1])]
        }),
        Resource::Namespaces => {
            json!([name, text(&object["status"]["phase"], "Active"), age])
        }
        Resource::ServiceCidrs => json!([name, join(&object["spec"]["cidrs"], |c| c), age]),
        Resource::Events | Resource::NewEvents => event(object, now),
    }
}

fn text<'a>(value: &'a Value, missing: &'a str) -> &'a str {
    value.as_str().filter(|t| !t.is_empty()).unwrap_or(missing)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn join<'a>(list: &'a Value, part: impl Fn(&'a Value) -> &'a Value) -> String {
    let parts: Vec<&str> = items(list).iter().filter_map(|item| part(item).as_str()).collect();
    parts.join(",")
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    match service_fields::kind(spec) {
        "ExternalName" => text(&spec["externalName"], "<none>").to_owned(),
        "LoadBalancer" => {
            let ingress = &service["status"]["loadBalancer"]["ingress"];
            let assigned =
                join(ingress, |i| if i["ip"].is_null() { &i["hostname"] } else { &i["ip"] });
            let parts = [assigned, join(&spec["externalIPs"], |ip| ip)];
            let parts: Vec<&str> =
                parts.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
            if parts.is_empty() { "<pending>".to_owned() } else { parts.join(",") }
        }
        _ => or_none(join(&spec["externalIPs"], |ip| ip)),
    }
}

fn service_ports(spec: &Value) -> String {
    let ports: Vec<String> = service_fields::ports(spec)
        .iter()
        .map(|port| {
            let protocol = text(&port["protocol"], "TCP");
            match port["nodePort"].as_u64().filter(|n| *n > 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port["port"]),
                None => format!("{}/{protocol}", port["port"]),
            }
        })
        .collect();
    or_none(ports.join(","))
}

fn selector(labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    let terms: Vec<String> = labels.map(|(k, v)| format!("{k}={}", text(v, ""))).collect();
    or_none(terms.join(","))
}

/// At most three parts, then how many more there are.
fn first_three(parts: &[String]) -> String {
    match parts.len() {
        0 => "<unset>".to_owned(),
        1..=3 => parts.join(","),
        more => format!("{} + {} more...", parts[..3].join(","), more - 3),
    }
}

fn slice_ports(slice: &Value) -> String {
    let ports: Vec<String> = items(&slice["ports"])
        .iter()
        .map(|p| if p["port"].is_null() { "*".to_owned() } else { p["port"].to_string() })
        .collect();
    first_three(&ports)
}

fn slice_endpoints(slice: &Value) -> String {
    let addresses: Vec<String> = items(&slice["endpoints"])
        .iter()
        .flat_map(|endpoint| items(&endpoint["addresses"]))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    first_three(&addresses)
}

fn node(node: &Value, age: &str) -> Value {
    let conditions = items(&node["status"]["conditions"]);
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| &c["status"]) {
        Some(status) if status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> =
        labels.filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/")).collect();
    let address = |kind: &str| {
        let found = items(&node["status"]["addresses"]).iter().find(|a| a["type"] == *kind);
        found.map_or("<none>", |a| text(&a["address"], "<none>"))
    };
    let info = &node["status"]["nodeInfo"];
    json!([
        node["metadata"]["name"],
        status,
        or_none(roles.join(",")),
        age,
        text(&info["kubeletVersion"], ""),
        address("InternalIP"),
        address("ExternalIP"),
        text(&info["osImage"], "<unknown>"),
        text(&info["kernelVersion"], "<unknown>"),
        text(&info["containerRuntimeVersion"], "<unknown>"),
    ])
}

fn pod(pod: &Value, age: &str) -> Value {
    let status = &pod["status"];
    let containers = items(&pod["spec"]["containers"]).len();
    let states = items(&status["containerStatuses"]);
    let ready = states.iter().filter(|s| s["ready"] == true).count();
    let restarts: u64 = states.iter().filter_map(|s| s["restartCount"].as_u64()).sum();
    let phase = match pod["metadata"]["deletionTimestamp"] {
        Value::Null => text(&status["reason"], text(&status["phase"], "Unknown")),
        _ => "Terminating",
    };
    json!([
        pod["metadata"]["name"],
        format!("{ready}/{containers}"),
        phase,
        restarts.to_string(),
        age,
        text(&status["podIP"], "<none>"),
        text(&pod["spec"]["nodeName"], "<none>"),
        text(&status["nominatedNodeName"], "<none>"),
        "<none>",
    ])
}

fn count(number: &Value) -> u64 {
    number.as_u64().unwrap_or_default()
}

/// The row of an object that keeps a number of Pods, with the three cells that differ.
fn replicas(object: &Value, age: &str, middle: impl Fn(&Value, u64) -> [Value; 3]) -> Value {
    let spec = &object["spec"];
    let [a, b, c] = middle(&object["status"], count(&spec["replicas"]));
    let containers = &spec["template"]["spec"]["containers"];
    let names = join(containers, |container| &container["name"]);
    let images = join(containers, |container| &container["image"]);
    let labels = selector(&spec["selector"]["matchLabels"]);
    json!([object["metadata"]["name"], a, b, c, age, names, images, labels])
}

fn event(event: &Value, now: jiff::Timestamp) -> Value {
    let first = [&event["firstTimestamp"], &event["eventTime"]];
    let first = first.into_iter().find(|t| t.is_string()).unwrap_or(&Value::Null);
    let last = [&event["series"]["lastObservedTime"], &event["lastTimestamp"], first];
    let last = last.into_iter().find(|t| t.is_string()).unwrap_or(&Value::Null);
    let about = &event["involvedObject"];
    let object =
        format!("{}/{}", text(&about["kind"], "").to_lowercase(), text(&about["name"], ""));
    let source = text(&event["source"]["component"], text(&event["reportingComponent"], ""));
    let counts = [&event["series"]["count"], &event["count"]];
    let count = counts.into_iter().find_map(Value::as_u64).unwrap_or(1);
    json!([
        age(last, now),
        text(&event["type"], ""),
        text(&event["reason"], ""),
        object,
        text(&about["fieldPath"], ""),
        source,
        text(&event["message"], "").trim(),
        age(first, now),
        count.to_string(),
        event["metadata"]["name"],
    ])
}

/// How long ago, in kubectl's words.
fn age(timestamp: &Value, now: jiff::Timestamp) -> String {
    let then = timestamp.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    then.map_or_else(
        || "<unknown>".to_owned(),
        |then| human_duration(now.as_second().saturating_sub(then.as_second()).max(0)),
    )
}

/// Two units at most (`k8s.io/apimachinery/pkg/util/duration`).
fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |first: i64, a: &str, second: i64, b: &str| match second {
        0 => format!("{first}{a}"),
        second => format!("{first}{a}{second}{b}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        let table = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (3600, "60m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
        ];
        for (seconds, expected) in table {
            assert_eq!(human_duration(seconds), expected);
        }
    }

    #[test]
    fn each_resource_has_as_many_cells_as_columns() {
        let now = jiff::Timestamp::now();
        for resource in Resource::ALL {
            let count = cells(resource, &json!({}), now).as_array().map(Vec::len);
            assert_eq!(count, Some(columns(resource).len()), "{resource}");
        }
    }
}
