//! Routes, settings and chains of other programs between a client and its endpoints.

use serde_json::Value;

use super::support::{Outcome, run};
use super::world::{World, links, set, stage};

/// From a pod, in each family, and the endpoint on another node.
const FROM_POD: [(&str, &str); 2] =
    [("10.244.1.9", "10.244.2.2"), ("fd00:10:244:1::9", "fd00:10:244:2::2")];

const TO: &str = "svc/web.default";

#[track_caller]
fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// What is found wrong on the way, as code and text.
fn wrong(answer: &Value) -> Vec<(String, String)> {
    let findings = answer["findings"].as_array().into_iter().flatten();
    let errors = findings.filter(|finding| finding["severity"] == "error");
    let text =
        |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    errors.map(|finding| (text(finding, "code"), text(finding, "text"))).collect()
}

/// The way is as the kernel has it, and nothing is wrong.
#[track_caller]
fn clear(world: &World, from: &str, to: &str, words: &[&str]) {
    let answer = world.explained(from, to);
    let way = stage(&answer, "way");
    assert_eq!((wrong(&answer), &way["ok"]), (vec![], &Value::Bool(true)), "{from} {to}: {answer}");
    assert_eq!(answer["result"], "reachable", "{from} {to}: {answer}");
    let text = way["text"].as_str().unwrap_or_default();
    for word in words {
        assert!(text.contains(word), "{from} {to}: {word}: {text}");
    }
}

/// One thing is wrong, whose text has these words.
#[track_caller]
fn obstacle(world: &World, (from, to): (&str, &str), result: &str, code: &str, words: &[&str]) {
    let answer = world.explained(from, to);
    assert_eq!(answer["result"], result, "{from} {to}: {answer}");
    assert_eq!(stage(&answer, "way")["ok"], false, "{from} {to}: {answer}");
    for (found, text) in wrong(&answer) {
        assert_eq!(found, code, "{from} {to}: {text}");
        for word in words {
            assert!(text.contains(word), "{from} {to}: {word}: {text}");
        }
    }
    assert!(!wrong(&answer).is_empty(), "{from} {to}: {answer}");
}

pub(crate) fn obstacles() -> Outcome {
    links();
    let world = World::new("nftables", "");
    for (from, elsewhere) in FROM_POD {
        clear(&world, from, TO, &["dev pods", "mtu 1500 all along"]);
        let length = if from.contains(':') { "128" } else { "32" };
        for kind in ["unreachable", "blackhole", "prohibit"] {
            ip(&format!("route add {kind} {elsewhere}/{length}"));
            obstacle(&world, (from, TO), "mixed", "no-route", &[elsewhere]);
            ip(&format!("route del {kind} {elsewhere}/{length}"));
        }
        clear(&world, from, TO, &[elsewhere]);
    }
    ip("route del 10.244.0.0/16");
    ip("route del default");
    obstacle(&world, ("192.0.2.9", TO), "unreachable", "no-route", &["10.244."]);
    ip("route add 10.244.0.0/16 via 192.0.2.7");
    clear(&world, "192.0.2.9", TO, &["via 192.0.2.7 dev out"]);
    ip("route del 10.244.0.0/16");
    ip("route add 10.244.0.0/16 dev pods");
    ip("route add default dev out");
    settings(&world);
    // Only what is masqueraded has the mark.
    ip("rule add fwmark 0x4000/0x4000 unreachable");
    obstacle(
        &world,
        ("192.0.2.9", "node/node-a:30080"),
        "unreachable",
        "no-route",
        &["arrives at out"],
    );
    clear(&world, "10.244.1.9", TO, &["dev pods"]);
    ip("rule del fwmark 0x4000/0x4000 unreachable");
    ip("link set pods mtu 1400");
    clear(&world, "192.0.2.9", TO, &["mtu 1400 at pods, 1500 elsewhere"]);
    Ok(())
}

#[track_caller]
fn settings(world: &World) {
    let forwarding = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    for ((from, _), setting) in FROM_POD.into_iter().zip(forwarding) {
        set(setting, "0");
        obstacle(world, (from, TO), "unreachable", "forwarding-off", &["forwarding is 0"]);
        set(setting, "1");
        clear(world, from, TO, &["dev pods"]);
    }
    // What this node sends itself is not forwarded.
    set(forwarding[0], "0");
    clear(world, "node/node-a", TO, &["dev pods"]);
    set(forwarding[0], "1");
    ip("route add 203.0.113.0/24 dev pods");
    clear(world, "203.0.113.9@out", TO, &["dev pods"]);
    for interface in ["all", "out", "pods"] {
        set(&format!("net.ipv4.conf.{interface}.rp_filter"), "1");
    }
    let words = ["203.0.113.9", "arrives at out", "reverse path filter"];
    obstacle(world, ("203.0.113.9@out", TO), "unreachable", "reverse-path", &words);
    clear(world, "203.0.113.9@pods", TO, &["dev pods"]);
    ip("route del 203.0.113.0/24 dev pods");
}

pub(crate) fn others() -> Outcome {
    links();
    let world = World::new("nftables", "");
    let notes = |from: &str, to: &str| {
        let answer = world.explained(from, to);
        let others = stage(&answer, "others").clone();
        assert_eq!(answer["result"], "reachable", "named, not judged: {answer}");
        others
    };
    let nobody = notes("192.0.2.9", TO);
    assert_eq!((&nobody["ok"], nobody["notes"].as_array()), (&Value::Bool(true), None), "{nobody}");
    let rules = "table inet firewalld {\n\
        chain filter_FORWARD { type filter hook forward priority 10; policy accept; ip saddr 192.0.2.77 drop; }\n\
        chain filter_INPUT { type filter hook input priority 10; policy accept; ip saddr 192.0.2.77 drop; }\n\
        chain idle { type filter hook forward priority 20; policy accept; }\n\
        chain closed { type filter hook postrouting priority 30; policy drop; accept; }\n}\n\
        table ip6 mine {\n\
        chain pre { type filter hook prerouting priority -300; policy accept; counter; counter; }\n}\n";
    let file = world.folder.path().join("others.nft");
    std::fs::write(&file, rules)?;
    run("nft", &["-f", file.to_str().expect("a path in UTF-8")]);
    let forward = "table inet firewalld, chain filter_FORWARD (forward, priority 10): 1 rules";
    let closed =
        "table inet firewalld, chain closed (postrouting, priority 30): 1 rules, policy drop";
    let mine = "table ip6 mine, chain pre (prerouting, priority -300): 2 rules";
    let four = notes("192.0.2.9", TO);
    assert_eq!(four["notes"], serde_json::json!([forward, closed]), "{four}");
    assert_eq!(four["ok"], Value::Null);
    let six = notes("2001:db8:9::9", TO);
    assert_eq!(six["notes"], serde_json::json!([mine, forward, closed]), "{six}");
    let own = notes("node/node-a", TO);
    assert_eq!(own["notes"], serde_json::json!([closed]), "{own}");
    run("iptables-nft", &["-A", "FORWARD", "-s", "192.0.2.77", "-j", "DROP"]);
    let four = notes("192.0.2.9", TO);
    let iptables = "table ip filter, chain FORWARD (forward, priority 0): 1 rules";
    assert_eq!(four["notes"], serde_json::json!([iptables, forward, closed]), "{four}");
    Ok(())
}
