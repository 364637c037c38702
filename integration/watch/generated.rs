//! Generated objects: all fields that are read and some that are not, with odd values of the right types.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// An object of fields that may each be absent.
fn object(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| prop::option::weighted(0.8, value).prop_map(move |v| (name, v)))
        .collect();
    let whole = fields.prop_map(|fields| {
        let present =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(present.collect::<Map<_, _>>())
    });
    whole.boxed()
}

/// An object of fields that Go always writes.
fn whole(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| value.prop_map(move |value| (name.to_owned(), value)))
        .collect();
    fields.prop_map(|fields| Value::Object(fields.into_iter().collect())).boxed()
}

fn one_of(texts: &'static [&'static str]) -> BoxedStrategy<Value> {
    select(texts).prop_map(Value::from).boxed()
}

fn list(entry: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop::collection::vec(entry, 0..4).prop_map(Value::from).boxed()
}

fn number() -> BoxedStrategy<Value> {
    prop_oneof![select(&[0, 1, 80, 30080, 65_535, 65_536, -1][..]), any::<i32>()]
        .prop_map(Value::from)
        .boxed()
}

fn flag() -> BoxedStrategy<Value> {
    any::<bool>().prop_map(Value::from).boxed()
}

fn ip() -> BoxedStrategy<Value> {
    one_of(&[
        "10.0.0.1",
        "10.0.0.2",
        "fd00::1",
        "010.0.0.1",
        "127.0.0.1",
        "::",
        "None",
        "x",
        " ",
        "",
    ])
}

fn cidr() -> BoxedStrategy<Value> {
    one_of(&["10.0.0.0/8", "0.0.0.0/0", "::/0", " fd00::/64 ", "10.0.0.0", ""])
}

/// A map of which some keys count.
fn map(keys: &'static [&'static str]) -> BoxedStrategy<Value> {
    let entry = (select(keys), "[a-z0-9:T.+-]{0,8}");
    let map = prop::collection::vec(entry, 0..4).prop_map(|entries| {
        let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value)));
        Value::Object(entries.collect())
    });
    map.boxed()
}

const LABELS: &[&str] = &[
    "app",
    "kubernetes.io/service-name",
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
    "topology.kubernetes.io/zone",
];

fn metadata() -> BoxedStrategy<Value> {
    let times = &["2026-03-01T12:00:00Z", "1969-12-31T23:59:59Z"][..];
    let whole = object(vec![
        ("namespace", one_of(&["default", "ns"])),
        ("uid", one_of(&["", "5f0e7d5c"])),
        ("resourceVersion", one_of(&["8"])),
        ("generation", number()),
        ("creationTimestamp", one_of(times)),
        ("deletionTimestamp", one_of(times)),
        ("labels", map(LABELS)),
        ("annotations", map(&["endpoints.kubernetes.io/last-change-trigger-time", "other"])),
        ("finalizers", list(one_of(&["a", "b"]))),
        (
            "managedFields",
            list(Just(json!({ "manager": "m", "fieldsV1": { "f:spec": {} } })).boxed()),
        ),
    ]);
    whole
        .prop_map(|mut metadata| {
            metadata["name"] = json!("here");
            metadata
        })
        .boxed()
}

/// A Service, or nearly one.
pub(super) fn a_service() -> BoxedStrategy<Value> {
    let port = object(vec![
        ("name", one_of(&["", "http", "dns"])),
        ("protocol", one_of(&["", "TCP", "UDP", "ICMP"])),
        ("port", number()),
        ("nodePort", number()),
        ("targetPort", prop_oneof![number(), one_of(&["web"])].boxed()),
        ("appProtocol", one_of(&["", "h2c"])),
    ]);
    let client_ip = object(vec![("timeoutSeconds", number())]);
    let policy = || one_of(&["", "Cluster", "Local", "Else"]);
    let spec = object(vec![
        ("type", one_of(&["", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "Else"])),
        ("clusterIP", ip()),
        ("clusterIPs", list(ip())),
        ("externalIPs", list(ip())),
        ("loadBalancerSourceRanges", list(cidr())),
        ("internalTrafficPolicy", policy()),
        ("externalTrafficPolicy", policy()),
        ("sessionAffinity", one_of(&["", "None", "ClientIP", "Else"])),
        ("sessionAffinityConfig", object(vec![("clientIP", client_ip)])),
        ("healthCheckNodePort", number()),
        ("ports", list(port)),
        ("selector", map(&["app"])),
        ("publishNotReadyAddresses", flag()),
        ("allocateLoadBalancerNodePorts", flag()),
        ("trafficDistribution", one_of(&["PreferSameZone"])),
    ]);
    let ingress = object(vec![
        ("ip", ip()),
        ("hostname", one_of(&["lb"])),
        ("ipMode", one_of(&["VIP", "Proxy", ""])),
    ]);
    let status = object(vec![("loadBalancer", object(vec![("ingress", list(ingress))]))]);
    let whole = (metadata(), spec, status).prop_map(
        |(metadata, spec, status)| json!({ "metadata": metadata, "spec": spec, "status": status }),
    );
    whole.boxed()
}

/// An EndpointSlice, or nearly one.
pub(super) fn a_slice() -> BoxedStrategy<Value> {
    let names = || list(whole(vec![("name", one_of(&["a", "b", ""]))]));
    let endpoint = object(vec![
        ("addresses", list(ip())),
        (
            "conditions",
            object(vec![("ready", flag()), ("serving", flag()), ("terminating", flag())]),
        ),
        ("hostname", one_of(&["", "h"])),
        ("nodeName", one_of(&["", "here", "elsewhere"])),
        ("zone", one_of(&["a"])),
        ("hints", object(vec![("forZones", names()), ("forNodes", names())])),
        ("targetRef", Just(json!({ "kind": "Pod", "name": "p" })).boxed()),
    ]);
    let port = object(vec![
        ("name", one_of(&["", "http"])),
        ("protocol", one_of(&["TCP", "SCTP", "ICMP", ""])),
        ("port", number()),
    ]);
    let whole = object(vec![
        ("addressType", one_of(&["IPv4", "IPv6", "FQDN", "Else", ""])),
        ("ports", list(port)),
        ("endpoints", list(endpoint)),
    ]);
    with_metadata(whole)
}

/// A Node, or nearly one.
pub(super) fn a_node() -> BoxedStrategy<Value> {
    let taint = whole(vec![("key", one_of(&["ToBeDeletedByClusterAutoscaler", "other"]))]);
    let address =
        whole(vec![("type", one_of(&["InternalIP", "ExternalIP", "Hostname"])), ("address", ip())]);
    let spec =
        object(vec![("podCIDR", cidr()), ("podCIDRs", list(cidr())), ("taints", list(taint))]);
    with_metadata(object(vec![
        ("spec", spec),
        ("status", object(vec![("addresses", list(address))])),
    ]))
}

/// A ServiceCIDR, or nearly one.
pub(super) fn a_cidr() -> BoxedStrategy<Value> {
    with_metadata(object(vec![("spec", object(vec![("cidrs", list(cidr()))]))]))
}

fn with_metadata(object: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let whole = (metadata(), object).prop_map(|(metadata, mut object)| {
        object["metadata"] = metadata;
        object
    });
    whole.boxed()
}
