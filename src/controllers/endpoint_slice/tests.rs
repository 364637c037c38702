//! Tables: a Service and Pods, and the slices that follow.

use serde_json::{Value, json};

use super::*;
use crate::fixtures::{node, pod, with};

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "uid": "svc"},
        "spec": {
            "selector": {"app": "web"}, "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.80",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

fn at(name: &str, number: usize) -> Value {
    with(pod(name, "web", "node-a"), |p| {
        let ips = json!([{"ip": format!("10.244.1.{number}")}, {"ip": format!("fd00::{number}")}]);
        p["status"]["podIPs"] = ips;
    })
}

fn call(service: &Value, pods: &[Value], slices: &[Value]) -> Vec<Action> {
    let nodes = [node("node-a", "zone-a")];
    let slices: Vec<&Value> = slices.iter().collect();
    let node = |wanted: &str| nodes.iter().find(|node| name(node) == wanted).cloned();
    let found: Vec<(String, Option<Value>)> = pods
        .iter()
        .map(|pod| text(&pod["spec"]["nodeName"]).to_owned())
        .map(|wanted| (wanted.clone(), node(&wanted)))
        .collect();
    let node = |wanted: &str| {
        found.iter().find(|(name, _)| name == wanted).and_then(|(_, node)| node.as_ref())
    };
    reconcile(service, pods.iter(), &slices, node, "t")
}

/// The slices that there are after what is to be written was written.
fn after(slices: &[Value], actions: &[Action]) -> Vec<Value> {
    let mut all: Vec<Value> = slices.to_vec();
    for action in actions {
        match action {
            Action::Create(slice) => all.push(with(slice.clone(), |s| {
                s["metadata"]["name"] = json!(format!("new-{}", slices.len() + all_names(slices)));
                s["metadata"]["uid"] = json!(s.to_string());
            })),
            Action::Update(slice) => {
                let same =
                    |other: &&mut Value| other["metadata"]["uid"] == slice["metadata"]["uid"];
                *all.iter_mut().find(same).expect("it is there") = slice.clone();
            }
            Action::Delete { object, .. } => all.retain(|other| other != object),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn all_names(slices: &[Value]) -> usize {
    slices.iter().map(|slice| name(slice).len()).sum()
}

fn first_endpoint(service: &Value, pod: Value) -> Value {
    let actions = call(service, &[pod], &[]);
    let Action::Create(slice) = &actions[0] else { panic!("{actions:?}") };
    slice["endpoints"][0].clone()
}

#[test]
fn a_slice_says_whose_it_is() {
    let actions = call(&service(), &[at("a", 2)], &[]);
    let [Action::Create(slice)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(slice["metadata"]["labels"][SERVICE_NAME], "web");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "svc");
    assert_eq!(slice["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
    let endpoint = &slice["endpoints"][0];
    assert_eq!(endpoint["addresses"], json!(["10.244.1.2"]));
    assert_eq!((&endpoint["nodeName"], &endpoint["zone"]), (&json!("node-a"), &json!("zone-a")));
    let headless = with(service(), |s| s["spec"]["clusterIP"] = json!("None"));
    let Action::Create(slice) = &call(&headless, &[], &[])[0] else { panic!("a slice") };
    assert_eq!(slice["metadata"]["labels"][HEADLESS], "");
}

#[test]
fn conditions_are_upstreams() {
    let unready = |p: &mut Value| p["status"]["conditions"] = json!([]);
    let ending = |p: &mut Value| p["metadata"]["deletionTimestamp"] = json!("t");
    let publish = with(service(), |s| s["spec"]["publishNotReadyAddresses"] = json!(true));
    let table = [
        (service(), at("a", 2), [true, true, false]),
        (service(), with(at("a", 2), unready), [false, false, false]),
        (service(), with(at("a", 2), ending), [false, true, true]),
        (publish.clone(), with(at("a", 2), unready), [true, false, false]),
        (publish, with(at("a", 2), ending), [true, true, true]),
    ];
    for (service, pod, [ready, serving, terminating]) in table {
        let expected = json!({"ready": ready, "serving": serving, "terminating": terminating});
        assert_eq!(first_endpoint(&service, pod)["conditions"], expected);
    }
}

#[test]
fn pods_that_are_over_or_have_no_address_are_no_endpoints() {
    let over = with(at("a", 2), |p| p["status"]["phase"] = json!("Succeeded"));
    let nowhere = with(at("b", 3), |p| p["status"]["podIPs"] = json!(null));
    let other = with(at("c", 4), |p| p["metadata"]["labels"]["app"] = json!("wep"));
    let actions = call(&service(), &[over, nowhere, other], &[]);
    let [Action::Create(slice)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&slice["endpoints"], &slice["ports"]), (&json!([]), &json!([])));
}

#[test]
fn a_named_port_is_each_pods_own() {
    let service = with(service(), |s| s["spec"]["ports"][0]["targetPort"] = json!("main"));
    let named = |name: &str, number: usize, port: u16| {
        with(at(name, number), |p| {
            p["spec"]["containers"][0]["ports"] =
                json!([{"name": "main", "containerPort": port, "protocol": "TCP"}]);
        })
    };
    let pods = [named("a", 2, 8080), named("b", 3, 9090), named("c", 4, 8080), at("d", 5)];
    let made = after(&[], &call(&service, &pods, &[]));
    let found: Vec<(&Value, usize)> = made
        .iter()
        .map(|s| (&s["ports"][0]["port"], s["endpoints"].as_array().map_or(0, Vec::len)))
        .collect();
    assert_eq!(found, [(&json!(8080), 2), (&json!(9090), 1), (&json!(null), 1)]);
}

#[test]
fn a_hostname_counts_in_the_service_that_is_its_subdomain() {
    let hosted = |subdomain: &str| {
        with(at("a", 2), |p| {
            p["spec"]["hostname"] = json!("db-0");
            p["spec"]["subdomain"] = json!(subdomain);
        })
    };
    assert_eq!(first_endpoint(&service(), hosted("web"))["hostname"], "db-0");
    assert_eq!(first_endpoint(&service(), hosted("other"))["hostname"], json!(null));
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let zones = json!([{"name": "zone-a"}]);
    let same_zone = json!({"forZones": zones});
    let table = [
        ("PreferClose", same_zone.clone()),
        ("PreferSameZone", same_zone),
        ("PreferSameNode", json!({"forNodes": [{"name": "node-a"}], "forZones": zones})),
        ("", json!(null)),
    ];
    for (distribution, expected) in table {
        let service = with(service(), |s| s["spec"]["trafficDistribution"] = json!(distribution));
        assert_eq!(first_endpoint(&service, at("a", 2))["hints"], expected, "{distribution}");
    }
}

#[test]
fn a_hundred_endpoints_fill_a_slice_and_one_change_writes_one_slice() {
    let mut pods: Vec<Value> = (0..250).map(|n| at(&format!("p{n}"), n)).collect();
    let made = after(&[], &call(&service(), &pods, &[]));
    let sizes: Vec<usize> =
        made.iter().map(|s| s["endpoints"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(sizes, [100, 100, 50]);
    assert_eq!(call(&service(), &pods, &made), [], "a second call writes nothing");
    pods.push(at("one-more", 251));
    assert_eq!(call(&service(), &pods, &made).len(), 1);
    pods.remove(7);
    let actions = call(&service(), &pods, &made);
    assert!(matches!(&actions[..], [Action::Update(_)]), "the new one takes the free place");
}

#[test]
fn an_empty_slice_becomes_the_first_and_the_last_becomes_empty() {
    let empty = after(&[], &call(&service(), &[], &[]));
    assert_eq!(call(&service(), &[], &empty), []);
    let actions = call(&service(), &[at("a", 2)], &empty);
    assert!(matches!(&actions[..], [Action::Update(_)]), "{actions:?}");
    let one = after(&empty, &actions);
    let actions = call(&service(), &[], &one);
    let [Action::Update(slice)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(slice["endpoints"], json!([]));
}

#[test]
fn services_without_a_selector_are_left_alone_and_external_names_have_no_slices() {
    let made = after(&[], &call(&service(), &[at("a", 2)], &[]));
    let manual = with(service(), |s| s["spec"]["selector"] = json!(null));
    assert_eq!(call(&manual, &[at("a", 2)], &made), []);
    let external = with(service(), |s| s["spec"]["type"] = json!("ExternalName"));
    assert!(matches!(&call(&external, &[], &made)[..], [Action::Delete { .. }]));
    let foreign = with(made[0].clone(), |s| s["metadata"]["labels"][MANAGED_BY] = json!("me"));
    assert_eq!(call(&external, &[], &[foreign]), []);
}
