//! Sets, maps, elements, chains.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nftables::batch::Batch;
use nftables::expr::Expression;
use nftables::schema::{Chain as JsonChain, Element as JsonElement, NfListObject, Table};
use nftables::types::{NfChainPolicy, NfChainType, NfHook};
use sluice_core::net::{Family, Protocol};
use sluice_kernel::nft::{
    Chain, ChainKind, Counting, Data, Element, Expr, Field, Hook, Key, Nft, Op, Policy, Set,
    SetFlags, SetKind, TableName, Verdict,
};

use crate::sandbox::{compare, listing, nft};
use crate::words::{concat, ip, json_family, number, of, string};

/// Writes a set of each kind with elements both ways. Declarations with `typeof` are text, because
/// `nft -j` has only `type`; plain elements are typed.
pub(crate) fn all_kinds(family: Family) {
    let table = TableName::new(family, "differential");
    let declarations = declarations(&table);
    let mut ops = our_sets(family);
    ops.extend(our_elements(family));
    let told = table.clone();
    let theirs = move || {
        nft(&["-f", "-"], &declarations);
        nft(&["-j", "-f", "-"], &their_elements(&told));
    };
    compare(&table, theirs, ops);
}

fn declarations(table: &TableName) -> String {
    let ip = ip(table.family);
    let (host, net) = of(table.family, ("10.0.0.5", "10.2.0.0/16"), ("fd00::5", "fd00:2::/32"));
    let (low, high) = of(table.family, ("10.9.0.1", "10.9.0.7"), ("fd00:9::1", "fd00:9::7"));
    let last = of(table.family, "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    format!(
        "table {table} {{
            chain target {{ }}
            set plain {{ typeof {ip} daddr; comment \"plain addresses\"; }}
            set bounded {{ typeof th dport; size 16; }}
            set interfaces {{ typeof iifname; elements = {{ \"eth0\", \"cni0\" }} }}
            set outputs {{ typeof oifname . meta mark; }}
            set services {{ typeof {ip} daddr . meta l4proto . th dport; }}
            set counted {{ typeof {ip} daddr . meta l4proto . th dport; counter;
                elements = {{ {host} . tcp . 80 }} }}
            set commented {{ typeof {ip} saddr; elements = {{ {host} comment \"a host\" }} }}
            set aging {{ typeof {ip} saddr; flags timeout; timeout 2h; }}
            set ranges {{ typeof {ip} saddr; flags interval;
                elements = {{ {net}, {host}, {low}-{high}, {last} }} }}
            set part-ranges {{ typeof {ip} daddr . meta l4proto . {ip} saddr; flags interval;
                elements = {{ {host} . tcp . {net}, {low}-{high} . udp . {host} }} }}
            map marks {{ typeof th sport : meta mark; elements = {{ 53 : 0x7 }} }}
            map priorities {{ typeof th sport : meta priority; elements = {{ 53 : 8001:2f3c }} }}
            map slots {{
                typeof {ip} daddr . meta l4proto . th dport . numgen random mod 4096 : {ip} daddr . th dport; }}
            map turns {{ typeof numgen inc mod 16 : {ip} daddr; }}
            map verdicts {{ typeof {ip} daddr . meta l4proto : verdict; comment \"who may\";
                elements = {{ {host} . tcp : accept, {host} . udp : goto target,
                    {host} . sctp : jump target, {low} . tcp : drop, {low} . udp : return,
                    {low} . sctp : continue }} }}
            map range-verdicts {{ typeof {ip} saddr : verdict; flags interval;
                elements = {{ {net} : drop }} }}
        }}"
    )
}

fn our_sets(family: Family) -> Vec<Op> {
    let (saddr, daddr) = (Field::Saddr(family), Field::Daddr(family));
    let (proto, dport) = (Field::L4Proto, Field::Dport);
    let slots = vec![daddr, proto, dport, Field::Random { modulus: 4096 }];
    let mut plain = Set::set("plain", vec![daddr]);
    plain.comment = Some("plain addresses".into());
    let mut bounded = Set::set("bounded", vec![dport]);
    bounded.size = Some(16);
    let mut counted = Set::set("counted", vec![daddr, proto, dport]);
    counted.counting = Counting::On;
    let mut aging = Set::set("aging", vec![saddr]);
    aging.flags = SetFlags::TIMEOUT;
    aging.timeout = Some(Duration::from_secs(7200));
    let mut ranges = Set::set("ranges", vec![saddr]);
    ranges.flags = SetFlags::INTERVAL;
    let mut part_ranges = Set::set("part-ranges", vec![daddr, proto, saddr]);
    part_ranges.flags = SetFlags::INTERVAL;
    let mut verdicts = Set::verdict_map("verdicts", vec![daddr, proto]);
    verdicts.comment = Some("who may".into());
    let mut range_verdicts = Set::verdict_map("range-verdicts", vec![saddr]);
    range_verdicts.flags = SetFlags::INTERVAL;
    let sets = [
        plain,
        bounded,
        Set::set("interfaces", vec![Field::InputName]),
        Set::set("outputs", vec![Field::OutputName, Field::Mark]),
        Set::set("services", vec![daddr, proto, dport]),
        counted,
        Set::set("commented", vec![saddr]),
        aging,
        ranges,
        part_ranges,
        Set::map("marks", vec![Field::Sport], vec![Field::Mark]),
        Set::map("priorities", vec![Field::Sport], vec![Field::Priority]),
        Set::map("slots", slots, vec![daddr, dport]),
        Set::map("turns", vec![Field::Increment { modulus: 16 }], vec![daddr]),
        verdicts,
        range_verdicts,
    ];
    let begin = [Op::AddTable { comment: None }, Op::AddChain(Chain::regular("target"))];
    begin.into_iter().chain(sets.map(Op::AddSet)).collect()
}

fn our_elements(family: Family) -> Vec<Op> {
    let parse = |text: &str| text.parse::<IpAddr>().unwrap();
    let host = parse(of(family, "10.0.0.5", "fd00::5"));
    let (low, high) = of(family, ("10.9.0.1", "10.9.0.7"), ("fd00:9::1", "fd00:9::7"));
    let (low, high) = (parse(low), parse(high));
    let net: ipnet::IpNet = of(family, "10.2.0.0/16", "fd00:2::/32").parse().unwrap();
    let last = parse(of(family, "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    let key = |address| Key::new().address(address);
    let name = |name: &[u8]| {
        let mut padded = [0; 16];
        padded[..name.len()].copy_from_slice(name);
        padded
    };
    let target: Arc<str> = "target".into();
    let service = |slot| key(host).protocol(Protocol::Tcp).port(443).number(slot);
    let endpoint = |port| Data::new().address(host).port(port);
    let verdict = |address, protocol, verdict| {
        ("verdicts", Element::verdict(key(address).protocol(protocol), verdict))
    };
    let elements = [
        ("plain", Element::new(key(host))),
        ("plain", Element::new(key(low))),
        ("bounded", Element::new(Key::new().port(443))),
        ("interfaces", Element::new(Key::new().part(&name(b"eth0")))),
        ("interfaces", Element::new(Key::new().part(&name(b"cni0")))),
        ("outputs", Element::new(Key::new().part(&name(b"eth1")).number(16))),
        ("services", Element::new(key(host).protocol(Protocol::Sctp).port(5060))),
        ("counted", Element::new(key(host).protocol(Protocol::Tcp).port(80))),
        ("commented", Element::new(key(host)).with_comment("a host")),
        ("ranges", Element::prefix(net)),
        ("ranges", Element::new(key(host)).through(key(host))),
        ("ranges", Element::new(key(low)).through(key(high))),
        ("ranges", Element::new(key(last)).through(key(last))),
        (
            "part-ranges",
            Element::new(key(host).protocol(Protocol::Tcp).address(net.network()))
                .through_parts(key(host).protocol(Protocol::Tcp).address(net.broadcast())),
        ),
        (
            "part-ranges",
            Element::new(key(low).protocol(Protocol::Udp).address(host))
                .through_parts(key(high).protocol(Protocol::Udp).address(host)),
        ),
        ("marks", Element::data(Key::new().port(53), Data::new().number(7))),
        ("priorities", Element::data(Key::new().port(53), Data::new().number(0x8001_2f3c))),
        ("slots", Element::data(service(0), endpoint(6443))),
        ("slots", Element::data(service(4095), endpoint(6444))),
        ("turns", Element::data(Key::new().number(3), Data::new().address(high))),
        verdict(host, Protocol::Tcp, Verdict::Accept),
        verdict(host, Protocol::Udp, Verdict::Goto(Arc::clone(&target))),
        verdict(host, Protocol::Sctp, Verdict::Jump(Arc::clone(&target))),
        verdict(low, Protocol::Tcp, Verdict::Drop),
        verdict(low, Protocol::Udp, Verdict::Return),
        verdict(low, Protocol::Sctp, Verdict::Continue),
        ("range-verdicts", {
            let prefix = Element::prefix(net);
            Element { value: Element::verdict(prefix.key, Verdict::Drop).value, ..prefix }
        }),
    ];
    let add = |(set, element): (&str, Element)| Op::AddElement { set: set.into(), element };
    elements.into_iter().map(add).collect()
}

fn their_elements(table: &TableName) -> String {
    let family = table.family;
    let (host, low) = of(family, ("10.0.0.5", "10.9.0.1"), ("fd00::5", "fd00:9::1"));
    let high = of(family, "10.9.0.7", "fd00:9::7");
    let mut batch = Batch::new();
    let mut add = |name: &'static str, elements: Vec<Expression<'static>>| {
        batch.add(NfListObject::Element(JsonElement {
            family: json_family(family),
            table: Cow::Owned(table.name.to_string()),
            name: Cow::Borrowed(name),
            elem: Cow::Owned(elements),
        }));
    };
    let pair = |key, value| Expression::List(vec![key, value]);
    let service = |slot| concat(vec![string(host), string("tcp"), number(443), number(slot)]);
    let endpoint = |port| concat(vec![string(host), number(port)]);
    add("plain", vec![string(host), string(low)]);
    add("bounded", vec![number(443)]);
    add("outputs", vec![concat(vec![string("eth1"), number(16)])]);
    add("services", vec![concat(vec![string(host), string("sctp"), number(5060)])]);
    add("slots", vec![pair(service(0), endpoint(6443)), pair(service(4095), endpoint(6444))]);
    add("turns", vec![pair(number(3), string(high))]);
    serde_json::to_string(&batch.to_nftables()).unwrap()
}

/// Writes base chains in all combinations that the kernel allows, typed.
pub(crate) fn base_chains() {
    let table = TableName::new(Family::V4, "differential");
    let combinations = [
        (ChainKind::Filter, Hook::Prerouting, -150, NfChainType::Filter, NfHook::Prerouting),
        (ChainKind::Filter, Hook::Input, 0, NfChainType::Filter, NfHook::Input),
        (ChainKind::Filter, Hook::Forward, 5, NfChainType::Filter, NfHook::Forward),
        (ChainKind::Filter, Hook::Output, -10, NfChainType::Filter, NfHook::Output),
        (ChainKind::Filter, Hook::Postrouting, 300, NfChainType::Filter, NfHook::Postrouting),
        (ChainKind::Nat, Hook::Prerouting, -100, NfChainType::NAT, NfHook::Prerouting),
        (ChainKind::Nat, Hook::Input, 100, NfChainType::NAT, NfHook::Input),
        (ChainKind::Nat, Hook::Output, -100, NfChainType::NAT, NfHook::Output),
        (ChainKind::Nat, Hook::Postrouting, 100, NfChainType::NAT, NfHook::Postrouting),
        (ChainKind::Route, Hook::Output, -150, NfChainType::Route, NfHook::Output),
    ];
    let mut batch = Batch::new();
    let name = Cow::Borrowed("differential");
    let family = json_family(Family::V4);
    batch.add(NfListObject::Table(Table { family, name: name.clone(), handle: None }));
    let mut ops = vec![Op::AddTable { comment: None }];
    for (index, (kind, hook, priority, json_kind, json_hook)) in
        combinations.into_iter().enumerate()
    {
        let drops = index % 2 == 1;
        let policy = if drops { NfChainPolicy::Drop } else { NfChainPolicy::Accept };
        // The kernel refuses a nat chain that drops by default.
        let nat = kind == ChainKind::Nat;
        let mut chain = Chain::base(format!("chain-{index}"), kind, hook, priority);
        if drops && !nat {
            chain.base.as_mut().unwrap().policy = Policy::Drop;
        }
        batch.add(NfListObject::Chain(JsonChain {
            family,
            table: name.clone(),
            name: Cow::Owned(chain.name.to_string()),
            _type: Some(json_kind),
            hook: Some(json_hook),
            prio: Some(priority),
            policy: Some(if nat { NfChainPolicy::Accept } else { policy }),
            ..JsonChain::default()
        }));
        ops.push(Op::AddChain(chain));
    }
    let json = serde_json::to_string(&batch.to_nftables()).unwrap();
    compare(&table, move || drop(nft(&["-j", "-f", "-"], &json)), ops);
}

/// Reads what other programs may have put into a table of ours: anonymous sets, `type` instead of
/// `typeof`, stateful objects, expressions that we never write.
pub(crate) fn foreign_table(family: Family) {
    let table = TableName::new(family, "foreign");
    let ip = ip(family);
    let (address, other, host) =
        of(family, ("ipv4_addr", "10.0.0.2", "10.0.0.1"), ("ipv6_addr", "fd00::2", "fd00::1"));
    nft(
        &["-f", "-"],
        &format!(
            "table {table} {{
                counter hits {{ }}
                set by-type {{ type {address} . inet_proto . inet_service;
                    elements = {{ {host} . tcp . 80 }} }}
                map objects {{ type {address} : counter; elements = {{ {host} : \"hits\" }} }}
                map many {{ type {address} : verdict; flags interval;
                    elements = {{ * : drop, {other} : accept }} }}
                chain sub {{ }}
                chain c {{ type filter hook input priority 0; policy drop;
                    {ip} daddr {{ {host}, {other} }} counter name \"hits\" accept
                    meta l4proto . th dport vmap {{ tcp . 80 : jump sub, udp . 53 : accept }}
                    symhash mod 3 == 1 ip dscp set cs1 accept
                }}
            }}"
        )
        .replace("ip dscp", &format!("{ip} dscp")),
    );
    let observed = Nft::open().unwrap().dump(&table).unwrap().expect("it is there");
    let by_type = &observed.sets["by-type"];
    let lengths: Vec<usize> = by_type.set.key.iter().map(|field| field.length()).collect();
    assert_eq!(lengths, [family.address_len(), 1, 2]);
    assert_eq!(by_type.elements.len(), 1);
    assert_eq!(observed.sets["objects"].set.kind, SetKind::ObjectMap);
    let anonymous =
        observed.sets.values().filter(|set| set.set.flags.contains(SetFlags::ANONYMOUS));
    assert_eq!(anonymous.count(), 2);
    assert_eq!(observed.chains["c"].chain.base.unwrap().policy, Policy::Drop);
    let rules = &observed.chains["c"].rules;
    assert_eq!(rules.len(), 3);
    let unknown = rules[2].rule.exprs.iter().any(|expr| matches!(expr, Expr::Unknown { .. }));
    assert!(unknown, "symhash is not among what we write: {:?}", rules[2]);
    assert!(observed.foreign.iter().any(|what| what == "stateful object hits"));
    assert!(observed.foreign.iter().any(|what| what.contains("elements of set many")));

    let mut nft = Nft::open().unwrap();
    nft.apply(&table, &[Op::DeleteTable]).expect("a foreign table can be deleted as a whole");
    assert_eq!(listing().0, "");
}
