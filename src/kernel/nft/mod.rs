//! nf_tables over netlink: our own encoder, decoder and transaction.
//!
//! One socket per process ([`Nft`]) writes atomic batches of [`Op`]s and reads a table as [`Observed`]; a
//! second one ([`NftEvents`]) notifies about changes by other programs. Values are read back as they were
//! written, so observed and desired state can be compared with `==`. Sets have the user data with which `nft
//! list ruleset` prints them with `typeof`, because people debug with `nft`.
//!
//! The protocol is defined by `include/uapi/linux/netfilter/nf_tables.h`; the user data is defined
//! by libnftnl's `udata.h` and by nftables' `src/{payload,meta,numgen,expression}.c`.

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
mod model;
mod session;
pub mod statement;
#[cfg(test)]
mod tests;
mod wire;

pub use model::{
    BaseChain, ByteorderOp, Chain, ChainKind, CmpOp, Constant, Counted, Counting, CtDirection,
    CtKey, Data, DynsetOp, Element, ElementCounter, ElementExtra, ElementList, ElementOps, Expr,
    FibFlags, FibResult, Field, Hook, Key, Last, LimitMatch, LimitUnit, LookupResult, MetaKey,
    NatFlags, NatKind, NumgenKind, Observed, ObservedChain, ObservedRule, ObservedSet, Op, OpLine,
    Operations, Ops, Packed, PayloadBase, Policy, RangeOp, Register, RegisterRange, Reject, Rule,
    Set, SetFlags, SetKind, SocketKey, SortedElements, TableName, Value, Verb, Verdict,
    address_type, ct_state, ct_status,
};
pub use session::{
    ApplyError, ChainGraph, HookedChain, Jump, Listening, Nft, NftError, NftEvent, NftEvents,
    ObjectCount, Place, Refused, encoded,
};
