//! A table as read from the kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::element_list::SortedElements;
use super::object::{Chain, Rule};
use super::packed::Key;
use super::set::Set;

/// A table as the kernel has it, read without any change in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// What `nft list` shows as the table's comment.
    pub comment: Option<Arc<str>>,
    /// Chains by name.
    pub chains: BTreeMap<Arc<str>, ObservedChain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<Arc<str>, ObservedSet>,
    /// What this module does not read: flags of the table (a dormant one does nothing), flow tables,
    /// stateful objects, chains, rules and sets that say less or other things than
    /// is known, elements with values that are too long. A table of our own has none.
    pub foreign: Vec<String>,
    /// Generation of the rule set at which this was read.
    pub generation: u32,
}

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedChain {
    /// The chain.
    pub chain: Chain,
    /// Its rules, in order.
    pub rules: Vec<ObservedRule>,
}

/// A rule with what the kernel knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRule {
    /// The kernel's number of it, unique within the table.
    pub handle: u64,
    /// The rule.
    pub rule: Rule,
    /// What its first counter counted, if it has one.
    pub counted: Option<Counted>,
}

/// What a counter counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A set with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSet {
    /// The set.
    pub set: Set,
    /// Its elements.
    pub elements: SortedElements,
}

/// An element of a set with [`Counting::On`](super::set::Counting::On).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementCounter {
    /// What it is found by.
    pub key: Key,
    /// What `nft list` shows as its comment.
    pub comment: Option<Arc<str>>,
    /// The packets that found it since it was added.
    pub counted: Counted,
}
