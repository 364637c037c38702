//! Expressions that match and decide.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use nftables::expr::{
    CTDir, Elem, Expression, FibFlag, MetaKey as JsonMeta, NamedExpression, NgMode, Numgen,
};
use nftables::stmt::{
    AnonymousCounter, Counter, Limit, Log, Operator, Reject as JsonReject, RejectType,
    Set as JsonSet, SetOp, Statement,
};
use nftables::types::RejectCode;
use sluice_core::net::{Family, Protocol};
use sluice_kernel::nft::{
    ByteorderOp, Chain, ChainKind, CmpOp, Constant, CtDirection, CtKey, DynsetOp, Expr, FibFlags,
    FibResult, Field, Hook, LimitMatch, LimitUnit, MetaKey, NumgenKind, Op, PayloadBase, RangeOp,
    Register, Reject, Rule, Set, SetFlags, TableName, Verdict, address_type, ct_state, ct_status,
    fixtures, statement,
};

use crate::sandbox::compare;
use crate::words::{
    Pair, and, concat, ct, daddr, dport, eq, fib_type, ip, mangle, matches, meta, ne, number, of,
    or, payload, prefix, range, saddr, split, string, tell_nft, text, to, typed, vmap, xor,
};

const FIRST: Register = Register::FIRST;

/// Writes a rule of each kind both ways.
pub(crate) fn expressions(family: Family) {
    let table = TableName::new(family, "differential");
    let (declarations, mut ops) = declarations(&table);
    let mut pairs = addresses(family);
    pairs.extend(packets());
    pairs.extend(ports());
    pairs.extend(interfaces());
    pairs.extend(connections(family));
    pairs.extend(marks());
    pairs.extend(routes());
    pairs.extend(look_ups(family));
    pairs.extend(writes(family));
    pairs.extend(verdicts());
    pairs.extend(rejects(family));
    pairs.extend(numbers());
    pairs.extend(side_effects());
    let (theirs, ours) = split(pairs);
    ops.extend(ours);
    let told = table.clone();
    compare(&table, move || tell_nft(&told, &declarations, theirs), ops);
}

fn declarations(table: &TableName) -> (String, Vec<Op>) {
    let ip = ip(table.family);
    let service = "meta l4proto . th dport";
    let text = format!(
        "table {table} {{ comment \"all kinds of rules\"
            set addresses {{ typeof {ip} daddr; }}
            set services {{ typeof {ip} daddr . {service}; }}
            map verdicts {{ typeof {ip} daddr . {service} : verdict; }}
            set seen {{ typeof {ip} saddr; size 65535; flags dynamic,timeout; timeout 1h; }}
            set seen-for-ever {{ typeof {ip} saddr . {ip} daddr; size 1000; flags dynamic; }}
            chain other {{ comment \"where rules jump to\"; }}
            chain early {{ type filter hook prerouting priority -300; }}
            chain in {{ type filter hook input priority 0; }}
        }}"
    );
    let family = table.family;
    let service = vec![Field::Daddr(family), Field::L4Proto, Field::Dport];
    let mut seen = Set::set("seen", vec![Field::Saddr(family)]);
    seen.flags = SetFlags::DYNAMIC | SetFlags::TIMEOUT;
    seen.timeout = Some(Duration::from_secs(3600));
    seen.size = Some(65_535);
    let pair = vec![Field::Saddr(family), Field::Daddr(family)];
    let mut for_ever = Set::set("seen-for-ever", pair);
    for_ever.flags = SetFlags::DYNAMIC;
    for_ever.size = Some(1000);
    let mut other = Chain::regular("other");
    other.comment = Some("where rules jump to".into());
    let ops = vec![
        Op::AddTable { comment: Some("all kinds of rules".into()) },
        Op::AddSet(Set::set("addresses", vec![Field::Daddr(family)])),
        Op::AddSet(Set::set("services", service.clone())),
        Op::AddSet(Set::verdict_map("verdicts", service)),
        Op::AddSet(seen),
        Op::AddSet(for_ever),
        Op::AddChain(other),
        Op::AddChain(Chain::base("early", ChainKind::Filter, Hook::Prerouting, -300)),
        Op::AddChain(Chain::base("in", ChainKind::Filter, Hook::Input, 0)),
    ];
    (text, ops)
}

fn rule<const N: usize>(statements: [Vec<Expr>; N]) -> Rule {
    Rule::of("in", statements)
}

fn count() -> Statement<'static> {
    Statement::Counter(Counter::Anonymous(Some(AnonymousCounter::default())))
}

fn addresses(family: Family) -> Vec<Pair> {
    let nets: &[(&str, u32)] = of(
        family,
        &[("10.0.0.0", 8), ("10.128.0.0", 9), ("10.1.2.0", 24), ("10.1.2.3", 32), ("128.0.0.0", 1)],
        &[("fd00::", 8), ("fd00:8000::", 17), ("fd00::", 64), ("fd00::1", 128), ("8000::", 1)],
    );
    let full = u32::try_from(family.address_len() * 8).unwrap();
    let mut pairs = Vec::new();
    for &(address, len) in nets {
        let net = format!("{address}/{len}").parse().unwrap();
        let theirs = if len == full { string(address) } else { prefix(address, len) };
        let (source, destination) = (Field::Saddr(family), Field::Daddr(family));
        pairs.push(typed(
            vec![eq(daddr(family), theirs.clone()), count()],
            rule([statement::within(destination, net), fixtures::counter()]),
        ));
        pairs.push(typed(
            vec![ne(saddr(family), theirs), count()],
            rule([statement::outside(source, net), fixtures::counter()]),
        ));
    }
    pairs
}

fn packets() -> Vec<Pair> {
    let l4 = || meta(JsonMeta::L4proto);
    let load = |key| Expr::Meta { key, dreg: FIRST };
    let equals = |value: u32| Expr::cmp(CmpOp::Eq, &value.to_ne_bytes());
    let raw = Expr::Payload { base: PayloadBase::Transport, offset: 13, len: 1, dreg: FIRST };
    let to_network =
        Expr::Byteorder { sreg: FIRST, dreg: FIRST, op: ByteorderOp::ToNetwork, len: 4, size: 4 };
    vec![
        typed(vec![eq(l4(), string("sctp"))], rule([statement::protocol(Protocol::Sctp)])),
        text(
            "tcp flags & syn == syn",
            rule([
                statement::protocol(Protocol::Tcp),
                vec![raw, Expr::bitwise(&[2], &[0]), Expr::cmp(CmpOp::Eq, &[2])],
            ]),
        ),
        typed(
            vec![eq(meta(JsonMeta::Pkttype), string("host"))],
            rule([vec![load(MetaKey::PacketType), Expr::cmp(CmpOp::Eq, &[0])]]),
        ),
        typed(
            vec![eq(meta(JsonMeta::Length), number(100))],
            rule([vec![load(MetaKey::Length), equals(100)]]),
        ),
        typed(
            vec![eq(meta(JsonMeta::Cpu), number(1))],
            rule([vec![load(MetaKey::Cpu), equals(1)]]),
        ),
        text(
            "meta mark > 16",
            rule([vec![
                load(MetaKey::Mark),
                to_network,
                Expr::cmp(CmpOp::Gt, &16_u32.to_be_bytes()),
            ]]),
        ),
    ]
}

fn ports() -> Vec<Pair> {
    let compare = |op, port: u16| Expr::cmp(op, &port.to_be_bytes());
    let load = Field::Dport.load(FIRST).unwrap();
    let outside = Expr::Range {
        sreg: FIRST,
        op: RangeOp::Outside,
        from: Constant::new().port(80),
        to: Constant::new().port(90),
    };
    vec![
        typed(
            vec![eq(payload("tcp", "dport"), number(80))],
            rule([statement::protocol(Protocol::Tcp), fixtures::destination_port(80)]),
        ),
        typed(
            vec![eq(payload("udp", "sport"), number(53))],
            rule([
                statement::protocol(Protocol::Udp),
                statement::equals(Field::Sport, &53_u16.to_be_bytes()),
            ]),
        ),
        typed(
            vec![eq(payload("tcp", "dport"), range(80, 90))],
            rule([
                statement::protocol(Protocol::Tcp),
                vec![load.clone(), compare(CmpOp::Ge, 80), compare(CmpOp::Le, 90)],
            ]),
        ),
        typed(
            vec![ne(payload("tcp", "dport"), range(80, 90))],
            rule([statement::protocol(Protocol::Tcp), vec![load, outside]]),
        ),
    ]
}

fn interfaces() -> Vec<Pair> {
    let index =
        |key| vec![Expr::Meta { key, dreg: FIRST }, Expr::cmp(CmpOp::Eq, &1_u32.to_ne_bytes())];
    let iifname = || meta(JsonMeta::Iifname);
    let oifname = || meta(JsonMeta::Oifname);
    vec![
        typed(vec![eq(iifname(), string("veth*"))], rule([statement::input_interface("veth*")])),
        typed(vec![ne(iifname(), string("cni0"))], rule([statement::not_input_interface("cni0")])),
        typed(vec![eq(oifname(), string("eth0"))], rule([fixtures::output_interface("eth0")])),
        typed(vec![ne(oifname(), string("wg*"))], rule([fixtures::not_output_interface("wg*")])),
        typed(vec![eq(meta(JsonMeta::Iif), string("lo"))], rule([index(MetaKey::InputIndex)])),
    ]
}

fn connections(family: Family) -> Vec<Pair> {
    let both = vec![string("established"), string("related")];
    let original = Some(CtDirection::Original);
    let load = |key, direction| Expr::Ct { key, direction, dreg: FIRST };
    let address = of(family, "10.0.0.1", "fd00::1");
    let key = of(family, CtKey::DestinationV4, CtKey::DestinationV6);
    let bytes = Constant::new().address(address.parse().unwrap());
    let one = Constant::new().number(1);
    vec![
        typed(
            vec![matches(ct("state", None), Operator::IN, string("new"))],
            rule([statement::ct_state(ct_state::NEW)]),
        ),
        typed(
            vec![matches(ct("state", None), Operator::IN, Expression::List(both))],
            rule([statement::ct_state(ct_state::ESTABLISHED | ct_state::RELATED)]),
        ),
        typed(
            vec![matches(ct("status", None), Operator::IN, string("dnat"))],
            rule([statement::ct_status(ct_status::DNAT)]),
        ),
        typed(
            vec![eq(ct("direction", None), string("reply"))],
            rule([statement::ct_direction(CtDirection::Reply)]),
        ),
        text("socket transparent 1", rule([statement::socket_is_transparent()])),
        text("meta l4proto != sctp", rule([statement::not_protocol(Protocol::Sctp)])),
        typed(
            vec![mangle(ct("mark", None), number(1))],
            rule([vec![
                Expr::Immediate { dreg: FIRST, data: one },
                Expr::CtSet { key: CtKey::Mark, sreg: FIRST },
            ]]),
        ),
        typed(
            vec![mangle(meta(JsonMeta::Mark), ct("mark", None))],
            rule([vec![
                load(CtKey::Mark, None),
                Expr::MetaSet { key: MetaKey::Mark, sreg: FIRST },
            ]]),
        ),
        text(
            format!("ct original {} daddr {address}", ip(family)),
            rule([vec![load(key, original), Expr::cmp(CmpOp::Eq, bytes.as_bytes())]]),
        ),
        typed(
            vec![
                eq(meta(JsonMeta::L4proto), string("tcp")),
                eq(ct("proto-dst", Some(CTDir::Original)), number(80)),
            ],
            rule([
                statement::protocol(Protocol::Tcp),
                vec![
                    load(CtKey::DestinationPort, original),
                    Expr::cmp(CmpOp::Eq, &80_u16.to_be_bytes()),
                ],
            ]),
        ),
    ]
}

fn marks() -> Vec<Pair> {
    let mark = || meta(JsonMeta::Mark);
    let bit = || number(0x4000);
    vec![
        typed(vec![ne(and(mark(), bit()), number(0))], rule([statement::mark_has(0x4000)])),
        typed(vec![eq(and(mark(), bit()), number(0))], rule([fixtures::mark_lacks(0x4000)])),
        typed(vec![mangle(mark(), or(mark(), bit()))], rule([statement::set_mark_bits(0x4000)])),
        typed(vec![mangle(mark(), xor(mark(), bit()))], rule([statement::flip_mark_bits(0x4000)])),
        typed(
            vec![mangle(mark(), number(7))],
            rule([vec![
                Expr::Immediate { dreg: FIRST, data: Constant::new().number(7) },
                Expr::MetaSet { key: MetaKey::Mark, sreg: FIRST },
            ]]),
        ),
    ]
}

fn routes() -> Vec<Pair> {
    let local = address_type::LOCAL;
    let load = |result, flags| Expr::Fib { result, flags, dreg: FIRST };
    let of_input = load(FibResult::AddressType, FibFlags::DADDR | FibFlags::IIF);
    let is_local = Expr::cmp(CmpOp::Eq, &local.to_ne_bytes());
    vec![
        typed(
            vec![eq(fib_type(&[FibFlag::Daddr]), string("local"))],
            rule([statement::destination_type(local)]),
        ),
        typed(
            vec![ne(fib_type(&[FibFlag::Daddr]), string("local"))],
            rule([fixtures::not_destination_type(local)]),
        ),
        typed(
            vec![eq(fib_type(&[FibFlag::Saddr]), string("local"))],
            rule([statement::source_type(local)]),
        ),
        typed(
            vec![ne(fib_type(&[FibFlag::Saddr]), string("local"))],
            rule([fixtures::not_source_type(local)]),
        ),
        typed(
            vec![eq(fib_type(&[FibFlag::Daddr, FibFlag::Iif]), string("local"))],
            rule([vec![of_input, is_local]]),
        ),
    ]
}

fn look_ups(family: Family) -> Vec<Pair> {
    let service = [Field::Daddr(family), Field::L4Proto, Field::Dport];
    let key = || concat(vec![daddr(family), meta(JsonMeta::L4proto), dport()]);
    let name = |name: &str| -> Arc<str> { name.into() };
    vec![
        typed(
            vec![eq(daddr(family), string("@addresses"))],
            rule([statement::is_in(&service[..1], &name("addresses"))]),
        ),
        typed(
            vec![ne(daddr(family), string("@addresses"))],
            rule([statement::is_not_in(&service[..1], &name("addresses"))]),
        ),
        typed(
            vec![eq(key(), string("@services"))],
            rule([statement::is_in(&service, &name("services"))]),
        ),
        typed(
            vec![vmap(key(), "@verdicts")],
            rule([fixtures::verdict_of(&service, &name("verdicts"))]),
        ),
    ]
}

fn writes(family: Family) -> Vec<Pair> {
    let source = [Field::Saddr(family)];
    let both = [Field::Saddr(family), Field::Daddr(family)];
    let set = |op, elem, set: &'static str| {
        vec![Statement::Set(JsonSet { op, elem, set: Cow::Borrowed(set) })]
    };
    let elem = Elem {
        val: Box::new(saddr(family)),
        timeout: Some(60),
        expires: None,
        comment: None,
        counter: None,
    };
    let minute = Some(Duration::from_secs(60));
    let (seen, for_ever): (Arc<str>, Arc<str>) = ("seen".into(), "seen-for-ever".into());
    vec![
        typed(
            set(SetOp::Add, saddr(family), "@seen"),
            rule([statement::write(DynsetOp::Add, &seen, &source, None)]),
        ),
        typed(
            set(SetOp::Update, Expression::Named(NamedExpression::Elem(elem)), "@seen"),
            rule([statement::write(DynsetOp::Update, &seen, &source, minute)]),
        ),
        typed(
            set(SetOp::Add, concat(vec![saddr(family), daddr(family)]), "@seen-for-ever"),
            rule([statement::write(DynsetOp::Add, &for_ever, &both, None)]),
        ),
        text(
            format!("delete @seen {{ {} saddr }}", ip(family)),
            rule([statement::write(DynsetOp::Delete, &seen, &source, None)]),
        ),
    ]
}

fn verdicts() -> Vec<Pair> {
    let other: Arc<str> = "other".into();
    let proceed = vec![Expr::Verdict(Verdict::Continue)];
    vec![
        typed(vec![Statement::Accept(None)], rule([statement::accept()])),
        typed(vec![Statement::Drop(None)], rule([statement::drop()])),
        typed(vec![Statement::Return(None)], rule([statement::leave()])),
        typed(vec![Statement::Continue(None)], rule([proceed])),
        typed(vec![Statement::Jump(to("other"))], rule([statement::jump(&other)])),
        typed(vec![Statement::Goto(to("other"))], rule([statement::goto(&other)])),
    ]
}

fn rejects(family: Family) -> Vec<Pair> {
    let kind = of(family, RejectType::ICMP, RejectType::ICMPv6);
    let prohibited = of(family, 13, 1);
    let theirs = JsonReject::new(Some(kind), Some(RejectCode::AdminProhibited));
    vec![
        typed(vec![Statement::Reject(None)], rule([statement::reject(family)])),
        typed(
            vec![Statement::Reject(Some(theirs))],
            rule([vec![Expr::Reject(Reject::Icmp(prohibited))]]),
        ),
        typed(
            vec![
                eq(meta(JsonMeta::L4proto), string("tcp")),
                Statement::Reject(Some(JsonReject::new(Some(RejectType::TCPReset), None))),
            ],
            rule([statement::protocol(Protocol::Tcp), vec![Expr::Reject(Reject::TcpReset)]]),
        ),
    ]
}

fn numbers() -> Vec<Pair> {
    let numgen = |mode, ng_mod, offset| {
        Expression::Named(NamedExpression::Numgen(Numgen { mode, ng_mod, offset: Some(offset) }))
    };
    let load = |kind, modulus, offset| Expr::Numgen { kind, modulus, offset, dreg: FIRST };
    let three = Expr::cmp(CmpOp::Eq, &3_u32.to_ne_bytes());
    vec![
        typed(
            vec![eq(numgen(NgMode::Random, 5, 0), number(3))],
            rule([vec![load(NumgenKind::Random, 5, 0), three.clone()]]),
        ),
        typed(
            vec![eq(numgen(NgMode::Inc, 7, 1), number(3))],
            rule([vec![load(NumgenKind::Increment, 7, 1), three]]),
        ),
    ]
}

fn side_effects() -> Vec<Pair> {
    let limit = |per: &'static str, burst, inv| Limit {
        rate: 10,
        rate_unit: None,
        per: Some(Cow::Borrowed(per)),
        burst: Some(burst),
        burst_unit: None,
        inv: Some(inv),
    };
    let ours = |unit, burst, matches| vec![Expr::Limit { rate: 10, unit, burst, matches }];
    let log = Log { prefix: Some(Cow::Borrowed("seen: ")), ..Log::new(None) };
    let mut commented = rule([fixtures::counter()]);
    commented.comment = Some("counts what is left".into());
    vec![
        typed(
            vec![Statement::Limit(limit("second", 7, false))],
            rule([ours(LimitUnit::Second, 7, LimitMatch::Within)]),
        ),
        typed(
            vec![Statement::Limit(limit("hour", 5, true))],
            rule([ours(LimitUnit::Hour, 5, LimitMatch::Beyond)]),
        ),
        typed(
            vec![Statement::Log(Some(log))],
            rule([vec![Expr::Log { prefix: Some("seen: ".into()) }]]),
        ),
        text("log", rule([vec![Expr::Log { prefix: None }]])),
        text("counter comment \"counts what is left\"", commented),
        text("notrack", Rule::of("early", [vec![Expr::Notrack]])),
        text(
            "meta nftrace set 1",
            Rule::of(
                "early",
                [vec![
                    Expr::Immediate { dreg: FIRST, data: Constant::new().part(&[1]) },
                    Expr::MetaSet { key: MetaKey::Trace, sreg: FIRST },
                ]],
            ),
        ),
    ]
}
