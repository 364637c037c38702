//! The interface to nf_tables, and its implementation by the kernel.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::sets::TABLE;
use sluice_core::net::Family;
use sluice_kernel::nft::{
    ApplyError, Chain, Element, Listening, Nft, NftError, NftEvent, NftEvents, Observed, Op, Ops,
    Rule, Set, TableName,
};

/// A table that no transaction leaves behind.
const TRIAL: &str = "kube-proxy-trial";

/// One table of nf_tables: the kernel's, or in tests a model of it that fails on demand.
pub trait KernelTable: Send {
    /// Applies all operations in one transaction, or none.
    fn apply(&mut self, ops: &Ops) -> Result<(), ApplyError>;
    /// Reads our table.
    fn dump(&mut self) -> Result<Option<Observed>, NftError>;
    /// Reads the elements of one set; none if it is not there.
    fn elements(&mut self, set: &Set) -> Result<Vec<Element>, NftError>;
    /// The number of transactions so far, by any program.
    fn generation(&mut self) -> Result<u32, NftError>;
    /// Listens for foreign changes of our table from now on; whether it did so before.
    fn listen(&mut self) -> Result<Listening, NftError>;
    /// Whether another program has changed our table since the last call, as far as notifications show.
    fn drifted(&mut self) -> bool;
}

/// nf_tables of one network namespace, for the tables of all families.
///
/// They share one listener, because the kernel notifies about each element while there is a listener: one
/// family would receive, and pay for, the initial load of the other.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Mutex<Shared>>);

#[derive(Debug)]
struct Shared {
    nft: Nft,
    events: NftEvents,
    /// Tables that another program changed.
    drifted: BTreeSet<TableName>,
    tables: Vec<TableName>,
}

impl Connection {
    /// Opens nf_tables of the current network namespace.
    ///
    /// # Errors
    /// If the kernel has no nf_tables, or does not let this process use it.
    pub fn open() -> Result<Connection, NftError> {
        let nft = Nft::open()?;
        let tables: Vec<TableName> =
            Family::BOTH.into_iter().map(|family| TableName::new(family, TABLE)).collect();
        let events = NftEvents::open(nft.port_id(), tables.clone())?;
        let shared = Shared { nft, events, drifted: BTreeSet::new(), tables };
        Ok(Connection(Arc::new(Mutex::new(shared))))
    }

    /// The service table of one family.
    pub fn table(&self, family: Family) -> LiveTable {
        LiveTable { connection: self.clone(), table: TableName::new(family, TABLE) }
    }

    /// Tries whether the kernel takes a chain with a rule; nothing stays of it.
    ///
    /// # Errors
    /// If it does not, or if nf_tables cannot be used.
    pub(crate) fn try_out(
        &self,
        family: Family,
        chain: Chain,
        rule: Rule,
    ) -> Result<(), ApplyError> {
        let add = [Op::AddTable { comment: None }, Op::AddChain(chain), Op::AddRule(rule)];
        let ops: Vec<Op> = add.into_iter().chain([Op::DeleteTable]).collect();
        self.shared().nft.apply(&TableName::new(family, TRIAL), &ops)
    }

    /// Changes whenever another program may have changed our tables. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// If the runtime cannot wait for the kernel.
    pub fn follow(&self) -> Result<watch::Receiver<()>, NftError> {
        self.shared().events.follow()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel's table of one family.
#[derive(Debug)]
pub struct LiveTable {
    connection: Connection,
    table: TableName,
}

impl KernelTable for LiveTable {
    fn apply(&mut self, ops: &Ops) -> Result<(), ApplyError> {
        let Shared { nft, events, .. } = &mut *self.connection.shared();
        events.apply_unheard(nft, &self.table, ops)
    }

    fn elements(&mut self, set: &Set) -> Result<Vec<Element>, NftError> {
        self.connection.shared().nft.elements(&self.table, set)
    }

    fn dump(&mut self) -> Result<Option<Observed>, NftError> {
        self.connection.shared().nft.dump(&self.table)
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        self.connection.shared().nft.generation()
    }

    fn listen(&mut self) -> Result<Listening, NftError> {
        self.connection.shared().events.listen()
    }

    fn drifted(&mut self) -> bool {
        let shared = &mut *self.connection.shared();
        shared.hear();
        shared.drifted.remove(&self.table)
    }
}

impl Shared {
    /// Takes in what happened so far.
    fn hear(&mut self) {
        loop {
            match self.events.try_next() {
                Ok(None) => return,
                Ok(Some(NftEvent::ForeignChange(table))) => {
                    self.drifted.insert(table);
                }
                Ok(Some(NftEvent::Overflow)) => self.drifted.extend(self.tables.iter().cloned()),
                Err(error) => {
                    tracing::warn!(%error, "missed changes by other programs; comparing everything");
                    self.drifted.extend(self.tables.iter().cloned());
                    return;
                }
            }
        }
    }
}
