//! The socket through which tables are written and read.

use super::error::{ApplyError, NftError};
use super::object::TableName;
use super::observed::Observed;
use super::op::Op;

/// nf_tables of the network namespace in which it was opened.
///
/// One for the life of the process: closing such a socket waits for the kernel to free what
/// earlier transactions deleted (20 ms and more).
#[derive(Debug)]
pub struct Nft {}

impl Nft {
    /// Opens the socket and finds out whether nf_tables may be used.
    pub fn open() -> Result<Nft, NftError> {
        unimplemented!()
    }

    /// Applies all operations in one atomic transaction, or none of them.
    pub fn apply(&mut self, table: &TableName, ops: &[Op]) -> Result<(), ApplyError> {
        let _ = (table, ops);
        unimplemented!()
    }

    /// Reads a table; `None` if there is none of this name.
    pub fn dump(&mut self, table: &TableName) -> Result<Option<Observed>, NftError> {
        let _ = table;
        unimplemented!()
    }

    /// Generation of the rule set: changes with each transaction of anybody.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        unimplemented!()
    }

    /// The socket's address, by which [`super::NftEvents`] knows our own changes.
    pub fn port_id(&self) -> u32 {
        unimplemented!()
    }
}
