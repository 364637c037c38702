//! Operations, the parts of a batch.

use std::fmt;
use std::sync::Arc;

use super::element::Element;
use super::object::{Chain, Rule, TableName};
use super::set::Set;

/// One change to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates the table, or does nothing if it exists.
    AddTable {
        /// What `nft list` shows as its comment.
        comment: Option<Arc<str>>,
    },
    /// Deletes the table with all that is in it.
    DeleteTable,
    /// Creates a chain, or does nothing if it exists.
    AddChain(Chain),
    /// Deletes all rules of a chain.
    FlushChain(Arc<str>),
    /// Deletes a chain that nothing jumps to, with its rules.
    DeleteChain(Arc<str>),
    /// Creates a set or map, or does nothing if it exists with the same definition.
    AddSet(Set),
    /// Deletes a set that no rule uses.
    DeleteSet(Arc<str>),
    /// Deletes all elements of a set.
    FlushSet(Arc<str>),
    /// Appends a rule to its chain.
    AddRule(Rule),
    /// Deletes one rule by the handle that the kernel gave it.
    DeleteRule {
        /// Its chain.
        chain: Arc<str>,
        /// Its handle, from [`crate::nft::ObservedRule`].
        handle: u64,
    },
    /// Adds an element; refused if the key is there with another value.
    AddElement {
        /// The set or map.
        set: Arc<str>,
        /// The element.
        element: Element,
    },
    /// Deletes an element that is there; only its key counts.
    DeleteElement {
        /// The set or map.
        set: Arc<str>,
        /// The element.
        element: Element,
    },
}

impl Op {
    /// The operation on one line, as a command of `nft`. `set` is the definition of the set that
    /// an element belongs to; without it the element is printed as bytes.
    pub fn line<'a>(&'a self, table: &'a TableName, set: Option<&'a Set>) -> OpLine<'a> {
        OpLine { op: self, table, set }
    }
}

/// Prints an operation; made by [`Op::line`].
#[derive(Debug, Clone, Copy)]
pub struct OpLine<'a> {
    op: &'a Op,
    table: &'a TableName,
    set: Option<&'a Set>,
}

impl fmt::Display for OpLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, set) = (self.table, self.set);
        match self.op {
            Op::AddTable { .. } => write!(f, "add table {table}"),
            Op::DeleteTable => write!(f, "delete table {table}"),
            Op::AddChain(chain) => write!(f, "add chain {table} {}", chain.name),
            Op::FlushChain(name) => write!(f, "flush chain {table} {name}"),
            Op::DeleteChain(name) => write!(f, "delete chain {table} {name}"),
            Op::AddSet(set) => write!(f, "add {} {table} {}", set.keyword(), set.name),
            Op::DeleteSet(name) => write!(f, "delete set {table} {name}"),
            Op::FlushSet(name) => write!(f, "flush set {table} {name}"),
            Op::AddRule(rule) => {
                write!(f, "add rule {table} {}", rule.chain)?;
                rule.comment.iter().try_for_each(|text| write!(f, " comment \"{text}\""))
            }
            Op::DeleteRule { chain, handle } => {
                write!(f, "delete rule {table} {chain} handle {handle}")
            }
            Op::AddElement { set: name, element } => {
                write!(f, "add element {table} {name} {{ {} }}", element.shown(set))
            }
            Op::DeleteElement { set: name, element } => {
                write!(f, "delete element {table} {name} {{ {} }}", element.shown_key(set))
            }
        }
    }
}
