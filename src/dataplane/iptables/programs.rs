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
    /// Chains in the form of `iptables -S`, in the order of `asked`; none where there is no such chain, or it
    /// cannot be printed.
    ///
    /// # Errors
    /// If they cannot be read.
    fn chains(&mut self, asked: &[(Table, &str)]) -> Result<Vec<Option<String>>, XtablesError>;
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

    fn chains(&mut self, asked: &[(Table, &str)]) -> Result<Vec<Option<String>>, XtablesError> {
        Xtables::chains(self, asked)
    }

    fn route_localnet(&mut self) -> std::io::Result<()> {
        xtables::route_localnet()
    }
}
