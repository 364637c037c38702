//! Writes expressions.

use super::expr_uapi::{
    bitwise, byteorder, cmp, counter, ct, dynset, fib, immediate, limit, log, lookup, masq, meta,
    nat, numgen, payload, range, redir, reject, socket,
};
use super::uapi::{
    DATA_VALUE, DATA_VERDICT, LIST_ELEM, VERDICT_CHAIN, VERDICT_CODE, rule, verdict,
};
use crate::netlink::attributes::Writer;
use crate::netlink::netfilter::nfproto;
use crate::nft::model::{Expr, LookupResult, NatFlags, Register, RegisterRange, Reject, Verdict};

/// Writes the expressions of a rule as its attribute.
pub(crate) fn expressions(writer: &mut Writer, exprs: &[Expr]) {
    let list = writer.nest(rule::EXPRESSIONS);
    for expr in exprs {
        named(writer, LIST_ELEM, expr);
    }
    writer.end(list);
}

/// Writes an expression with its name as an attribute.
pub(crate) fn named(writer: &mut Writer, kind: u16, expr: &Expr) {
    let item = writer.nest(kind);
    writer.put_name(rule::EXPR_NAME, expr.kernel_name());
    if !matches!(expr, Expr::Notrack) {
        let data = writer.nest(rule::EXPR_DATA);
        expression(writer, expr);
        writer.end(data);
    }
    writer.end(item);
}

/// Writes a value as an attribute of `enum nft_data_attributes`.
pub(crate) fn value(writer: &mut Writer, kind: u16, bytes: &[u8]) {
    let nest = writer.nest(kind);
    writer.put(DATA_VALUE, bytes);
    writer.end(nest);
}

/// Writes a verdict as an attribute of `enum nft_data_attributes`.
pub(crate) fn verdict(writer: &mut Writer, kind: u16, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (verdict::ACCEPT, None),
        Verdict::Drop => (verdict::DROP, None),
        Verdict::Return => (verdict::RETURN, None),
        Verdict::Continue => (verdict::CONTINUE, None),
        Verdict::Jump(chain) => (verdict::JUMP, Some(chain)),
        Verdict::Goto(chain) => (verdict::GOTO, Some(chain)),
    };
    let outer = writer.nest(kind);
    let inner = writer.nest(DATA_VERDICT);
    writer.put(VERDICT_CODE, &code.to_be_bytes());
    if let Some(chain) = chain {
        writer.put_name(VERDICT_CHAIN, chain);
    }
    writer.end(inner);
    writer.end(outer);
}

impl Expr {
    /// The name by which the kernel finds the expression's type.
    pub(crate) fn kernel_name(&self) -> &str {
        match self {
            Expr::Payload { .. } => "payload",
            Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
            Expr::Ct { .. } | Expr::CtSet { .. } => "ct",
            Expr::Socket { .. } => "socket",
            Expr::Cmp { .. } => "cmp",
            Expr::Range { .. } => "range",
            Expr::Bitwise { .. } => "bitwise",
            Expr::Byteorder { .. } => "byteorder",
            Expr::Lookup { .. } => "lookup",
            Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
            Expr::Numgen { .. } => "numgen",
            Expr::Nat { .. } => "nat",
            Expr::Masquerade { .. } => "masq",
            Expr::Redirect { .. } => "redir",
            Expr::Reject(_) => "reject",
            Expr::Fib { .. } => "fib",
            Expr::Dynset { .. } => "dynset",
            Expr::Counter => "counter",
            Expr::Notrack => "notrack",
            Expr::Limit { .. } => "limit",
            Expr::Log { .. } => "log",
            Expr::Unknown { name } => name,
        }
    }
}

fn put_register(writer: &mut Writer, kind: u16, register: Register) {
    writer.put_u32(kind, register.to_wire());
}

/// Expressions that load something; the others are in [`compute`].
fn expression(writer: &mut Writer, expr: &Expr) {
    match expr {
        &Expr::Payload { base, offset, len, dreg } => {
            put_register(writer, payload::DREG, dreg);
            writer.put_u32(payload::BASE, base.number());
            writer.put_u32(payload::OFFSET, offset);
            writer.put_u32(payload::LEN, len);
        }
        &Expr::Meta { key, dreg } => {
            writer.put_u32(meta::KEY, key.number());
            put_register(writer, meta::DREG, dreg);
        }
        &Expr::Ct { key, direction, dreg } => {
            writer.put_u32(ct::KEY, key.number());
            put_register(writer, ct::DREG, dreg);
            if let Some(direction) = direction {
                writer.put(ct::DIRECTION, &direction.number().to_be_bytes()[3..]);
            }
        }
        &Expr::Socket { key, dreg } => {
            writer.put_u32(socket::KEY, key.number());
            put_register(writer, socket::DREG, dreg);
        }
        &Expr::Numgen { kind, modulus, offset, dreg } => {
            put_register(writer, numgen::DREG, dreg);
            writer.put_u32(numgen::MODULUS, modulus);
            writer.put_u32(numgen::TYPE, kind.number());
            writer.put_u32(numgen::OFFSET, offset);
        }
        &Expr::Fib { result, flags, dreg } => {
            put_register(writer, fib::DREG, dreg);
            writer.put_u32(fib::RESULT, result.number());
            writer.put_u32(fib::FLAGS, flags.0);
        }
        Expr::Immediate { dreg, data } => {
            put_register(writer, immediate::DREG, *dreg);
            value(writer, immediate::DATA, data.as_bytes());
        }
        _ => compute(writer, expr),
    }
}

/// Expressions that compare, compute and look up; the others are in [`translate`].
fn compute(writer: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Cmp { sreg, op, data } => {
            put_register(writer, cmp::SREG, *sreg);
            writer.put_u32(cmp::OP, op.number());
            value(writer, cmp::DATA, data.as_bytes());
        }
        Expr::Range { sreg, op, from, to } => {
            put_register(writer, range::SREG, *sreg);
            writer.put_u32(range::OP, op.number());
            value(writer, range::FROM, from.as_bytes());
            value(writer, range::TO, to.as_bytes());
        }
        Expr::Bitwise { sreg, dreg, mask, xor } => {
            put_register(writer, bitwise::SREG, *sreg);
            put_register(writer, bitwise::DREG, *dreg);
            writer.put_u32(bitwise::OP, 0);
            writer.put_u32(bitwise::LEN, u32::try_from(mask.as_bytes().len()).unwrap_or(u32::MAX));
            value(writer, bitwise::MASK, mask.as_bytes());
            value(writer, bitwise::XOR, xor.as_bytes());
        }
        &Expr::Byteorder { sreg, dreg, op, len, size } => {
            put_register(writer, byteorder::SREG, sreg);
            put_register(writer, byteorder::DREG, dreg);
            writer.put_u32(byteorder::OP, op.number());
            writer.put_u32(byteorder::LEN, len);
            writer.put_u32(byteorder::SIZE, size);
        }
        Expr::Lookup { set, sreg, result } => {
            writer.put_name(lookup::SET, set);
            put_register(writer, lookup::SREG, *sreg);
            match *result {
                LookupResult::Match => {}
                LookupResult::NoMatch => writer.put_u32(lookup::FLAGS, 1),
                LookupResult::Data(dreg) => put_register(writer, lookup::DREG, dreg),
                LookupResult::Verdict => writer.put_u32(lookup::DREG, 0),
            }
        }
        _ => translate(writer, expr),
    }
}

/// Expressions that translate addresses; the others are in [`statement`].
fn translate(writer: &mut Writer, expr: &Expr) {
    match *expr {
        Expr::Nat { kind, family, address, port, flags } => {
            writer.put_u32(nat::TYPE, kind.number());
            writer.put_u32(nat::FAMILY, u32::from(nfproto(family)));
            put_range(writer, nat::ADDRESS_MIN, nat::ADDRESS_MAX, address);
            put_range(writer, nat::PORT_MIN, nat::PORT_MAX, port);
            put_nat_flags(writer, nat::FLAGS, flags);
        }
        Expr::Masquerade { flags, port } => {
            put_nat_flags(writer, masq::FLAGS, flags);
            put_range(writer, masq::PORT_MIN, masq::PORT_MAX, port);
        }
        Expr::Redirect { flags, port } => {
            put_range(writer, redir::PORT_MIN, redir::PORT_MAX, port);
            put_nat_flags(writer, redir::FLAGS, flags);
        }
        _ => statement(writer, expr),
    }
}

/// Expressions that decide or have an effect.
fn statement(writer: &mut Writer, expr: &Expr) {
    match expr {
        &Expr::MetaSet { key, sreg } => {
            writer.put_u32(meta::KEY, key.number());
            put_register(writer, meta::SREG, sreg);
        }
        &Expr::CtSet { key, sreg } => {
            writer.put_u32(ct::KEY, key.number());
            put_register(writer, ct::SREG, sreg);
        }
        Expr::Verdict(what) => {
            writer.put_u32(immediate::DREG, 0);
            verdict(writer, immediate::DATA, what);
        }
        &Expr::Reject(how) => {
            let (kind, code) = match how {
                Reject::Icmp(code) => (reject::ICMP, Some(code)),
                Reject::Icmpx(code) => (reject::ICMPX, Some(code)),
                Reject::TcpReset => (reject::TCP_RESET, None),
            };
            writer.put_u32(reject::TYPE, kind);
            if let Some(code) = code {
                writer.put(reject::CODE, &[code]);
            }
        }
        Expr::Dynset { op, set, key, data, timeout } => {
            writer.put_name(dynset::SET, set);
            writer.put_u32(dynset::OP, op.number());
            put_register(writer, dynset::KEY, *key);
            if let Some(data) = *data {
                put_register(writer, dynset::DATA, data);
            }
            if let Some(timeout) = *timeout {
                writer.put_duration(dynset::TIMEOUT, timeout);
            }
        }
        Expr::Counter => {
            writer.put_u64(counter::BYTES, 0);
            writer.put_u64(counter::PACKETS, 0);
        }
        &Expr::Limit { rate, unit, burst, matches } => {
            writer.put_u64(limit::RATE, rate);
            writer.put_u64(limit::UNIT, u64::from(unit.number()));
            writer.put_u32(limit::BURST, burst);
            writer.put_u32(limit::TYPE, 0);
            writer.put_u32(limit::FLAGS, matches.number());
        }
        Expr::Log { prefix: Some(prefix) } => writer.put_name(log::PREFIX, prefix),
        // An unknown expression is sent without content, so that the kernel's error names it.
        _ => {}
    }
}

fn put_range(writer: &mut Writer, min: u16, max: u16, range: Option<RegisterRange>) {
    let Some(range) = range else { return };
    put_register(writer, min, range.min);
    if let Some(highest) = range.max {
        put_register(writer, max, highest);
    }
}

fn put_nat_flags(writer: &mut Writer, kind: u16, flags: NatFlags) {
    if flags != NatFlags::NONE {
        writer.put_u32(kind, flags.0);
    }
}
