//! A compact list of operations.

use std::borrow::Cow;
use std::sync::Arc;

use super::element_list::ElementList;
use super::op::Op;

/// What can be applied in one transaction: operations in the order in which they take effect. It may
/// be gone through several times.
#[allow(clippy::len_without_is_empty)] // no caller needs is_empty
pub trait Operations {
    /// How many there are.
    fn len(&self) -> usize;
    /// The operations, in order.
    fn ops(&self) -> impl Iterator<Item = Cow<'_, Op>>;
}

impl<T: AsRef<[Op]> + ?Sized> Operations for T {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn ops(&self) -> impl Iterator<Item = Cow<'_, Op>> {
        self.as_ref().iter().map(Cow::Borrowed)
    }
}

/// Operations of which most are about elements: those are kept as a few bytes each.
#[derive(Debug, Clone, Default)]
pub struct Ops {
    /// What comes before the elements.
    pub before: Vec<Op>,
    /// Element additions and deletions, grouped by set.
    pub elements: Vec<ElementOps>,
    /// What comes after them.
    pub after: Vec<Op>,
}

/// All additions, or all deletions, of one set.
#[derive(Debug, Clone)]
pub struct ElementOps {
    /// Add or delete.
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

    fn ops(&self) -> impl Iterator<Item = Cow<'_, Op>> {
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

    /// The same operations in parts, each with the elements of one set, and at most so many of them. The first part
    /// has what comes before the elements, and the last one what comes after them. What was taken is freed.
    pub fn in_parts(self, most: usize) -> impl Iterator<Item = Ops> {
        let Ops { before, elements, after } = self;
        let elements = elements.into_iter().flat_map(move |ElementOps { verb, set, elements }| {
            elements.parts(most).map(move |elements| Ops {
                elements: vec![ElementOps { verb, set: Arc::clone(&set), elements }],
                ..Ops::default()
            })
        });
        let after = Ops { after, ..Ops::default() };
        std::iter::once(Ops::from(before))
            .chain(elements)
            .chain([after])
            .filter(|ops| !ops.is_empty())
    }
}

impl From<Vec<Op>> for Ops {
    fn from(ops: Vec<Op>) -> Ops {
        Ops { before: ops, ..Ops::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::element::Element;
    use super::super::packed::Key;
    use super::*;

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
        assert!(ops.ops().map(Cow::into_owned).eq(expected));
        assert_eq!((ops.len(), ops.count_elements(), ops.is_empty()), (4, 2, false));
    }

    #[test]
    fn parts_have_the_same_operations_in_the_same_order() {
        let list = |ports: std::ops::Range<u16>| {
            let mut elements = ElementList::default();
            ports.for_each(|port| elements.push(Element::new(Key::new().port(port))));
            elements
        };
        let add = |set: &str, ports| ElementOps {
            verb: Verb::Add,
            set: set.into(),
            elements: list(ports),
        };
        let ops = Ops {
            before: vec![Op::AddTable { comment: None }],
            elements: vec![add("s", 0..7), add("t", 0..2), add("u", 0..0)],
            after: vec![Op::FlushSet("t".into())],
        };
        let all = |ops: &Ops| ops.ops().map(Cow::into_owned).collect::<Vec<Op>>();
        let parts: Vec<Ops> = ops.clone().in_parts(3).collect();
        assert_eq!(parts.iter().map(Ops::len).collect::<Vec<_>>(), [1, 3, 3, 1, 2, 1]);
        assert_eq!(parts.iter().flat_map(all).collect::<Vec<_>>(), all(&ops));
    }
}
