//! A table of nf_tables as `nft list` prints it, and as the JSON that `nft -j -f` loads.

use std::fmt::Write;
use std::net::IpAddr;

use nftables::schema::{Chain as JsonChain, NfListObject, NfObject, Rule as JsonRule, Table};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::{Value, json};

use super::statements::statements;
use super::text;
use sluice_core::net::Family;
use sluice_dataplane::service_table::Ruleset;
use sluice_kernel::nft::{
    BaseChain, Chain, ChainKind, Element, Field, Hook, Policy, Rule, Set, SetFlags, SetKind,
};

/// The table's name, the same in every mode.
const NAME: &str = "kube-proxy";

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// As `nft list table` prints it, but for how many elements stand on a line.
pub(super) fn text(ruleset: &Ruleset) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(out, "table {} {NAME} {{", word(ruleset.family));
    let _ = writeln!(out, "\tcomment \"rules for kube-proxy\"");
    for (set, elements) in &ruleset.sets {
        set_text(&mut out, set, elements);
    }
    for (chain, rules) in &ruleset.chains {
        let _ = writeln!(out, "\tchain {} {{", chain.name);
        if let Some(base) = &chain.base {
            let _ = writeln!(out, "\t\t{}", base_text(base));
        }
        for rule in rules {
            let _ = writeln!(out, "\t\t{}", rule_text(ruleset.family, rule));
        }
        out.push_str("\t}\n\n");
    }
    out.truncate(out.trim_end().len());
    out.push_str("\n}\n");
    out
}

/// A rule as `nft list` prints it.
pub(crate) fn rule_text(family: Family, rule: &Rule) -> String {
    match statements(family, rule) {
        Some(said) => text::rule(&said),
        None => format!("# a rule of {} expressions", rule.exprs.len()),
    }
}

fn set_text(out: &mut String, set: &Set, elements: &[Element]) {
    let (keyword, data) = match &set.kind {
        SetKind::Map(data) => ("map", format!(" : {}", type_of(data))),
        SetKind::Set | SetKind::VerdictMap | SetKind::ObjectMap => ("set", String::new()),
    };
    let _ = writeln!(out, "\t{keyword} {} {{", set.name);
    let _ = writeln!(out, "\t\ttypeof {}{data}", type_of(&set.key));
    if let Some(size) = set.size {
        let _ = writeln!(out, "\t\tsize {size}");
    }
    let flags = flags(set);
    if !flags.is_empty() {
        let _ = writeln!(out, "\t\tflags {}", flags.join(","));
    }
    if let Some(comment) = &set.comment {
        let _ = writeln!(out, "\t\tcomment \"{comment}\"");
    }
    let elements: Vec<String> =
        elements.iter().map(|element| prefixed(&element.text(set))).collect();
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
    }
    out.push_str("\t}\n\n");
}

/// Ranges of addresses that are prefixes are written as such.
fn prefixed(element: &str) -> String {
    let parts = element.split(" . ").map(|part| match part.split_once('-') {
        Some((low, high)) => prefix(low, high).unwrap_or_else(|| part.to_owned()),
        None => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join(" . ")
}

fn prefix(low: &str, high: &str) -> Option<String> {
    let (low, high): (IpAddr, IpAddr) = (low.parse().ok()?, high.parse().ok()?);
    let longest = if low.is_ipv4() { 32 } else { 128 };
    let mut nets = (0..=longest).filter_map(|length| ipnet::IpNet::new(low, length).ok());
    let net = nets.find(|net| net.network() == low && net.broadcast() == high)?;
    Some(net.to_string())
}

fn flags(set: &Set) -> Vec<&'static str> {
    let all = [
        (SetFlags::DYNAMIC, "dynamic"),
        (SetFlags::INTERVAL, "interval"),
        (SetFlags::TIMEOUT, "timeout"),
    ];
    all.into_iter().filter(|(flag, _)| set.flags.contains(*flag)).map(|(_, word)| word).collect()
}

fn type_of(fields: &[Field]) -> String {
    fields.iter().map(|field| field_words(*field)).collect::<Vec<_>>().join(" . ")
}

fn field_words(field: Field) -> String {
    match field {
        Field::Saddr(family) => format!("{} saddr", word(family)),
        Field::Daddr(family) => format!("{} daddr", word(family)),
        Field::OriginalDaddr(family) => format!("ct original {} daddr", word(family)),
        Field::OriginalDport => "ct original proto-dst".to_owned(),
        Field::L4Proto => "meta l4proto".to_owned(),
        Field::Sport => "th sport".to_owned(),
        Field::Dport => "th dport".to_owned(),
        Field::Random { modulus } => format!("numgen random mod {modulus}"),
        Field::Slot { number } => format!("numgen random mod 1 offset {number}"),
        Field::Increment { modulus } => format!("numgen inc mod {modulus}"),
        Field::Mark => "meta mark".to_owned(),
        Field::Priority => "meta priority".to_owned(),
        Field::InputName => "iifname".to_owned(),
        Field::OutputName => "oifname".to_owned(),
        Field::Bare { datatype, .. } => format!("datatype {datatype}"),
    }
}

fn base_text(base: &BaseChain) -> String {
    let BaseChain { kind, hook, priority, policy } = base;
    let kind = match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    };
    let policy = match policy {
        Policy::Accept => "accept",
        Policy::Drop => "drop",
    };
    let priority = priority_text(*hook, *priority);
    format!("type {kind} hook {} priority {priority}; policy {policy};", hook_word(*hook))
}

fn hook_word(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    }
}

/// The names that `nft` has for priorities within ten of them (`std_prios` in its `src/rule.c`).
fn priority_text(hook: Hook, priority: i32) -> String {
    let mut names = vec![(-300, "raw"), (-150, "mangle"), (0, "filter"), (50, "security")];
    if hook == Hook::Prerouting {
        names.push((-100, "dstnat"));
    }
    if hook == Hook::Postrouting {
        names.push((100, "srcnat"));
    }
    let near = names.into_iter().find(|(at, _)| (priority - at).abs() <= 10);
    match near.map(|(at, name)| (priority - at, name)) {
        Some((0, name)) => name.to_owned(),
        Some((offset, name)) if offset < 0 => format!("{name} - {}", -offset),
        Some((offset, name)) => format!("{name} + {offset}"),
        None => priority.to_string(),
    }
}

/// The objects of the table, in the order in which they are loaded.
pub(super) fn objects(ruleset: &Ruleset) -> Vec<Value> {
    let family = match ruleset.family {
        Family::V4 => NfFamily::IP,
        Family::V6 => NfFamily::IP6,
    };
    let object = |object: NfListObject<'_>| {
        serde_json::to_value(NfObject::ListObject(object)).unwrap_or_default()
    };
    let table = Table { family, name: NAME.into(), handle: None };
    let mut all = vec![object(NfListObject::Table(table))];
    all.extend(ruleset.sets.iter().map(|(set, elements)| json_set(ruleset.family, set, elements)));
    all.extend(ruleset.chains.iter().map(|(chain, _)| object(json_chain(family, chain))));
    for (chain, rules) in &ruleset.chains {
        for rule in rules {
            let Some(said) = statements(ruleset.family, rule) else { continue };
            all.push(object(NfListObject::Rule(JsonRule {
                family,
                table: NAME.into(),
                chain: chain.name.to_string().into(),
                expr: said.into(),
                handle: None,
                index: None,
                comment: None,
            })));
        }
    }
    all
}

fn json_chain(family: NfFamily, chain: &Chain) -> NfListObject<'static> {
    let base = chain.base.as_ref();
    NfListObject::Chain(JsonChain {
        family,
        table: NAME.into(),
        name: chain.name.to_string().into(),
        newname: None,
        handle: None,
        _type: base.map(|base| match base.kind {
            ChainKind::Filter => NfChainType::Filter,
            ChainKind::Nat => NfChainType::NAT,
            ChainKind::Route => NfChainType::Route,
        }),
        hook: base.map(|base| match base.hook {
            Hook::Prerouting => NfHook::Prerouting,
            Hook::Input => NfHook::Input,
            Hook::Forward => NfHook::Forward,
            Hook::Output => NfHook::Output,
            Hook::Postrouting => NfHook::Postrouting,
        }),
        prio: base.map(|base| base.priority),
        dev: None,
        policy: base.map(|base| match base.policy {
            Policy::Accept => NfChainPolicy::Accept,
            Policy::Drop => NfChainPolicy::Drop,
        }),
    })
}

/// A set with its elements. The crate has no name for the types of slots and priorities, so this one object is
/// written without its types.
fn json_set(family: Family, set: &Set, elements: &[Element]) -> Value {
    let mut fields = json!({
        "family": word(family), "table": NAME, "name": set.name, "type": json_type(&set.key),
    });
    let keyword = match &set.kind {
        SetKind::Map(data) => {
            fields["map"] = json_type(data);
            "map"
        }
        SetKind::Set | SetKind::VerdictMap | SetKind::ObjectMap => "set",
    };
    if let Some(size) = set.size {
        fields["size"] = json!(size);
    }
    if !flags(set).is_empty() {
        fields["flags"] = json!(flags(set));
    }
    if let Some(comment) = &set.comment {
        fields["comment"] = json!(comment);
    }
    if !elements.is_empty() {
        let all = elements.iter().map(|element| json_element(&prefixed(&element.text(set))));
        fields["elem"] = all.collect();
    }
    json!({ keyword: fields })
}

/// By name where `nft` has one that says all; else by what is loaded (`typeof`, since `nft` 1.1).
fn json_type(fields: &[Field]) -> Value {
    let name = |field: &Field| match field {
        Field::Saddr(Family::V4) | Field::Daddr(Family::V4) => Some("ipv4_addr"),
        Field::Saddr(Family::V6) | Field::Daddr(Family::V6) => Some("ipv6_addr"),
        Field::L4Proto => Some("inet_proto"),
        Field::Sport | Field::Dport => Some("inet_service"),
        _ => None,
    };
    let names: Option<Vec<&str>> = fields.iter().map(name).collect();
    match names.as_deref() {
        Some([one]) => json!(one),
        Some(several) => json!(several),
        None => {
            let loads: Vec<Value> = fields.iter().map(|field| json_load(*field)).collect();
            match loads.as_slice() {
                [one] => json!({ "typeof": one }),
                several => json!({ "typeof": { "concat": several } }),
            }
        }
    }
}

fn json_load(field: Field) -> Value {
    let words = field_words(field);
    match field {
        Field::Random { modulus } => json!({ "numgen": { "mode": "random", "mod": modulus } }),
        Field::Priority => json!({ "meta": { "key": "priority" } }),
        Field::L4Proto => json!({ "meta": { "key": "l4proto" } }),
        _ => match words.split_once(' ') {
            Some((protocol, name)) => json!({ "payload": { "protocol": protocol, "field": name } }),
            None => json!(words),
        },
    }
}

fn json_element(text: &str) -> Value {
    match text.split_once(" : ") {
        Some((key, data)) => json!([json_key(key), json_key(data)]),
        None => json_key(text),
    }
}

fn json_key(text: &str) -> Value {
    let parts: Vec<Value> = text.split(" . ").map(json_part).collect();
    match parts.as_slice() {
        [one] => one.clone(),
        several => json!({ "concat": several }),
    }
}

fn json_part(part: &str) -> Value {
    if let Ok(number) = part.parse::<u32>() {
        return json!(number);
    }
    if let Some((address, length)) = part.split_once('/')
        && let Ok(length) = length.parse::<u32>()
    {
        return json!({ "prefix": { "addr": address, "len": length } });
    }
    match part.split_once('-') {
        Some((low, high)) if low.parse::<IpAddr>().is_ok() => {
            json!({ "range": [low, high] })
        }
        _ => json!(part),
    }
}
