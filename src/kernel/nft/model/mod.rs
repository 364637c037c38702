//! Tables and their objects as values. Nothing here depends on message formats or sockets.

mod element;
mod element_list;
mod expr;
mod field;
mod kind;
mod object;
mod observed;
mod op;
mod ops;
mod packed;
mod set;
mod verdict;

pub use element::{Element, ElementExtra, Last, Value};
pub use element_list::{ElementList, SortedElements};
pub use expr::{Constant, Expr, LookupResult, Register, RegisterRange};
pub use field::Field;
pub(crate) use field::{bare_byte_order, layout};
pub use kind::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, FibFlags, FibResult, LimitMatch, LimitUnit,
    MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase, RangeOp, Reject, SocketKey, address_type,
    ct_state, ct_status,
};
pub use object::{BaseChain, Chain, ChainKind, Hook, Policy, Rule, TableName};
pub use observed::{Counted, ElementCounter, Observed, ObservedChain, ObservedRule, ObservedSet};
pub use op::{Op, OpLine};
pub use ops::{ElementOps, Operations, Ops, Verb};
pub use packed::{Data, Key, Packed};
pub use set::{Counting, Set, SetFlags, SetKind};
pub use verdict::Verdict;
