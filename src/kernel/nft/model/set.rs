//! Sets and maps as values.

use std::ops::BitOr;
use std::sync::Arc;
use std::time::Duration;

use super::field::{Field, layout};

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name, unique within the table.
    pub name: Arc<str>,
    /// The parts of the key.
    pub key: Vec<Field>,
    /// The data of an element.
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
    pub(crate) fn keyword(&self) -> &'static str {
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
pub struct SetFlags(pub(crate) u32);

impl SetFlags {
    /// None of them.
    pub const NONE: SetFlags = SetFlags(0);
    /// Belongs to one rule and has no name of its own; only ever seen in foreign tables.
    pub const ANONYMOUS: SetFlags = SetFlags(0x1);
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
