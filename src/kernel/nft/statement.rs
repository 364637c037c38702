//! Statements: constructors that make rules read like rules.
//!
//! Each returns the expressions that `nft` would generate for the statement in its description, with the same
//! registers, so that `nft list` can print them. [`Rule::of`](crate::nft::Rule::of) joins them.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::nft::model::{
    CmpOp, Constant, CtDirection, CtKey, DynsetOp, Expr, FibFlags, FibResult, Field, LookupResult,
    MetaKey, NatFlags, NatKind, Register, RegisterRange, Reject, SocketKey, Verdict, layout,
};
use sluice_core::net::{Family, Protocol};

/// Some expressions of a rule.
pub type Statement = Vec<Expr>;

const FIRST: Register = Register::FIRST;

/// Loads a concatenation into consecutive registers from `first` on.
///
/// # Panics
/// If it is longer than the registers that are left, or has a [`Field::Bare`].
pub fn concat_at(first: Register, fields: &[Field]) -> Statement {
    let (places, _) = layout(fields);
    let load = |(field, (start, _)): (&Field, (usize, usize))| field.load(first.after(start));
    let loads: Option<Statement> = fields.iter().zip(places).map(load).collect();
    loads.expect("rules load only fields that come from packets")
}

/// `FIELDS @set`: continues if the set has the key.
pub fn is_in(fields: &[Field], set: &Arc<str>) -> Statement {
    look_up(fields, set, LookupResult::Match)
}

/// `FIELDS != @set`: continues if the set lacks the key.
pub fn is_not_in(fields: &[Field], set: &Arc<str>) -> Statement {
    look_up(fields, set, LookupResult::NoMatch)
}

/// `FIELDS map @set`: loads the key's data into the first registers.
pub fn data_of(fields: &[Field], set: &Arc<str>) -> Statement {
    look_up(fields, set, LookupResult::Data(FIRST))
}

fn look_up(fields: &[Field], set: &Arc<str>, result: LookupResult) -> Statement {
    let mut statement = concat_at(FIRST, fields);
    statement.push(Expr::Lookup { set: Arc::clone(set), sreg: FIRST, result });
    statement
}

/// `FIELD == VALUE`, for a value as packets have it.
pub fn equals(field: Field, value: &[u8]) -> Statement {
    compare(field, CmpOp::Eq, value)
}

/// `FIELD != VALUE`.
pub fn differs(field: Field, value: &[u8]) -> Statement {
    compare(field, CmpOp::Ne, value)
}

fn compare(field: Field, op: CmpOp, value: &[u8]) -> Statement {
    let mut statement = concat_at(FIRST, &[field]);
    statement.push(Expr::cmp(op, value));
    statement
}

/// `ip daddr PREFIX` (or `saddr`, `ip6`): the address is within a prefix of its family.
pub fn within(field: Field, prefix: IpNet) -> Statement {
    compare_prefix(field, CmpOp::Eq, prefix)
}

/// `ip daddr != PREFIX`: the address is outside a prefix.
pub fn outside(field: Field, prefix: IpNet) -> Statement {
    compare_prefix(field, CmpOp::Ne, prefix)
}

/// Prefixes of whole bytes are compared by loading fewer bytes, others through a mask, as `nft`
/// does (`relational_expr_..prefix` in its `src/netlink_linearize.c`).
fn compare_prefix(field: Field, op: CmpOp, prefix: IpNet) -> Statement {
    let bytes: Vec<u8> = match prefix.trunc().addr() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let bits = usize::from(prefix.prefix_len());
    let mut statement = concat_at(FIRST, &[field]);
    if bits > 0 && bits.is_multiple_of(8) {
        if let [Expr::Payload { len, .. }] = statement.as_mut_slice() {
            *len = u32::from(prefix.prefix_len() / 8);
        }
        statement.push(Expr::cmp(op, &bytes[..bits / 8]));
        return statement;
    }
    let mask: Vec<u8> = match prefix.netmask() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    statement.push(Expr::bitwise(&mask, &vec![0; mask.len()]));
    statement.push(Expr::cmp(op, &bytes));
    statement
}

/// `meta l4proto PROTOCOL`.
pub fn protocol(protocol: Protocol) -> Statement {
    equals(Field::L4Proto, &[protocol.number()])
}

/// `meta l4proto != PROTOCOL`.
pub fn not_protocol(protocol: Protocol) -> Statement {
    differs(Field::L4Proto, &[protocol.number()])
}

/// `iifname NAME`; a name that ends in `*` matches all that begin so.
pub fn input_interface(name: &str) -> Statement {
    equals(Field::InputName, &interface_name(name))
}

/// `iifname != NAME`.
pub fn not_input_interface(name: &str) -> Statement {
    differs(Field::InputName, &interface_name(name))
}

/// A whole name is compared with its padding, a prefix without. Linux keeps interface names below
/// `IFNAMSIZ`, so what is longer is cut and matches nothing.
pub(super) fn interface_name(name: &str) -> Vec<u8> {
    if let Some(prefix) = name.strip_suffix('*') {
        return prefix.bytes().take(15).collect();
    }
    let mut bytes: Vec<u8> = name.bytes().take(16).collect();
    bytes.resize(16, 0);
    bytes
}

/// `ct state BITS`: one of these bits of [`crate::nft::ct_state`] is set.
pub fn ct_state(bits: u32) -> Statement {
    let load = Expr::Ct { key: CtKey::State, direction: None, dreg: FIRST };
    vec![load, Expr::mask(bits), Expr::cmp(CmpOp::Ne, &[0; 4])]
}

/// `ct status BITS`: one of these bits of [`crate::nft::ct_status`] is set.
pub fn ct_status(bits: u32) -> Statement {
    let load = Expr::Ct { key: CtKey::Status, direction: None, dreg: FIRST };
    vec![load, Expr::mask(bits), Expr::cmp(CmpOp::Ne, &[0; 4])]
}

/// `ct status & BITS == 0`: none of these bits of [`crate::nft::ct_status`] is set.
pub fn ct_status_lacks(bits: u32) -> Statement {
    let load = Expr::Ct { key: CtKey::Status, direction: None, dreg: FIRST };
    vec![load, Expr::mask(bits), Expr::cmp(CmpOp::Eq, &[0; 4])]
}

/// `ct direction original` or `reply`.
pub fn ct_direction(direction: CtDirection) -> Statement {
    let load = Expr::Ct { key: CtKey::Direction, direction: None, dreg: FIRST };
    let number = if direction == CtDirection::Reply { 1 } else { 0 };
    vec![load, Expr::cmp(CmpOp::Eq, &[number])]
}

/// `socket transparent 1`: there is a socket for the packet, and it may have an address that is not this
/// host's.
pub fn socket_is_transparent() -> Statement {
    let load = Expr::Socket { key: SocketKey::Transparent, dreg: FIRST };
    vec![load, Expr::cmp(CmpOp::Eq, &[1])]
}

/// `meta mark & BITS != 0`: one of the bits of the packet's mark is set.
pub fn mark_has(bits: u32) -> Statement {
    vec![LOAD_MARK, Expr::mask(bits), Expr::cmp(CmpOp::Ne, &[0; 4])]
}

/// `meta mark set meta mark | BITS`.
pub fn set_mark_bits(bits: u32) -> Statement {
    vec![LOAD_MARK, Expr::bitwise(&(!bits).to_ne_bytes(), &bits.to_ne_bytes()), STORE_MARK]
}

/// `meta mark set meta mark ^ BITS`.
pub fn flip_mark_bits(bits: u32) -> Statement {
    vec![LOAD_MARK, Expr::bitwise(&[0xff; 4], &bits.to_ne_bytes()), STORE_MARK]
}

/// `meta priority set FIELDS map @set`: continues only if the map has the key.
pub fn set_priority_to_data_of(fields: &[Field], set: &Arc<str>) -> Statement {
    let mut statement = data_of(fields, set);
    statement.push(Expr::MetaSet { key: MetaKey::Priority, sreg: FIRST });
    statement
}

/// `meta priority set none`.
pub fn clear_priority() -> Statement {
    let nothing = Constant::new().part(&[0; 4]);
    vec![
        Expr::Immediate { dreg: FIRST, data: nothing },
        Expr::MetaSet { key: MetaKey::Priority, sreg: FIRST },
    ]
}

const LOAD_MARK: Expr = Expr::Meta { key: MetaKey::Mark, dreg: FIRST };
const STORE_MARK: Expr = Expr::MetaSet { key: MetaKey::Mark, sreg: FIRST };

/// `fib daddr type TYPE`: the destination is, for the routing tables, of a type of
/// [`crate::nft::address_type`].
pub fn destination_type(address_type: u32) -> Statement {
    fib_type(FibFlags::DADDR, address_type)
}

/// `fib saddr type TYPE`.
pub fn source_type(address_type: u32) -> Statement {
    fib_type(FibFlags::SADDR, address_type)
}

fn fib_type(flags: FibFlags, address_type: u32) -> Statement {
    let load = Expr::Fib { result: FibResult::AddressType, flags, dreg: FIRST };
    vec![load, Expr::cmp(CmpOp::Eq, &address_type.to_ne_bytes())]
}

/// `accept`.
pub fn accept() -> Statement {
    vec![Expr::Verdict(Verdict::Accept)]
}

/// `drop`.
pub fn drop() -> Statement {
    vec![Expr::Verdict(Verdict::Drop)]
}

/// `return`.
pub fn leave() -> Statement {
    vec![Expr::Verdict(Verdict::Return)]
}

/// `jump CHAIN`.
pub fn jump(chain: &Arc<str>) -> Statement {
    vec![Expr::Verdict(Verdict::Jump(Arc::clone(chain)))]
}

/// `goto CHAIN`.
pub fn goto(chain: &Arc<str>) -> Statement {
    vec![Expr::Verdict(Verdict::Goto(Arc::clone(chain)))]
}

/// `reject`, with port unreachable.
pub fn reject(family: Family) -> Statement {
    vec![Expr::Reject(Reject::port_unreachable(family))]
}

/// `reject with tcp reset`; say [`protocol`] first.
pub fn reject_by_reset() -> Statement {
    vec![Expr::Reject(Reject::TcpReset)]
}

/// `dnat to FIELDS map @set`: translates the destination to the address and port that a map has
/// for the key.
pub fn dnat_to_data_of(family: Family, fields: &[Field], set: &Arc<str>) -> Statement {
    let mut statement = data_of(fields, set);
    statement.push(Expr::Nat {
        kind: NatKind::Dnat,
        family,
        address: Some(RegisterRange::from(FIRST)),
        port: Some(RegisterRange::from(FIRST.after(family.address_len()))),
        flags: NatFlags::NONE,
    });
    statement
}

/// `masquerade`, with these flags.
pub fn masquerade(flags: NatFlags) -> Statement {
    vec![Expr::Masquerade { flags, port: None }]
}

/// `update @set { KEY timeout T : DATA }`: stores the packet's `data` under its `key`, in a map that rules
/// may write to.
///
/// To store the endpoint that a look-up found, use this in a hook after DNAT, with [`Field::OriginalDaddr`]
/// and [`Field::OriginalDport`] in the key. The kernel would also accept a look-up as the data, but `nft`
/// 1.0.6 aborts with a failed assertion when it lists such a rule (`netlink_parse_dynset` in its
/// `src/netlink_delinearize.c`).
///
/// # Panics
/// If key and data together are longer than the sixteen registers.
pub fn remember(
    set: &Arc<str>,
    key: &[Field],
    timeout: Option<Duration>,
    data: &[Field],
) -> Statement {
    let behind = FIRST.after(layout(key).1);
    let mut statement = concat_at(FIRST, key);
    statement.extend(concat_at(behind, data));
    statement.push(Expr::Dynset {
        op: DynsetOp::Update,
        set: Arc::clone(set),
        key: FIRST,
        data: Some(behind),
        timeout,
    });
    statement
}

/// `update @set { KEY timeout T }`, or `add`, or `delete`: writes the packet's key to a set.
pub fn write(op: DynsetOp, set: &Arc<str>, key: &[Field], timeout: Option<Duration>) -> Statement {
    let mut statement = concat_at(FIRST, key);
    statement.push(Expr::Dynset { op, set: Arc::clone(set), key: FIRST, data: None, timeout });
    statement
}

impl Expr {
    /// Compares the first register with some bytes.
    ///
    /// # Panics
    /// If they are more than all registers hold.
    pub fn cmp(op: CmpOp, value: &[u8]) -> Expr {
        Expr::Cmp { sreg: FIRST, op, data: Constant::new().part(value) }
    }

    /// Masks and flips the bits of the first register, in place.
    ///
    /// # Panics
    /// If they are more than all registers hold.
    pub fn bitwise(mask: &[u8], xor: &[u8]) -> Expr {
        let (mask, xor) = (Constant::new().part(mask), Constant::new().part(xor));
        Expr::Bitwise { sreg: FIRST, dreg: FIRST, mask, xor }
    }

    /// Keeps only these bits of the number in the first register.
    fn mask(bits: u32) -> Expr {
        Expr::bitwise(&bits.to_ne_bytes(), &[0; 4])
    }
}
