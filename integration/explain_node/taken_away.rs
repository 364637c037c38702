//! After one object is taken away by hand, explain names it; and nothing else, and nothing before.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use sluice_core::net::Family;
use sluice_kernel::nft::{Nft, Observed, Op, TableName};

use super::support::{Outcome, run};
use super::world::{World, links, stage};

/// What is asked in each family, and what is on the way.
const QUESTIONS: [(&str, &str); 7] = [
    ("10.244.1.9", "svc/web.default"),
    ("fd00:10:244:1::9", "svc/web.default"),
    ("10.244.1.9", "svc/empty"),
    ("192.0.2.9", "node/node-a:30080"),
    ("203.0.113.9", "198.51.100.1:80"),
    ("192.0.2.9", "198.51.100.1:80"),
    ("2001:db8:1::9", "[2001:db8::1]:80"),
];

type Objects = BTreeSet<(String, String)>;

fn objects(stage: &Value, list: &str) -> Objects {
    let all = stage[list].as_array().into_iter().flatten();
    let text = |object: &Value, field: &str| object[field].as_str().unwrap_or_default().to_owned();
    all.map(|object| (text(object, "set"), text(object, "element"))).collect()
}

/// The objects on the way, all of which are there.
#[track_caller]
fn healthy(world: &World, (from, to): (&str, &str)) -> Objects {
    let answer = world.explained(from, to);
    let kernel = stage(&answer, "kernel");
    assert_eq!(kernel["ok"], true, "{from} {to}: {kernel}");
    let extra = objects(kernel, "extra");
    assert!(extra.is_empty(), "{from} {to}: {extra:?}");
    let stopped = ["svc/empty", "198.51.100.1:80"].contains(&to) && from != "203.0.113.9";
    assert_eq!(answer["result"] == "reachable", !stopped, "{from} {to}: {answer}");
    let present = objects(kernel, "objects");
    assert!(!present.is_empty(), "{from} {to}: {kernel}");
    present
}

/// What is missing is exactly this, and a finding names it.
#[track_caller]
fn named(world: &World, (from, to): (&str, &str), missing: &Objects) {
    let answer = world.explained(from, to);
    let kernel = stage(&answer, "kernel");
    assert_eq!(&objects(kernel, "missing"), missing, "{from} {to}: {kernel}");
    let findings = answer["findings"].as_array().expect("a list");
    for (place, element) in missing {
        let names = |finding: &&Value| {
            let text = finding["text"].as_str().unwrap_or_default();
            text.contains(element.as_str()) && text.contains(place.as_str())
        };
        let finding = findings.iter().find(names);
        let finding = finding.unwrap_or_else(|| panic!("{element} is named: {answer}"));
        assert_eq!(finding["code"], "kernel-object-missing");
    }
    assert_ne!(answer["result"], "reachable", "{from} {to}: {answer}");
}

/// What `sluice rules --diff` says of all Services.
#[track_caller]
fn no_difference(world: &World) {
    for service in ["web", "empty", "shut", "web.shop"] {
        let output = world.ask(&["rules", service, "--diff"]);
        assert!(output.status.success(), "{service}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// The table of a family.
fn table(from: &str) -> TableName {
    let family = if from.contains(':') { Family::V6 } else { Family::V4 };
    TableName::new(family, "kube-proxy")
}

fn dump(nft: &mut Nft, table: &TableName) -> Observed {
    nft.dump(table).expect("it can be read").expect("there is a table")
}

pub(crate) fn nftables() -> Outcome {
    links();
    let world = World::new("nftables", "");
    no_difference(&world);
    let mut nft = Nft::open()?;
    for question in QUESTIONS {
        let there = healthy(&world, question);
        elements(&world, &mut nft, question, &there);
        rules(&world, &mut nft, question);
        assert_eq!(healthy(&world, question), there, "all is back");
    }
    let (from, to) = QUESTIONS[0];
    run("nft", &["add", "rule", "ip", "kube-proxy", "services", "counter", "drop"]);
    let answer = world.explained(from, to);
    let extra = objects(stage(&answer, "kernel"), "extra");
    assert!(extra.iter().any(|(place, _)| place == "chain services"), "{answer}");
    let code = |finding: &Value| finding["code"] == "kernel-object-extra";
    assert!(answer["findings"].as_array().is_some_and(|all| all.iter().any(code)), "{answer}");
    run("nft", &["delete", "table", "ip", "kube-proxy"]);
    let gone = [("tables".to_owned(), "ip kube-proxy".to_owned())];
    named(&world, QUESTIONS[0], &gone.into());
    let output = world.ask(&["rules", "web", "--diff"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("- tables: ip kube-proxy\n"), "{text}");
    assert!(text.contains("IPv6: ") && text.contains(" 0 missing, 0 too many"), "{text}");
    Ok(())
}

/// Every element on the way, one after the other.
#[track_caller]
fn elements(world: &World, nft: &mut Nft, question: (&str, &str), there: &Objects) {
    let table = table(question.0);
    let observed = dump(nft, &table);
    let mut count = 0;
    for (name, set) in &observed.sets {
        for element in set.elements.iter() {
            let object = (name.to_string(), element.text(&set.set));
            if !there.contains(&object) {
                continue;
            }
            count += 1;
            let (set, element) = (Arc::clone(name), element);
            let delete = Op::DeleteElement { set: Arc::clone(&set), element: element.clone() };
            nft.apply(&table, &[delete][..]).expect("it is deleted");
            named(world, question, &[object].into());
            nft.apply(&table, &[Op::AddElement { set, element }][..]).expect("it is back");
        }
    }
    assert_eq!(count, there.len(), "{there:?}");
}

/// Every rule of the chains on the way, one after the other.
#[track_caller]
fn rules(world: &World, nft: &mut Nft, question: (&str, &str)) {
    let table = table(question.0);
    let observed = dump(nft, &table);
    let answer = world.explained(question.0, question.1);
    let path = stage(&answer, "kernel")["path"].as_array().expect("a path").clone();
    for step in path.iter().filter_map(Value::as_str) {
        let Some(chain) = observed.chains.get(step) else { continue };
        let all: Vec<Op> = chain.rules.iter().map(|rule| Op::AddRule(rule.rule.clone())).collect();
        for index in 0..all.len() {
            let flush = || vec![Op::FlushChain(Arc::clone(&chain.chain.name))];
            let mut without = all.clone();
            let taken = without.remove(index);
            nft.apply(&table, &[flush(), without].concat()[..]).expect("it is deleted");
            let answer = world.explained(question.0, question.1);
            let missing = objects(stage(&answer, "kernel"), "missing");
            let places: Vec<&str> = missing.iter().map(|(place, _)| &**place).collect();
            assert_eq!(places, [format!("chain {step}")], "{taken:?}: {answer}");
            nft.apply(&table, &[flush(), all.clone()].concat()[..]).expect("it is back");
        }
    }
}

/// Runs `iptables-restore` for lines of one table.
#[track_caller]
fn restore(program: &str, table: &str, lines: &str) {
    let mut child = Command::new(program)
        .args(["--noflush", "--wait", "5"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("it starts");
    let script = format!("*{table}\n{lines}COMMIT\n");
    child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{script}");
}

pub(crate) fn iptables() -> Outcome {
    links();
    let world = World::new("iptables", "");
    no_difference(&world);
    for question in QUESTIONS {
        let program = if question.0.contains(':') { "ip6tables" } else { "iptables" };
        let there = healthy(&world, question);
        for (place, rule) in &there {
            let table = place.strip_prefix("table ").and_then(|rest| rest.split(',').next());
            let table = table.expect("a rule is in a table");
            let saved = run(&format!("{program}-save"), &["-t", table]);
            let (chain, text) =
                rule.strip_prefix("-A ").and_then(|it| it.split_once(' ')).expect("a rule");
            let of_chain = saved.lines().filter(|line| line.starts_with(&format!("-A {chain} ")));
            let at = of_chain.zip(1..).find(|(line, _)| line == rule).expect("it is there").1;
            restore(&format!("{program}-restore"), table, &format!("-D {chain} {text}\n"));
            named(&world, question, &[(place.clone(), rule.clone())].into());
            restore(&format!("{program}-restore"), table, &format!("-I {chain} {at} {text}\n"));
        }
        assert_eq!(healthy(&world, question), there, "all is back");
    }
    Ok(())
}

pub(crate) fn userspace() -> Outcome {
    links();
    let world = World::new("userspace", "");
    no_difference(&world);
    let mut nft = Nft::open()?;
    for question in QUESTIONS {
        let there = healthy(&world, question);
        let table = table(question.0);
        let observed = dump(&mut nft, &table);
        for (name, set) in &observed.sets {
            for element in set.elements.iter() {
                let text = element.text(&set.set);
                if !there.contains(&(name.to_string(), text.clone())) {
                    continue;
                }
                let (set, element) = (Arc::clone(name), element);
                let delete = Op::DeleteElement { set: Arc::clone(&set), element: element.clone() };
                nft.apply(&table, &[delete][..]).expect("it is deleted");
                // The relay's port is known from another frontend.
                named(&world, question, &[(name.to_string(), text)].into());
                nft.apply(&table, &[Op::AddElement { set, element }][..]).expect("it is back");
            }
        }
        assert_eq!(healthy(&world, question), there, "all is back");
    }
    Ok(())
}
