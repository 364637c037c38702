//! Many operations in little memory.

use std::borrow::Cow;
use std::sync::Arc;

use super::object::{Element, Value};
use super::op::Op;
use super::packed::{Data, Key};

/// What can be applied in one transaction: operations in the order in which they take effect. It may
/// be gone through several times.
#[allow(clippy::len_without_is_empty)] // asked for by nobody
pub trait Operations {
    /// How many there are.
    fn len(&self) -> usize;
    /// Each of them.
    fn each(&self) -> impl Iterator<Item = Cow<'_, Op>>;
}

impl<T: AsRef<[Op]> + ?Sized> Operations for T {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn each(&self) -> impl Iterator<Item = Cow<'_, Op>> {
        self.as_ref().iter().map(Cow::Borrowed)
    }
}

/// Operations of which most are about elements: those are kept as a few bytes each.
#[derive(Debug, Clone, Default)]
pub struct Ops {
    /// What comes before the elements.
    pub before: Vec<Op>,
    /// ElementList to be added or deleted, set by set.
    pub elements: Vec<ElementOps>,
    /// What comes after them.
    pub after: Vec<Op>,
}

/// ElementList of one set that go the same way.
#[derive(Debug, Clone)]
pub struct ElementOps {
    /// Which way.
    pub verb: Verb,
    /// The set or map.
    pub set: Arc<str>,
    /// The elements.
    pub elements: ElementList,
}

/// What is done with an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is added.
    Add,
    /// It is deleted.
    Delete,
}

impl Operations for Ops {
    fn len(&self) -> usize {
        self.before.len() + self.count_elements() + self.after.len()
    }

    fn each(&self) -> impl Iterator<Item = Cow<'_, Op>> {
        let elements = self.elements.iter().flat_map(|ElementOps { verb, set, elements }| {
            elements.iter().map(move |element| {
                let set = Arc::clone(set);
                Cow::Owned(match verb {
                    Verb::Add => Op::AddElement { set, element },
                    Verb::Delete => Op::DeleteElement { set, element },
                })
            })
        });
        let (before, after) = (self.before.iter(), self.after.iter());
        before.map(Cow::Borrowed).chain(elements).chain(after.map(Cow::Borrowed))
    }
}

impl Ops {
    /// How many of the operations are about elements.
    pub fn count_elements(&self) -> usize {
        self.elements.iter().map(|ops| ops.elements.len()).sum()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<Op>> for Ops {
    fn from(ops: Vec<Op>) -> Ops {
        Ops { before: ops, ..Ops::default() }
    }
}

/// A list of elements in as many bytes as they need: 26 for an endpoint in IPv4, where an
/// [`Element`], which has room for the longest key, takes 96.
#[derive(Debug, Clone, Default)]
pub struct ElementList {
    /// Of each element: the length of its key, the length of its data or what [`PLAIN`] and [`RARE`]
    /// say, the key, and the data.
    bytes: Vec<u8>,
    /// Those with extras or a verdict, whole.
    rare: Vec<Element>,
    len: usize,
}

/// Stands for the length of the data of an element that has none.
const PLAIN: u8 = u8::MAX;
/// Stands for an element that is the next one in [`ElementList::rare`].
const RARE: u8 = u8::MAX - 1;

impl ElementList {
    /// Appends an element.
    pub fn push(&mut self, element: Element) {
        self.len += 1;
        let data = match &element.value {
            Value::None if element.extra.is_none() => None,
            Value::Data(data) if element.extra.is_none() => Some(*data),
            _ => {
                self.bytes.extend([0, RARE]);
                self.rare.push(element);
                return;
            }
        };
        let key = element.key.as_bytes();
        let data = data.as_ref().map(Data::as_bytes);
        // Keys and data have room for less than 255 bytes.
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(0);
        self.bytes.extend([length(key), data.map_or(PLAIN, length)]);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(data.unwrap_or_default());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Each of them, in the order in which they were appended.
    pub fn iter(&self) -> impl Iterator<Item = Element> {
        let mut bytes = &self.bytes[..];
        let mut rare = self.rare.iter();
        std::iter::from_fn(move || {
            let ([key, data], rest) = bytes.split_first_chunk()?;
            let (key, rest) = rest.split_at_checked(usize::from(*key))?;
            let data = match *data {
                RARE => {
                    bytes = rest;
                    return rare.next().cloned();
                }
                PLAIN => None,
                length => Some(rest.split_at_checked(usize::from(length))?.0),
            };
            bytes = &rest[data.map_or(0, <[u8]>::len)..];
            let key = Key::from_bytes(key)?;
            Some(match data {
                None => Element::new(key),
                Some(data) => Element::data(key, Data::from_bytes(data)?),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::object::Verdict;
    use super::*;

    #[test]
    fn elements_come_out_as_they_went_in() {
        let key = |n: u32| Key::new().number(n).port(80);
        let all = [
            Element::new(key(1)),
            Element::data(key(2), Data::new().number(7).port(8080)),
            Element::new(key(3)).through_parts(key(4)),
            Element::data(key(5), Data::new()),
            Element::verdict(key(6), Verdict::Goto("c".into())),
            Element::new(Key::from_bytes(&[9; 48]).expect("it fits")),
            Element::data(key(7), Data::from_bytes(&[1; 24]).expect("it fits"))
                .with_timeout(Duration::from_secs(1)),
            Element::new(Key::new()),
        ];
        let mut elements = ElementList::default();
        assert!(elements.is_empty());
        all.iter().cloned().for_each(|element| elements.push(element));
        assert_eq!(elements.len(), all.len());
        assert!(elements.iter().eq(all.iter().cloned()));
    }

    #[test]
    fn operations_keep_their_order() {
        let mut elements = ElementList::default();
        elements.push(Element::new(Key::new().port(1)));
        elements.push(Element::new(Key::new().port(2)));
        let ops = Ops {
            before: vec![Op::AddTable { comment: None }],
            elements: vec![ElementOps { verb: Verb::Delete, set: "s".into(), elements }],
            after: vec![Op::FlushSet("t".into())],
        };
        let delete = |port| Op::DeleteElement {
            set: "s".into(),
            element: Element::new(Key::new().port(port)),
        };
        let expected =
            [Op::AddTable { comment: None }, delete(1), delete(2), Op::FlushSet("t".into())];
        assert!(ops.each().map(Cow::into_owned).eq(expected));
        assert_eq!((ops.len(), ops.count_elements(), ops.is_empty()), (4, 2, false));
    }
}
