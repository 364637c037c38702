//! The iptables mode: kube-proxy's chains, with fewer rules and without a walk past all Services.
//!
//! Reading order: [`names`] has the chains, [`rule`] the words of rules, [`service`] writes one
//! Service's plan down, [`dispatch`] leads packets to it, [`base`] is what holds it all, [`desired`]
//! keeps it up to date, [`observed`] compares it with the kernel, [`script`] is what is applied,
//! [`isolation`] finds out which Service the kernel refuses.
//! `docs/modes/iptables.md` explains the shape.

mod base;
mod desired;
mod dispatch;
mod isolation;
mod line;
#[cfg(test)]
mod model;
mod names;
mod observed;
mod rule;
mod script;
mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::desired::Desired;
pub(super) use self::names::is_of_proxy;
use self::observed::Observed;
use self::script::{Blame, Script, Written};
use super::{Backend, Count, Observation, RefusedService, Report, Scope, SyncError};
use crate::kernel::xtables::{self, Table, Xtables, XtablesError};
use crate::model::ServiceName;
use crate::plan::ForwardingTable;
use crate::trace;

/// How many scripts are tried, each without the Service whose line was refused in the one before.
const ROUNDS: usize = 16;

/// The shape of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Endpoints in the chain of their pool, Services found through prefixes.
    #[default]
    Compact,
    /// A chain per endpoint and one list of all Services, as in the Go kube-proxy.
    Classic,
}

/// Whether node ports answer on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalhostNodePorts {
    /// They do, in IPv4, where node ports are open on all addresses.
    Open,
    /// They do not.
    Closed,
}

/// What becomes of packets that connection tracking holds for invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfWindow {
    /// They are dropped.
    Drop,
    /// Connection tracking lets them pass (`nf_conntrack_tcp_be_liberal`), and so do the rules.
    Keep,
}

/// What this mode alone can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The shape of the rules.
    pub layout: Layout,
    /// Whether node ports answer on 127.0.0.1.
    pub localhost_node_ports: LocalhostNodePorts,
    /// What becomes of packets that connection tracking holds for invalid.
    pub out_of_window: OutOfWindow,
}

/// What this mode needs of iptables: its programs, or in tests a model of them that fails on demand.
pub trait Tables: Send {
    /// The rules of a table in the form of `iptables-save`.
    ///
    /// # Errors
    /// If they cannot be read.
    fn save(&mut self, table: Table) -> Result<String, XtablesError>;
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

impl Tables for Xtables {
    fn save(&mut self, table: Table) -> Result<String, XtablesError> {
        Xtables::save(self, table)
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

/// The iptables mode for one IP family.
#[derive(Debug)]
pub struct Iptables<T = Xtables> {
    tables: T,
    options: Options,
    /// What the kernel has, as far as we wrote or read it; `None` makes the next sync look.
    programmed: Option<Desired>,
    /// `route_localnet` was asked for since the kernel was last read.
    localnet: bool,
}

impl<T: Tables> Iptables<T> {
    /// The mode, on these tables.
    pub fn new(tables: T, options: Options) -> Iptables<T> {
        Iptables { tables, options, programmed: None, localnet: false }
    }

    /// Whether all tables still have what a flush would have taken along.
    fn canaries_live(&mut self) -> Result<bool, XtablesError> {
        for table in Table::ALL {
            let Some(found) = self.tables.chain(table, names::CANARY)? else { return Ok(false) };
            let wanted = base::canary(table);
            let wanted = wanted.map(|line| format!("-A {} {}", names::CANARY, line.text));
            if wanted.is_some_and(|wanted| !found.lines().any(|line| line == wanted)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the tables and says what must change.
    fn compare(&mut self, table: &ForwardingTable) -> Result<(Desired, Script), XtablesError> {
        let mut observed = Observed::default();
        for table in Table::ALL {
            observed.read(table, &self.tables.save(table)?);
        }
        let desired = Desired::new(table, self.options);
        let delta = observed.difference(&desired.chains());
        let hooks = observed.hook_changes(&base::hooks(table.family, self.options));
        Ok((desired, Script::new(&delta, &hooks)))
    }

    /// One run of iptables-restore, until it has ended.
    fn restore(&mut self, script: &Script) -> Result<(), XtablesError> {
        let _span = trace::step("kernel transaction");
        trace::note("operations", || script.written.operations.to_string());
        let result = self.tables.restore(&script.text);
        trace::note("answer", || match &result {
            Ok(()) => "acknowledged".to_owned(),
            Err(error) => error.to_string(),
        });
        result
    }

    fn observation(&mut self, scope: &Scope) -> Result<Observation, XtablesError> {
        if self.programmed.is_none() || scope.full {
            return Ok(Observation::Asked);
        }
        // A change is not kept waiting for three programs; the next check is near.
        let live = !scope.services.is_empty() || self.canaries_live()?;
        Ok(if live { Observation::None } else { Observation::Drift })
    }

    /// Lets connections to node ports on localhost leave this node; before the rules, which also keep
    /// others from it.
    fn route_localnet(&mut self, table: &ForwardingTable) {
        let wanted = base::opens_localhost(&table.host, table.family, self.options);
        if !wanted || std::mem::replace(&mut self.localnet, true) {
            return;
        }
        if let Err(error) = self.tables.route_localnet() {
            tracing::warn!(
                %error,
                "node ports do not answer on 127.0.0.1: cannot write net.ipv4.conf.all.route_localnet"
            );
        }
    }

    /// Makes the tables match; Services whose rules are refused are left out.
    fn converge(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, XtablesError> {
        let observed = self.observation(scope)?;
        let mut refused: BTreeMap<ServiceName, String> = BTreeMap::new();
        let mut believed = self.programmed.take().filter(|_| observed == Observation::None);
        self.localnet &= believed.is_some();
        self.route_localnet(table);
        let mut rounds = 0;
        loop {
            rounds += 1;
            let changed = believed.is_some().then_some(&scope.services);
            let (desired, script) = {
                let _span = trace::step("diff");
                match believed.take() {
                    Some(mut desired) => {
                        let delta = desired.update(table, &scope.services);
                        (desired, Script::new(&delta, &[]))
                    }
                    None => self.compare(&without(table, refused.keys()))?,
                }
            };
            let result = if script.is_empty() { Ok(()) } else { self.restore(&script) };
            let Err(error) = result else {
                self.programmed = Some(desired);
                return Ok(self.report(script.written, observed, refused));
            };
            let (suspects, error) = match script.blame(error, changed) {
                Blame::Service(name, error) if rounds < ROUNDS => {
                    refused.insert(name, error.to_string());
                    continue;
                }
                Blame::Service(_, error) => (script.services(), error),
                Blame::OneOf(suspects, error) => (suspects, error),
                Blame::Nobody(error) => return Err(error),
            };
            let written = self.isolate(table, &mut refused, suspects, &error)?;
            return Ok(self.report(written, observed, refused));
        }
    }

    fn report(
        &self,
        written: Written,
        observed: Observation,
        refused: BTreeMap<ServiceName, String>,
    ) -> Report {
        // How many rules there are in the tables that carry traffic, and how many were written.
        let count = |table: Table| Count {
            kind: table.name(),
            count: self.programmed.as_ref().map_or(0, |desired| desired.rules(table)),
            written: written.rules.get(&table).copied().unwrap_or_default(),
        };
        let refused = refused.into_iter();
        Report {
            operations: written.operations,
            observed,
            refused: refused.map(|(service, reason)| RefusedService { service, reason }).collect(),
            owned: [Table::Filter, Table::Nat].map(count).to_vec(),
            ..Report::default()
        }
    }
}

fn without<'a>(
    table: &ForwardingTable,
    out: impl Iterator<Item = &'a ServiceName>,
) -> ForwardingTable {
    let out: BTreeSet<&ServiceName> = out.collect();
    let mut table = table.clone();
    table.services.retain(|name, _| !out.contains(name));
    table
}

impl<T: Tables> Backend for Iptables<T> {
    fn sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, SyncError> {
        let family = table.family;
        self.converge(table, scope).map_err(|error| {
            self.programmed = None;
            SyncError { backend: "iptables", family, reason: error.to_string() }
        })
    }
}
