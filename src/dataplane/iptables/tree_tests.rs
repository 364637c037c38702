//! Chains that are kept up to date are those that a fresh start lays out.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::dispatch::{self, Dispatch, Entry, Key, LONGEST, Rank, Shape};
use super::line::{Chains, Line};
use super::rule::{Rule, Sense};
use super::tree::Tree;
use sluice_core::net::Protocol;

/// All chains of a dispatch.
pub(super) fn laid_out(which: Dispatch, entries: &BTreeSet<Entry>) -> Chains {
    let mut tree = Tree::new(which, Shape::Tree);
    entries.iter().for_each(|entry| tree.insert(entry));
    let _ = tree.lay_out();
    chains(&tree, which)
}

fn chains(tree: &Tree, which: Dispatch) -> Chains {
    let rest = tree.chains().map(|(id, lines)| (id.clone(), lines.clone()));
    rest.chain([(which.root(), tree.root().to_vec())]).collect()
}

pub(super) fn entry(key: Key) -> Entry {
    let rule = match key {
        Key::V4(bits) => {
            Rule::new().to(Sense::Is, dispatch::only(Ipv4Addr::from_bits(bits).into()))
        }
        Key::V6(bits) => {
            Rule::new().to(Sense::Is, dispatch::only(std::net::Ipv6Addr::from_bits(bits).into()))
        }
        Key::Port(protocol, port) => Rule::new().port(protocol, port),
    };
    Entry { key, rank: Rank::Any, line: Line::of(&rule.jump("SERVICE")) }
}

pub(super) fn any_key() -> impl Strategy<Value = Key> {
    let v4 = prop_oneof![0x0a60_0000..0x0a60_0400_u32, 0x0a60_0000..0x0a6f_ffff_u32, any::<u32>()];
    let protocol = prop::sample::select(Protocol::ALL.to_vec());
    prop_oneof![
        v4.prop_map(Key::V4),
        (protocol, any::<u16>()).prop_map(|(protocol, port)| Key::Port(protocol, port)),
        (0..1_u128 << 20).prop_map(|low| Key::V6((0xfd00_0010_0096_u128 << 80) | low)),
    ]
}

/// Keys so near each other that chains are split and joined again.
fn near() -> impl Strategy<Value = Key> {
    let ports = prop_oneof![30_000..30_300_u16, any::<u16>()];
    prop_oneof![
        4 => (0..400_u32).prop_map(|low| Key::V4(0x0a60_0000 + low)),
        1 => (0..8_u32, 0..8_u32).prop_map(|(c, d)| Key::V4(0x0a60_0000 + (c << 13) + d)),
        2 => ports.prop_map(|port| Key::Port(Protocol::Udp, port)),
    ]
}

proptest! {
    #[test]
    fn changes_end_in_the_chains_of_a_fresh_start(
        steps in prop::collection::vec(
            prop::collection::vec((near(), any::<bool>()), 1..120),
            1..8,
        ),
    ) {
        let which = Dispatch::Services;
        let mut tree = Tree::new(which, Shape::Tree);
        let (mut entries, mut written) = (BTreeSet::new(), Chains::new());
        for step in steps {
            for (key, comes) in step {
                let entry = entry(key);
                if comes {
                    tree.insert(&entry);
                    entries.insert(entry);
                } else {
                    tree.remove(&entry);
                    entries.remove(&entry);
                }
            }
            let (before, after) = tree.lay_out().unwrap_or_default();
            for (id, lines) in before {
                prop_assert_eq!(written.remove(&id), Some(lines));
            }
            for (id, lines) in after {
                prop_assert_eq!(written.insert(id, lines), None);
            }
            let fresh = laid_out(which, &entries);
            prop_assert_eq!(&chains(&tree, which), &fresh);
            written.insert(which.root(), tree.root().to_vec());
            prop_assert_eq!(&written, &fresh, "what was said to change");
            written.remove(&which.root());
        }
    }
}

#[test]
fn one_entry_more_writes_one_chain_of_ten_thousand_entries() {
    let which = Dispatch::Services;
    let mut tree = Tree::new(which, Shape::Tree);
    let key = |n: u32| Key::V4(0x0a60_0000 + n * 6007 % 65_536);
    (0..10_000).for_each(|n| tree.insert(&entry(key(n))));
    let (before, after) = tree.lay_out().expect("all of them");
    assert!(before.is_empty() && after.len() > 10_000 / LONGEST, "{}", after.len());
    let root = tree.root().to_vec();
    tree.insert(&entry(key(10_000)));
    let (before, after) = tree.lay_out().expect("one more");
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_eq!(tree.root(), root);
    assert_eq!(tree.lay_out(), None);
}
