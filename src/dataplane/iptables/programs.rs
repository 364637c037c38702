//! The interface to the iptables programs.

use sluice_kernel::xtables::{self, ChainGraph, Table, Xtables, XtablesError};

/// What this mode needs of iptables: its programs, or in tests a model of them that fails on demand.
pub trait Programs: Send {
    /// The rules of a table in the form of `iptables-save`.
    ///
    /// # Errors
    /// If they cannot be read; [`XtablesError::Incompatible`] if only their chain graph can.
    fn save(&mut self, table: Table) -> Result<String, XtablesError>;
    /// What is known of a table whose rules cannot be read.
    ///
    /// # Errors
    /// If nothing is known.
    fn chain_graph(&mut self, table: Table) -> Result<ChainGraph, XtablesError>;
    /// Applies a script of `iptables-restore --noflush`.
    ///
    /// # Errors
    /// If a line is refused, or the programs cannot be run.
    fn restore(&mut self, script: &str) -> Result<(), XtablesError>;
    /// One chain in the form of `iptables -S`; none if there is no such chain.
    ///
    /// # Errors
    /// If it cannot be read.
    fn chain(&mut self, table: Table, chain: &str) -> Result<Option<String>, XtablesError>;
    /// Lets packets from and to 127.0.0.0/8 leave and enter by other interfaces.
    ///
    /// # Errors
    /// If the setting cannot be written.
    fn route_localnet(&mut self) -> std::io::Result<()>;
}

impl Programs for Xtables {
    fn save(&mut self, table: Table) -> Result<String, XtablesError> {
        Xtables::save(self, table)
    }

    fn chain_graph(&mut self, table: Table) -> Result<ChainGraph, XtablesError> {
        Xtables::chain_graph(self, table)
    }

    fn restore(&mut self, script: &str) -> Result<(), XtablesError> {
        Xtables::restore(self, script)
    }

    fn chain(&mut self, table: Table, chain: &str) -> Result<Option<String>, XtablesError> {
        Xtables::chain(self, table, chain)
    }

    fn route_localnet(&mut self) -> std::io::Result<()> {
        xtables::route_localnet()
    }
}
