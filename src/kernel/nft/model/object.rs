//! Tables, chains and rules as values.

use std::fmt;
use std::sync::Arc;

use super::expr::Expr;
use sluice_core::net::Family;

/// A table: `ip NAME` or `ip6 NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The family of the packets that the table sees.
    pub family: Family,
    /// Its name, unique within the family.
    pub name: Arc<str>,
}

impl TableName {
    /// Names a table.
    pub fn new(family: Family, name: &str) -> TableName {
        TableName { family, name: Arc::from(name) }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        write!(f, "{family} {}", self.name)
    }
}

/// A chain, with a hook if packets enter it from the network stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique within the table.
    pub name: Arc<str>,
    /// Where packets enter it; `None` for a chain that only rules enter.
    pub base: Option<BaseChain>,
    /// What `nft list` shows as its comment, at most 127 bytes.
    pub comment: Option<Arc<str>>,
}

impl Chain {
    /// A chain that rules jump to.
    pub fn regular(name: impl Into<Arc<str>>) -> Chain {
        Chain { name: name.into(), base: None, comment: None }
    }

    /// A chain on a hook.
    pub fn base(name: impl Into<Arc<str>>, kind: ChainKind, hook: Hook, priority: i32) -> Chain {
        let base = BaseChain { kind, hook, priority, policy: Policy::Accept };
        Chain { name: name.into(), base: Some(base), comment: None }
    }
}

/// How a chain is hooked into the network stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// What the chain may do.
    pub kind: ChainKind,
    /// Where it sees packets.
    pub hook: Hook,
    /// Order among the chains of the hook, lowest first.
    pub priority: i32,
    /// The verdict at the end of the chain.
    pub policy: Policy,
}

/// What a base chain is for (`NFTA_CHAIN_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of a connection and may set its NAT.
    Nat,
    /// Sees outgoing packets and routes them again if it changed them.
    Route,
}

impl ChainKind {
    pub(crate) const ALL: [ChainKind; 3] = [ChainKind::Filter, ChainKind::Nat, ChainKind::Route];

    pub(crate) fn name(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        }
    }
}

/// A place in the network stack (`enum nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Every arriving packet, before routing.
    Prerouting,
    /// Packets to this host.
    Input,
    /// Packets through this host.
    Forward,
    /// Packets from this host.
    Output,
    /// Every leaving packet, after routing.
    Postrouting,
}

impl Hook {
    pub(crate) const ALL: [Hook; 5] =
        [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    pub(crate) fn number(self) -> u32 {
        match self {
            Hook::Prerouting => 0,
            Hook::Input => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        }
    }
}

/// The verdict at the end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Go on to the next chain of the hook.
    Accept,
    /// Drop the packet.
    Drop,
}

/// A rule: expressions that are evaluated until one of them does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The chain that it is in.
    pub chain: Arc<str>,
    /// What it matches and does, in order.
    pub exprs: Vec<Expr>,
    /// What `nft list` shows as its comment, at most 127 bytes.
    pub comment: Option<Arc<str>>,
}

impl Rule {
    /// A rule of these statements ([`crate::nft::statement`]) in order.
    pub fn of<const N: usize>(chain: impl Into<Arc<str>>, statements: [Vec<Expr>; N]) -> Rule {
        Rule::new(chain, statements.into_iter().flatten().collect())
    }

    /// A rule without a comment.
    pub fn new(chain: impl Into<Arc<str>>, exprs: Vec<Expr>) -> Rule {
        Rule { chain: chain.into(), exprs, comment: None }
    }
}
