//! Tables, chains, rules, sets and elements as values.

use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::expr::Expr;
use super::field::{Field, Shown, layout};
use super::packed::{Data, Key};
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
    /// What becomes of a packet that leaves the chain at its end.
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
    pub(super) const ALL: [ChainKind; 3] = [ChainKind::Filter, ChainKind::Nat, ChainKind::Route];

    pub(super) fn name(self) -> &'static str {
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
    pub(super) const ALL: [Hook; 5] =
        [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    pub(super) fn number(self) -> u32 {
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
    /// A rule that says these phrases ([`super::phrase`]) in order.
    pub fn of<const N: usize>(chain: impl Into<Arc<str>>, phrases: [Vec<Expr>; N]) -> Rule {
        Rule::new(chain, phrases.into_iter().flatten().collect())
    }

    /// A rule without a comment.
    pub fn new(chain: impl Into<Arc<str>>, exprs: Vec<Expr>) -> Rule {
        Rule { chain: chain.into(), exprs, comment: None }
    }
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name, unique within the table.
    pub name: Arc<str>,
    /// The parts of the key.
    pub key: Vec<Field>,
    /// What an element holds beside its key.
    pub kind: SetKind,
    /// Properties.
    pub flags: SetFlags,
    /// How long an element lives that does not say so itself; needs [`SetFlags::TIMEOUT`].
    pub timeout: Option<Duration>,
    /// The most elements it takes; `None` for no limit. A set that rules write to needs one: the
    /// kernel makes it 65,535 otherwise (`nft_dynset_init` in `net/netfilter/nft_dynset.c`).
    pub size: Option<u32>,
    /// Whether each element counts the packets that a rule finds it by.
    pub counting: Counting,
    /// What `nft list` shows as its comment, at most 127 bytes.
    pub comment: Option<Arc<str>>,
}

/// Whether the elements of a set count, each for itself. The kernel has done so since Linux 5.7
/// (`nft_set_elem_update_expr`, called by `nft_lookup_eval`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Counting {
    /// They do not.
    #[default]
    Off,
    /// They count packets and bytes.
    On,
}

impl Set {
    /// A plain set.
    #[allow(clippy::self_named_constructors)] // a set, not a map, is what nf_tables calls a set
    pub fn set(name: impl Into<Arc<str>>, key: Vec<Field>) -> Set {
        Set::with_kind(name, key, SetKind::Set)
    }

    /// A map from `key` to `data`.
    pub fn map(name: impl Into<Arc<str>>, key: Vec<Field>, data: Vec<Field>) -> Set {
        Set::with_kind(name, key, SetKind::Map(data))
    }

    /// A map from `key` to verdicts.
    pub fn verdict_map(name: impl Into<Arc<str>>, key: Vec<Field>) -> Set {
        Set::with_kind(name, key, SetKind::VerdictMap)
    }

    /// Whether the kernel makes no difference between the two. What parts of keys are called, and the
    /// comment, is for people alone, and lost where a ruleset was saved as JSON.
    pub fn works_as(&self, other: &Set) -> bool {
        let kinds_match = match (&self.kind, &other.kind) {
            (SetKind::Map(data), SetKind::Map(other)) => layout(data) == layout(other),
            (kind, other) => kind == other,
        };
        let rest = |set: &Set| (set.flags, set.timeout, set.size, set.counting);
        self.name == other.name
            && kinds_match
            && layout(&self.key) == layout(&other.key)
            && rest(self) == rest(other)
    }

    /// What `nft` calls it.
    pub(super) fn keyword(&self) -> &'static str {
        match self.kind {
            SetKind::Set => "set",
            SetKind::Map(_) | SetKind::VerdictMap | SetKind::ObjectMap => "map",
        }
    }

    fn with_kind(name: impl Into<Arc<str>>, key: Vec<Field>, kind: SetKind) -> Set {
        Set {
            name: name.into(),
            key,
            kind,
            flags: SetFlags::NONE,
            timeout: None,
            size: None,
            counting: Counting::Off,
            comment: None,
        }
    }
}

/// What the elements of a set hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetKind {
    /// Only keys.
    Set,
    /// A value made of these parts.
    Map(Vec<Field>),
    /// A verdict.
    VerdictMap,
    /// A stateful object's name; only ever seen in foreign tables.
    ObjectMap,
}

/// Properties of a set (`enum nft_set_flags`), without those that follow from its kind and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetFlags(pub(super) u32);

impl SetFlags {
    /// None of them.
    pub const NONE: SetFlags = SetFlags(0);
    /// Belongs to one rule and has no name of its own; only ever seen in foreign tables.
    pub const ANONYMOUS: SetFlags = SetFlags(0x1);
    /// Elements never change once a rule uses it.
    pub const CONSTANT: SetFlags = SetFlags(0x2);
    /// Elements are ranges.
    pub const INTERVAL: SetFlags = SetFlags(0x4);
    /// Elements may expire.
    pub const TIMEOUT: SetFlags = SetFlags(0x10);
    /// Rules add elements (`flags dynamic`).
    pub const DYNAMIC: SetFlags = SetFlags(0x20);

    /// Whether all of `other` are among these.
    pub fn contains(self, other: SetFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for SetFlags {
    type Output = SetFlags;

    fn bitor(self, other: SetFlags) -> SetFlags {
        SetFlags(self.0 | other.0)
    }
}

/// One element of a set or map. Without extras it needs no heap, unless it is a jump.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// What it is found by; the lower end if it is a range.
    pub key: Key,
    /// What is found.
    pub value: Value,
    /// What few elements have.
    pub extra: Option<Box<ElementExtra>>,
}

impl Element {
    /// An element of a plain set.
    pub fn new(key: Key) -> Element {
        Element { key, value: Value::None, extra: None }
    }

    /// An element of a data map.
    pub fn data(key: Key, data: Data) -> Element {
        Element { key, value: Value::Data(data), extra: None }
    }

    /// An element of a verdict map.
    pub fn verdict(key: Key, verdict: Verdict) -> Element {
        Element { key, value: Value::Verdict(verdict), extra: None }
    }

    /// The same as a range up to and including `last`, in a set with [`SetFlags::INTERVAL`] whose
    /// key has one part. Every element of such a set must be a range, if only from a key to itself:
    /// to the kernel, one without an end reaches to the next element.
    #[must_use]
    pub fn through(mut self, last: Key) -> Element {
        self.extra_mut().last = Some(Last::Whole(last));
        self
    }

    /// The same with a range in each part, up to and including the parts of `last`, in a set with
    /// [`SetFlags::INTERVAL`] whose key is a concatenation.
    #[must_use]
    pub fn through_parts(mut self, last: Key) -> Element {
        self.extra_mut().last = Some(Last::Parts(last));
        self
    }

    /// All addresses of a prefix, in a set with [`SetFlags::INTERVAL`] whose key is an address.
    pub fn prefix(prefix: IpNet) -> Element {
        let last = Key::new().address(prefix.broadcast());
        Element::new(Key::new().address(prefix.network())).through(last)
    }

    /// The same with a comment, at most 127 bytes.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<Arc<str>>) -> Element {
        self.extra_mut().comment = Some(comment.into());
        self
    }

    /// The same with a life of its own; for sets with [`SetFlags::TIMEOUT`].
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Element {
        self.extra_mut().timeout = Some(timeout);
        self
    }

    /// Prints the key as a set's fields describe it.
    pub(super) fn shown_key<'a>(&'a self, set: Option<&'a Set>) -> Shown<'a> {
        Shown {
            fields: set.map(|set| &set.key[..]),
            first: self.key.as_bytes(),
            last: self.extra.as_ref().and_then(|extra| extra.last.as_ref()).map(Last::as_bytes),
        }
    }

    /// Prints the element as a set's fields describe it.
    pub(super) fn shown<'a>(&'a self, set: Option<&'a Set>) -> ShownElement<'a> {
        ShownElement { element: self, set }
    }

    fn extra_mut(&mut self) -> &mut ElementExtra {
        self.extra.get_or_insert_default()
    }
}

/// Prints an element; made by [`Element::shown`].
pub(super) struct ShownElement<'a> {
    element: &'a Element,
    set: Option<&'a Set>,
}

impl fmt::Display for ShownElement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.element.shown_key(self.set))?;
        match &self.element.value {
            Value::None => Ok(()),
            Value::Verdict(verdict) => write!(f, " : {verdict}"),
            Value::Data(data) => {
                let fields = self.set.and_then(|set| match &set.kind {
                    SetKind::Map(fields) => Some(&fields[..]),
                    SetKind::Set | SetKind::VerdictMap | SetKind::ObjectMap => None,
                });
                write!(f, " : {}", Shown { fields, first: data.as_bytes(), last: None })
            }
        }
    }
}

/// The rare parts of an element.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElementExtra {
    /// The end of a range, inclusive.
    pub last: Option<Last>,
    /// How long it lives after its last use, if not as long as the set says.
    pub timeout: Option<Duration>,
    /// How long it has still to live; set by the kernel.
    pub expires: Option<Duration>,
    /// What `nft list` shows as its comment.
    pub comment: Option<Arc<str>>,
}

/// The end of a range, inclusive. The kernel keeps the two kinds of ranges in different structures
/// and wants them written differently.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Last {
    /// Of a range of one-part keys.
    Whole(Key),
    /// Of ranges in each part of a concatenation.
    Parts(Key),
}

impl Last {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Last::Whole(key) | Last::Parts(key) => key.as_bytes(),
        }
    }
}

/// What an element holds beside its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// Nothing, in a plain set.
    None,
    /// Data, in a map.
    Data(Data),
    /// A verdict, in a verdict map.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Go on to the next base chain of the hook.
    Accept,
    /// Drop it.
    Drop,
    /// Go on after the rule that jumped here.
    Return,
    /// Go on with the next rule.
    Continue,
    /// Go through another chain and come back.
    Jump(Arc<str>),
    /// Go through another chain and come back to where this one was entered from.
    Goto(Arc<str>),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Continue => f.write_str("continue"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}
