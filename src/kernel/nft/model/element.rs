//! Elements of sets and maps as values.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::field::Shown;
use super::packed::{Data, Key};
use super::set::{Set, SetKind};
use super::verdict::Verdict;

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

    /// The same as a range up to and including `last`, in a set with [`SetFlags::INTERVAL`](super::set::SetFlags::INTERVAL) whose
    /// key has one part. Every element of such a set must be a range, if only from a key to itself:
    /// to the kernel, one without an end reaches to the next element.
    #[must_use]
    pub fn through(mut self, last: Key) -> Element {
        self.extra_mut().last = Some(Last::Whole(last));
        self
    }

    /// The same with a range in each part, up to and including the parts of `last`, in a set with
    /// [`SetFlags::INTERVAL`](super::set::SetFlags::INTERVAL) whose key is a concatenation.
    #[must_use]
    pub fn through_parts(mut self, last: Key) -> Element {
        self.extra_mut().last = Some(Last::Parts(last));
        self
    }

    /// All addresses of a prefix, in a set with [`SetFlags::INTERVAL`](super::set::SetFlags::INTERVAL) whose key is an address.
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

    /// The element as `nft list` prints it among those of its set.
    pub fn text(&self, set: &Set) -> String {
        let shown = self.shown(Some(set)).to_string();
        match self.extra.as_ref().and_then(|extra| extra.comment.as_ref()) {
            Some(comment) => format!("{shown} comment \"{comment}\""),
            None => shown,
        }
    }

    /// Prints the key as a set's fields describe it.
    pub(crate) fn shown_key<'a>(&'a self, set: Option<&'a Set>) -> Shown<'a> {
        Shown {
            fields: set.map(|set| &set.key[..]),
            first: self.key.as_bytes(),
            last: self.extra.as_ref().and_then(|extra| extra.last.as_ref()).map(Last::as_bytes),
        }
    }

    /// Prints the element as a set's fields describe it.
    pub(crate) fn shown<'a>(&'a self, set: Option<&'a Set>) -> ShownElement<'a> {
        ShownElement { element: self, set }
    }

    fn extra_mut(&mut self) -> &mut ElementExtra {
        self.extra.get_or_insert_default()
    }
}

/// Prints an element; made by [`Element::shown`].
pub(crate) struct ShownElement<'a> {
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
    /// Its timeout, if it differs from the set's.
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

/// The data of an element.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// Nothing, in a plain set.
    None,
    /// Data, in a map.
    Data(Data),
    /// A verdict, in a verdict map.
    Verdict(Verdict),
}
