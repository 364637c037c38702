//! Tests of messages without a kernel.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::netlink::attributes::{Writer, find};
use crate::netlink::{Message, messages};
use crate::nft::session::batch::Batch;
use crate::nft::wire::decode::Elements;
use crate::nft::wire::uapi::{BATCH_BEGIN, BATCH_END, msg};
use crate::nft::wire::{decode, encode, expr_decode, expr_encode, uapi};
use sluice_core::net::{Family, Protocol};

fn table() -> TableName {
    TableName::new(Family::V4, "kube-proxy")
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn element(number: u32) -> Element {
    let key = Key::new().address(address(1)).protocol(Protocol::Tcp).port(443).number(number);
    Element::data(key, Data::new().address(address(5)).port(6443))
}

fn add(set: &str, number: u32) -> Op {
    Op::AddElement { set: set.into(), element: element(number) }
}

fn delete(set: &str, number: u32) -> Op {
    Op::DeleteElement { set: set.into(), element: element(number) }
}

/// The nf_tables messages of a batch, and the operations of each.
fn packing(ops: &[Op], single: &[usize]) -> Vec<(u8, std::ops::Range<usize>)> {
    let single = single.iter().copied().collect();
    let batch = Batch::new(&table(), ops.ops(), &single, 100).expect("it can be encoded");
    let all: Vec<Message<'_>> = messages(batch.bytes()).collect();
    assert_eq!((all[0].kind, all[all.len() - 1].kind), (BATCH_BEGIN, BATCH_END));
    let numbers: Vec<u32> = all.iter().map(|message| message.sequence).collect();
    assert_eq!(numbers, (100..=batch.last() + 1).collect::<Vec<u32>>());
    let inner = &all[1..all.len() - 1];
    let acknowledged = inner.iter().filter(|message| message.flags & 4 != 0);
    assert_eq!(acknowledged.map(|message| message.sequence).collect::<Vec<_>>(), [batch.last()]);
    let describe = |message: &Message<'_>| {
        (message.nft().expect("nf_tables"), batch.ops(message.sequence).expect("it is known"))
    };
    inner.iter().map(describe).collect()
}

#[test]
fn elements_that_go_the_same_way_share_a_message() {
    const { assert!(std::mem::size_of::<Key>() <= 49) };
    let ops = [
        Op::AddTable { comment: None },
        add("a", 0),
        add("a", 1),
        add("b", 0),
        delete("b", 1),
        delete("b", 2),
        add("b", 3),
    ];
    let (new, del) = (msg::NEWSETELEM, msg::DELSETELEM);
    let expected = [(msg::NEWTABLE, 0..1), (new, 1..3), (new, 3..4), (del, 4..6), (new, 6..7)];
    assert_eq!(packing(&ops, &[]), expected);
}

#[test]
fn a_message_is_as_long_as_its_list_of_elements_may_be() {
    let ops: Vec<Op> = (0..5000).map(|number| add("a", number)).collect();
    let packed = packing(&ops, &[]);
    let lengths: Vec<usize> = packed.iter().map(|(_, ops)| ops.len()).collect();
    // 4 (item) + 4 + 4 + 16 (key) + 4 + 4 + 8 (data) bytes each, in 65,535 less 4.
    assert_eq!(lengths, [1489, 1489, 1489, 533]);
}

#[test]
fn refused_elements_are_sent_one_by_one() {
    let ops: Vec<Op> = (0..6).map(|number| add("a", number)).collect();
    let ranges: Vec<_> = packing(&ops, &[2, 3]).into_iter().map(|(_, ops)| ops).collect();
    assert_eq!(ranges, [0..2, 2..3, 3..4, 4..6]);
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    let many = vec![Expr::Log { prefix: Some("p".repeat(200).into()) }; 400];
    let long_rule = Op::AddRule(Rule::new("c", many));
    let long_name = Op::AddElement { set: "s".repeat(256).into(), element: element(0) };
    let commented = element(0).with_comment("c".repeat(128));
    let long_comment = Op::AddElement { set: "a".into(), element: commented };
    for (op, words) in [
        (long_rule, "add rule ip kube-proxy c"),
        (long_name, "add element ip kube-proxy sss"),
        (long_comment, "add element ip kube-proxy a { 0x0a00"),
    ] {
        let error =
            Batch::new(&table(), [op].ops(), &HashSet::new(), 1).expect_err("it is too long");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn operations_are_printed_as_nft_commands() {
    let service = vec![Field::Daddr(Family::V4), Field::L4Proto, Field::Dport];
    let slots = service.iter().copied().chain([Field::Random { modulus: 4096 }]).collect();
    let endpoint = vec![Field::Daddr(Family::V4), Field::Dport];
    let map = Set::map("endpoints", slots, endpoint);
    let verdicts = Set::verdict_map("services", service);
    let range = Set::set("nets", vec![Field::Saddr(Family::V4)]);
    let key = Key::new().address(address(1)).protocol(Protocol::Udp).port(53);
    let verdict = Element::verdict(key, Verdict::Goto("draw-4".into()));
    let prefix = Element::prefix("10.1.0.0/16".parse().expect("a prefix"));
    let table = table();
    let lines = [
        (
            add("endpoints", 7),
            Some(&map),
            "add element ip kube-proxy endpoints { 10.0.0.1 . tcp . 443 . 7 : 10.0.0.5 . 6443 }",
        ),
        (
            delete("endpoints", 7),
            Some(&map),
            "delete element ip kube-proxy endpoints { 10.0.0.1 . tcp . 443 . 7 }",
        ),
        (
            delete("endpoints", 7),
            None,
            "delete element ip kube-proxy endpoints { 0x0a0000010600000001bb000007000000 }",
        ),
        (
            Op::AddElement { set: "services".into(), element: verdict },
            Some(&verdicts),
            "add element ip kube-proxy services { 10.0.0.1 . udp . 53 : goto draw-4 }",
        ),
        (
            Op::AddElement { set: "nets".into(), element: prefix },
            Some(&range),
            "add element ip kube-proxy nets { 10.1.0.0-10.1.255.255 }",
        ),
        (Op::AddSet(map.clone()), None, "add map ip kube-proxy endpoints"),
        (Op::AddSet(range.clone()), None, "add set ip kube-proxy nets"),
        (Op::DeleteTable, None, "delete table ip kube-proxy"),
        (Op::FlushChain("c".into()), None, "flush chain ip kube-proxy c"),
    ];
    for (op, set, expected) in lines {
        assert_eq!(op.line(&table, set).to_string(), expected);
    }
}

#[test]
fn values_pad_their_parts_only_if_there_are_several() {
    assert_eq!(Key::new().port(443).as_bytes(), [1, 187]);
    let two = Key::new().protocol(Protocol::Tcp).port(443);
    assert_eq!(two.as_bytes(), [6, 0, 0, 0, 1, 187, 0, 0]);
    assert_eq!(Key::from_bytes(two.as_bytes()), Some(two));
    assert_eq!(Data::from_bytes(&[0; 25]), None);
    assert!(Key::new().port(1) < Key::new().port(256));
}

/// Expressions of all kinds, most of which the integration test also sends to the kernel.
fn one_of_each() -> Vec<Expr> {
    let (first, last) = (Register::FIRST, Register::word(15));
    let mut all = Vec::new();
    for family in Family::BOTH {
        all.extend(statement::concat_at(Register::word(2), &[Field::Saddr(family), Field::Mark]));
        all.extend(statement::dnat_to_data_of(family, &[Field::Daddr(family)], &"m".into()));
    }
    all.extend(statement::remember(
        &"m".into(),
        &[Field::OriginalDport],
        Some(Duration::from_millis(1500)),
        &[Field::InputName],
    ));
    all.extend(statement::is_not_in(&[Field::Sport], &"s".into()));
    all.extend(fixtures::verdict_of(&[Field::Increment { modulus: 3 }], &"v".into()));
    all.extend(statement::source_type(address_type::BROADCAST));
    all.extend(statement::socket_is_transparent());
    all.extend(fixtures::redirect_to(80));
    all.extend(statement::jump(&"c".into()));
    all.extend([
        Expr::Reject(Reject::Icmpx(1)),
        Expr::Reject(Reject::TcpReset),
        Expr::CtSet { key: CtKey::Mark, sreg: last },
        Expr::Byteorder { sreg: first, dreg: last, op: ByteorderOp::ToHost, len: 8, size: 8 },
        Expr::Range {
            sreg: last,
            op: RangeOp::Within,
            from: Constant::new().number(1),
            to: Constant::new().number(2),
        },
        Expr::Limit { rate: u64::MAX, unit: LimitUnit::Day, burst: 1, matches: LimitMatch::Beyond },
        Expr::Masquerade {
            flags: NatFlags::PERSISTENT,
            port: Some(RegisterRange { min: first, max: Some(last) }),
        },
        Expr::Counter,
        Expr::Notrack,
        Expr::Log { prefix: None },
        Expr::Verdict(Verdict::Continue),
        Expr::Unknown { name: "tproxy".into() },
    ]);
    all
}

#[test]
fn expressions_survive_being_written_and_read() {
    let exprs = one_of_each();
    let mut writer = Writer::default();
    expr_encode::expressions(&mut writer, &exprs);
    let list = find(writer.bytes(), uapi::rule::EXPRESSIONS).expect("they were written");
    let (read, counted) = expr_decode::expressions(list);
    assert_eq!(read, exprs);
    assert_eq!(counted, Some(Counted { packets: 0, bytes: 0 }));
}

#[test]
fn truncated_expressions_are_unknown_not_a_panic() {
    let mut writer = Writer::default();
    expr_encode::expressions(&mut writer, &one_of_each());
    let list = find(writer.bytes(), uapi::rule::EXPRESSIONS).expect("they were written");
    for end in 0..list.len() {
        let _ = expr_decode::expressions(&list[..end]);
        let _ = decode::rule(&list[..end]);
        let _ = decode::set(&list[..end]);
        let _ = decode::chain(&list[..end]);
    }
}

/// A comparison must not treat the table as one without the rule.
#[test]
fn a_rule_that_cannot_be_read_is_not_passed_over() {
    let rule = |chain: Option<&str>, handle: Option<u64>| {
        let mut writer = Writer::default();
        chain.into_iter().for_each(|chain| writer.put_name(uapi::rule::CHAIN, chain));
        handle.into_iter().for_each(|handle| writer.put_u64(uapi::rule::HANDLE, handle));
        writer.into_bytes()
    };
    let mut observed = Observed::default();
    let chain = Chain::regular("known");
    observed.chains.insert("known".into(), ObservedChain { chain, rules: Vec::new() });
    observed.take_rule(&rule(Some("known"), Some(7)));
    assert_eq!((observed.chains["known"].rules.len(), observed.foreign.len()), (1, 0));
    observed.take_rule(&rule(Some("known"), None));
    observed.take_rule(&rule(None, Some(8)));
    observed.take_rule(&rule(Some("unreadable"), Some(9)));
    let expected =
        ["rule of chain known", "rule of chain without a name", "rule of chain unreadable"];
    assert_eq!(observed.foreign, expected);
    assert_eq!(observed.chains["known"].rules.len(), 1);
}

#[test]
fn ranges_of_an_interval_tree_are_put_together() {
    let mut set = Set::set("nets", vec![Field::Saddr(Family::V4)]);
    set.flags = SetFlags::INTERVAL;
    let ranges = ["10.0.0.0/8", "11.0.0.0/8", "0.0.0.0/8", "255.255.255.0/24"];
    let mut expected: Vec<Element> =
        ranges.iter().map(|net| Element::prefix(net.parse().expect("a prefix"))).collect();
    let inside = Key::new().address(Ipv4Addr::new(192, 168, 0, 1).into());
    expected.push(Element::new(inside).through(inside));

    let mut elements = Elements::default();
    for element in &expected {
        let mut writer = Writer::default();
        let list = writer.nest(uapi::elem::LIST_ELEMENTS);
        encode::put_element(&mut writer, element, Verb::Add);
        writer.end(list);
        elements.read(writer.bytes());
    }
    expected.sort_unstable_by_key(|element| element.key);
    assert_eq!(elements.finish(&set), expected);
}
