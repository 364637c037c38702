//! The one netlink client: nf_tables, IPVS, ipset, connection tracking, addresses, links, routes and routing
//! rules are read and changed through it.
//!
//! - *Nothing waits for ever.* The kernel answers before a send returns, so a time-out means that it does not
//!   answer at all.
//! - *No answer is taken for that to another question.* Messages are numbered; what has another number is
//!   late, and passed over.
//! - *Nobody but the kernel is believed.* Any process may write to a netlink port.
//! - *A refusal is told from a failure to talk.* [`Refusal`] is the kernel's no to one message, with its words;
//!   [`SocketError`] is everything that leaves open what the kernel did.
//! - *A list that changed while it was read is not taken for one state* ([`End::Interrupted`]); one that does
//!   not say so, because the receive queue was full, is an error ([`SocketError::Overrun`]).
//! - *Many changes are one system call.* Only the last one asks to be acknowledged: the kernel works through
//!   them in order, and says of each that it refuses.

pub(crate) mod attributes;
mod client;
mod error;
mod message;
pub(crate) mod netfilter;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use client::{Answer, Client, End, Heard};
pub use error::{NetlinkError, Refusal, SocketError};
pub(crate) use message::{Message, messages};
pub(crate) use socket::{Received, Socket, Wait};
