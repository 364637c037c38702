//! Transactions as a whole: size, refusal, privilege, notification.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_core::net::{Family, Protocol};
use sluice_kernel::nft::{
    ApplyError, Chain, Data, Element, Field, Key, Nft, NftError, NftEvent, NftEvents, Op, Refused,
    Rule, Set, TableName, Verdict, statement,
};

use crate::UNPRIVILEGED;
use crate::sandbox::{listing, nft};

const MANY: u32 = 100_000;

fn table() -> TableName {
    TableName::new(Family::V4, "kube-proxy")
}

/// The key of slot `number` of a service.
fn key(number: u32) -> Key {
    let vip = Ipv4Addr::from(0x0a60_0000 + number / 4);
    Key::new().address(IpAddr::V4(vip)).protocol(Protocol::Tcp).port(443).number(number % 4)
}

fn endpoint(number: u32) -> Data {
    Data::new().address(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))).port(8080)
}

fn add(number: u32) -> Op {
    Op::AddElement {
        set: "endpoints".into(),
        element: Element::data(key(number), endpoint(number)),
    }
}

fn delete(number: u32) -> Op {
    Op::DeleteElement { set: "endpoints".into(), element: Element::new(key(number)) }
}

fn map() -> Vec<Op> {
    let slot = Field::Random { modulus: 4096 };
    let key = vec![Field::Daddr(Family::V4), Field::L4Proto, Field::Dport, slot];
    let data = vec![Field::Daddr(Family::V4), Field::Dport];
    vec![Op::AddTable { comment: None }, Op::AddSet(Set::map("endpoints", key, data))]
}

fn refusals(result: Result<(), ApplyError>) -> Vec<Refused> {
    match result {
        Err(ApplyError::Refused(refused)) => refused,
        other => panic!("expected refusals, not {other:?}"),
    }
}

pub(crate) fn many_elements() {
    let mut nft = Nft::open().unwrap();
    let mut events = NftEvents::open(nft.port_id(), vec![table()]).unwrap();
    events.listen().unwrap();
    let before = nft.generation().unwrap();
    let ops: Vec<Op> = map().into_iter().chain((0..MANY).map(add)).collect();
    let applied = events.apply_unheard(&mut nft, &table(), &ops);
    applied.expect("a hundred thousand elements are accepted at once");
    assert_eq!(nft.generation().unwrap(), before + 1, "it was one transaction");
    assert_eq!(events.try_next().unwrap(), None, "our own changes are not heard");

    let observed = nft.dump(&table()).unwrap().unwrap();
    let elements = &observed.sets["endpoints"].elements;
    assert_eq!(elements.len(), 100_000);
    let mut expected: Vec<Element> =
        (0..MANY).map(|number| Element::data(key(number), endpoint(number))).collect();
    expected.sort_unstable_by_key(|element| element.key);
    assert!(elements.iter().eq(expected), "they are those that were written");

    let ops: Vec<Op> = (0..MANY).map(delete).collect();
    nft.apply(&table(), &ops).expect("they can be deleted at once");
    assert!(nft.dump(&table()).unwrap().unwrap().sets["endpoints"].elements.is_empty());
}

pub(crate) fn refused_element() {
    let mut nft = Nft::open().unwrap();
    nft.apply(&table(), &map()).unwrap();
    nft.apply(&table(), &[add(7)]).unwrap();
    let mut ops: Vec<Op> = (10..5000).map(add).collect();
    // The key is there with another value, and a key that is not there cannot be deleted.
    let other = Element::data(key(7), endpoint(8));
    ops.insert(3210, Op::AddElement { set: "endpoints".into(), element: other });
    ops.push(delete(9999));
    let refused = refusals(nft.apply(&table(), &ops));
    let named: Vec<(usize, i32, &str)> =
        refused.iter().map(|refused| (refused.op, refused.errno, &*refused.object)).collect();
    let text = "add element ip kube-proxy endpoints \
                { 10.96.0.1 . tcp . 443 . 3 : 10.0.0.8 . 8080 }";
    let gone = "delete element ip kube-proxy endpoints { 10.96.9.195 . tcp . 443 . 3 }";
    assert_eq!(named[0], (3210, libc::EEXIST, text));
    assert_eq!(named[1], (4991, libc::ENOENT, gone));
    assert_eq!(named.len(), 2);
    assert!(refused[0].detail.starts_with("File exists"), "{}", refused[0].detail);
    let observed = nft.dump(&table()).unwrap().unwrap();
    assert_eq!(observed.sets["endpoints"].elements.len(), 1, "nothing was applied");
}

pub(crate) fn refused_operations() {
    let mut nft = Nft::open().unwrap();
    nft.apply(&table(), &map()).unwrap();
    let absent: Arc<str> = "absent".into();
    let ops = [
        Op::AddChain(Chain::regular("here")),
        Op::DeleteChain(Arc::clone(&absent)),
        Op::AddRule(Rule::of("here", [statement::jump(&absent)])),
        Op::AddRule(Rule::of("here", [statement::is_in(&[Field::Dport], &absent)])),
        add(1),
        Op::DeleteSet(Arc::clone(&absent)),
        Op::AddElement { set: absent, element: Element::verdict(key(1), Verdict::Accept) },
    ];
    let refused = refusals(nft.apply(&table(), &ops));
    let indices: Vec<usize> = refused.iter().map(|refused| refused.op).collect();
    assert_eq!(indices, [1, 2, 3, 5, 6]);
    assert!(refused.iter().all(|refused| refused.errno == libc::ENOENT), "{refused:?}");
    assert_eq!(refused[0].object, "delete chain ip kube-proxy absent");
    let error = nft.apply(&table(), &ops).unwrap_err().to_string();
    assert!(error.contains("5 operation(s)") && error.contains("delete chain"), "{error}");
    let observed = nft.dump(&table()).unwrap().unwrap();
    assert!(observed.chains.is_empty() && observed.sets["endpoints"].elements.is_empty());
}

pub(crate) fn too_long() {
    let mut nft = Nft::open().unwrap();
    nft.apply(&table(), &map()).unwrap();
    let before = nft.generation().unwrap();
    let mut commented = Chain::regular("c");
    commented.comment = Some("c".repeat(128).into());
    let chain = [Op::AddChain(commented)];
    let element = Element::data(key(1), endpoint(1)).with_comment("x".repeat(200));
    let element = [add(0), Op::AddElement { set: "endpoints".into(), element }];
    let set = [Op::AddSet(Set::set("s".repeat(300), vec![Field::Dport]))];
    for (ops, words) in [(&chain[..], "add chain"), (&element, "add element"), (&set, "add set")] {
        match nft.apply(&table(), ops) {
            Err(ApplyError::Transport(error @ NftError::TooLong { .. })) => {
                assert!(error.to_string().contains(words), "{error}");
            }
            other => panic!("expected an error of length, not {other:?}"),
        }
    }
    assert_eq!(nft.generation().unwrap(), before);
}

pub(crate) fn absent_table() {
    let mut nft = Nft::open().unwrap();
    assert_eq!(nft.dump(&table()).unwrap(), None);
    nft.apply(&table(), &[]).expect("nothing is easily done");
    nft.apply(&table(), &map()).unwrap();
    let ops: Vec<Op> = (0..MANY).map(add).collect();
    let other = TableName::new(Family::V4, "other");
    let refused = refusals(nft.apply(&other, &ops));
    assert_eq!((refused[0].op, refused[0].errno), (0, libc::ENOENT));
    assert!((1000..20_000).contains(&refused.len()), "{} are named one by one", refused.len());
    assert_eq!(
        refused[0].object,
        "add element ip other endpoints { 0x0a6000000600000001bb000000000000 \
         : 0x0a0000001f900000 }"
    );
    let other_family = TableName::new(Family::V6, "kube-proxy");
    assert_eq!(nft.dump(&other_family).unwrap(), None);
}

pub(crate) fn undo(family: Family) {
    let table = TableName::new(family, "kube-proxy");
    let (chain, set): (Arc<str>, Arc<str>) = ("c".into(), "s".into());
    let element = Element::new(Key::new().port(80));
    let rule = Rule::of("c", [statement::is_in(&[Field::Dport], &set), statement::accept()]);
    let mut nft = Nft::open().unwrap();
    let add = [
        Op::AddTable { comment: None },
        Op::AddChain(Chain::regular("c")),
        Op::AddSet(Set::set("s", vec![Field::Dport])),
        Op::AddRule(rule.clone()),
        Op::AddRule(rule.clone()),
        Op::AddElement { set: Arc::clone(&set), element: element.clone() },
    ];
    nft.apply(&table, &add).unwrap();
    // Adding what is there changes nothing, but for rules.
    nft.apply(&table, &[&add[..3], &add[5..]].concat()).unwrap();
    let observed = nft.dump(&table).unwrap().unwrap();
    assert_eq!(observed.chains["c"].rules.len(), 2);
    let handle = observed.chains["c"].rules[0].handle;
    nft.apply(&table, &[Op::DeleteRule { chain: Arc::clone(&chain), handle }]).unwrap();
    assert_eq!(nft.dump(&table).unwrap().unwrap().chains["c"].rules.len(), 1);
    let delete = Op::DeleteElement { set: Arc::clone(&set), element };
    nft.apply(&table, &[delete, add[5].clone(), Op::FlushSet(Arc::clone(&set))]).unwrap();
    assert!(nft.dump(&table).unwrap().unwrap().sets["s"].elements.is_empty());
    let rest = [Op::FlushChain(Arc::clone(&chain)), Op::DeleteChain(chain), Op::DeleteSet(set)];
    nft.apply(&table, &rest).unwrap();
    let empty = nft.dump(&table).unwrap().unwrap();
    assert!(empty.chains.is_empty() && empty.sets.is_empty());
    nft.apply(&table, &[Op::DeleteTable, Op::AddTable { comment: None }]).unwrap();
    nft.apply(&table, &[Op::DeleteTable]).unwrap();
    assert_eq!(listing().0, "");
}

/// Waits for the next event, which must come soon.
fn next(events: &mut NftEvents) -> NftEvent {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(event) = events.try_next().unwrap() {
            return event;
        }
        assert!(Instant::now() < deadline, "nothing was heard");
        std::thread::yield_now();
    }
}

pub(crate) fn events() {
    let mut ours = Nft::open().unwrap();
    let tables = Family::BOTH.map(|family| TableName::new(family, "kube-proxy")).to_vec();
    let mut events = NftEvents::open(ours.port_id(), tables.clone()).unwrap();
    events.listen().unwrap();
    assert!(events.as_raw_fd() >= 0);
    assert_eq!(events.try_next().unwrap(), None);
    ours.apply(&tables[0], &map()).unwrap();
    ours.apply(&tables[0], &[add(1)]).unwrap();
    assert_eq!(events.try_next().unwrap(), None, "our own changes are not heard");

    nft(&["-f", "-"], "add table ip other; add chain ip other c; add table inet kube-proxy");
    assert_eq!(events.try_next().unwrap(), None, "changes of other tables are not heard");

    let foreign = [
        (0, "add element ip kube-proxy endpoints { 10.0.0.1 . tcp . 1 . 1 : 10.0.0.2 . 1 }"),
        (0, "add chain ip kube-proxy c"),
        (0, "add rule ip kube-proxy c accept"),
        (0, "flush chain ip kube-proxy c"),
        (0, "add set ip kube-proxy s { type ipv4_addr; }"),
        (0, "add counter ip kube-proxy n"),
        (1, "add table ip6 kube-proxy"),
        (0, "delete table ip kube-proxy"),
    ];
    for (table, command) in foreign {
        nft(&["-f", "-"], command);
        assert_eq!(next(&mut events), NftEvent::ForeignChange(tables[table].clone()), "{command}");
        while events.try_next().unwrap().is_some() {}
    }
    let large: Vec<Op> = (0..20_000).map(add).collect();
    events.apply_unheard(&mut ours, &tables[0], &map()).unwrap();
    events.apply_unheard(&mut ours, &tables[0], &large).unwrap();
    assert_eq!(events.try_next().unwrap(), None, "what was not listened to was our own");
    ours.apply(&tables[0], &[Op::DeleteTable]).unwrap();
    events.apply_unheard(&mut ours, &tables[0], &large).unwrap_err();
    assert_eq!(events.try_next().unwrap(), None, "a refused transaction changes nothing");
    // A second socket of this process is as foreign as any.
    Nft::open().unwrap().apply(&tables[0], &map()).unwrap();
    assert_eq!(next(&mut events), NftEvent::ForeignChange(tables[0].clone()));
}

pub(crate) fn overflow() {
    let mut events = NftEvents::open(0, vec![table()]).unwrap();
    events.listen().unwrap();
    let mut nft = Nft::open().unwrap();
    let ops: Vec<Op> = map().into_iter().chain((0..MANY).map(add)).collect();
    nft.apply(&table(), &ops).unwrap();
    let heard: Vec<NftEvent> =
        std::iter::from_fn(|| events.try_next().unwrap()).take(1000).collect();
    assert!(heard.contains(&NftEvent::Overflow), "{} events without overflow", heard.len());
    nft.apply(&table(), &[add(MANY)]).unwrap();
    assert_eq!(next(&mut events), NftEvent::ForeignChange(table()), "it goes on afterwards");
}

pub(crate) fn unprivileged() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).arg(UNPRIVILEGED).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
