//! Short words for the typed form of `nft -j`, and for naming things in either family.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, CT, CTDir, Expression, Fib, FibFlag, FibResult, Meta, MetaKey,
    NamedExpression, Payload, PayloadField, Prefix, Range,
};
use nftables::schema::{NfListObject, Rule as JsonRule};
use nftables::stmt::{JumpTarget, Mangle, Match, Operator, Statement, VerdictMap};
use nftables::types::NfFamily;
use sluice_core::net::Family;
use sluice_kernel::nft::{Op, Rule, TableName};

use crate::sandbox::nft;

/// An expression or statement as `nft -j` has it.
pub(crate) type Words = Expression<'static>;
pub(crate) type Say = Statement<'static>;

/// A rule as input for `nft`.
pub(crate) enum Theirs {
    /// In the typed form.
    Typed(Vec<Say>),
    /// As text, for what the typed form cannot say.
    Text(String),
}

/// The same rule twice: as input for `nft`, and ours.
pub(crate) struct Pair {
    pub(crate) theirs: Theirs,
    pub(crate) ours: Rule,
}

/// A rule that the typed form can say.
pub(crate) fn typed(theirs: Vec<Say>, ours: Rule) -> Pair {
    Pair { theirs: Theirs::Typed(theirs), ours }
}

/// A rule that only text can say.
pub(crate) fn text(theirs: impl Into<String>, ours: Rule) -> Pair {
    Pair { theirs: Theirs::Text(theirs.into()), ours }
}

/// Tells `nft` declarations as text and rules one by one.
pub(crate) fn tell_nft(table: &TableName, declarations: &str, rules: Vec<(Arc<str>, Theirs)>) {
    nft(&["-f", "-"], declarations);
    for (chain, rule) in rules {
        match rule {
            Theirs::Text(text) => {
                nft(&["-f", "-"], &format!("add rule {table} {chain} {text}"));
            }
            Theirs::Typed(statements) => {
                let mut batch = Batch::new();
                batch.add(NfListObject::Rule(JsonRule {
                    family: json_family(table.family),
                    table: Cow::Owned(table.name.to_string()),
                    chain: Cow::Owned(chain.to_string()),
                    expr: Cow::Owned(statements),
                    ..JsonRule::default()
                }));
                let json = serde_json::to_string(&batch.to_nftables()).unwrap();
                nft(&["-j", "-f", "-"], &json);
            }
        }
    }
}

/// Splits pairs: input for `nft`, and our operations.
pub(crate) fn split(pairs: Vec<Pair>) -> (Vec<(Arc<str>, Theirs)>, Vec<Op>) {
    pairs
        .into_iter()
        .map(|pair| ((Arc::clone(&pair.ours.chain), pair.theirs), Op::AddRule(pair.ours)))
        .unzip()
}

pub(crate) fn json_family(family: Family) -> NfFamily {
    match family {
        Family::V4 => NfFamily::IP,
        Family::V6 => NfFamily::IP6,
    }
}

/// `ip` or `ip6`.
pub(crate) fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The value for a family.
pub(crate) fn of<T>(family: Family, v4: T, v6: T) -> T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

pub(crate) fn payload(protocol: &'static str, field: &'static str) -> Words {
    let (protocol, field) = (Cow::Borrowed(protocol), Cow::Borrowed(field));
    let field = PayloadField { protocol, field };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

pub(crate) fn daddr(family: Family) -> Words {
    payload(ip(family), "daddr")
}

pub(crate) fn saddr(family: Family) -> Words {
    payload(ip(family), "saddr")
}

pub(crate) fn dport() -> Words {
    payload("th", "dport")
}

pub(crate) fn meta(key: MetaKey) -> Words {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(crate) fn ct(key: &'static str, dir: Option<CTDir>) -> Words {
    Expression::Named(NamedExpression::CT(CT { key: Cow::Borrowed(key), family: None, dir }))
}

pub(crate) fn fib_type(flags: &[FibFlag]) -> Words {
    let flags: HashSet<FibFlag> = flags.iter().copied().collect();
    Expression::Named(NamedExpression::Fib(Fib { result: FibResult::Type, flags }))
}

pub(crate) fn string(text: impl Into<String>) -> Words {
    Expression::String(Cow::Owned(text.into()))
}

pub(crate) fn number(number: u32) -> Words {
    Expression::Number(number)
}

pub(crate) fn prefix(address: &'static str, len: u32) -> Words {
    Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(string(address)), len }))
}

pub(crate) fn range(low: u32, high: u32) -> Words {
    Expression::Range(Box::new(Range { range: [number(low), number(high)] }))
}

pub(crate) fn concat(parts: Vec<Words>) -> Words {
    Expression::Named(NamedExpression::Concat(parts))
}

pub(crate) fn and(left: Words, right: Words) -> Words {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(left, right)))
}

pub(crate) fn or(left: Words, right: Words) -> Words {
    Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![left, right])))
}

pub(crate) fn xor(left: Words, right: Words) -> Words {
    Expression::BinaryOperation(Box::new(BinaryOperation::XOR(left, right)))
}

pub(crate) fn matches(left: Words, op: Operator, right: Words) -> Say {
    Statement::Match(Match { left, right, op })
}

pub(crate) fn eq(left: Words, right: Words) -> Say {
    matches(left, Operator::EQ, right)
}

pub(crate) fn ne(left: Words, right: Words) -> Say {
    matches(left, Operator::NEQ, right)
}

pub(crate) fn mangle(key: Words, value: Words) -> Say {
    Statement::Mangle(Mangle { key, value })
}

pub(crate) fn vmap(key: Words, data: &'static str) -> Say {
    Statement::VerdictMap(VerdictMap { key, data: string(data) })
}

pub(crate) fn to(target: &'static str) -> JumpTarget<'static> {
    JumpTarget { target: Cow::Borrowed(target) }
}
