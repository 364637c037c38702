//! Reads tables, chains, rules, sets and elements.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::expr_decode::{expressions, read_counter, verdict};
use super::message::find_name;
use super::uapi::{
    DATA_TYPE_VERDICT, DATA_VALUE, DATA_VERDICT, LIST_ELEM, VERDICT_CHAIN, chain, elem, rule, set,
};
use super::userdata;
use crate::netlink::attributes::{
    attributes, find, find_u32, find_u64, read_name, read_u32, read_u64,
};
use crate::nft::model::{
    BaseChain, Chain, ChainKind, Counting, Data, Element, ElementCounter, ElementExtra, Field,
    Hook, Key, Last, ObservedRule, Policy, Rule, Set, SetFlags, SetKind, Value, Verdict, layout,
};

/// Reads a chain; `None` if it has a kind or hook that tables of IP families cannot have.
pub(crate) fn chain(body: &[u8]) -> Option<Chain> {
    let base = match find(body, chain::HOOK) {
        None => None,
        Some(hook) => {
            let number = find_u32(hook, chain::HOOK_HOOKNUM)?;
            let kind = find(body, chain::TYPE).and_then(read_name)?;
            let drops = find_u32(body, chain::POLICY) == Some(0);
            Some(BaseChain {
                kind: ChainKind::ALL.into_iter().find(|known| known.name() == kind)?,
                hook: Hook::ALL.into_iter().find(|known| known.number() == number)?,
                priority: find_u32(hook, chain::HOOK_PRIORITY)?.cast_signed(),
                policy: if drops { Policy::Drop } else { Policy::Accept },
            })
        }
    };
    let comment = find(body, chain::USERDATA).and_then(userdata::read_comment);
    Some(Chain { name: find_name(body, chain::NAME)?, base, comment })
}

/// Reads a rule.
pub(crate) fn rule(body: &[u8]) -> Option<ObservedRule> {
    let (exprs, counted) = expressions(find(body, rule::EXPRESSIONS).unwrap_or_default());
    let comment = find(body, rule::USERDATA).and_then(userdata::read_comment);
    let rule = Rule { chain: find_name(body, rule::CHAIN)?, exprs, comment };
    Some(ObservedRule { handle: find_u64(body, rule::HANDLE)?, rule, counted })
}

/// Reads the definition of a set.
pub(crate) fn set(body: &[u8]) -> Option<Set> {
    let user = find(body, set::USERDATA).unwrap_or_default();
    let flags = find_u32(body, set::FLAGS).unwrap_or(0);
    let key_type = find_u32(body, set::KEY_TYPE).unwrap_or(0);
    let key_length = find_u32(body, set::KEY_LEN)?;
    let kind = if flags & set::F_OBJECT != 0 {
        SetKind::ObjectMap
    } else if flags & set::F_MAP == 0 {
        SetKind::Set
    } else {
        match find_u32(body, set::DATA_TYPE)? {
            DATA_TYPE_VERDICT => SetKind::VerdictMap,
            datatypes => {
                let length = find_u32(body, set::DATA_LEN)?;
                SetKind::Map(fields(userdata::read_data(user), datatypes, length))
            }
        }
    };
    let size = find(body, set::DESC).and_then(|desc| find_u32(desc, set::DESC_SIZE));
    Some(Set {
        name: find_name(body, set::NAME)?,
        key: fields(userdata::read_key(user), key_type, key_length),
        kind,
        flags: SetFlags(flags & !(set::F_MAP | set::F_OBJECT | set::F_CONCAT)),
        timeout: find_u64(body, set::TIMEOUT).map(Duration::from_millis),
        size,
        counting: if counts(body) { Counting::On } else { Counting::Off },
        comment: userdata::read_set_comment(user),
    })
}

/// Whether elements of a set get a counter, and nothing else.
fn counts(body: &[u8]) -> bool {
    let name = find(body, set::EXPR).and_then(|expr| find(expr, rule::EXPR_NAME));
    name.and_then(read_name) == Some("counter")
}

/// User data may say anything, so it counts only if it describes a value of the right length, as
/// `nft` has it (`set_udata_key_valid` in its `src/netlink.c`).
fn fields(from_user_data: Option<Vec<Field>>, datatypes: u32, length: u32) -> Vec<Field> {
    let describes = |fields: &Vec<Field>| u32::try_from(layout(fields).1) == Ok(length);
    from_user_data
        .filter(|fields| !fields.is_empty() && describes(fields))
        .unwrap_or_else(|| Field::bare(datatypes, length))
}

/// Reads what elements count in one message; those that do not count are left out.
pub(crate) fn counts_of(body: &[u8]) -> impl Iterator<Item = ElementCounter> {
    let list = attributes(find(body, elem::LIST_ELEMENTS).unwrap_or_default());
    list.filter(|(kind, _)| *kind == LIST_ELEM).filter_map(|(_, item)| {
        let key = Key::from_bytes(find(find(item, elem::KEY)?, DATA_VALUE)?)?;
        let comment = find(item, elem::USERDATA).and_then(userdata::read_comment);
        let counted = read_counter(find(find(item, elem::EXPR)?, rule::EXPR_DATA)?)?;
        Some(ElementCounter { key, comment, counted })
    })
}

/// Reads the elements of one set out of any number of messages.
///
/// Verdict maps have thousands of elements that go to few chains, so that chain names are shared.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    whole: Vec<Element>,
    /// Keys at which a range of an interval tree ends.
    ends: Vec<Key>,
    chains: HashMap<Box<[u8]>, Arc<str>>,
    /// Elements that could not be read.
    pub(crate) foreign: usize,
}

impl Elements {
    /// Decodes the elements of one message.
    pub(crate) fn read(&mut self, body: &[u8]) {
        let Some(list) = find(body, elem::LIST_ELEMENTS) else { return };
        for (kind, item) in attributes(list) {
            if kind == LIST_ELEM && self.element(item).is_none() {
                self.foreign += 1;
            }
        }
    }

    fn element(&mut self, item: &[u8]) -> Option<()> {
        let mut key = None;
        let mut value = Value::None;
        let mut extra: Option<Box<ElementExtra>> = None;
        for (kind, content) in attributes(item) {
            match kind {
                elem::KEY => key = Key::from_bytes(find(content, DATA_VALUE)?),
                elem::DATA => value = self.value(content)?,
                elem::FLAGS => match read_u32(content)? {
                    0 => {}
                    elem::F_INTERVAL_END => {
                        self.ends.push(key?);
                        return Some(());
                    }
                    _ => return None,
                },
                elem::KEY_END => {
                    let last = Key::from_bytes(find(content, DATA_VALUE)?)?;
                    extra.get_or_insert_default().last = Some(Last::Parts(last));
                }
                elem::TIMEOUT => {
                    let timeout = Duration::from_millis(read_u64(content)?);
                    extra.get_or_insert_default().timeout = Some(timeout);
                }
                elem::EXPIRATION => {
                    let expires = Duration::from_millis(read_u64(content)?);
                    extra.get_or_insert_default().expires = Some(expires);
                }
                elem::USERDATA => {
                    if let Some(comment) = userdata::read_comment(content) {
                        extra.get_or_insert_default().comment = Some(comment);
                    }
                }
                _ => {}
            }
        }
        self.whole.push(Element { key: key?, value, extra });
        Some(())
    }

    fn value(&mut self, content: &[u8]) -> Option<Value> {
        if let Some(bytes) = find(content, DATA_VALUE) {
            return Some(Value::Data(Data::from_bytes(bytes)?));
        }
        let mut verdict = verdict(content)?;
        if let Verdict::Jump(chain) | Verdict::Goto(chain) = &mut verdict {
            let name = find(find(content, DATA_VERDICT)?, VERDICT_CHAIN)?;
            let shared = self.chains.entry(name.into()).or_insert_with(|| Arc::clone(chain));
            *chain = Arc::clone(shared);
        }
        Some(Value::Verdict(verdict))
    }

    /// All elements, sorted by key, ranges of an interval tree put together.
    pub(crate) fn finish(mut self, set: &Set) -> Vec<Element> {
        self.whole.sort_unstable_by_key(|element| element.key);
        if !(set.flags.contains(SetFlags::INTERVAL) && set.key.len() == 1) {
            return self.whole;
        }
        self.ends.sort_unstable();
        for element in &mut self.whole {
            let index = self.ends.partition_point(|end| *end <= element.key);
            let last = match self.ends.get(index) {
                Some(end) => predecessor(end),
                None => Key::from_bytes(&[0xff; 48][..element.key.as_bytes().len()]),
            };
            element.extra.get_or_insert_default().last = last.map(Last::Whole);
        }
        self.whole
    }
}

/// The key before another in byte order; ends of ranges are never all zeros.
fn predecessor(key: &Key) -> Option<Key> {
    let mut bytes = [0; 48];
    let bytes = bytes.get_mut(..key.as_bytes().len())?;
    bytes.copy_from_slice(key.as_bytes());
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            return Key::from_bytes(bytes);
        }
    }
    None
}
