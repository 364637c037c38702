//! Notifications of foreign changes.

use std::os::fd::{AsRawFd, RawFd};

use super::error::NftError;
use super::object::TableName;

/// What happened to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NftEvent {
    /// Somebody else changed it.
    ForeignChange,
    /// Notifications were lost: anything may have happened.
    Overflow,
}

/// A socket that hears of every change of nf_tables in its network namespace.
#[derive(Debug)]
pub struct NftEvents {}

impl NftEvents {
    /// Listens for changes of `tables` by sockets other than `own` ([`super::Nft::port_id`]).
    pub fn open(own: u32, tables: Vec<TableName>) -> Result<NftEvents, NftError> {
        let _ = (own, tables);
        unimplemented!()
    }

    /// The next event and the table it is about (all of them after an overflow), or `None` if
    /// nothing happened so far. Never blocks.
    pub fn try_next(&mut self) -> Result<Option<(NftEvent, Option<TableName>)>, NftError> {
        unimplemented!()
    }
}

impl AsRawFd for NftEvents {
    fn as_raw_fd(&self) -> RawFd {
        unimplemented!()
    }
}
