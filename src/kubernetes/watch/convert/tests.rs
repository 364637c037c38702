use serde_json::{Value, json};

use super::*;
use crate::watch::object::Object;
use sluice_core::model::{
    Condition, EndpointPort, EndpointSlice, Node, Service, ServicePort, ServiceType, SourceRanges,
    TrafficPolicy,
};
use sluice_core::net::{Family, Protocol};

/// A Service with these additions to its spec and its status.
pub(super) fn service_json(spec: Value, status: Value) -> Value {
    let mut object = json!({
        "metadata": { "namespace": "ns", "name": "web", "creationTimestamp": "2024-01-02T03:04:05Z" },
        "spec": { "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"] },
        "status": status,
    });
    let fields = spec.as_object().expect("tests write objects");
    for (name, value) in fields {
        object["spec"][name] = value.clone();
    }
    object
}

fn convert_service(object: &Value) -> (Option<Service>, Vec<String>) {
    let converted = service(Object::Json(&object.to_string()), &mut Interner::default());
    (converted.value, fields(&converted.warnings))
}

fn fields(warnings: &[Warning]) -> Vec<String> {
    warnings.iter().map(|warning| warning.field.clone()).collect()
}

fn from_spec(spec: Value) -> (Service, Vec<String>) {
    let (value, warnings) = convert_service(&service_json(spec.clone(), json!({})));
    (value.unwrap_or_else(|| panic!("{spec} is a service")), warnings)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("tests write addresses")).collect()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("tests write prefixes")).collect()
}

#[test]
fn a_whole_service_is_understood() {
    let object = service_json(
        json!({
            "type": "LoadBalancer",
            "clusterIPs": ["10.0.0.1", "fd00::1"],
            "externalIPs": ["010.2.0.1", "", "192.0.2.1", "10.2.0.1"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Local",
            "healthCheckNodePort": 30001,
            "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "fd00::/64"],
            "ports": [
                { "name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053, "targetPort": "x" },
                { "name": "dns-tcp", "port": 53, "nodePort": 30053 },
            ],
        }),
        json!({ "loadBalancer": { "ingress": [
            { "ip": "192.0.2.9" },
            { "ip": "192.0.2.8", "ipMode": "VIP" },
            { "ip": "192.0.2.7", "ipMode": "Proxy" },
            { "hostname": "lb.example" },
        ]}}),
    );
    let (service, warnings) = convert_service(&object);
    assert_eq!(warnings, [""; 0]);
    let port = |name: &str, protocol| ServicePort {
        name: name.into(),
        protocol,
        port: 53,
        node_port: Some(30053),
    };
    let expected = Service {
        name: sluice_core::model::ServiceName::new("ns", "web"),
        created: 1_704_164_645,
        kind: ServiceType::LoadBalancer,
        cluster_ips: ips(&["10.0.0.1", "fd00::1"]),
        external_ips: ips(&["10.2.0.1", "192.0.2.1"]),
        load_balancer_ips: ips(&["192.0.2.9", "192.0.2.8"]),
        source_ranges: SourceRanges::Only(nets(&["10.0.0.0/8", "fd00::/64"])),
        internal_policy: TrafficPolicy::Local,
        external_policy: TrafficPolicy::Local,
        affinity: Some(60),
        health_check_node_port: Some(30001),
        ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
    };
    assert_eq!(service, Some(expected));
}

#[test]
fn services_without_virtual_ips_are_not_handled() {
    let table = [
        json!({ "type": "ExternalName", "externalName": "x.example" }),
        json!({ "clusterIP": "None", "clusterIPs": ["None"] }),
        json!({ "clusterIP": "None", "clusterIPs": null }),
        json!({ "clusterIP": "", "clusterIPs": [] }),
        json!({ "clusterIP": null, "clusterIPs": null }),
    ];
    for spec in table {
        let object = service_json(spec, json!({}));
        let converted = service(Object::Json(&object.to_string()), &mut Interner::default());
        // The name stays known, so that a Service that changes into one of these goes.
        assert!(converted.key.is_some(), "{object}");
        assert_eq!((converted.value, converted.warnings), (None, vec![]), "{object}");
    }
}

#[test]
fn services_of_other_proxies_are_not_handled() {
    for value in ["cilium", ""] {
        let mut object = service_json(json!({}), json!({}));
        object["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": value });
        assert_eq!(convert_service(&object), (None, vec![]));
    }
}

#[test]
fn cluster_ips_are_one_usable_address_per_family() {
    let table = [
        (
            json!({ "clusterIPs": ["10.0.0.1", "10.0.0.2"] }),
            vec!["10.0.0.1"],
            vec!["spec.clusterIPs"],
        ),
        (json!({ "clusterIPs": 5 }), vec!["10.0.0.1"], vec!["spec.clusterIPs"]),
        (json!({ "clusterIPs": null }), vec!["10.0.0.1"], vec![]),
        (json!({ "clusterIPs": ["::ffff:10.0.0.7"] }), vec!["10.0.0.7"], vec![]),
        (
            json!({ "clusterIPs": ["fd00::1", "127.0.0.1"] }),
            vec!["fd00::1"],
            vec!["spec.clusterIPs[1]"],
        ),
        (json!({ "clusterIPs": [7, "fd00::1"] }), vec!["fd00::1"], vec!["spec.clusterIPs[0]"]),
    ];
    for (spec, expected, warned) in table {
        let (service, warnings) = from_spec(spec.clone());
        assert_eq!(service.cluster_ips, ips(&expected), "{spec}");
        assert_eq!(warnings, warned, "{spec}");
    }
}

#[test]
fn addresses_that_cannot_be_served_are_refused() {
    let refused = [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "169.254.1.1",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "10.0.0.256",
        "host",
    ];
    for ip in refused {
        let (service, warnings) = from_spec(json!({ "externalIPs": [ip, "192.0.2.1"] }));
        assert_eq!(service.external_ips, ips(&["192.0.2.1"]), "{ip}");
        assert_eq!(warnings, ["spec.externalIPs[0]"], "{ip}");
    }
}

#[test]
fn ports_that_cannot_be_used_are_skipped() {
    let good = json!({ "name": "ok", "port": 80 });
    let table = [
        (json!({ "name": "x", "port": "abc" }), "spec.ports[0].port"),
        (json!({ "name": "x", "port": 70000 }), "spec.ports[0].port"),
        (json!({ "name": "x", "port": -1 }), "spec.ports[0].port"),
        (json!({ "name": "x", "port": 0 }), "spec.ports[0].port"),
        (json!({ "name": "x", "port": 80.5 }), "spec.ports[0].port"),
        (json!({ "name": "x" }), "spec.ports[0].port"),
        (json!({ "name": "x", "port": 81, "protocol": "DCCP" }), "spec.ports[0].protocol"),
        (json!(null), "spec.ports[0]"),
        (json!("http"), "spec.ports[0]"),
    ];
    for (bad, warned) in table {
        let (service, warnings) = from_spec(json!({ "ports": [bad, good] }));
        let names: Vec<_> = service.ports.iter().map(|port| &*port.name).collect();
        assert_eq!(names, ["ok"], "{bad}");
        assert_eq!(warnings, [warned], "{bad}");
    }
}

#[test]
fn a_bad_node_port_costs_only_itself() {
    for bad in [json!(-1), json!(65536), json!("30000"), json!([1])] {
        let (service, warnings) = from_spec(json!({ "ports": [{ "port": 80, "nodePort": bad }] }));
        assert_eq!(service.ports[0].node_port, None, "{bad}");
        assert_eq!(warnings, ["spec.ports[0].nodePort"], "{bad}");
    }
}

#[test]
fn of_equal_ports_the_first_counts() {
    let (service, warnings) = from_spec(json!({ "ports": [
        { "name": "a", "port": 80, "nodePort": 30000 },
        { "name": "b", "port": 80 },
        { "name": "c", "port": 80, "protocol": "UDP", "nodePort": 30000 },
        { "name": "d", "port": 81, "nodePort": 30000 },
    ]}));
    let ports: Vec<_> = service.ports.iter().map(|p| (&*p.name, p.node_port)).collect();
    assert_eq!(ports, [("a", Some(30000)), ("c", Some(30000)), ("d", None)]);
    assert_eq!(warnings, ["spec.ports[1].port", "spec.ports[3].nodePort"]);
}

#[test]
fn affinity_has_the_defaults_and_limits_of_the_api() {
    let timeout = |seconds: Value| {
        json!({ "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } } })
    };
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let table = [
        (json!({}), None, None),
        (json!({ "sessionAffinity": "None" }), None, None),
        (json!({ "sessionAffinity": "Cookie" }), None, Some("spec.sessionAffinity")),
        (json!({ "sessionAffinity": "ClientIP" }), Some(10_800), None),
        (timeout(json!(86_400)), Some(86_400), None),
        (timeout(json!(86_401)), Some(10_800), Some(field)),
        (timeout(json!(0)), Some(10_800), Some(field)),
        (timeout(json!("1h")), Some(10_800), Some(field)),
    ];
    for (spec, expected, warned) in table {
        let (service, warnings) = from_spec(spec.clone());
        assert_eq!(service.affinity, expected, "{spec}");
        assert_eq!(warnings, warned.into_iter().collect::<Vec<_>>(), "{spec}");
    }
}

#[test]
fn source_ranges_restrict_the_families_that_they_name() {
    let only = |list: &[&str]| SourceRanges::Only(nets(list));
    let table = [
        (json!(null), SourceRanges::Anyone, 0),
        (json!([]), SourceRanges::Anyone, 0),
        (json!(["", "  "]), SourceRanges::Anyone, 0),
        (json!(["10.0.0.0/8 "]), only(&["10.0.0.0/8"]), 0),
        (json!(["10.0.0.0/8", "0.0.0.0/0"]), SourceRanges::Anyone, 0),
        (json!(["0.0.0.0/0", "::/0"]), SourceRanges::Anyone, 0),
        (json!(["fd00::/8", "0.0.0.0/0"]), only(&["0.0.0.0/0", "fd00::/8"]), 0),
        (json!(["10.1.2.3/8", "010.0.0.0/8"]), only(&["10.0.0.0/8"]), 0),
        (json!(["10.0.0.0/8", "all"]), only(&["10.0.0.0/8"]), 1),
        (json!(["all"]), only(&[]), 1),
        (json!([null]), only(&[]), 1),
    ];
    for (ranges, expected, warned) in table {
        let (service, warnings) = from_spec(json!({ "loadBalancerSourceRanges": ranges }));
        assert_eq!(service.source_ranges, expected, "{ranges}");
        assert_eq!(warnings.len(), warned, "{ranges}: {warnings:?}");
    }
}

#[test]
fn the_health_check_port_belongs_to_local_load_balancers() {
    let spec = |kind: &str, policy: &str| json!({ "type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": 30001 });
    assert_eq!(from_spec(spec("LoadBalancer", "Local")).0.health_check_node_port, Some(30001));
    assert_eq!(from_spec(spec("LoadBalancer", "Cluster")).0.health_check_node_port, None);
    assert_eq!(from_spec(spec("NodePort", "Local")).0.health_check_node_port, None);
}

#[test]
fn objects_without_a_name_or_sense_are_reported() {
    for json in
        ["5", "[]", "null", "{}", r#"{"metadata":{"namespace":"a"}}"#, r#"{"metadata":{"name":3}}"#]
    {
        let converted = service(Object::Json(json), &mut Interner::default());
        assert_eq!((converted.key, converted.value), (None, None), "{json}");
        assert_eq!(converted.warnings.len(), 1, "{json}: {:?}", converted.warnings);
    }
}

pub(super) fn slice_json(additions: Value) -> Value {
    let mut object = json!({
        "metadata": { "namespace": "ns", "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": [{ "addresses": ["10.1.0.1"] }],
    });
    let fields = additions.as_object().expect("tests write objects");
    for (name, value) in fields {
        object[name] = value.clone();
    }
    object
}

fn convert_slice(additions: Value) -> (Option<EndpointSlice>, Vec<String>) {
    let object = slice_json(additions);
    let converted = slice(Object::Json(&object.to_string()), "here", &mut Interner::default());
    assert!(converted.key.is_some(), "{object}");
    (converted.value, fields(&converted.warnings))
}

#[test]
fn a_whole_slice_is_understood() {
    let mut object = slice_json(json!({ "endpoints": [
        { "addresses": ["010.1.0.1", "10.1.0.99"], "nodeName": "here", "zone": "a",
          "conditions": { "ready": true },
          "hints": { "forZones": [{ "name": "a" }], "forNodes": [{ "name": "here" }] } },
        { "addresses": ["10.1.0.2"], "nodeName": "there", "hints": { "forZones": [] },
          "conditions": { "ready": false, "serving": true, "terminating": true } },
        { "addresses": ["10.1.0.3"], "conditions": { "ready": false, "serving": null } },
        { "addresses": ["10.1.0.4"], "conditions": null, "hints": null, "nodeName": null },
    ]}));
    object["metadata"]["annotations"] =
        json!({ "endpoints.kubernetes.io/last-change-trigger-time": "2024-01-02T03:04:05.678Z" });
    let converted = slice(Object::Json(&object.to_string()), "here", &mut Interner::default());
    assert_eq!(converted.warnings, []);
    let slice = converted.value.expect("it is a slice");
    assert_eq!(slice.service, sluice_core::model::ServiceName::new("ns", "web"));
    assert_eq!(slice.family, Family::V4);
    assert_eq!(slice.trigger_time, Some(1_704_164_645_678));
    let port = EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 };
    assert_eq!(*slice.ports, [port]);
    let endpoints: Vec<_> = slice.endpoints.iter().collect();
    let seen: Vec<_> = endpoints.iter().map(|e| (e.address, e.condition, e.local)).collect();
    let ip = |text| ips(&[text])[0];
    assert_eq!(
        seen,
        [
            (ip("10.1.0.1"), Condition::Ready, true),
            (ip("10.1.0.2"), Condition::Terminating, false),
            (ip("10.1.0.3"), Condition::Unusable, false),
            (ip("10.1.0.4"), Condition::Ready, false),
        ]
    );
    let hints = endpoints[0].hints.as_ref().expect("there are hints");
    assert_eq!((&*hints.zones[0], &*hints.nodes[0]), ("a", "here"));
    assert!(endpoints[1..].iter().all(|endpoint| endpoint.hints.is_none()));
}

#[test]
fn slices_that_are_not_for_this_proxy_have_no_value() {
    let labels = |labels: Value| json!({ "metadata": { "name": "x", "labels": labels } });
    let label = "metadata.labels[kubernetes.io/service-name]";
    let headless = labels(
        json!({ "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "" }),
    );
    let table = [
        (json!({ "addressType": "FQDN" }), None),
        (headless, None),
        (json!({ "addressType": "IPX" }), Some("addressType")),
        (json!({ "addressType": null }), Some("addressType")),
        (labels(json!({})), Some(label)),
        (labels(json!(null)), Some(label)),
        (labels(json!({ "kubernetes.io/service-name": "" })), Some(label)),
    ];
    for (additions, warned) in table {
        let (value, warnings) = convert_slice(additions.clone());
        assert_eq!(value, None, "{additions}");
        assert_eq!(warnings, warned.into_iter().collect::<Vec<_>>(), "{additions}");
    }
}

#[test]
fn endpoints_that_cannot_be_used_are_skipped() {
    let table = [
        (json!({ "addresses": [] }), "endpoints[0].addresses"),
        (json!({ "addresses": null }), "endpoints[0].addresses"),
        (json!({}), "endpoints[0].addresses"),
        (json!({ "addresses": ["fd00::1"] }), "endpoints[0].addresses[0]"),
        (json!({ "addresses": ["127.0.0.1"] }), "endpoints[0].addresses[0]"),
        (json!({ "addresses": ["pod"] }), "endpoints[0].addresses[0]"),
        (json!(null), "endpoints[0]"),
    ];
    for (bad, warned) in table {
        let good = json!({ "addresses": ["10.1.0.1"] });
        let (value, warnings) = convert_slice(json!({ "endpoints": [bad, good] }));
        assert_eq!(value.expect("it is a slice").endpoints.iter().count(), 1, "{bad}");
        assert_eq!(warnings, [warned], "{bad}");
    }
}

#[test]
fn endpoint_ports_that_cannot_be_used_are_skipped() {
    let (value, warnings) = convert_slice(json!({ "ports": [
        { "name": "null", "port": null }, { "name": "zero", "port": 0 },
        { "name": "big", "port": 65536 }, { "name": "text", "port": "80" },
        { "name": "dccp", "protocol": "DCCP", "port": 1 },
        { "port": 8080 }, { "name": "", "port": 8080, "protocol": "TCP" },
        { "name": null, "protocol": "UDP", "port": 8080 },
    ]}));
    let ports = value.expect("it is a slice").ports;
    let seen: Vec<_> = ports.iter().map(|p| (&*p.name, p.protocol, p.port)).collect();
    assert_eq!(seen, [("", Protocol::Tcp, 8080), ("", Protocol::Udp, 8080)]);
    assert_eq!(warnings, ["ports[2].port", "ports[3].port", "ports[4].protocol"]);
}

#[test]
fn null_lists_are_empty_lists() {
    let (value, warnings) = convert_slice(json!({ "ports": null, "endpoints": null }));
    let slice = value.expect("it is a slice");
    assert!(slice.ports.is_empty() && slice.endpoints.is_empty() && warnings.is_empty());
}

#[test]
fn the_warnings_of_one_object_are_cut_off() {
    let bad: Vec<Value> = (0..1000).map(|_| json!({ "addresses": ["x"] })).collect();
    let object = slice_json(json!({ "endpoints": bad }));
    let converted = slice(Object::Json(&object.to_string()), "here", &mut Interner::default());
    assert_eq!(converted.warnings.len(), WARNINGS_PER_OBJECT + 1);
    assert_eq!(converted.warnings[WARNINGS_PER_OBJECT].problem, "there are 990 more problems");
}

#[test]
fn a_node_is_understood() {
    let object = json!({
        "metadata": { "name": "n", "uid": "u", "labels": { "topology.kubernetes.io/zone": "z" } },
        "spec": { "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"],
                  "taints": [{ "key": "other" }] },
        "status": { "addresses": [
            { "type": "ExternalIP", "address": "198.51.100.1" },
            { "type": "Hostname", "address": "n" },
            { "type": "InternalIP", "address": "192.0.2.1" },
            { "type": "InternalIP", "address": "fd00::1" },
        ]},
    });
    let expected = Node {
        uid: "u".to_owned(),
        addresses: ips(&["192.0.2.1", "fd00::1", "198.51.100.1"]),
        pod_cidrs: nets(&["10.1.0.0/24", "fd00:1::/64"]),
        zone: Some("z".to_owned()),
        leaving: false,
    };
    assert_eq!(node(Object::Json(&object.to_string())).value, Some(expected));

    let mut leaving = object.clone();
    leaving["spec"]["taints"] = json!([{ "key": "ToBeDeletedByClusterAutoscaler" }]);
    assert!(node(Object::Json(&leaving.to_string())).value.expect("it is a node").leaving);
    let mut leaving = object;
    leaving["metadata"]["deletionTimestamp"] = json!("2024-01-02T03:04:05Z");
    assert!(node(Object::Json(&leaving.to_string())).value.expect("it is a node").leaving);

    let bare = node(Object::Json(r#"{"metadata":{"name":"n"},"spec":{"podCIDR":"10.1.0.0/24"}}"#));
    assert_eq!(bare.value.expect("it is a node").pod_cidrs, nets(&["10.1.0.0/24"]));
}

#[test]
fn service_cidrs_are_understood() {
    let object = json!({ "metadata": { "name": "k" }, "spec": { "cidrs": ["10.0.0.0/16", "x"] } });
    let converted = service_cidr(Object::Json(&object.to_string()));
    assert_eq!(converted.value, Some(nets(&["10.0.0.0/16"])));
    assert_eq!(fields(&converted.warnings), ["spec.cidrs[1]"]);
}

#[test]
fn interned_strings_are_shared_and_forgotten() {
    let mut names = Interner::default();
    let http = names.name("http");
    assert!(Arc::ptr_eq(&http, &names.name("http")));
    for i in 0..5000 {
        names.name(&i.to_string());
    }
    let known = names.names.values.len();
    assert!(known <= Known::<str>::SMALLEST_SWEEP + 1, "{known}");
    assert!(Arc::ptr_eq(&http, &names.name("http")));
}
