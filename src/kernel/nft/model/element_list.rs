//! A compact list of elements.

use std::cmp::Ordering;

use super::element::{Element, Value};
use super::packed::{Data, Key};

/// A list of elements in as many bytes as they need: 26 for an endpoint in IPv4, where an
/// [`Element`], which has room for the longest key, takes 96.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
/// Stands for the length of the data of an element that is whole in [`ElementList::rare`], at the
/// index that is in place of its key.
const RARE: u8 = u8::MAX - 1;

impl ElementList {
    /// Appends an element.
    pub fn push(&mut self, element: Element) {
        self.len += 1;
        let data = match &element.value {
            Value::None if element.extra.is_none() => None,
            Value::Data(data) if element.extra.is_none() => Some(*data),
            _ => {
                let index = Key::new().part(&self.rare.len().to_ne_bytes());
                self.rare.push(element);
                self.write(&index, RARE, &[]);
                return;
            }
        };
        let kind = data.as_ref().map_or(PLAIN, Data::len);
        self.write(&element.key, kind, data.as_ref().map(Data::as_bytes).unwrap_or_default());
    }

    fn write(&mut self, key: &Key, kind: u8, data: &[u8]) {
        const { assert!(Data::MOST < RARE as usize, "a length means nothing else") };
        self.bytes.extend([key.len(), kind]);
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(data);
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
        let mut at = 0;
        std::iter::from_fn(move || {
            let (element, next) = self.read(at)?;
            at = next;
            Some(element)
        })
    }

    /// The same elements in lists of at most so many.
    pub(super) fn parts(self, most: usize) -> impl Iterator<Item = ElementList> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let mut part = ElementList::default();
            while part.len < most
                && let Some((element, next)) = self.read(at)
            {
                part.push(element);
                at = next;
            }
            (!part.is_empty()).then_some(part)
        })
    }

    /// The element at an offset, and the offset of the next one.
    fn read(&self, at: usize) -> Option<(Element, usize)> {
        let ([key, kind], rest) = self.bytes.get(at..)?.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(usize::from(*key))?;
        let next = at + 2 + key.len();
        Some(match *kind {
            RARE => {
                let index = usize::from_ne_bytes(key.try_into().ok()?);
                (self.rare.get(index)?.clone(), next)
            }
            PLAIN => (Element::new(Key::from_bytes(key)?), next),
            length => {
                let data = rest.get(..usize::from(length))?;
                let element = Element::data(Key::from_bytes(key)?, Data::from_bytes(data)?);
                (element, next + data.len())
            }
        })
    }
}

/// Elements in the order of their keys, no two with the same key, in little memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SortedElements {
    list: ElementList,
    /// Where each of them begins in `list`.
    starts: Vec<usize>,
}

impl SortedElements {
    /// Takes elements that are in order.
    pub fn new(elements: impl IntoIterator<Item = Element>) -> SortedElements {
        let mut sorted = SortedElements::default();
        for element in elements {
            sorted.starts.push(sorted.list.bytes.len());
            sorted.list.push(element);
        }
        sorted.starts.shrink_to_fit();
        sorted.list.bytes.shrink_to_fit();
        sorted
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Element> {
        self.list.iter()
    }

    /// The element with this key, and its place in the order.
    pub fn find(&self, key: &Key) -> Option<(usize, Element)> {
        let at = |start: &usize| self.list.read(*start);
        let compare = |start: &usize| at(start).map_or(Ordering::Less, |(e, _)| e.key.cmp(key));
        let index = self.starts.binary_search_by(compare).ok()?;
        Some((index, at(&self.starts[index])?.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::verdict::Verdict;
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
    fn sorted_elements_are_found_by_their_keys() {
        let element = |n: u32| {
            let element = Element::new(Key::new().part(&n.to_be_bytes()));
            if n.is_multiple_of(3) {
                element.with_timeout(Duration::from_secs(n.into()))
            } else {
                element
            }
        };
        let sorted = SortedElements::new((0..100).map(|n| element(2 * n)));
        assert_eq!((sorted.len(), sorted.is_empty()), (100, false));
        assert!(sorted.iter().eq((0..100).map(|n| element(2 * n))));
        for n in 0..200 {
            let found = sorted.find(&element(n).key);
            let expected = (n % 2 == 0).then(|| (n as usize / 2, element(n)));
            assert_eq!(found, expected, "{n}");
        }
        assert_eq!(SortedElements::default().find(&Key::new()), None);
    }
}
