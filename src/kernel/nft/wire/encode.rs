//! Writes operations as messages.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::expr_encode::{expressions, named, value, verdict};
use super::uapi::{DATA_TYPE_VERDICT, LIST_ELEM, chain, elem, msg, rule, set, table};
use super::userdata;
use crate::netlink::attributes::{Open, Writer};
use crate::nft::model::{
    Chain, Counting, Element, ElementExtra, Expr, Field, Key, Last, Op, Policy, Rule, Set,
    SetFlags, SetKind, TableName, Value, Verb, layout,
};

/// Begins the message for an operation.
pub(crate) fn begin(writer: &mut Writer, table: &TableName, op: &Op, sequence: u32) -> Open {
    let (kind, flags) = match op {
        Op::AddTable { .. } => (msg::NEWTABLE, NLM_F_CREATE),
        Op::DeleteTable => (msg::DELTABLE, 0),
        Op::AddChain(_) => (msg::NEWCHAIN, NLM_F_CREATE),
        Op::DeleteChain(_) => (msg::DELCHAIN, 0),
        Op::AddSet(_) => (msg::NEWSET, NLM_F_CREATE),
        Op::DeleteSet(_) => (msg::DELSET, 0),
        Op::AddRule(_) => (msg::NEWRULE, NLM_F_CREATE | NLM_F_APPEND),
        Op::FlushChain(_) | Op::DeleteRule { .. } => (msg::DELRULE, 0),
        Op::AddElement { .. } => (msg::NEWSETELEM, NLM_F_CREATE),
        Op::FlushSet(_) | Op::DeleteElement { .. } => (msg::DELSETELEM, 0),
    };
    let message = writer.begin_nft(kind, flags, table.family, sequence);
    // All kinds of objects name their table first, in an attribute of the same number.
    writer.put_name(table::NAME, &table.name);
    message
}

/// Writes what an operation is about. Of operations on elements that is only the set; the elements
/// are written by [`put_element`].
pub(crate) fn operation(writer: &mut Writer, op: &Op, sequence: u32) {
    match op {
        Op::AddTable { comment } => {
            writer.put_u32(table::FLAGS, 0);
            put_comment(writer, table::USERDATA, comment.as_deref());
        }
        Op::DeleteTable => {}
        Op::AddChain(chain) => put_chain(writer, chain),
        Op::DeleteChain(name) => writer.put_name(chain::NAME, name),
        Op::AddSet(set) => put_set(writer, set, sequence),
        Op::DeleteSet(name) => writer.put_name(set::NAME, name),
        Op::AddRule(rule) => put_rule(writer, rule),
        Op::FlushChain(name) => writer.put_name(rule::CHAIN, name),
        Op::DeleteRule { chain, handle } => {
            writer.put_name(rule::CHAIN, chain);
            writer.put_u64(rule::HANDLE, *handle);
        }
        Op::FlushSet(name)
        | Op::AddElement { set: name, .. }
        | Op::DeleteElement { set: name, .. } => writer.put_name(elem::LIST_SET, name),
    }
}

/// Writes one element. A range of a one-part key becomes two elements, its first key and the key
/// after its last, as interval trees have it; a range of a concatenation has both ends in one.
pub(crate) fn put_element(writer: &mut Writer, element: &Element, verb: Verb) {
    let extra = element.extra.as_deref();
    let item = writer.nest(LIST_ELEM);
    value(writer, elem::KEY, element.key.as_bytes());
    let last = extra.and_then(|extra| extra.last.as_ref());
    if let Some(Last::Parts(last)) = last {
        value(writer, elem::KEY_END, last.as_bytes());
    }
    if verb == Verb::Add {
        match &element.value {
            Value::None => {}
            Value::Data(data) => value(writer, elem::DATA, data.as_bytes()),
            Value::Verdict(what) => verdict(writer, elem::DATA, what),
        }
        if let Some(extra) = extra {
            put_extra(writer, extra);
        }
    }
    writer.end(item);
    if let Some(Last::Whole(last)) = last
        && let Some(after) = successor(last)
    {
        let item = writer.nest(LIST_ELEM);
        value(writer, elem::KEY, after.as_bytes());
        writer.put_u32(elem::FLAGS, elem::F_INTERVAL_END);
        writer.end(item);
    }
}

fn put_extra(writer: &mut Writer, extra: &ElementExtra) {
    if let Some(timeout) = extra.timeout {
        writer.put_duration(elem::TIMEOUT, timeout);
    }
    if let Some(expires) = extra.expires {
        writer.put_duration(elem::EXPIRATION, expires);
    }
    put_comment(writer, elem::USERDATA, extra.comment.as_deref());
}

/// The next key in byte order, of the same length; `None` after the very last.
fn successor(key: &Key) -> Option<Key> {
    let mut bytes = [0; 48];
    let bytes = bytes.get_mut(..key.as_bytes().len())?;
    bytes.copy_from_slice(key.as_bytes());
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Key::from_bytes(bytes);
        }
    }
    None
}

fn put_chain(writer: &mut Writer, chain: &Chain) {
    writer.put_name(chain::NAME, &chain.name);
    if let Some(base) = &chain.base {
        let hook = writer.nest(chain::HOOK);
        writer.put_u32(chain::HOOK_HOOKNUM, base.hook.number());
        writer.put_u32(chain::HOOK_PRIORITY, base.priority.cast_unsigned());
        writer.end(hook);
        writer.put_u32(chain::POLICY, u32::from(base.policy == Policy::Accept));
        writer.put_name(chain::TYPE, base.kind.name());
    }
    put_comment(writer, chain::USERDATA, chain.comment.as_deref());
}

fn put_rule(writer: &mut Writer, rule: &Rule) {
    writer.put_name(rule::CHAIN, &rule.chain);
    expressions(writer, &rule.exprs);
    put_comment(writer, rule::USERDATA, rule.comment.as_deref());
}

fn put_set(writer: &mut Writer, set: &Set, id: u32) {
    writer.put_name(set::NAME, &set.name);
    let by_parts = set.flags.contains(SetFlags::INTERVAL) && set.key.len() > 1;
    writer.put_u32(set::FLAGS, set_flags(set, by_parts));
    writer.put_u32(set::KEY_TYPE, datatypes(&set.key));
    writer.put_u32(set::KEY_LEN, length(&set.key));
    match &set.kind {
        SetKind::Set | SetKind::ObjectMap => {}
        SetKind::Map(data) => {
            writer.put_u32(set::DATA_TYPE, datatypes(data));
            writer.put_u32(set::DATA_LEN, length(data));
        }
        SetKind::VerdictMap => {
            writer.put_u32(set::DATA_TYPE, DATA_TYPE_VERDICT);
            writer.put_u32(set::DATA_LEN, 0);
        }
    }
    writer.put_u32(set::ID, id);
    if set.size.is_some() || by_parts {
        put_description(writer, set, by_parts);
    }
    if let Some(timeout) = set.timeout {
        writer.put_duration(set::TIMEOUT, timeout);
    }
    if set.counting == Counting::On {
        named(writer, set::EXPR, &Expr::Counter);
    }
    match userdata::set(set) {
        Some(bytes) => writer.put(set::USERDATA, &bytes),
        None => writer.mark_overfull(),
    }
}

/// The flags that the kernel wants to see, including those that follow from the kind and the key.
fn set_flags(set: &Set, by_parts: bool) -> u32 {
    let kind = match set.kind {
        SetKind::Set => 0,
        SetKind::Map(_) | SetKind::VerdictMap => set::F_MAP,
        SetKind::ObjectMap => set::F_OBJECT,
    };
    set.flags.0 | kind | if by_parts { set::F_CONCAT } else { 0 }
}

/// Sets whose parts are ranges are searched part by part, so the kernel must know the parts.
fn put_description(writer: &mut Writer, set: &Set, by_parts: bool) {
    let description = writer.nest(set::DESC);
    if let Some(size) = set.size {
        writer.put_u32(set::DESC_SIZE, size);
    }
    if by_parts {
        let parts = writer.nest(set::DESC_CONCAT);
        for field in &set.key {
            let part = writer.nest(LIST_ELEM);
            writer.put_u32(set::FIELD_LEN, u32::try_from(field.length()).unwrap_or(u32::MAX));
            writer.end(part);
        }
        writer.end(parts);
    }
    writer.end(description);
}

/// Datatypes of the parts, six bits each (`concat_subtype_add` in nftables'
/// `include/datatype.h`). The kernel only stores it.
fn datatypes(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| all << 6 | u32::from(field.datatype()))
}

fn length(fields: &[Field]) -> u32 {
    u32::try_from(layout(fields).1).unwrap_or(u32::MAX)
}

fn put_comment(writer: &mut Writer, kind: u16, text: Option<&str>) {
    let Some(text) = text else { return };
    match userdata::comment(text) {
        Some(bytes) => writer.put(kind, &bytes),
        None => writer.mark_overfull(),
    }
}
