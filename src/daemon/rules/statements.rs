//! From the expressions of a rule to statements as `nft -j` has them, typed by the crate `nftables`.
//!
//! Only what rules of ours consist of is known here.

use std::collections::HashSet;

use nftables::expr::{
    BinaryOperation, CT, CTDir, Elem, Expression, Fib, FibFlag, FibResult, Map, Meta,
    MetaKey as JsonMeta, NamedExpression, NgMode, Numgen, Payload, PayloadField, Prefix,
};
use nftables::stmt::{
    JumpTarget, Mangle, Match, NAT, NATFamily, NATFlag, Operator, Reject as JsonReject, RejectType,
    Set, SetOp, Statement,
};

use sluice_core::net::{Family, Protocol};
use sluice_kernel::nft::{
    CmpOp, Constant, CtKey, DynsetOp, Expr, FibFlags, FibResult as KernelFib, Key, LookupResult,
    MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase, Reject, Rule, Verdict, address_type,
    ct_state, ct_status,
};

type Term = Expression<'static>;
type Said = Statement<'static>;

/// The statements of a rule; `None` if it has an expression that is not known here.
pub(super) fn statements(family: Family, rule: &Rule) -> Option<Vec<Said>> {
    let mut reader =
        Reader { family, loaded: Vec::new(), bits: None, short: None, said: Vec::new() };
    rule.exprs.iter().try_for_each(|expr| reader.read(expr))?;
    Some(reader.said)
}

/// A rule that is being read: what its registers hold, and what was said.
struct Reader {
    family: Family,
    /// The parts that were loaded, in order.
    loaded: Vec<Term>,
    /// What the last part was masked and flipped with.
    bits: Option<(Vec<u8>, Vec<u8>)>,
    /// How many bytes of an address were loaded, if not all.
    short: Option<u32>,
    said: Vec<Said>,
}

fn named(expression: NamedExpression<'static>) -> Term {
    Expression::Named(expression)
}

fn text(text: impl Into<String>) -> Term {
    Expression::String(text.into().into())
}

fn meta(key: JsonMeta) -> Term {
    named(NamedExpression::Meta(Meta { key }))
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

impl Reader {
    fn read(&mut self, expr: &Expr) -> Option<()> {
        match expr {
            Expr::Payload { base, offset, len, .. } => self.payload(*base, *offset, *len)?,
            Expr::Meta { key, .. } => self.loaded.push(meta(meta_key(*key)?)),
            Expr::Ct { key, .. } => self.loaded.push(ct(*key)?),
            Expr::Fib { result: KernelFib::AddressType, flags, .. } => {
                self.loaded.push(fib(*flags)?)
            }
            Expr::Numgen { kind, modulus, offset, .. } => {
                self.loaded.push(numgen(*kind, *modulus, *offset));
            }
            Expr::Immediate { data, .. } if data.as_bytes() == [0; 4] => {
                self.loaded.push(text("none"))
            }
            Expr::Bitwise { mask, xor, .. } => {
                self.bits = Some((mask.as_bytes().to_vec(), xor.as_bytes().to_vec()));
            }
            Expr::Cmp { op, data, .. } => self.compare(*op, data)?,
            Expr::Lookup { set, result, .. } => self.look_up(set, *result)?,
            Expr::MetaSet { key, .. } => self.mangle(*key)?,
            Expr::Nat { kind: NatKind::Dnat, .. } => {
                let addr = self.loaded.pop();
                let family = Some(match self.family {
                    Family::V4 => NATFamily::IP,
                    Family::V6 => NATFamily::IP6,
                });
                self.say(Statement::DNAT(Some(NAT { addr, family, port: None, flags: None })));
            }
            Expr::Masquerade { flags, port: None } => self.masquerade(*flags)?,
            Expr::Verdict(verdict) => self.say(said_verdict(verdict)),
            Expr::Reject(reject) => self.reject(*reject)?,
            Expr::Dynset { op, set, data: None, timeout, .. } => {
                let val = Box::new(self.concat()?);
                let timeout = timeout.and_then(|timeout| u32::try_from(timeout.as_secs()).ok());
                let elem = Elem { val, timeout, expires: None, comment: None, counter: None };
                let op = match op {
                    DynsetOp::Update => SetOp::Update,
                    DynsetOp::Add => SetOp::Add,
                    DynsetOp::Delete => return None,
                };
                let elem = match timeout {
                    Some(_) => named(NamedExpression::Elem(elem)),
                    None => *elem.val,
                };
                self.say(Statement::Set(Set { op, elem, set: format!("@{set}").into() }));
            }
            _ => return None,
        }
        Some(())
    }

    fn say(&mut self, statement: Said) {
        self.loaded.clear();
        (self.bits, self.short) = (None, None);
        self.said.push(statement);
    }

    fn concat(&mut self) -> Option<Term> {
        let mut parts = std::mem::take(&mut self.loaded);
        match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(named(NamedExpression::Concat(parts))),
        }
    }

    fn payload(&mut self, base: PayloadBase, offset: u32, len: u32) -> Option<()> {
        let (protocol, field, whole) = match (base, self.family, offset) {
            (PayloadBase::Network, Family::V4, 12) => ("ip", "saddr", 4),
            (PayloadBase::Network, Family::V4, 16) => ("ip", "daddr", 4),
            (PayloadBase::Network, Family::V6, 8) => ("ip6", "saddr", 16),
            (PayloadBase::Network, Family::V6, 24) => ("ip6", "daddr", 16),
            (PayloadBase::Transport, _, 0) => ("th", "sport", 2),
            (PayloadBase::Transport, _, 2) => ("th", "dport", 2),
            _ => return None,
        };
        self.short = (len < whole).then_some(len);
        let field = PayloadField { protocol: protocol.into(), field: field.into() };
        self.loaded.push(named(NamedExpression::Payload(Payload::PayloadField(field))));
        Some(())
    }

    fn compare(&mut self, op: CmpOp, data: &Constant) -> Option<()> {
        let left = self.loaded.pop()?;
        let equal = match op {
            CmpOp::Eq => true,
            CmpOp::Ne => false,
            CmpOp::Lt | CmpOp::Le | CmpOp::Gt | CmpOp::Ge => return None,
        };
        let bytes = data.as_bytes();
        let plain = if equal { Operator::EQ } else { Operator::NEQ };
        let (left, right, op) = match self.bits.take() {
            Some((mask, _)) if is_address(&left) => {
                let length: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
                (left, self.prefix(bytes, length)?, plain)
            }
            Some((mask, _)) => masked(left, number(&mask)?, equal)?,
            None => {
                let right = match self.short {
                    Some(length) => self.prefix(bytes, length * 8)?,
                    None => self.value(&left, bytes)?,
                };
                (left, right, plain)
            }
        };
        self.say(Statement::Match(Match { left, right, op }));
        Some(())
    }

    /// A prefix of an address of the family.
    fn prefix(&self, bytes: &[u8], len: u32) -> Option<Term> {
        let mut whole = bytes.to_vec();
        whole.resize(self.family.address_len(), 0);
        let addr = Box::new(text(address(&whole)?));
        Some(named(NamedExpression::Prefix(Prefix { addr, len })))
    }

    /// A constant, in the words that its left side has for it.
    fn value(&self, left: &Term, bytes: &[u8]) -> Option<Term> {
        match left {
            Expression::Named(NamedExpression::Meta(Meta { key })) => match (key, bytes) {
                (JsonMeta::L4proto, [number]) => {
                    Some(text(Protocol::from_number(*number)?.to_string()))
                }
                (JsonMeta::Iifname, name) => {
                    let end = name.iter().position(|byte| *byte == 0);
                    let whole = String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]);
                    Some(text(format!("{whole}{}", if end.is_some() { "" } else { "*" })))
                }
                _ => None,
            },
            Expression::Named(NamedExpression::Fib(_)) => {
                (number(bytes)? == address_type::LOCAL).then(|| text("local"))
            }
            left if is_address(left) => address(bytes).map(text),
            _ => None,
        }
    }

    fn look_up(&mut self, set: &str, result: LookupResult) -> Option<()> {
        let left = self.concat()?;
        let right = text(format!("@{set}"));
        match result {
            LookupResult::Match => {
                self.say(Statement::Match(Match { left, right, op: Operator::EQ }));
            }
            LookupResult::NoMatch => {
                self.say(Statement::Match(Match { left, right, op: Operator::NEQ }));
            }
            LookupResult::Data(_) => {
                let map = Map { key: left, data: right };
                self.loaded.push(named(NamedExpression::Map(Box::new(map))));
            }
            LookupResult::Verdict => return None,
        }
        Some(())
    }

    fn mangle(&mut self, key: MetaKey) -> Option<()> {
        let key = meta(meta_key(key)?);
        let value = self.loaded.pop()?;
        let value = match self.bits.take() {
            None => value,
            Some((mask, xor)) => {
                let (mask, xor) = (number(&mask)?, number(&xor)?);
                let operation = if mask == !xor {
                    BinaryOperation::OR(vec![value, Expression::Number(xor)])
                } else if mask == u32::MAX {
                    BinaryOperation::XOR(value, Expression::Number(xor))
                } else {
                    return None;
                };
                Expression::BinaryOperation(Box::new(operation))
            }
        };
        self.say(Statement::Mangle(Mangle { key, value }));
        Some(())
    }

    fn masquerade(&mut self, flags: NatFlags) -> Option<()> {
        let flags = match flags {
            NatFlags::NONE => None,
            NatFlags::FULLY_RANDOM => Some(HashSet::from([NATFlag::FullyRandom])),
            _ => return None,
        };
        let nat = NAT { addr: None, family: None, port: None, flags };
        self.say(Statement::Masquerade(Some(nat)));
        Some(())
    }

    fn reject(&mut self, reject: Reject) -> Option<()> {
        let reject = match reject {
            Reject::TcpReset => Some(JsonReject::new(Some(RejectType::TCPReset), None)),
            reject if reject == Reject::port_unreachable(self.family) => None,
            Reject::Icmp(_) | Reject::Icmpx(_) => return None,
        };
        self.say(Statement::Reject(reject));
        Some(())
    }
}

fn is_address(term: &Term) -> bool {
    let Expression::Named(NamedExpression::Payload(Payload::PayloadField(field))) = term else {
        return false;
    };
    field.field.ends_with("addr")
}

/// Bits of a mark, a state or a status that must be set, or must not.
fn masked(left: Term, mask: u32, not_zero: bool) -> Option<(Term, Term, Operator)> {
    // It is compared with zero, so equal means that none is set.
    let set = !not_zero;
    match &left {
        Expression::Named(NamedExpression::CT(ct)) if set => {
            let word = match (&*ct.key, mask) {
                ("state", ct_state::NEW) => "new",
                ("status", ct_status::DNAT) => "dnat",
                _ => return None,
            };
            Some((left, text(word), Operator::IN))
        }
        Expression::Named(NamedExpression::Meta(Meta { key: JsonMeta::Mark })) => {
            let and = BinaryOperation::AND(left, Expression::Number(mask));
            let op = if set { Operator::NEQ } else { Operator::EQ };
            Some((Expression::BinaryOperation(Box::new(and)), Expression::Number(0), op))
        }
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let key = Key::from_bytes(bytes)?;
    match *key.as_bytes() {
        [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
        ref bytes => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
    }
}

fn meta_key(key: MetaKey) -> Option<JsonMeta> {
    Some(match key {
        MetaKey::Mark => JsonMeta::Mark,
        MetaKey::Priority => JsonMeta::Priority,
        MetaKey::L4Proto => JsonMeta::L4proto,
        MetaKey::InputName => JsonMeta::Iifname,
        _ => return None,
    })
}

fn ct(key: CtKey) -> Option<Term> {
    let key = match key {
        CtKey::State => "state",
        CtKey::Status => "status",
        // Ours ask for the first packet's only.
        CtKey::DestinationV4 => "ip daddr",
        CtKey::DestinationV6 => "ip6 daddr",
        CtKey::DestinationPort => "proto-dst",
        _ => return None,
    };
    let dir = (!matches!(key, "state" | "status")).then_some(CTDir::Original);
    Some(named(NamedExpression::CT(CT { key: key.into(), family: None, dir })))
}

fn fib(flags: FibFlags) -> Option<Term> {
    let flag = match flags {
        FibFlags::DADDR => FibFlag::Daddr,
        FibFlags::SADDR => FibFlag::Saddr,
        _ => return None,
    };
    let fib = Fib { result: FibResult::Type, flags: HashSet::from([flag]) };
    Some(named(NamedExpression::Fib(fib)))
}

fn numgen(kind: NumgenKind, ng_mod: u32, offset: u32) -> Term {
    let mode = match kind {
        NumgenKind::Random => NgMode::Random,
        NumgenKind::Increment => NgMode::Inc,
    };
    let offset = (offset > 0).then_some(offset);
    named(NamedExpression::Numgen(Numgen { mode, ng_mod, offset }))
}

fn said_verdict(verdict: &Verdict) -> Said {
    let to = |chain: &std::sync::Arc<str>| JumpTarget { target: chain.to_string().into() };
    match verdict {
        Verdict::Accept => Statement::Accept(None),
        Verdict::Drop => Statement::Drop(None),
        Verdict::Return => Statement::Return(None),
        Verdict::Continue => Statement::Continue(None),
        Verdict::Jump(chain) => Statement::Jump(to(chain)),
        Verdict::Goto(chain) => Statement::Goto(to(chain)),
    }
}
