//! Fields, the parts of keys and data.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::expr::{Expr, Register};
use super::kind::{CtDirection, CtKey, MetaKey, NumgenKind, PayloadBase};
use sluice_core::net::{Family, Protocol};

/// One part of a key or of data: what is loaded from a packet, and how `nft` names it (`typeof`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// `ip saddr` or `ip6 saddr`.
    Saddr(Family),
    /// `ip daddr` or `ip6 daddr`.
    Daddr(Family),
    /// `ct original ip daddr` or `ip6`: the destination that the connection's first packet was sent
    /// to, before any translation.
    OriginalDaddr(Family),
    /// `ct original proto-dst`: the port that the connection's first packet was sent to.
    OriginalDport,
    /// `meta l4proto`, the transport protocol.
    L4Proto,
    /// `th sport`, the source port of whatever transport protocol.
    Sport,
    /// `th dport`, the destination port of whatever transport protocol.
    Dport,
    /// `numgen random mod N`: a random number below N; in a set, slots are numbered like this.
    Random {
        /// N.
        modulus: u32,
    },
    /// `numgen random mod 1 offset N`: always N; the slot of this number.
    Slot {
        /// N.
        number: u32,
    },
    /// `numgen inc mod N`: a number that each packet advances.
    Increment {
        /// N.
        modulus: u32,
    },
    /// `meta mark`, the packet's mark.
    Mark,
    /// `meta priority`, the packet's queueing priority.
    Priority,
    /// `iifname`, the name of the interface that the packet came from.
    InputName,
    /// `oifname`, the name of the interface that the packet goes to.
    OutputName,
    /// A part that is known only by its datatype: a set without `typeof`, or a foreign `typeof`.
    Bare {
        /// nft's number of the datatype (`enum datatypes` in nftables' `include/datatype.h`).
        datatype: u8,
        /// Length in bytes.
        length: u8,
    },
}

impl Field {
    /// Length of the value in bytes, without padding.
    pub fn length(self) -> usize {
        match self {
            Field::Saddr(family) | Field::Daddr(family) | Field::OriginalDaddr(family) => {
                family.address_len()
            }
            Field::L4Proto => 1,
            Field::Sport | Field::Dport | Field::OriginalDport => 2,
            Field::Random { .. }
            | Field::Slot { .. }
            | Field::Increment { .. }
            | Field::Mark
            | Field::Priority => 4,
            Field::InputName | Field::OutputName => 16,
            Field::Bare { length, .. } => usize::from(length),
        }
    }

    /// The expression that loads it into a register; `None` for a [`Field::Bare`].
    pub fn load(self, dreg: Register) -> Option<Expr> {
        let numgen = |kind, modulus, offset| Expr::Numgen { kind, modulus, offset, dreg };
        let original = |key| Expr::Ct { key, direction: Some(CtDirection::Original), dreg };
        Some(match self {
            Field::Saddr(family) => load_address(family, 12, 8, dreg),
            Field::Daddr(family) => load_address(family, 16, 24, dreg),
            Field::OriginalDaddr(family) => original(Field::destination_key(family)),
            Field::OriginalDport => original(CtKey::DestinationPort),
            Field::L4Proto => Expr::Meta { key: MetaKey::L4Proto, dreg },
            Field::Sport => Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 2, dreg },
            Field::Dport => Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, dreg },
            Field::Random { modulus } => numgen(NumgenKind::Random, modulus, 0),
            Field::Slot { number } => numgen(NumgenKind::Random, 1, number),
            Field::Increment { modulus } => numgen(NumgenKind::Increment, modulus, 0),
            Field::Mark => Expr::Meta { key: MetaKey::Mark, dreg },
            Field::Priority => Expr::Meta { key: MetaKey::Priority, dreg },
            Field::InputName => Expr::Meta { key: MetaKey::InputName, dreg },
            Field::OutputName => Expr::Meta { key: MetaKey::OutputName, dreg },
            Field::Bare { .. } => return None,
        })
    }

    /// The property of a connection that is its destination address.
    pub(crate) fn destination_key(family: Family) -> CtKey {
        match family {
            Family::V4 => CtKey::DestinationV4,
            Family::V6 => CtKey::DestinationV6,
        }
    }

    /// nft's number of the datatype (`enum datatypes` in nftables' `include/datatype.h`).
    pub(crate) fn datatype(self) -> u8 {
        match self {
            Field::Saddr(family) | Field::Daddr(family) | Field::OriginalDaddr(family) => {
                match family {
                    Family::V4 => 7,
                    Family::V6 => 8,
                }
            }
            Field::L4Proto => 12,
            Field::Sport | Field::Dport | Field::OriginalDport => 13,
            Field::Random { .. } | Field::Slot { .. } | Field::Increment { .. } => 4,
            Field::Mark => 19,
            Field::Priority => 23,
            Field::InputName | Field::OutputName => 41,
            Field::Bare { datatype, .. } => datatype,
        }
    }

    /// The parts that a set without `typeof` has, from the datatypes that its type number is made
    /// of and the length of the whole. Parts of unknown length share what the others leave.
    pub(crate) fn bare(mut datatypes: u32, length: u32) -> Vec<Field> {
        let length = usize::try_from(length).unwrap_or(0);
        let mut parts = Vec::new();
        while datatypes != 0 {
            parts.insert(0, u8::try_from(datatypes & 0x3f).unwrap_or(0));
            datatypes >>= 6;
        }
        if parts.len() < 2 {
            parts = vec![parts.first().copied().unwrap_or(0)];
        }
        let known: Vec<Option<usize>> = match parts.len() {
            1 => vec![Some(length)],
            _ => parts.iter().map(|&part| datatype(part).map(|(length, _)| length)).collect(),
        };
        let taken: usize = known.iter().flatten().map(|length| length.next_multiple_of(4)).sum();
        let sharers = known.iter().filter(|length| length.is_none()).count().max(1);
        let share = length.saturating_sub(taken) / sharers;
        let bare = |(datatype, length): (u8, Option<usize>)| Field::Bare {
            datatype,
            length: u8::try_from(length.unwrap_or(share)).unwrap_or(u8::MAX),
        };
        parts.into_iter().zip(known).map(bare).collect()
    }

    /// Prints a value of this part as `nft` does.
    fn show(self, bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.datatype(), bytes) {
            (7, bytes) if bytes.len() == 4 => {
                let octets: [u8; 4] = bytes.try_into().unwrap_or_default();
                write!(f, "{}", IpAddr::V4(Ipv4Addr::from(octets)))
            }
            (8, bytes) if bytes.len() == 16 => {
                let octets: [u8; 16] = bytes.try_into().unwrap_or_default();
                write!(f, "{}", IpAddr::V6(Ipv6Addr::from(octets)))
            }
            (12, &[number]) => match Protocol::from_number(number) {
                Some(protocol) => write!(f, "{protocol}"),
                None => write!(f, "{number}"),
            },
            (13, &[high, low]) => write!(f, "{}", u16::from_be_bytes([high, low])),
            (4, &[a, b, c, d]) => write!(f, "{}", u32::from_ne_bytes([a, b, c, d])),
            (23, &[a, b, c, d]) => {
                let number = u32::from_ne_bytes([a, b, c, d]);
                write!(f, "{:x}:{:x}", number >> 16, number & 0xffff)
            }
            (19, &[a, b, c, d]) => write!(f, "{:#010x}", u32::from_ne_bytes([a, b, c, d])),
            (41, bytes) => {
                let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
                write!(f, "\"{}\"", String::from_utf8_lossy(name))
            }
            (_, bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// Loads an address from the IP header: `v4` and `v6` are its offsets there.
fn load_address(family: Family, v4: u32, v6: u32, dreg: Register) -> Expr {
    let (offset, len) = match family {
        Family::V4 => (v4, 4),
        Family::V6 => (v6, 16),
    };
    Expr::Payload { base: PayloadBase::Network, offset, len, dreg }
}

/// Length in bytes and `enum byteorder` (1 host, 2 network) of those datatypes of nftables'
/// `src/datatype.c`, `src/meta.c` and `src/ct.c` that have a fixed length.
fn datatype(number: u8) -> Option<(usize, u32)> {
    Some(match number {
        2 => (1, 1),                                // nf_proto
        7 => (4, 2),                                // ipv4_addr
        8 => (16, 2),                               // ipv6_addr
        9 => (6, 1),                                // ether_addr
        10 => (2, 2),                               // ether_type
        12 => (1, 2),                               // inet_proto
        13 => (2, 2),                               // inet_service
        14 | 29 | 32 | 33 => (1, 2), // icmp_type, icmpv6_type, icmp_code, icmpv6_code
        19 | 20 | 24 | 25 | 26 | 28 | 38 => (4, 1), // mark, iface_index, uid, gid, ct_state, ct_status, fib_addrtype
        41 => (16, 1),                              // ifname
        _ => return None,
    })
}

/// The byte order that `nft` gives a part of a bare datatype.
pub(crate) fn bare_byte_order(number: u8) -> u32 {
    datatype(number).map_or(0, |(_, order)| order)
}

/// Where each part begins in a concatenation, with its length; the second value is the length of
/// the whole.
pub(crate) fn layout(fields: &[Field]) -> (Vec<(usize, usize)>, usize) {
    if let [only] = fields {
        return (vec![(0, only.length())], only.length());
    }
    let mut places = Vec::with_capacity(fields.len());
    let mut end = 0;
    for field in fields {
        places.push((end, field.length()));
        end += field.length().next_multiple_of(4);
    }
    (places, end)
}

/// Prints the bytes of a concatenation as `nft` does, or in hexadecimal if the fields do not
/// describe them.
pub(crate) struct Shown<'a> {
    /// The parts, if they are known.
    pub(crate) fields: Option<&'a [Field]>,
    /// The first (or only) value.
    pub(crate) first: &'a [u8],
    /// The last value of a range.
    pub(crate) last: Option<&'a [u8]>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |fields: &&[Field]| layout(fields).1 == self.first.len();
        let fallback = [Field::Bare { datatype: 0, length: 0 }];
        let (fields, places) = match self.fields.filter(fits) {
            Some(fields) => (fields, layout(fields).0),
            None => (&fallback[..], vec![(0, self.first.len())]),
        };
        for (index, (field, (start, len))) in fields.iter().zip(places).enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            let low = self.first.get(start..start + len).unwrap_or_default();
            field.show(low, f)?;
            if let Some(high) = self.last.and_then(|last| last.get(start..start + len))
                && high != low
            {
                f.write_str("-")?;
                field.show(high, f)?;
            }
        }
        Ok(())
    }
}
