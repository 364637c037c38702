//! Statements as `nft list` prints them.

use nftables::expr::{
    BinaryOperation, Expression, FibFlag, Meta, MetaKey, NamedExpression, NgMode, Numgen, Payload,
};
use nftables::stmt::{Match, NATFamily, NATFlag, Operator, SetOp, Statement};

/// A rule on one line.
pub(super) fn rule(statements: &[Statement<'_>]) -> String {
    let mut words = Vec::new();
    for (index, said) in statements.iter().enumerate() {
        // A reset implies TCP, and `nft list` does not print what is implied.
        let implied = matches!(statements.get(index + 1), Some(Statement::Reject(Some(_))));
        if !(implied && matches!(said, Statement::Match(_))) {
            words.push(statement(said));
        }
    }
    words.join(" ")
}

fn statement(statement: &Statement<'_>) -> String {
    match statement {
        Statement::Accept(_) => "accept".to_owned(),
        Statement::Drop(_) => "drop".to_owned(),
        Statement::Return(_) => "return".to_owned(),
        Statement::Continue(_) => "continue".to_owned(),
        Statement::Jump(to) => format!("jump {}", to.target),
        Statement::Goto(to) => format!("goto {}", to.target),
        Statement::Match(it) => matched(it),
        Statement::Mangle(it) => format!("{} set {}", expression(&it.key), expression(&it.value)),
        Statement::Reject(None) => "reject".to_owned(),
        Statement::Reject(Some(_)) => "reject with tcp reset".to_owned(),
        Statement::Masquerade(nat) => {
            let flags = nat.iter().filter_map(|nat| nat.flags.as_ref());
            match flags.flatten().any(|flag| *flag == NATFlag::FullyRandom) {
                true => "masquerade fully-random".to_owned(),
                false => "masquerade".to_owned(),
            }
        }
        Statement::DNAT(Some(nat)) => {
            let family = match nat.family {
                Some(NATFamily::IP6) => "ip6",
                _ => "ip",
            };
            let to = nat.addr.as_ref().map(expression).unwrap_or_default();
            format!("dnat {family} to {to}")
        }
        Statement::Set(it) => {
            let op = match it.op {
                SetOp::Add => "add",
                SetOp::Update => "update",
            };
            format!("{op} {} {{ {} }}", it.set, expression(&it.elem))
        }
        other => format!("{other:?}"),
    }
}

fn matched(it: &Match<'_>) -> String {
    let (left, mut right) = (expression(&it.left), expression(&it.right));
    if matches!(&it.left, Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Iifname })))
    {
        right = format!("\"{right}\"");
    }
    match it.op {
        Operator::NEQ => format!("{left} != {right}"),
        Operator::EQ if matches!(it.left, Expression::BinaryOperation(_)) => {
            format!("{left} == {right}")
        }
        _ => format!("{left} {right}"),
    }
}

fn expression(it: &Expression<'_>) -> String {
    match it {
        Expression::String(text) => text.to_string(),
        // Numbers are marks only.
        Expression::Number(number) => format!("{number:#010x}"),
        Expression::BinaryOperation(operation) => match &**operation {
            BinaryOperation::AND(left, right) => {
                format!("{} & {}", expression(left), expression(right))
            }
            BinaryOperation::OR(parts) => {
                parts.iter().map(expression).collect::<Vec<_>>().join(" | ")
            }
            BinaryOperation::XOR(left, right) => {
                format!("{} ^ {}", expression(left), expression(right))
            }
            other => format!("{other:?}"),
        },
        Expression::Named(named) => named_expression(named),
        other => format!("{other:?}"),
    }
}

fn named_expression(it: &NamedExpression<'_>) -> String {
    match it {
        NamedExpression::Concat(parts) => {
            parts.iter().map(expression).collect::<Vec<_>>().join(" . ")
        }
        NamedExpression::Map(map) => {
            format!("{} map {}", expression(&map.key), expression(&map.data))
        }
        NamedExpression::Prefix(prefix) => format!("{}/{}", expression(&prefix.addr), prefix.len),
        NamedExpression::Payload(Payload::PayloadField(field)) => {
            format!("{} {}", field.protocol, field.field)
        }
        NamedExpression::Meta(meta) => match meta.key {
            MetaKey::Mark => "meta mark".to_owned(),
            MetaKey::Priority => "meta priority".to_owned(),
            MetaKey::L4proto => "meta l4proto".to_owned(),
            MetaKey::Iifname => "iifname".to_owned(),
            other => format!("{other:?}"),
        },
        NamedExpression::CT(ct) => match ct.dir {
            Some(_) => format!("ct original {}", ct.key),
            None => format!("ct {}", ct.key),
        },
        NamedExpression::Numgen(numgen) => generated(numgen),
        NamedExpression::Fib(fib) => {
            let of = if fib.flags.contains(&FibFlag::Daddr) { "daddr" } else { "saddr" };
            format!("fib {of} type")
        }
        NamedExpression::Elem(elem) => match elem.timeout {
            Some(timeout) => format!("{} timeout {}", expression(&elem.val), duration(timeout)),
            None => expression(&elem.val),
        },
        other => format!("{other:?}"),
    }
}

fn generated(numgen: &Numgen) -> String {
    let mode = match numgen.mode {
        NgMode::Random => "random",
        NgMode::Inc => "inc",
    };
    let offset = numgen.offset.map(|offset| format!(" offset {offset}")).unwrap_or_default();
    format!("numgen {mode} mod {}{offset}", numgen.ng_mod)
}

/// Seconds in the units of `nft`: 10,800 are 3h.
fn duration(seconds: u32) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let mut rest = seconds;
    let mut text = String::new();
    for (length, unit) in units {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_units_of_nft() {
        let table =
            [(10_800, "3h"), (86_400, "1d"), (1, "1s"), (5400, "1h30m"), (90_061, "1d1h1m1s")];
        for (seconds, expected) in table {
            assert_eq!(duration(seconds), expected);
        }
    }
}
