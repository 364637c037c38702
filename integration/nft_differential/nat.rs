//! Expressions that translate addresses.

use std::collections::HashSet;
use std::net::IpAddr;

use nftables::expr::{Expression, MetaKey as JsonMeta, Range};
use nftables::stmt::{NAT, NATFlag, Statement};
use sluice_core::net::{Family, Protocol};
use sluice_kernel::nft::{
    Chain, ChainKind, Constant, Expr, Field, Hook, NatFlags, NatKind, Op, Register, RegisterRange,
    Rule, Set, TableName, fixtures, statement,
};

use crate::sandbox::compare;
use crate::words::{Pair, eq, ip, meta, number, of, range, split, string, tell_nft, typed};

const FIRST: Register = Register::FIRST;

/// Writes a translation of each kind both ways.
pub(crate) fn translations(family: Family) {
    let table = TableName::new(family, "differential");
    let ip = ip(family);
    let declarations = format!(
        "table {table} {{
            map endpoints {{ typeof {ip} daddr . meta l4proto . th dport : {ip} daddr . th dport; }}
            chain pre {{ type nat hook prerouting priority -100;
                dnat {ip} to {ip} daddr . meta l4proto . th dport map @endpoints
            }}
            chain post {{ type nat hook postrouting priority 100; }}
        }}"
    );
    let service = vec![Field::Daddr(family), Field::L4Proto, Field::Dport];
    let endpoint = vec![Field::Daddr(family), Field::Dport];
    // A later command of nft 1.0.6 cannot refer to such a map, so this rule is declared with it.
    let to_endpoint = statement::dnat_to_data_of(family, &service, &"endpoints".into());
    let mut ops = vec![
        Op::AddTable { comment: None },
        Op::AddSet(Set::map("endpoints", service, endpoint)),
        Op::AddChain(Chain::base("pre", ChainKind::Nat, Hook::Prerouting, -100)),
        Op::AddChain(Chain::base("post", ChainKind::Nat, Hook::Postrouting, 100)),
        Op::AddRule(Rule::of("pre", [to_endpoint])),
    ];
    let mut pairs = destinations(family);
    pairs.extend(sources(family));
    pairs.extend(masquerades());
    pairs.extend(redirects());
    let (theirs, ours) = split(pairs);
    ops.extend(ours);
    let told = table.clone();
    compare(&table, move || tell_nft(&told, &declarations, theirs), ops);
}

fn addresses(family: Family) -> [&'static str; 2] {
    of(family, ["10.0.0.5", "10.0.0.9"], ["fd00::5", "fd00::9"])
}

fn load(dreg: Register, value: Constant) -> Expr {
    Expr::Immediate { dreg, data: value }
}

fn address(text: &str) -> Constant {
    Constant::new().address(text.parse::<IpAddr>().unwrap())
}

/// `nft` loads each constant of a statement into the next 16-byte register.
const SECOND: Register = Register::word(4);

fn translate(
    kind: NatKind,
    family: Family,
    address: Option<RegisterRange>,
    port: Option<RegisterRange>,
    flags: NatFlags,
) -> Expr {
    Expr::Nat { kind, family, address, port, flags }
}

fn destinations(family: Family) -> Vec<Pair> {
    let [host, _] = addresses(family);
    let to = |port| NAT { addr: Some(string(host)), family: None, port, flags: None };
    let kind = NatKind::Dnat;
    let only = |register| Some(RegisterRange::from(register));
    let none = NatFlags::NONE;
    vec![
        typed(
            vec![Statement::DNAT(Some(to(None)))],
            Rule::of(
                "pre",
                [vec![
                    load(FIRST, address(host)),
                    translate(kind, family, only(FIRST), None, none),
                ]],
            ),
        ),
        typed(
            vec![
                eq(meta(JsonMeta::L4proto), string("tcp")),
                Statement::DNAT(Some(to(Some(number(8080))))),
            ],
            Rule::of(
                "pre",
                [
                    statement::protocol(Protocol::Tcp),
                    vec![
                        load(FIRST, address(host)),
                        load(SECOND, Constant::new().port(8080)),
                        translate(kind, family, only(FIRST), only(SECOND), none),
                    ],
                ],
            ),
        ),
    ]
}

fn sources(family: Family) -> Vec<Pair> {
    let [low, high] = addresses(family);
    let flags = |flag| Some(HashSet::from([flag]));
    let both = Expression::Range(Box::new(Range { range: [string(low), string(high)] }));
    let from = |addr, flags| {
        Statement::SNAT(Some(NAT { addr: Some(addr), family: None, port: None, flags }))
    };
    let kind = NatKind::Snat;
    let between = Some(RegisterRange { min: FIRST, max: Some(SECOND) });
    let load_both = [load(FIRST, address(low)), load(SECOND, address(high))];
    let with = |flags| {
        let [first, second] = load_both.clone();
        Rule::of("post", [vec![first, second, translate(kind, family, between, None, flags)]])
    };
    vec![
        typed(
            vec![from(string(low), None)],
            Rule::of(
                "post",
                [vec![
                    load(FIRST, address(low)),
                    translate(kind, family, Some(FIRST.into()), None, NatFlags::NONE),
                ]],
            ),
        ),
        typed(vec![from(both.clone(), None)], with(NatFlags::NONE)),
        typed(vec![from(both, flags(NATFlag::Persistent))], with(NatFlags::PERSISTENT)),
    ]
}

fn masquerades() -> Vec<Pair> {
    let with = |flag| {
        let flags = Some(HashSet::from([flag]));
        vec![Statement::Masquerade(Some(NAT { addr: None, family: None, port: None, flags }))]
    };
    let ports = NAT { addr: None, family: None, port: Some(range(1024, 2048)), flags: None };
    let between = Some(RegisterRange { min: FIRST, max: Some(SECOND) });
    let ours = |flags| Rule::of("post", [statement::masquerade(flags)]);
    vec![
        typed(vec![Statement::Masquerade(None)], ours(NatFlags::NONE)),
        typed(with(NATFlag::Random), ours(NatFlags::RANDOM)),
        typed(with(NATFlag::FullyRandom), ours(NatFlags::FULLY_RANDOM)),
        typed(
            vec![eq(meta(JsonMeta::L4proto), string("tcp")), Statement::Masquerade(Some(ports))],
            Rule::of(
                "post",
                [
                    statement::protocol(Protocol::Tcp),
                    vec![
                        load(FIRST, Constant::new().port(1024)),
                        load(SECOND, Constant::new().port(2048)),
                        Expr::Masquerade { flags: NatFlags::NONE, port: between },
                    ],
                ],
            ),
        ),
    ]
}

fn redirects() -> Vec<Pair> {
    let to = NAT { addr: None, family: None, port: Some(number(8080)), flags: None };
    let bare = Expr::Redirect { flags: NatFlags::NONE, port: None };
    vec![
        typed(vec![Statement::Redirect(None)], Rule::of("pre", [vec![bare]])),
        typed(
            vec![eq(meta(JsonMeta::L4proto), string("udp")), Statement::Redirect(Some(to))],
            Rule::of("pre", [statement::protocol(Protocol::Udp), fixtures::redirect_to(8080)]),
        ),
    ]
}
