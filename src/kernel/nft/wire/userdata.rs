//! User data: what `nft` stores with objects for its own use, and what it needs to print a set
//! with `typeof`, protocols by name, and comments.
//!
//! A list of type, length (one byte each) and value, defined by libnftnl's `udata.h` and by
//! `*_build_udata` in nftables' `src/{payload,meta,numgen,expression,mnl}.c`. Numbers are in host
//! byte order.

use std::sync::Arc;

use super::uapi::{COMMENT_MAX, USERDATA_MAX};
use crate::netlink::attributes::read_name;
use crate::nft::model::{CtKey, Field, MetaKey, Set, SetKind};
use sluice_core::net::Family;

/// `NFTNL_UDATA_{TABLE,CHAIN,RULE,SET_ELEM}_COMMENT`
const COMMENT: u8 = 0;

/// `enum nftnl_udata_set_types`
mod set {
    pub(crate) const KEY_BYTE_ORDER: u8 = 0;
    pub(crate) const DATA_BYTE_ORDER: u8 = 1;
    pub(crate) const KEY_TYPEOF: u8 = 3;
    pub(crate) const DATA_TYPEOF: u8 = 4;
    pub(crate) const DATA_INTERVAL: u8 = 6;
    pub(crate) const COMMENT: u8 = 7;
}

/// `enum expr_types` of nftables' `include/expression.h`
mod kind {
    pub(crate) const VERDICT: u32 = 1;
    pub(crate) const PAYLOAD: u32 = 7;
    pub(crate) const META: u32 = 9;
    pub(crate) const CT: u32 = 12;
    pub(crate) const CONCAT: u32 = 13;
    pub(crate) const NUMGEN: u32 = 23;
}

/// `enum proto_desc_id` of nftables' `include/proto.h`
mod header {
    pub(crate) const TRANSPORT: u32 = 11;
    pub(crate) const IP: u32 = 12;
    pub(crate) const IP6: u32 = 13;
}

/// The direction of a connection's first packet (`IP_CT_DIR_ORIGINAL`).
const ORIGINAL: u32 = 0;

/// User data that is being written.
#[derive(Debug, Default)]
struct Writer {
    bytes: Vec<u8>,
    overfull: bool,
}

impl Writer {
    fn put(&mut self, kind: u8, value: &[u8]) {
        match u8::try_from(value.len()) {
            Ok(len) => {
                self.bytes.extend_from_slice(&[kind, len]);
                self.bytes.extend_from_slice(value);
            }
            Err(_) => self.overfull = true,
        }
    }

    fn put_u32(&mut self, kind: u8, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    fn put_comment(&mut self, kind: u8, text: &str) {
        if text.len() >= COMMENT_MAX || text.contains('\0') {
            self.overfull = true;
            return;
        }
        let terminated: Vec<u8> = text.bytes().chain([0]).collect();
        self.put(kind, &terminated);
    }

    fn nest(&mut self, kind: u8, fill: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        fill(&mut inner);
        self.overfull |= inner.overfull;
        self.put(kind, &inner.bytes);
    }

    /// What was written, or `None` if something did not fit.
    fn finish(self) -> Option<Vec<u8>> {
        (!self.overfull && self.bytes.len() <= USERDATA_MAX).then_some(self.bytes)
    }
}

/// Goes through user data; stops at the first entry that is longer than what is left.
fn entries(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, len], after) = rest.split_first_chunk::<2>()?;
        let value = after.get(..usize::from(len))?;
        rest = &after[usize::from(len)..];
        Some((kind, value))
    })
}

fn find(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    entries(bytes).find(|&(found, _)| found == kind).map(|(_, value)| value)
}

fn find_u32(bytes: &[u8], kind: u8) -> Option<u32> {
    find(bytes, kind)?.try_into().ok().map(u32::from_ne_bytes)
}

/// User data that consists of a comment; `None` if that is too long for `nft`.
pub(crate) fn comment(text: &str) -> Option<Vec<u8>> {
    let mut writer = Writer::default();
    writer.put_comment(COMMENT, text);
    writer.finish()
}

/// The comment in the user data of a table, chain, rule or element.
pub(crate) fn read_comment(bytes: &[u8]) -> Option<Arc<str>> {
    find(bytes, COMMENT).and_then(read_name).map(Arc::from)
}

/// User data of a set; `None` if it does not fit.
pub(crate) fn set(set: &Set) -> Option<Vec<u8>> {
    let mut writer = Writer::default();
    writer.put_u32(set::KEY_BYTE_ORDER, byte_order(&set.key));
    match &set.kind {
        SetKind::Set | SetKind::ObjectMap => put_typeof(&mut writer, set::KEY_TYPEOF, &set.key),
        SetKind::Map(data) => {
            writer.put_u32(set::DATA_BYTE_ORDER, byte_order(data));
            put_typeof(&mut writer, set::KEY_TYPEOF, &set.key);
            put_typeof(&mut writer, set::DATA_TYPEOF, data);
            writer.put_u32(set::DATA_INTERVAL, 0);
        }
        SetKind::VerdictMap => {
            writer.put_u32(set::DATA_BYTE_ORDER, 0);
            put_typeof(&mut writer, set::KEY_TYPEOF, &set.key);
            writer.nest(set::DATA_TYPEOF, |nest| {
                nest.put_u32(0, kind::VERDICT);
                nest.put(1, &[]);
            });
            writer.put_u32(set::DATA_INTERVAL, 0);
        }
    }
    if let Some(text) = &set.comment {
        writer.put_comment(set::COMMENT, text);
    }
    writer.finish()
}

/// The fields of a set's key, from its user data; `None` if it has none or is not understood.
pub(crate) fn read_key(bytes: &[u8]) -> Option<Vec<Field>> {
    find(bytes, set::KEY_TYPEOF).and_then(read_typeof)
}

/// The fields of a map's data.
pub(crate) fn read_data(bytes: &[u8]) -> Option<Vec<Field>> {
    find(bytes, set::DATA_TYPEOF).and_then(read_typeof)
}

/// The comment of a set.
pub(crate) fn read_set_comment(bytes: &[u8]) -> Option<Arc<str>> {
    find(bytes, set::COMMENT).and_then(read_name).map(Arc::from)
}

/// `enum byteorder` of nftables' `include/datatype.h`: 0 for concatenations, 1 host, 2 network.
fn byte_order(fields: &[Field]) -> u32 {
    match fields {
        [
            Field::Random { .. }
            | Field::Slot { .. }
            | Field::Increment { .. }
            | Field::Mark
            | Field::Priority,
        ] => 1,
        [Field::InputName | Field::OutputName] => 1,
        [Field::Bare { datatype, .. }] => crate::nft::model::bare_byte_order(*datatype),
        [_] => 2,
        _ => 0,
    }
}

/// What `typeof` prints. Fields that are known by their datatype only have no such thing, and the
/// set is then printed with `type`.
fn put_typeof(writer: &mut Writer, place: u8, fields: &[Field]) {
    let parts: Option<Vec<_>> = fields.iter().map(|&field| typeof_part(field)).collect();
    let Some(parts) = parts else { return };
    let put_part = |nest: &mut Writer, (kind, numbers): &(u32, Vec<u32>)| {
        nest.put_u32(0, *kind);
        nest.nest(1, |data| {
            (0..).zip(numbers).for_each(|(index, &number)| data.put_u32(index, number));
        });
    };
    writer.nest(place, |nest| match &parts[..] {
        [only] => put_part(nest, only),
        many => {
            nest.put_u32(0, kind::CONCAT);
            nest.nest(1, |concat| {
                (0..).zip(many).for_each(|(index, part)| {
                    concat.nest(index, |nest| put_part(nest, part));
                });
            });
        }
    });
}

/// The kind of expression that a field is to `nft`, and the numbers that describe it.
fn typeof_part(field: Field) -> Option<(u32, Vec<u32>)> {
    let meta = |key: MetaKey| (kind::META, vec![key.number()]);
    Some(match field {
        Field::Saddr(Family::V4) => (kind::PAYLOAD, vec![header::IP, 11]),
        Field::Daddr(Family::V4) => (kind::PAYLOAD, vec![header::IP, 12]),
        Field::Saddr(Family::V6) => (kind::PAYLOAD, vec![header::IP6, 8]),
        Field::Daddr(Family::V6) => (kind::PAYLOAD, vec![header::IP6, 9]),
        Field::Sport => (kind::PAYLOAD, vec![header::TRANSPORT, 1]),
        Field::Dport => (kind::PAYLOAD, vec![header::TRANSPORT, 2]),
        Field::OriginalDaddr(family) => {
            (kind::CT, vec![Field::destination_key(family).number(), ORIGINAL])
        }
        Field::OriginalDport => (kind::CT, vec![CtKey::DestinationPort.number(), ORIGINAL]),
        Field::L4Proto => meta(MetaKey::L4Proto),
        Field::Mark => meta(MetaKey::Mark),
        Field::Priority => meta(MetaKey::Priority),
        Field::InputName => meta(MetaKey::InputName),
        Field::OutputName => meta(MetaKey::OutputName),
        Field::Random { modulus } => (kind::NUMGEN, vec![1, modulus, 0]),
        Field::Slot { number } => (kind::NUMGEN, vec![1, 1, number]),
        Field::Increment { modulus } => (kind::NUMGEN, vec![0, modulus, 0]),
        Field::Bare { .. } => return None,
    })
}

fn read_typeof(bytes: &[u8]) -> Option<Vec<Field>> {
    if find_u32(bytes, 0)? != kind::CONCAT {
        return Some(vec![read_part(bytes)?]);
    }
    entries(find(bytes, 1)?).map(|(_, part)| read_part(part)).collect()
}

fn read_part(bytes: &[u8]) -> Option<Field> {
    let kind = find_u32(bytes, 0)?;
    let numbers: Vec<u32> = entries(find(bytes, 1)?)
        .filter_map(|(_, value)| value.try_into().ok().map(u32::from_ne_bytes))
        .collect();
    Some(match (kind, &numbers[..]) {
        (kind::PAYLOAD, [header::IP, 11]) => Field::Saddr(Family::V4),
        (kind::PAYLOAD, [header::IP, 12]) => Field::Daddr(Family::V4),
        (kind::PAYLOAD, [header::IP6, 8]) => Field::Saddr(Family::V6),
        (kind::PAYLOAD, [header::IP6, 9]) => Field::Daddr(Family::V6),
        (kind::PAYLOAD, [header::TRANSPORT, 1]) => Field::Sport,
        (kind::PAYLOAD, [header::TRANSPORT, 2]) => Field::Dport,
        (kind::CT, &[key, ORIGINAL]) => match CtKey::from_number(key)? {
            CtKey::DestinationV4 => Field::OriginalDaddr(Family::V4),
            CtKey::DestinationV6 => Field::OriginalDaddr(Family::V6),
            CtKey::DestinationPort => Field::OriginalDport,
            _ => return None,
        },
        (kind::NUMGEN, &[1, modulus, 0]) => Field::Random { modulus },
        (kind::NUMGEN, &[1, 1, number]) => Field::Slot { number },
        (kind::NUMGEN, &[0, modulus, 0]) => Field::Increment { modulus },
        (kind::META, &[key]) => match MetaKey::from_number(key)? {
            MetaKey::L4Proto => Field::L4Proto,
            MetaKey::Mark => Field::Mark,
            MetaKey::Priority => Field::Priority,
            MetaKey::InputName => Field::InputName,
            MetaKey::OutputName => Field::OutputName,
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes are those that nft 1.0.6 sends for the same declarations.
    #[test]
    #[cfg(target_endian = "little")]
    fn sets_get_the_user_data_that_nft_gives_them() {
        let (daddr, mark) = (Field::Daddr(Family::V4), Field::Mark);
        let service = [daddr, Field::L4Proto, Field::Dport];
        let slots: Vec<Field> =
            service.into_iter().chain([Field::Random { modulus: 4096 }]).collect();
        let mut verdicts = Set::verdict_map("vm", vec![daddr, Field::L4Proto]);
        verdicts.comment = Some("vmc".into());
        let table = [
            (
                Set::map("e", slots, vec![daddr, Field::Dport]),
                concat!(
                    "000400000000010400000000036000040d00000001580014000407000000010c00040c00000001",
                    "040c000000010e000409000000010600041000000002140004070000",
                    "00010c00040b0000000104020000000",
                    "31a000417000000011200040100000001040010000002040000000004",
                    "3400040d000000012c0014000407000000010c00040c00000001040c0000",
                    "000114000407000000010c00040b0000000104020000000604000000",
                    "00"
                ),
            ),
            (
                verdicts,
                concat!(
                    "0004000000000104000000000",
                    "32e00040d00000001260014000407000000010c00040c00000001040c000000010e000409000000",
                    "010600041000000004080004010000000100060400000000",
                    "0704766d6300"
                ),
            ),
            (
                Set::map("dm", vec![daddr], vec![mark]),
                concat!(
                    "0004020000000104010000000314000407000000010c00040c00000001040c00000004",
                    "0e0004090000000106000403000000060400000000"
                ),
            ),
            (
                Set::set("i", vec![Field::InputName]),
                "000401000000030e00040900000001060004060000 00",
            ),
        ];
        for (definition, expected) in table {
            let bytes = set(&definition).expect("short enough");
            assert_eq!(hex(&bytes), expected.replace(' ', ""), "{}", definition.name);
        }
    }

    #[test]
    fn fields_survive_being_written_and_read() {
        for family in Family::BOTH {
            for field in [
                Field::Saddr(family),
                Field::Daddr(family),
                Field::OriginalDaddr(family),
                Field::OriginalDport,
                Field::L4Proto,
                Field::Sport,
                Field::Dport,
                Field::Mark,
                Field::Priority,
                Field::InputName,
                Field::OutputName,
                Field::Random { modulus: 7 },
                Field::Slot { number: 3 },
                Field::Increment { modulus: 9 },
            ] {
                for key in [vec![field], vec![Field::Dport, field], vec![field; 3]] {
                    let bytes =
                        set(&Set::map("m", key.clone(), key.clone())).expect("short enough");
                    assert_eq!(read_key(&bytes).as_deref(), Some(&key[..]));
                    assert_eq!(read_data(&bytes).as_deref(), Some(&key[..]));
                }
            }
        }
    }

    #[test]
    fn comments_stop_at_what_nft_shows() {
        let long = "c".repeat(127);
        let bytes = comment(&long).expect("127 bytes are allowed");
        assert_eq!(read_comment(&bytes).as_deref(), Some(&long[..]));
        assert_eq!(comment(&"c".repeat(128)), None);
        assert_eq!(comment("zero\0within"), None);
    }
}
