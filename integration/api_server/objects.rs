//! What the server makes of objects, through its Rust API.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_cluster::api::{ApiError, ApiServer, KubernetesService, Options, Part, Patch, Resource};

use super::setup::{client, get, names, run, service, start, web};

fn spec(api: &ApiServer, name: &str, spec: Value) -> Value {
    api.create(&service(name, spec)).expect("the service is valid").value()["spec"].take()
}

/// Name of the first field in the refusal, with the code.
fn refusal(result: Result<impl Sized, ApiError>) -> (u16, String) {
    let error = result.err().expect("it must be refused");
    let status = error.to_status();
    let field = status["details"]["causes"][0]["field"].as_str().unwrap_or_default();
    (error.code_and_reason().0, field.to_owned())
}

pub(crate) fn services_get_addresses_of_the_families_they_ask_for() {
    let api = start(Options::default());
    let ports = json!([{"port": 80}]);
    let got = spec(&api, "single", json!({"ports": ports}));
    assert_eq!(got["ipFamilies"], json!(["IPv4"]));
    assert_eq!(got["ipFamilyPolicy"], "SingleStack");
    assert_eq!(got["clusterIPs"], json!([got["clusterIP"]]));
    for (name, policy) in [("prefer", "PreferDualStack"), ("require", "RequireDualStack")] {
        let got = spec(&api, name, json!({"ports": ports, "ipFamilyPolicy": policy}));
        assert_eq!(got["ipFamilies"], json!(["IPv4", "IPv6"]), "{policy}");
        assert!(got["clusterIPs"][1].as_str().is_some_and(|ip| ip.starts_with("fd00:10:96::")));
    }
    let got = spec(&api, "six", json!({"ports": ports, "ipFamilies": ["IPv6"]}));
    assert_eq!(got["clusterIPs"].as_array().map(Vec::len), Some(1));
    assert_eq!(got["clusterIPs"][0], got["clusterIP"]);
    let six_first = json!({"ports": ports, "ipFamilies": ["IPv6", "IPv4"]});
    assert_eq!(spec(&api, "six-first", six_first)["ipFamilyPolicy"], "RequireDualStack");
    let named = json!({"ports": ports, "clusterIP": "10.96.0.10"});
    assert_eq!(spec(&api, "dns", named)["clusterIPs"], json!(["10.96.0.10"]));
    let headless = spec(&api, "headless", json!({"clusterIP": "None", "selector": {"a": "b"}}));
    assert_eq!(headless["clusterIPs"], json!(["None"]));
    let external = json!({"type": "ExternalName", "externalName": "example.org"});
    assert_eq!(spec(&api, "external", external).get("clusterIP"), None);

    let dual = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let patch = |patch| {
        let object =
            api.patch(Resource::Services, "default", "single", Part::Whole, &Patch::Merge(patch));
        object.expect("the policy may change").value()["spec"].take()
    };
    assert_eq!(patch(dual)["clusterIPs"].as_array().map(Vec::len), Some(2));
    let single = patch(json!({"spec": {"ipFamilyPolicy": "SingleStack"}}));
    assert_eq!(single["clusterIPs"].as_array().map(Vec::len), Some(1));
    assert_eq!(single["ipFamilies"], json!(["IPv4"]));
}

pub(crate) fn addresses_and_node_ports_are_released_and_taken_again() {
    let api = start(Options { node_ports: 30000..=30001, ..Options::default() });
    let node_port = |name: &str, port: u16| {
        let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.7",
            "ports": [{"port": 80, "nodePort": port}]});
        api.create(&service(name, spec))
    };
    node_port("a", 30001).expect("both are free");
    assert_eq!(refusal(node_port("b", 30000)), (422, "spec.clusterIPs".to_owned()));
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]});
    let error = api.create(&service("b", taken)).expect_err("the port is taken");
    assert_eq!(
        error.to_string(),
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
    );
    let two = json!({"type": "NodePort", "ports": [
        {"name": "t", "port": 53, "protocol": "TCP", "nodePort": 30000},
        {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30000},
    ]});
    api.create(&service("shared", two)).expect("two protocols may share a number");
    let auto = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let full = api.create(&service("c", auto.clone()));
    assert_eq!(refusal(full), (422, "spec.ports[0].nodePort".to_owned()));
    api.delete(Resource::Services, "default", "a").expect("it is there");
    node_port("b", 30001).expect("both are free again");
    let cluster_only = Patch::Merge(json!({"spec": {"type": "ClusterIP"}}));
    let b = api.patch(Resource::Services, "default", "b", Part::Whole, &cluster_only);
    assert_eq!(b.expect("it may change").value()["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(spec(&api, "c", auto)["ports"][0]["nodePort"], 30001);
}

pub(crate) fn fields_follow_the_type_of_a_service() {
    let address = "192.0.2.1".parse().expect("an address");
    let own = KubernetesService::Endpoint { address, port: 6443 };
    let api = start(Options { kubernetes_service: own, ..Options::default() });
    let own = api.get(Resource::Services, "default", "kubernetes").expect("it was asked for");
    assert_eq!(own.value()["spec"]["clusterIP"], "10.96.0.1");

    let got = spec(&api, "plain", json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP"}));
    assert_eq!(got["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
    assert_eq!(got["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    assert_eq!(
        (&got["type"], &got["internalTrafficPolicy"]),
        (&json!("ClusterIP"), &json!("Cluster"))
    );
    assert_eq!(got.get("externalTrafficPolicy"), None);

    let local =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let got = spec(&api, "local", local);
    assert_eq!(got["allocateLoadBalancerNodePorts"], true);
    assert!(got["healthCheckNodePort"].is_u64() && got["ports"][0]["nodePort"].is_u64());
    let without = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "ports": [{"port": 80}]});
    assert_eq!(spec(&api, "without", without)["ports"][0].get("nodePort"), None);

    let plain = Patch::Merge(json!({"spec": {"type": "ClusterIP"}}));
    let got = api.patch(Resource::Services, "default", "local", Part::Whole, &plain);
    let got = got.expect("the type may change").value()["spec"].take();
    for gone in ["healthCheckNodePort", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
        assert_eq!(got.get(gone), None, "{gone}");
    }
    let name = Patch::Merge(json!({"spec": {"type": "ExternalName", "externalName": "x.org"}}));
    let got = api.patch(Resource::Services, "default", "local", Part::Whole, &name);
    assert_eq!(got.expect("the type may change").value()["spec"].get("clusterIPs"), None);
}

pub(crate) fn nonsense_is_refused_with_the_name_of_the_field() {
    let api = start(Options::default());
    let port = |fields: Value| json!({ "ports": [fields] });
    let table = [
        (json!({}), "spec.ports"),
        (port(json!({"port": 0})), "spec.ports[0].port"),
        (port(json!({"port": 65536})), "spec.ports[0].port"),
        (port(json!({"port": 80, "protocol": "HTTP"})), "spec.ports[0].protocol"),
        (port(json!({"port": 80, "targetPort": 70000})), "spec.ports[0].targetPort"),
        (port(json!({"port": 80, "targetPort": "Not A Name"})), "spec.ports[0].targetPort"),
        (port(json!({"port": 80, "nodePort": 30000})), "spec.ports[0].nodePort"),
        (json!({"ports": [{"port": 1}, {"port": 2}]}), "spec.ports[0].name"),
        (
            json!({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}),
            "spec.ports[1].name",
        ),
        (json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}), "spec.ports[1]"),
        (json!({"ports": [{"port": 1}], "type": "Other"}), "spec.type"),
        (json!({"ports": [{"port": 1}], "clusterIP": "10.0.0.300"}), "spec.clusterIPs[0]"),
        (json!({"ports": [{"port": 1}], "clusterIP": "192.0.2.1"}), "spec.clusterIPs"),
        (
            json!({"ports": [{"port": 1}], "type": "NodePort", "clusterIP": "None"}),
            "spec.clusterIPs[0]",
        ),
        (
            json!({"ports": [{"port": 1}], "externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy",
        ),
        (json!({"ports": [{"port": 1}], "sessionAffinity": "Cookie"}), "spec.sessionAffinity"),
        (json!({"ports": [{"port": 1}], "externalIPs": ["127.0.0.1"]}), "spec.externalIPs[0]"),
        (json!({"type": "ExternalName"}), "spec.externalName"),
    ];
    for (spec, field) in table {
        let result = api.create(&service("x", spec.clone()));
        assert_eq!(refusal(result), (422, field.to_owned()), "{spec}");
    }
    assert_eq!(refusal(api.create(&web("Bad_Name"))), (422, "metadata.name".to_owned()));
    let four = Options {
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
        ..Options::default()
    };
    let api = start(four);
    let dual = json!({"ports": [{"port": 1}], "ipFamilyPolicy": "RequireDualStack"});
    let result = api.create(&service("x", dual));
    assert_eq!(refusal(result), (422, "spec.ipFamilyPolicy".to_owned()));
}

pub(crate) fn what_is_set_once_may_not_change() {
    let api = start(Options::default());
    api.create(&web("a")).expect("valid");
    let other = Patch::Merge(json!({"spec": {"clusterIP": "10.96.0.99"}}));
    let result = api.patch(Resource::Services, "default", "a", Part::Whole, &other);
    assert_eq!(refusal(result), (422, "spec.clusterIPs[0]".to_owned()));
    let before = api.get(Resource::Services, "default", "a").expect("it is there");
    let replaced = api.update(&web("a")).expect("a manifest without address replaces it");
    assert_eq!(replaced.version, before.version, "nothing has changed, so nothing is written");
    let mut slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s", "namespace": "default"}, "addressType": "IPv4",
        "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let stored = api.create(&slice).expect("valid").value();
    assert_eq!(stored["ports"][0], json!({"name": "", "port": 80, "protocol": "TCP"}));
    assert_eq!(stored["metadata"]["generation"], 1);
    slice["endpoints"] = json!([]);
    let stored = api.update(&slice).expect("endpoints may change").value();
    assert_eq!(stored["metadata"]["generation"], 2);
    slice["addressType"] = json!("IPv6");
    assert_eq!(refusal(api.update(&slice)), (422, "addressType".to_owned()));
}

pub(crate) fn unchecked_writes_store_any_nonsense() {
    let api = start(Options::default());
    let first = api.create(&web("a")).expect("valid").value();
    let address = first["spec"]["clusterIP"].clone();
    let nonsense = json!({"clusterIP": address, "ports": [{"port": 0}], "externalIPs": ["x"]});
    let stored = api.write_unchecked(&service("b", nonsense.clone())).expect("stored");
    assert_eq!(stored.value()["spec"], nonsense);
    api.delete(Resource::Services, "default", "a").expect("it is there");
    let again = json!({"clusterIP": address, "ports": [{"port": 1}]});
    let result = api.create(&service("c", again.clone()));
    assert_eq!(refusal(result), (422, "spec.clusterIPs".to_owned()), "b still has the address");
    api.delete(Resource::Services, "default", "b").expect("it is there");
    api.create(&service("c", again)).expect("the address is free");
}

pub(crate) fn service_cidrs_extend_the_range() {
    let small = "10.96.0.0/30".parse().expect("a range");
    let api = start(Options { service_cidrs: vec![small], ..Options::default() });
    api.create(&web("a")).expect("the first of two addresses");
    api.create(&web("b")).expect("the second");
    assert_eq!(refusal(api.create(&web("c"))), (422, "spec.clusterIPs".to_owned()));
    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/30"]}});
    api.create(&more).expect("a valid range");
    let got = api.create(&web("c")).expect("the new range has room").value();
    assert_eq!(got["spec"]["clusterIP"], "10.97.0.1");
}

pub(crate) fn thousands_of_objects_are_created_and_listed_fast() {
    const COUNT: usize = 5000;
    let api = start(Options::default());
    let begin = Instant::now();
    api.bulk_create((0..COUNT).map(|n| web(&format!("s-{n}"))).collect()).expect("all are valid");
    assert_eq!(api.list(Resource::Services, "").len(), COUNT);
    run(async {
        let list = get(&client(&api), "/api/v1/services").await.expect("a list");
        assert_eq!(names(&list).len(), COUNT);
    });
    // Even an unoptimized build on a busy machine is ten times as fast.
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

pub(crate) fn deleting_a_namespace_deletes_what_is_in_it() {
    let api = start(Options::default());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let mut inside = web("a");
    inside["metadata"]["namespace"] = json!("team");
    let result = api.create(&inside);
    assert_eq!(refusal(result).0, 404, "there is no such namespace yet");
    api.create(&namespace).expect("valid");
    api.create(&inside).expect("valid");
    api.create(&web("outside")).expect("valid");
    api.delete(Resource::Namespaces, "", "team").expect("it is there");
    let left = api.list(Resource::Services, "");
    assert_eq!(left.iter().map(|o| o.key.name.as_str()).collect::<Vec<_>>(), ["outside"]);
    assert_eq!(refusal(api.delete(Resource::Namespaces, "", "default")).0, 403);
}

pub(crate) fn a_finalizer_keeps_an_object_until_it_is_removed() {
    let api = start(Options::default());
    let mut held = web("a");
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    api.create(&held).expect("valid");
    api.delete(Resource::Services, "default", "a").expect("it is there");
    let waiting = api.get(Resource::Services, "default", "a").expect("it is still there");
    assert!(waiting.value()["metadata"]["deletionTimestamp"].is_string());
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch(Resource::Services, "default", "a", Part::Whole, &release).expect("it may change");
    assert_eq!(refusal(api.get(Resource::Services, "default", "a")).0, 404);
}

pub(crate) fn events_have_two_forms() {
    let api = start(Options::default());
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"generateName": "n1.", "namespace": "default"}, "reason": "Starting",
        "note": "hello", "regarding": {"kind": "Node", "name": "n1"}, "action": "Start",
        "reportingController": "sluice", "reportingInstance": "n1", "type": "Normal"});
    api.create(&event).expect("valid");
    run(async {
        let client = client(&api);
        let path = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dn1";
        let core = get(&client, path).await.expect("a list");
        assert_eq!(core["items"][0]["message"], "hello");
        let path = "/apis/events.k8s.io/v1/events?fieldSelector=regarding.kind%3DNode";
        let new = get(&client, path).await.expect("a list");
        assert_eq!(
            (&new["items"][0]["note"], &new["kind"]),
            (&json!("hello"), &json!("EventList"))
        );
    });
}
