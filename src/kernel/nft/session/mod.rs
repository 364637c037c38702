//! Communication with the kernel: transactions, reads, events.

mod base_chains;
pub(crate) mod batch;
mod chain_graph;
mod connection;
mod dump;
mod element_counters;
mod error;
mod events;
mod object_count;
mod part;
mod transaction;

pub use base_chains::{HookedChain, Place};
pub use batch::encoded;
pub use chain_graph::{ChainGraph, Jump};
pub use connection::Nft;
pub use error::{ApplyError, NftError, Refused};
pub use events::{Listening, NftEvent, NftEvents};
pub use object_count::ObjectCount;
