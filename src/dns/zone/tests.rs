//! The rows of the Kubernetes DNS specification, and the negative answers of CoreDNS's own tests.

use std::net::Ipv6Addr;

use serde_json::json;

use super::*;

fn slice(service: &str, family: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    })
}

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local");
    zone.set_namespace("default", true);
    let ports =
        json!([{"name": "http", "protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 5}]);
    let ips = json!(["10.96.0.80", "fd00:10:96::80"]);
    let web = json!({"spec": {"clusterIP": ips[0], "clusterIPs": ips, "ports": ports}});
    zone.set_service("default", "web", Some(web));
    let single = json!({"spec": {"clusterIP": "10.96.0.81", "clusterIPs": ["10.96.0.81"]}});
    zone.set_service("default", "single", Some(single));
    for name in ["db", "empty"] {
        let headless =
            json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}});
        zone.set_service("default", name, Some(headless));
    }
    let out = json!({"spec": {"type": "ExternalName", "externalName": "example.org."}});
    zone.set_service("default", "out", Some(out));
    let conditions = |ready: bool| json!({"ready": ready});
    let v4 = json!([
        {"addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": conditions(true)},
        {"addresses": ["10.244.1.3"], "conditions": conditions(true)},
        {"addresses": ["10.244.1.4"], "hostname": "db-9", "conditions": conditions(false)},
    ]);
    let v6 = json!([
        {"addresses": ["fd00::2"], "hostname": "db-0", "conditions": conditions(true)},
    ]);
    zone.set_slice("default", "db-v4", Some(slice("db", "IPv4", v4)));
    zone.set_slice("default", "db-v6", Some(slice("db", "IPv6", v6)));
    let none = json!([{"addresses": ["10.244.1.5"], "conditions": conditions(false)}]);
    zone.set_slice("default", "empty-v4", Some(slice("empty", "IPv4", none)));
    zone
}

/// The answer in one line: its code, and what its records say.
fn asked(name: &str, kind: Type) -> String {
    let answer = zone().lookup(name, kind);
    let records: Vec<String> = answer.records.iter().map(|r| written(&r.data)).collect();
    match (answer.code, answer.authority) {
        (Code::Good, None) => records.join(" "),
        (Code::Good, Some(_)) => "NODATA".to_owned(),
        (Code::NoSuchName, Some(_)) => "NXDOMAIN".to_owned(),
        (code, authority) => format!("{code:?} {}", authority.is_some()),
    }
}

fn written(data: &Data) -> String {
    match data {
        Data::Address(ip) => ip.to_string(),
        Data::Srv { port, weight, target } => format!("{weight}:{port}:{target}"),
        Data::Ptr(text) | Data::Cname(text) | Data::Txt(text) | Data::Ns(text) => text.clone(),
        Data::Soa { server, mailbox } => format!("{server} {mailbox}"),
    }
}

#[test]
fn every_row_of_the_specification_is_answered() {
    let web = "web.default.svc.cluster.local";
    let db = "db.default.svc.cluster.local";
    let table: &[(&str, Type, String)] = &[
        // 2.2 schema version
        ("dns-version.cluster.local", Type::Txt, "1.1.0".into()),
        // 2.3 Services with a cluster IP
        (web, Type::A, "10.96.0.80".into()),
        (web, Type::Aaaa, "fd00:10:96::80".into()),
        ("WEB.Default.svc.CLUSTER.local.", Type::A, "10.96.0.80".into()),
        (&format!("_http._tcp.{web}"), Type::Srv, format!("100:80:{web}")),
        (&format!("_http._udp.{web}"), Type::Srv, "NXDOMAIN".into()),
        (&format!("_._udp.{web}"), Type::Srv, "NXDOMAIN".into()),
        ("80.0.96.10.in-addr.arpa", Type::Ptr, web.into()),
        // 2.4 headless Services
        (db, Type::A, "10.244.1.2 10.244.1.3".into()),
        (db, Type::Aaaa, "fd00::2".into()),
        (&format!("db-0.{db}"), Type::A, "10.244.1.2".into()),
        (&format!("db-0.{db}"), Type::Aaaa, "fd00::2".into()),
        (&format!("10-244-1-3.{db}"), Type::A, "10.244.1.3".into()),
        (
            &format!("_http._tcp.{db}"),
            Type::Srv,
            format!("50:8080:db-0.{db} 50:8080:10-244-1-3.{db}"),
        ),
        ("2.1.244.10.in-addr.arpa", Type::Ptr, format!("db-0.{db}")),
        ("3.1.244.10.in-addr.arpa", Type::Ptr, format!("10-244-1-3.{db}")),
        // what is not ready has no name
        ("4.1.244.10.in-addr.arpa", Type::Ptr, "NXDOMAIN".into()),
        (&format!("db-9.{db}"), Type::A, "NXDOMAIN".into()),
        ("empty.default.svc.cluster.local", Type::A, "NXDOMAIN".into()),
        // 2.5 external names
        ("out.default.svc.cluster.local", Type::A, "example.org".into()),
        ("out.default.svc.cluster.local", Type::Cname, "example.org".into()),
        // pods by address
        ("10-244-1-9.default.pod.cluster.local", Type::A, "10.244.1.9".into()),
        ("fd00--9.default.pod.cluster.local", Type::Aaaa, "fd00::9".into()),
        ("10-244-1-9.other.pod.cluster.local", Type::A, "NXDOMAIN".into()),
        ("x.default.pod.cluster.local", Type::A, "NXDOMAIN".into()),
    ];
    for (name, kind, expected) in table {
        assert_eq!(asked(name, *kind), *expected, "{name} {kind:?}");
    }
    let nibbles = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80).to_bits();
    let digits: Vec<char> = format!("{nibbles:032x}").chars().rev().collect();
    let digits: Vec<String> = digits.iter().map(char::to_string).collect();
    assert_eq!(asked(&format!("{}.ip6.arpa", digits.join(".")), Type::Ptr), web);
}

#[test]
fn negative_answers_tell_a_name_from_a_type() {
    for (name, kind, expected) in [
        ("none.default.svc.cluster.local", Type::A, "NXDOMAIN"),
        ("web.none.svc.cluster.local", Type::A, "NXDOMAIN"),
        ("bogus.web.default.svc.cluster.local", Type::A, "NXDOMAIN"),
        ("a.b.c.d.e.f.cluster.local", Type::A, "NXDOMAIN"),
        ("single.default.svc.cluster.local", Type::Aaaa, "NODATA"),
        ("web.default.svc.cluster.local", Type::Txt, "NODATA"),
        ("_http._tcp.web.default.svc.cluster.local", Type::A, "NODATA"),
        ("default.svc.cluster.local", Type::A, "NODATA"),
        ("none.svc.cluster.local", Type::A, "NXDOMAIN"),
        ("svc.cluster.local", Type::A, "NODATA"),
        ("cluster.local", Type::A, "NODATA"),
        ("cluster.local", Type::Soa, "ns.dns.cluster.local hostmaster.cluster.local"),
        ("cluster.local", Type::Ns, "ns.dns.cluster.local"),
        ("9.9.9.9.in-addr.arpa", Type::Ptr, "NXDOMAIN"),
        ("example.org", Type::A, "Refused false"),
        ("notcluster.local", Type::A, "Refused false"),
    ] {
        assert_eq!(asked(name, kind), expected, "{name} {kind:?}");
    }
    let answer = zone().lookup("none.default.svc.cluster.local", Type::A);
    assert_eq!(answer.authority.expect("an authority").name, "cluster.local");
}

#[test]
fn an_srv_answer_brings_the_addresses_of_its_targets() {
    let answer = zone().lookup("_http._tcp.db.default.svc.cluster.local", Type::Srv);
    let additional: Vec<String> =
        answer.additional.iter().map(|r| format!("{} {}", r.name, written(&r.data))).collect();
    assert_eq!(
        additional,
        [
            "db-0.db.default.svc.cluster.local 10.244.1.2",
            "db-0.db.default.svc.cluster.local fd00::2",
            "10-244-1-3.db.default.svc.cluster.local 10.244.1.3",
        ]
    );
}

#[test]
fn what_is_taken_out_leaves_nothing() {
    let mut zone = zone();
    zone.set_slice("default", "db-v6", None);
    let answer = zone.lookup("db-0.db.default.svc.cluster.local", Type::Aaaa);
    assert!(answer.records.is_empty() && answer.code == Code::Good);
    zone.set_slice("default", "db-v4", None);
    assert_eq!(zone.lookup("db.default.svc.cluster.local", Type::A).code, Code::NoSuchName);
    assert_eq!(zone.slices.len(), 1, "only that of the other Service");
    zone.set_service("default", "web", None);
    assert_eq!(zone.lookup("web.default.svc.cluster.local", Type::A).code, Code::NoSuchName);
}
