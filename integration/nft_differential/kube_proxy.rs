//! The table that the nftables mode writes, in small.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::net::{Family, Protocol};
use sluice_kernel::nft::{
    Chain, ChainKind, CtDirection, Data, DynsetOp, Element, Expr, Field, Hook, Key, LookupResult,
    NatFlags, Op, Register, Rule, Set, SetFlags, TableName, address_type, ct_state, ct_status,
    fixtures, statement,
};

use crate::sandbox::{apply_and_dump, compare, nft};
use crate::words::{ip, of};

/// Writes the table as text with `nft` and as operations, and compares. It is text because the
/// typed form has neither `typeof` nor verdict maps nor comments on tables and chains.
pub(crate) fn whole_table(family: Family) {
    let table = TableName::new(family, "kube-proxy");
    let mut ops = sets(family);
    ops.extend(chains(family));
    ops.extend(rules(family));
    ops.extend(elements(family));
    let text = whole_text(&table);
    compare(&table, move || drop(nft(&["-f", "-"], &text)), ops);
}

fn whole_text(table: &TableName) -> String {
    let family = table.family;
    let ip = ip(family);
    let service = format!("{ip} daddr . meta l4proto . th dport");
    let (vip, endpoint, pods, loopback) = of(
        family,
        ("10.96.0.1", "10.0.0.5", "10.0.0.0/8", "127.0.0.0/8"),
        ("fd00:96::1", "fd00::5", "fd00::/8", "::1/128"),
    );
    let loopback = loopback.trim_end_matches("/128");
    format!(
        "table {table} {{ comment \"rules for kube-proxy\"
            set cluster-ips {{ typeof {ip} daddr; comment \"addresses of services\";
                elements = {{ {vip} }} }}
            set slots-4 {{ typeof {service}; elements = {{ {vip} . tcp . 443 }} }}
            map endpoints {{ typeof {service} . numgen random mod 4096 : {ip} daddr . th dport;
                elements = {{ {vip} . tcp . 443 . 0 : {endpoint} . 6443,
                    {vip} . tcp . 443 . 3 : {endpoint} . 6444 }} }}
            map nodeport-endpoints {{
                typeof meta l4proto . th dport . numgen random mod 4096 : {ip} daddr . th dport;
                elements = {{ udp . 30053 . 1 : {endpoint} . 53 }} }}
            set hairpin-connections {{ typeof {ip} saddr . {ip} daddr . meta l4proto . th dport; }}
            set nodeport-ips {{ typeof {ip} daddr; }}
            map affinity {{
                typeof {ip} saddr . {ip} daddr . meta l4proto . th dport : {ip} daddr . th dport;
                flags dynamic,timeout; timeout 3h; }}
            map services {{ typeof {service} : verdict; }}
            chain nodeports {{ }}
            chain draw-4 {{
                meta l4proto != sctp meta mark & 0x4000 != 0 dnat {ip} to {service} . numgen random mod 1 offset 1 map @endpoints
                dnat {ip} to {service} . numgen random mod 4 map @endpoints
            }}
            chain draw-nodeports-4 {{
                dnat {ip} to meta l4proto . th dport . numgen random mod 4 map @nodeport-endpoints
            }}
            chain reject-chain {{ reject; }}
            chain service-endpoints-check {{ {service} @slots-4 goto reject-chain; }}
            chain services {{
                {service} @slots-4 goto draw-4
                {ip} daddr @cluster-ips {ip} saddr != {pods} meta mark set meta mark | 0x4000
                fib daddr type local {ip} daddr != {loopback} jump nodeports
                iifname \"veth*\" counter
                iifname != \"cni0\" counter
                {service} vmap @services
            }}
            chain filter-prerouting-mark {{ type filter hook prerouting priority -150;
                ct direction reply socket transparent 1 meta mark set meta mark | 0x2000; }}
            chain filter-forward {{ type filter hook forward priority 0;
                ct state new jump service-endpoints-check; }}
            chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
            chain nat-postrouting {{ type nat hook postrouting priority 100;
                meta mark & 0x4000 == 0 return
                meta mark set meta mark ^ 0x4000
                masquerade fully-random
            }}
        }}
        add element {table} services {{ {vip} . tcp . 443 : goto draw-4 }}"
    )
}

/// Address, protocol and port of a service as packets to it have them.
fn service(family: Family) -> Vec<Field> {
    vec![Field::Daddr(family), Field::L4Proto, Field::Dport]
}

/// The same, with a random slot below the modulus.
fn slot(family: Family, modulus: u32) -> Vec<Field> {
    service(family).into_iter().chain([Field::Random { modulus }]).collect()
}

fn client(family: Family) -> Vec<Field> {
    [Field::Saddr(family)].into_iter().chain(service(family)).collect()
}

fn sets(family: Family) -> Vec<Op> {
    let endpoint = vec![Field::Daddr(family), Field::Dport];
    let mut cluster_ips = Set::set("cluster-ips", vec![Field::Daddr(family)]);
    cluster_ips.comment = Some("addresses of services".into());
    let nodeport = vec![Field::L4Proto, Field::Dport, Field::Random { modulus: 4096 }];
    let mut affinity = Set::map("affinity", client(family), endpoint.clone());
    affinity.flags = SetFlags::DYNAMIC | SetFlags::TIMEOUT;
    affinity.timeout = Some(Duration::from_secs(3 * 3600));
    let sets = [
        cluster_ips,
        Set::set("slots-4", service(family)),
        Set::map("endpoints", slot(family, 4096), endpoint.clone()),
        Set::map("nodeport-endpoints", nodeport, endpoint),
        Set::set("hairpin-connections", client(family)),
        Set::set("nodeport-ips", vec![Field::Daddr(family)]),
        affinity,
        Set::verdict_map("services", service(family)),
    ];
    let comment = Some("rules for kube-proxy".into());
    [Op::AddTable { comment }].into_iter().chain(sets.map(Op::AddSet)).collect()
}

fn chains(_: Family) -> Vec<Op> {
    let regular = [
        "nodeports",
        "draw-4",
        "draw-nodeports-4",
        "reject-chain",
        "service-endpoints-check",
        "services",
    ];
    let base = [
        Chain::base("filter-prerouting-mark", ChainKind::Filter, Hook::Prerouting, -150),
        Chain::base("filter-forward", ChainKind::Filter, Hook::Forward, 0),
        Chain::base("nat-prerouting", ChainKind::Nat, Hook::Prerouting, -100),
        Chain::base("nat-postrouting", ChainKind::Nat, Hook::Postrouting, 100),
    ];
    regular.into_iter().map(Chain::regular).chain(base).map(Op::AddChain).collect()
}

fn rules(family: Family) -> Vec<Op> {
    let name = |name: &str| -> Arc<str> { name.into() };
    let pods = of(family, "10.0.0.0/8", "fd00::/8").parse().unwrap();
    let loopback = of(family, "127.0.0.0/8", "::1/128").parse().unwrap();
    let (saddr, daddr) = (Field::Saddr(family), Field::Daddr(family));
    let nodeport = [Field::L4Proto, Field::Dport, Field::Random { modulus: 4 }];
    let (service, slot) = (service(family), slot(family, 4));
    let local = address_type::LOCAL;
    let second: Vec<Field> = service.iter().copied().chain([Field::Slot { number: 1 }]).collect();
    let rules = [
        Rule::of(
            "draw-4",
            [
                statement::not_protocol(Protocol::Sctp),
                statement::mark_has(0x4000),
                statement::dnat_to_data_of(family, &second, &name("endpoints")),
            ],
        ),
        Rule::of(
            "filter-prerouting-mark",
            [
                statement::ct_direction(CtDirection::Reply),
                statement::socket_is_transparent(),
                statement::set_mark_bits(0x2000),
            ],
        ),
        Rule::of("draw-4", [statement::dnat_to_data_of(family, &slot, &name("endpoints"))]),
        Rule::of(
            "draw-nodeports-4",
            [statement::dnat_to_data_of(family, &nodeport, &name("nodeport-endpoints"))],
        ),
        Rule::of("reject-chain", [statement::reject(family)]),
        Rule::of(
            "service-endpoints-check",
            [statement::is_in(&service, &name("slots-4")), statement::goto(&name("reject-chain"))],
        ),
        Rule::of(
            "services",
            [statement::is_in(&service, &name("slots-4")), statement::goto(&name("draw-4"))],
        ),
        Rule::of(
            "services",
            [
                statement::is_in(&[daddr], &name("cluster-ips")),
                statement::outside(saddr, pods),
                statement::set_mark_bits(0x4000),
            ],
        ),
        Rule::of(
            "services",
            [
                statement::destination_type(local),
                statement::outside(daddr, loopback),
                statement::jump(&name("nodeports")),
            ],
        ),
        Rule::of("services", [statement::input_interface("veth*"), fixtures::counter()]),
        Rule::of("services", [statement::not_input_interface("cni0"), fixtures::counter()]),
        Rule::of("services", [fixtures::verdict_of(&service, &name("services"))]),
        Rule::of(
            "filter-forward",
            [statement::ct_state(ct_state::NEW), statement::jump(&name("service-endpoints-check"))],
        ),
        Rule::of("nat-prerouting", [statement::jump(&name("services"))]),
        Rule::of("nat-postrouting", [fixtures::mark_lacks(0x4000), statement::leave()]),
        Rule::of("nat-postrouting", [statement::flip_mark_bits(0x4000)]),
        Rule::of("nat-postrouting", [statement::masquerade(NatFlags::FULLY_RANDOM)]),
    ];
    rules.into_iter().map(Op::AddRule).collect()
}

fn elements(family: Family) -> Vec<Op> {
    let vip: IpAddr = of(family, "10.96.0.1", "fd00:96::1").parse().unwrap();
    let endpoint: IpAddr = of(family, "10.0.0.5", "fd00::5").parse().unwrap();
    let service = Key::new().address(vip).protocol(Protocol::Tcp).port(443);
    let data = |port| Data::new().address(endpoint).port(port);
    let nodeport = Key::new().protocol(Protocol::Udp).port(30053).number(1);
    let goto = sluice_kernel::nft::Verdict::Goto("draw-4".into());
    let elements = [
        ("cluster-ips", Element::new(Key::new().address(vip))),
        ("slots-4", Element::new(service)),
        ("endpoints", Element::data(service.number(0), data(6443))),
        ("endpoints", Element::data(service.number(3), data(6444))),
        ("nodeport-endpoints", Element::data(nodeport, data(53))),
        ("services", Element::verdict(service, goto)),
    ];
    let add = |(set, element): (&str, Element)| Op::AddElement { set: set.into(), element };
    elements.into_iter().map(add).collect()
}

/// The rules of session affinity.
pub(crate) fn affinity(family: Family) {
    let table = TableName::new(family, "kube-proxy");
    let ip = ip(family);
    let text = format!(
        "table {table} {{
            map affinity {{
                typeof {ip} saddr . {ip} daddr . meta l4proto . th dport : {ip} daddr . th dport;
                size 1000000; flags dynamic,timeout; timeout 3h; }}
            chain recall {{ type nat hook prerouting priority -100;
                dnat {ip} to {ip} saddr . {ip} daddr . meta l4proto . th dport map @affinity
            }}
            chain remember {{ type filter hook prerouting priority -90;
                meta l4proto tcp ct status dnat update @affinity {{ {ip} saddr . ct original {ip} daddr . \
                    meta l4proto . ct original proto-dst timeout 1h : {ip} daddr . th dport }}
            }}
        }}"
    );
    let key =
        [Field::Saddr(family), Field::OriginalDaddr(family), Field::L4Proto, Field::OriginalDport];
    let hour = Some(Duration::from_secs(3600));
    let endpoint = [Field::Daddr(family), Field::Dport];
    let name: Arc<str> = "affinity".into();
    let mut affinity = Set::map("affinity", client(family), endpoint.to_vec());
    affinity.flags = SetFlags::DYNAMIC | SetFlags::TIMEOUT;
    affinity.timeout = Some(Duration::from_secs(3 * 3600));
    affinity.size = Some(1_000_000);
    let recall = statement::dnat_to_data_of(family, &client(family), &name);
    let remember = statement::remember(&name, &key, hour, &endpoint);
    let dnat = statement::ct_status(ct_status::DNAT);
    let ops = vec![
        Op::AddTable { comment: None },
        Op::AddSet(affinity),
        Op::AddChain(Chain::base("recall", ChainKind::Nat, Hook::Prerouting, -100)),
        Op::AddChain(Chain::base("remember", ChainKind::Filter, Hook::Prerouting, -90)),
        Op::AddRule(Rule::of("recall", [recall])),
        Op::AddRule(Rule::of(
            "remember",
            [statement::protocol(Protocol::Tcp), dnat.clone(), remember.clone()],
        )),
    ];
    match family {
        Family::V4 => compare(&table, move || drop(nft(&["-f", "-"], &text)), ops),
        // nft 1.0.6 cannot find registers for the long addresses, and dies of an assertion.
        Family::V6 => drop(apply_and_dump(&table, &ops)),
    }
    // Without a protocol before it, nft 1.0.6 cannot read the rule, but lists it all the same.
    let all = Rule::of("remember", [dnat, remember]);
    let observed = apply_and_dump(&table, &[Op::AddRule(all.clone())]);
    assert_eq!(observed.chains["remember"].rules[1].rule, all);
    let line = format!(
        "\t\tct status dnat update @affinity {{ {ip} saddr . ct original {ip} daddr . meta l4proto \
         . ct original proto-dst timeout 1h : {ip} daddr . th dport }}\n"
    );
    let listing = nft(&["list", "ruleset"], "");
    assert!(listing.contains(&line), "{listing}");
}

/// A look-up as the data of an update. `nft` can neither parse nor list it (1.0.6 dies of a failed
/// assertion), but the kernel takes it and gives it back.
pub(crate) fn look_up_as_data(family: Family) {
    let table = TableName::new(family, "kube-proxy");
    let data = Register::FIRST.after(family.address_len() * 2 + 8);
    let mut exprs = statement::concat_at(Register::FIRST, &slot(family, 4));
    exprs.push(Expr::Lookup {
        set: "endpoints".into(),
        sreg: Register::FIRST,
        result: LookupResult::Data(data),
    });
    exprs.extend(statement::concat_at(Register::FIRST, &client(family)));
    exprs.push(Expr::Dynset {
        op: DynsetOp::Update,
        set: "affinity".into(),
        key: Register::FIRST,
        data: Some(data),
        timeout: Some(Duration::from_secs(60)),
    });
    let rule = Rule::new("remember", exprs);
    let mut ops = sets(family);
    ops.extend([Op::AddChain(Chain::regular("remember")), Op::AddRule(rule.clone())]);
    let observed = apply_and_dump(&table, &ops);
    assert_eq!(observed.chains["remember"].rules[0].rule, rule);
}
