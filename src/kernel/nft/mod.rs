//! nf_tables over netlink: our own encoder, decoder and transaction.
//!
//! One process-long socket ([`Nft`]) writes atomic batches of [`Op`]s and reads a table back as
//! [`Observed`]; a second one ([`NftEvents`]) says when somebody else changed it. Values that go in
//! come out equal, so observed and desired state can be compared with `==`. Sets carry the user
//! data that lets `nft list ruleset` print them with `typeof`, because people debug with `nft`.
//!
//! The protocol is defined by `include/uapi/linux/netfilter/nf_tables.h`; the user data is defined
//! by libnftnl's `udata.h` and by nftables' `src/{payload,meta,numgen,expression}.c`.

mod batch;
mod count;
mod decode;
mod dump;
mod element_counts;
mod element_list;
mod encode;
mod error;
mod events;
mod expr;
mod expr_decode;
mod expr_encode;
mod expr_wire;
mod field;
mod kind;
mod object;
mod observed;
mod op;
mod ops;
mod outline;
mod packed;
pub mod phrase;
mod socket;
#[cfg(test)]
mod tests;
mod transaction;
mod uapi;
mod userdata;
mod wire;

pub use batch::encoded;
pub use count::Count;
pub use element_counts::ElementCount;
pub use element_list::{ElementList, SortedElements};
pub use error::{ApplyError, NftError, Refused};
pub use events::{Listening, NftEvent, NftEvents};
pub use expr::{Constant, Expr, LookupResult, Register, RegisterRange};
pub use field::Field;
pub use kind::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, FibFlags, FibResult, LimitMatch, LimitUnit,
    MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase, RangeOp, Reject, SocketKey, address_type,
    ct_state, ct_status,
};
pub use object::{
    BaseChain, Chain, ChainKind, Counting, Element, ElementExtra, Hook, Last, Policy, Rule, Set,
    SetFlags, SetKind, TableName, Value, Verdict,
};
pub use observed::{Counted, Observed, ObservedChain, ObservedRule, ObservedSet};
pub use op::{Op, OpLine};
pub use ops::{ElementOps, Operations, Ops, Verb};
pub use outline::{Jump, Outline};
pub use packed::{Data, Key, Packed};
pub use transaction::Nft;
