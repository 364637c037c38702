//! Statements, sets and elements that no proxy mode writes: for tests and benchmarks, which compare what is
//! written and read of them with `nft` all the same.

use std::sync::Arc;
use std::time::Duration;

use super::model::{
    CmpOp, Constant, Element, Expr, FibFlags, FibResult, Field, Key, LookupResult, MetaKey,
    NatFlags, Register, RegisterRange, Set, SetKind, Value, Verdict,
};
use super::statement::{Statement, concat_at, differs, equals, interface_name};

const FIRST: Register = Register::FIRST;

/// `FIELDS vmap @set`: ends with the key's verdict if the set has one.
pub fn verdict_of(fields: &[Field], set: &Arc<str>) -> Statement {
    let mut statement = concat_at(FIRST, fields);
    let (set, result) = (Arc::clone(set), LookupResult::Verdict);
    statement.push(Expr::Lookup { set, sreg: FIRST, result });
    statement
}

/// `th dport PORT`; say [`protocol`](super::statement::protocol) first.
pub fn destination_port(port: u16) -> Statement {
    equals(Field::Dport, &port.to_be_bytes())
}

/// `oifname NAME`.
pub fn output_interface(name: &str) -> Statement {
    equals(Field::OutputName, &interface_name(name))
}

/// `oifname != NAME`.
pub fn not_output_interface(name: &str) -> Statement {
    differs(Field::OutputName, &interface_name(name))
}

/// `meta mark & BITS == 0`: none of the bits of the packet's mark is set.
pub fn mark_lacks(bits: u32) -> Statement {
    vec![
        Expr::Meta { key: MetaKey::Mark, dreg: FIRST },
        Expr::bitwise(&bits.to_ne_bytes(), &[0; 4]),
        Expr::cmp(CmpOp::Eq, &[0; 4]),
    ]
}

/// `fib daddr type != TYPE`.
pub fn not_destination_type(address_type: u32) -> Statement {
    fib_type_differs(FibFlags::DADDR, address_type)
}

/// `fib saddr type != TYPE`.
pub fn not_source_type(address_type: u32) -> Statement {
    fib_type_differs(FibFlags::SADDR, address_type)
}

fn fib_type_differs(flags: FibFlags, address_type: u32) -> Statement {
    let load = Expr::Fib { result: FibResult::AddressType, flags, dreg: FIRST };
    vec![load, Expr::cmp(CmpOp::Ne, &address_type.to_ne_bytes())]
}

/// `counter`.
pub fn counter() -> Statement {
    vec![Expr::Counter]
}

/// `redirect to :PORT` to a port of this host.
pub fn redirect_to(port: u16) -> Statement {
    vec![
        Expr::Immediate { dreg: FIRST, data: Constant::new().part(&port.to_be_bytes()) },
        Expr::Redirect { flags: NatFlags::NONE, port: Some(RegisterRange::from(FIRST)) },
    ]
}

impl Set {
    /// A map from `key` to verdicts.
    pub fn verdict_map(name: impl Into<Arc<str>>, key: Vec<Field>) -> Set {
        Set { kind: SetKind::VerdictMap, ..Set::set(name, key) }
    }
}

impl Element {
    /// An element of a verdict map.
    pub fn verdict(key: Key, verdict: Verdict) -> Element {
        Element { value: Value::Verdict(verdict), ..Element::new(key) }
    }

    /// The same with a life of its own; for sets with [`SetFlags::TIMEOUT`](super::SetFlags::TIMEOUT).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Element {
        self.extra.get_or_insert_default().timeout = Some(timeout);
        self
    }
}
