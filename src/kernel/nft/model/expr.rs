//! Expressions, the parts of rules.

use std::sync::Arc;
use std::time::Duration;

use super::kind::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, FibFlags, FibResult, LimitMatch, LimitUnit,
    MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase, RangeOp, Reject, SocketKey,
};
use super::packed::Packed;
use super::verdict::Verdict;
use sluice_core::net::Family;

/// A register, counted in 32-bit words: 0 to 15.
///
/// On the wire, words at a multiple of 16 bytes bear the old names `NFT_REG_1` to `NFT_REG_4`, all
/// others `NFT_REG32_xx`, as `nft` writes and the kernel reports them (`nft_dump_register` in
/// `net/netfilter/nf_tables_api.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(u8);

impl Register {
    /// The first register, which most expressions use.
    pub const FIRST: Register = Register(0);

    /// The register at a 32-bit word.
    ///
    /// # Panics
    /// If `word` is above 15: registers are chosen by the code, not by input.
    pub const fn word(word: u8) -> Register {
        assert!(word < 16, "there are sixteen 32-bit registers");
        Register(word)
    }

    /// The register that is `bytes` further on, rounded up to a whole one.
    ///
    /// # Panics
    /// If that is past the last register.
    pub const fn after(self, bytes: usize) -> Register {
        let words = bytes.div_ceil(4);
        assert!(words < 16, "there are sixteen 32-bit registers");
        #[allow(clippy::cast_possible_truncation)] // below 16
        Register::word(self.0 + words as u8)
    }

    pub(crate) fn to_wire(self) -> u32 {
        if self.0.is_multiple_of(4) { u32::from(self.0 / 4) + 1 } else { u32::from(self.0) + 8 }
    }

    pub(crate) fn from_wire(number: u32) -> Option<Register> {
        match number {
            1..=4 => u8::try_from((number - 1) * 4).ok().map(Register),
            8..=23 => u8::try_from(number - 8).ok().map(Register),
            _ => None,
        }
    }
}

/// A constant in an expression: up to the 64 bytes that all registers hold together.
pub type Constant = Packed<64>;

/// One expression of a rule.
///
/// What the kernel adds on its own is left out when decoding, so that a rule that was read equals
/// the rule that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload {
        /// Header that `offset` counts from.
        base: PayloadBase,
        /// In bytes.
        offset: u32,
        /// In bytes.
        len: u32,
        /// Where they go.
        dreg: Register,
    },
    /// Loads a property of the packet.
    Meta {
        /// Which one.
        key: MetaKey,
        /// Where it goes.
        dreg: Register,
    },
    /// Sets a property of the packet.
    MetaSet {
        /// Which one.
        key: MetaKey,
        /// The new value.
        sreg: Register,
    },
    /// Loads a property of the packet's connection.
    Ct {
        /// Which one.
        key: CtKey,
        /// Of which direction, for those that have two.
        direction: Option<CtDirection>,
        /// Where it goes.
        dreg: Register,
    },
    /// Sets a property of the packet's connection.
    CtSet {
        /// Which one.
        key: CtKey,
        /// The new value.
        sreg: Register,
    },
    /// Loads a property of the packet's socket; continues only if there is one.
    Socket {
        /// Which one.
        key: SocketKey,
        /// Where it goes.
        dreg: Register,
    },
    /// Goes on only if the comparison holds.
    Cmp {
        /// What is compared.
        sreg: Register,
        /// How.
        op: CmpOp,
        /// With what.
        data: Constant,
    },
    /// Goes on only if the value is within (or outside) a range.
    Range {
        /// What is compared.
        sreg: Register,
        /// Within or outside.
        op: RangeOp,
        /// Lowest value, inclusive.
        from: Constant,
        /// Highest value, inclusive.
        to: Constant,
    },
    /// Computes `(value & mask) ^ xor`.
    Bitwise {
        /// The value.
        sreg: Register,
        /// Where the result goes.
        dreg: Register,
        /// Bits that are kept; its length is the value's length.
        mask: Constant,
        /// Bits that are flipped afterwards; as long as `mask`.
        xor: Constant,
    },
    /// Converts a number between host and network byte order.
    Byteorder {
        /// The value.
        sreg: Register,
        /// Where the result goes.
        dreg: Register,
        /// From or to network byte order.
        op: ByteorderOp,
        /// Length of the whole in bytes.
        len: u32,
        /// Length of one number in bytes: 2, 4 or 8.
        size: u32,
    },
    /// Looks up a key in a set; continues only if it is there (or is not).
    Lookup {
        /// The set or map.
        set: Arc<str>,
        /// Where the key begins.
        sreg: Register,
        /// What comes of it.
        result: LookupResult,
    },
    /// Loads a constant.
    Immediate {
        /// Where it goes.
        dreg: Register,
        /// The constant.
        data: Constant,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Loads a generated number, in host byte order.
    Numgen {
        /// How it is generated.
        kind: NumgenKind,
        /// It is below `offset + modulus`.
        modulus: u32,
        /// The lowest number.
        offset: u32,
        /// Where it goes.
        dreg: Register,
    },
    /// Sets the connection's address translation.
    Nat {
        /// Source or destination.
        kind: NatKind,
        /// Family of the address.
        family: Family,
        /// The new address.
        address: Option<RegisterRange>,
        /// The new port, in network byte order.
        port: Option<RegisterRange>,
        /// How a port is chosen.
        flags: NatFlags,
    },
    /// Sets the source address to that of the outgoing interface.
    Masquerade {
        /// How a port is chosen.
        flags: NatFlags,
        /// The ports to choose from.
        port: Option<RegisterRange>,
    },
    /// Sets the destination to this host.
    Redirect {
        /// How a port is chosen.
        flags: NatFlags,
        /// The new port, in network byte order.
        port: Option<RegisterRange>,
    },
    /// Rejects the packet.
    Reject(Reject),
    /// Looks an address up in the routing tables.
    Fib {
        /// The requested encodings.
        result: FibResult,
        /// The look-up.
        flags: FibFlags,
        /// Where the answer goes.
        dreg: Register,
    },
    /// Adds to or deletes from a set whatever the registers hold.
    Dynset {
        /// What is done.
        op: DynsetOp,
        /// The set or map.
        set: Arc<str>,
        /// Where the key begins.
        key: Register,
        /// Where the data begins, for maps.
        data: Option<Register>,
        /// The element's timeout, if it differs from the set's.
        timeout: Option<Duration>,
    },
    /// Counts packets and bytes. The counts are not part of the value; see
    /// [`crate::nft::ObservedRule::counted`].
    Counter,
    /// Exempts the packet from connection tracking.
    Notrack,
    /// Goes on only while packets come no faster than this.
    Limit {
        /// Packets per unit.
        rate: u64,
        /// The unit.
        unit: LimitUnit,
        /// Packets beyond the rate that are let through at once.
        burst: u32,
        /// Whether it matches within or beyond the limit.
        matches: LimitMatch,
    },
    /// Writes a line to the kernel log.
    Log {
        /// What the line begins with.
        prefix: Option<Arc<str>>,
    },
    /// An expression that this module cannot write; only ever seen in foreign rules.
    Unknown {
        /// The kernel's name of it.
        name: Arc<str>,
    },
}

/// What comes of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LookupResult {
    /// Goes on if the key is there.
    Match,
    /// Goes on if the key is not there.
    NoMatch,
    /// Loads the element's data; continues if the key is there.
    Data(Register),
    /// Ends the rule with the element's verdict.
    Verdict,
}

/// A value in registers, or a range of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegisterRange {
    /// The value, or the lowest one.
    pub min: Register,
    /// The highest value, if it is a range.
    pub max: Option<Register>,
}

impl From<Register> for RegisterRange {
    fn from(min: Register) -> RegisterRange {
        RegisterRange { min, max: None }
    }
}
