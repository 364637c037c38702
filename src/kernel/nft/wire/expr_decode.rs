//! Reads expressions.

use std::sync::Arc;
use std::time::Duration;

use super::expr_uapi::{
    bitwise, byteorder, cmp, counter, ct, dynset, fib, immediate, limit, log, lookup, masq, meta,
    nat, numgen, payload, range, redir, reject, socket,
};
use super::message::find_name;
use super::uapi::{
    DATA_VALUE, DATA_VERDICT, LIST_ELEM, VERDICT_CHAIN, VERDICT_CODE, rule, verdict,
};
use crate::netlink::attributes::{attributes, find, find_u32, find_u64, read_name};
use crate::netlink::netfilter::{NFPROTO_IPV4, NFPROTO_IPV6};
use crate::nft::model::{
    ByteorderOp, CmpOp, Constant, Counted, CtDirection, CtKey, DynsetOp, Expr, FibFlags, FibResult,
    LimitMatch, LimitUnit, LookupResult, MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase,
    RangeOp, Register, RegisterRange, Reject, SocketKey, Verdict,
};
use sluice_core::net::Family;

/// Reads the expressions of a rule and what its first counter counted.
pub(crate) fn expressions(bytes: &[u8]) -> (Vec<Expr>, Option<Counted>) {
    let mut counted = None;
    let exprs = attributes(bytes)
        .filter(|&(kind, _)| kind == LIST_ELEM)
        .map(|(_, item)| {
            let name = find(item, rule::EXPR_NAME).and_then(read_name).unwrap_or_default();
            let data = find(item, rule::EXPR_DATA).unwrap_or_default();
            if name == "counter" && counted.is_none() {
                counted = read_counter(data);
            }
            expression(name, data).unwrap_or_else(|| Expr::Unknown { name: Arc::from(name) })
        })
        .filter(|expr| !does_nothing(expr))
        .collect();
    (exprs, counted)
}

/// Whether an expression has no effect: nft 1.0.6 turns the one byte of a transport protocol around, in
/// place, before it looks for it in a set of ranges. A rule is the same without.
fn does_nothing(expr: &Expr) -> bool {
    matches!(expr, Expr::Byteorder { sreg, dreg, len: 1, .. } if sreg == dreg)
}

/// Reads a verdict out of an attribute of `enum nft_data_attributes`.
pub(crate) fn verdict(data: &[u8]) -> Option<Verdict> {
    let nest = find(data, DATA_VERDICT)?;
    let code = find_u32(nest, VERDICT_CODE)?.cast_signed();
    Some(match code {
        verdict::ACCEPT => Verdict::Accept,
        verdict::DROP => Verdict::Drop,
        verdict::RETURN => Verdict::Return,
        verdict::CONTINUE => Verdict::Continue,
        verdict::JUMP => Verdict::Jump(find_name(nest, VERDICT_CHAIN)?),
        verdict::GOTO => Verdict::Goto(find_name(nest, VERDICT_CHAIN)?),
        _ => return None,
    })
}

/// Reads what a counter counted.
pub(crate) fn read_counter(data: &[u8]) -> Option<Counted> {
    let packets = find_u64(data, counter::PACKETS)?;
    Some(Counted { packets, bytes: find_u64(data, counter::BYTES)? })
}

/// `None` for what this module has no word for.
fn expression(name: &str, data: &[u8]) -> Option<Expr> {
    Some(match name {
        "payload" => Expr::Payload {
            base: PayloadBase::from_number(find_u32(data, payload::BASE)?)?,
            offset: find_u32(data, payload::OFFSET)?,
            len: find_u32(data, payload::LEN)?,
            dreg: register(data, payload::DREG)?,
        },
        "meta" => {
            let key = MetaKey::from_number(find_u32(data, meta::KEY)?)?;
            match register(data, meta::SREG) {
                Some(sreg) => Expr::MetaSet { key, sreg },
                None => Expr::Meta { key, dreg: register(data, meta::DREG)? },
            }
        }
        "ct" => connection(data)?,
        "socket" => Expr::Socket {
            key: SocketKey::from_number(find_u32(data, socket::KEY)?)?,
            dreg: register(data, socket::DREG)?,
        },
        "cmp" => Expr::Cmp {
            sreg: register(data, cmp::SREG)?,
            op: CmpOp::from_number(find_u32(data, cmp::OP)?)?,
            data: constant(data, cmp::DATA)?,
        },
        "range" => Expr::Range {
            sreg: register(data, range::SREG)?,
            op: RangeOp::from_number(find_u32(data, range::OP)?)?,
            from: constant(data, range::FROM)?,
            to: constant(data, range::TO)?,
        },
        "bitwise" if find_u32(data, bitwise::OP).unwrap_or(0) == 0 => Expr::Bitwise {
            sreg: register(data, bitwise::SREG)?,
            dreg: register(data, bitwise::DREG)?,
            mask: constant(data, bitwise::MASK)?,
            xor: constant(data, bitwise::XOR)?,
        },
        "byteorder" => Expr::Byteorder {
            sreg: register(data, byteorder::SREG)?,
            dreg: register(data, byteorder::DREG)?,
            op: ByteorderOp::from_number(find_u32(data, byteorder::OP)?)?,
            len: find_u32(data, byteorder::LEN)?,
            size: find_u32(data, byteorder::SIZE)?,
        },
        "lookup" => look_up(data)?,
        "immediate" => constant_or_verdict(data)?,
        "numgen" => Expr::Numgen {
            kind: NumgenKind::from_number(find_u32(data, numgen::TYPE)?)?,
            modulus: find_u32(data, numgen::MODULUS)?,
            offset: find_u32(data, numgen::OFFSET).unwrap_or(0),
            dreg: register(data, numgen::DREG)?,
        },
        "fib" => Expr::Fib {
            result: FibResult::from_number(find_u32(data, fib::RESULT)?)?,
            flags: FibFlags(find_u32(data, fib::FLAGS)?),
            dreg: register(data, fib::DREG)?,
        },
        _ => return statement(name, data),
    })
}

fn statement(name: &str, data: &[u8]) -> Option<Expr> {
    Some(match name {
        "nat" => Expr::Nat {
            kind: NatKind::from_number(find_u32(data, nat::TYPE)?)?,
            family: family(find_u32(data, nat::FAMILY)?)?,
            address: register_range(data, nat::ADDRESS_MIN, nat::ADDRESS_MAX),
            port: register_range(data, nat::PORT_MIN, nat::PORT_MAX),
            flags: nat_flags(data, nat::FLAGS),
        },
        "masq" => Expr::Masquerade {
            flags: nat_flags(data, masq::FLAGS),
            port: register_range(data, masq::PORT_MIN, masq::PORT_MAX),
        },
        "redir" => Expr::Redirect {
            flags: nat_flags(data, redir::FLAGS),
            port: register_range(data, redir::PORT_MIN, redir::PORT_MAX),
        },
        "reject" => {
            let code = || find(data, reject::CODE).and_then(|value| value.first().copied());
            Expr::Reject(match find_u32(data, reject::TYPE)? {
                reject::ICMP => Reject::Icmp(code()?),
                reject::ICMPX => Reject::Icmpx(code()?),
                reject::TCP_RESET => Reject::TcpReset,
                _ => return None,
            })
        }
        "dynset" => write_to_set(data)?,
        "counter" => Expr::Counter,
        "notrack" => Expr::Notrack,
        "limit" if find_u32(data, limit::TYPE).unwrap_or(0) == 0 => Expr::Limit {
            rate: find_u64(data, limit::RATE)?,
            unit: LimitUnit::from_number(find_u64(data, limit::UNIT)?.try_into().ok()?)?,
            burst: find_u32(data, limit::BURST).unwrap_or(0),
            matches: LimitMatch::from_number(find_u32(data, limit::FLAGS).unwrap_or(0))?,
        },
        "log" => {
            let plain = find(data, log::GROUP).is_none()
                && find_u32(data, log::FLAGS).unwrap_or(0) == 0
                && find_u32(data, log::LEVEL).is_none_or(|level| level == log::WARNING);
            plain.then(|| Expr::Log { prefix: find_name(data, log::PREFIX) })?
        }
        _ => return None,
    })
}

fn connection(data: &[u8]) -> Option<Expr> {
    let key = CtKey::from_number(find_u32(data, ct::KEY)?)?;
    if let Some(sreg) = register(data, ct::SREG) {
        return Some(Expr::CtSet { key, sreg });
    }
    let direction = match find(data, ct::DIRECTION) {
        Some(&[number]) => Some(CtDirection::from_number(u32::from(number))?),
        _ => None,
    };
    Some(Expr::Ct { key, direction, dreg: register(data, ct::DREG)? })
}

/// A constant for the verdict register is a verdict.
fn constant_or_verdict(data: &[u8]) -> Option<Expr> {
    Some(match find_u32(data, immediate::DREG)? {
        0 => Expr::Verdict(verdict(find(data, immediate::DATA)?)?),
        number => Expr::Immediate {
            dreg: Register::from_wire(number)?,
            data: constant(data, immediate::DATA)?,
        },
    })
}

fn look_up(data: &[u8]) -> Option<Expr> {
    let inverted = find_u32(data, lookup::FLAGS).is_some_and(|flags| flags & 1 != 0);
    let result = match find_u32(data, lookup::DREG) {
        None if inverted => LookupResult::NoMatch,
        None => LookupResult::Match,
        Some(0) => LookupResult::Verdict,
        Some(number) => LookupResult::Data(Register::from_wire(number)?),
    };
    let set = find_name(data, lookup::SET)?;
    Some(Expr::Lookup { set, sreg: register(data, lookup::SREG)?, result })
}

fn write_to_set(data: &[u8]) -> Option<Expr> {
    let has_more = find(data, dynset::EXPR).is_some()
        || find(data, dynset::EXPRESSIONS).is_some()
        || find_u32(data, dynset::FLAGS).unwrap_or(0) != 0;
    if has_more {
        return None;
    }
    let timeout = find_u64(data, dynset::TIMEOUT).filter(|&timeout| timeout != 0);
    Some(Expr::Dynset {
        op: DynsetOp::from_number(find_u32(data, dynset::OP)?)?,
        set: find_name(data, dynset::SET)?,
        key: register(data, dynset::KEY)?,
        data: register(data, dynset::DATA),
        timeout: timeout.map(Duration::from_millis),
    })
}

fn register(data: &[u8], kind: u16) -> Option<Register> {
    find_u32(data, kind).and_then(Register::from_wire)
}

/// The kernel reports a single value as a range from it to itself.
fn register_range(data: &[u8], min: u16, max: u16) -> Option<RegisterRange> {
    let min = register(data, min)?;
    Some(RegisterRange { min, max: register(data, max).filter(|&max| max != min) })
}

/// The kernel adds flags that say which of the registers are given.
fn nat_flags(data: &[u8], kind: u16) -> NatFlags {
    NatFlags(find_u32(data, kind).unwrap_or(0) & NatFlags::ASKED)
}

fn constant(data: &[u8], kind: u16) -> Option<Constant> {
    Constant::from_bytes(find(find(data, kind)?, DATA_VALUE)?)
}

fn family(number: u32) -> Option<Family> {
    match u8::try_from(number).ok()? {
        NFPROTO_IPV4 => Some(Family::V4),
        NFPROTO_IPV6 => Some(Family::V6),
        _ => None,
    }
}
