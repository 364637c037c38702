//! The iptables mode: kube-proxy's chains, with fewer rules and without a walk past all Services.
//!
//! Reading order: [`names`] has the chains, [`rule`] the words of rules, [`service`] writes one
//! Service's plan down, [`dispatch`] leads packets to it, [`base`] is what holds it all, [`desired`]
//! keeps it up to date, [`observed`] compares it with the kernel, [`script`] is what is applied,
//! [`isolation`] finds out which Service the kernel refuses, [`extensions`] what rules have to do without.
//! `docs/modes/iptables.md` explains the shape.

#[cfg(test)]
mod around_tests;
mod base;
mod desired;
mod dispatch;
mod extensions;
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

use self::base::Hook;
use self::desired::Desired;
use self::extensions::{Extension, Lacking};
use self::line::Line;
use self::names::ChainId;
pub(super) use self::names::is_of_proxy;
use self::observed::Observed;
use self::rule::Rule;
use self::script::{Blame, Script, Written};
use super::{Backend, Count, Observation, RefusedService, Report, Scope, SyncError};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_kernel::xtables::{self, ChainGraph, Table, Xtables, XtablesError};
use sluice_telemetry::trace;

/// How many scripts are tried, each without the Service whose line was refused in the one before.
const ROUNDS: usize = 16;

/// In how many looks everything is looked at that is, beside the complete comparison.
const TURNS: usize = Table::ALL.len();

/// Every so many changes one of them looks, too, although no check came between.
const UNLOOKED: usize = 3;

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

/// What all rules are written by.
#[derive(Debug, Clone, Copy)]
struct Form {
    layout: Layout,
    localhost_node_ports: LocalhostNodePorts,
    out_of_window: OutOfWindow,
    lacking: Lacking,
}

impl Form {
    fn new(options: Options, lacking: Lacking) -> Form {
        let Options { mut layout, localhost_node_ports, out_of_window } = options;
        if lacking.has(Extension::Bpf) {
            layout = Layout::Classic;
        }
        Form { layout, localhost_node_ports, out_of_window, lacking }
    }

    /// The line of a rule; none if it says nothing without what is lacking.
    fn line(self, rule: &Rule) -> Option<Line> {
        self.lacking.adapt(rule).map(|rule| Line::of(&rule))
    }

    /// The line of a rule that is for a Service.
    fn owned_line(self, rule: &Rule, owner: &ServiceName) -> Option<Line> {
        self.lacking.adapt(rule).map(|rule| Line::owned(&rule, owner))
    }
}

/// What this mode needs of iptables: its programs, or in tests a model of them that fails on demand.
pub trait Tables: Send {
    /// The rules of a table in the form of `iptables-save`.
    ///
    /// # Errors
    /// If they cannot be read; [`XtablesError::Incompatible`] if only their chain graph can.
    fn save(&mut self, table: Table) -> Result<String, XtablesError>;
    /// What can be told of a table whose rules cannot be read.
    ///
    /// # Errors
    /// If nothing can be told.
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

impl Tables for Xtables {
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

/// The iptables mode for one IP family.
#[derive(Debug)]
pub struct Iptables<T = Xtables> {
    tables: T,
    options: Options,
    /// What the kernel has, as far as we wrote or read it; `None` makes the next sync look.
    programmed: Option<Desired>,
    /// `route_localnet` was asked for since the kernel was last read.
    localnet: bool,
    /// Extensions that cannot be used; known once something has been refused.
    lacking: Option<Lacking>,
    /// Tables that cannot be read.
    unreadable: BTreeSet<Table>,
    /// How often it was looked whether somebody else changed something, and how many changes were
    /// applied since.
    looks: usize,
    unlooked: usize,
}

impl<T: Tables> Iptables<T> {
    /// The mode, on these tables.
    pub fn new(tables: T, options: Options) -> Iptables<T> {
        Iptables {
            tables,
            options,
            programmed: None,
            localnet: false,
            lacking: None,
            unreadable: BTreeSet::new(),
            looks: 0,
            unlooked: 0,
        }
    }

    fn form(&self) -> Form {
        Form::new(self.options, self.lacking.unwrap_or_default())
    }

    /// Whether what is looked at this time is as we left it. In [`TURNS`] looks every canary and every
    /// built-in chain with a jump of ours is looked at once; one look is for a chain of each table, so that
    /// a flush of any table is seen at once.
    fn untouched(&mut self, family: Family) -> Result<bool, XtablesError> {
        let turn = self.looks % TURNS;
        self.looks = self.looks.wrapping_add(1);
        let canary = Table::ALL[turn];
        let lines = self.programmed.as_ref().and_then(|desired| desired.canary(canary));
        let wanted: Vec<String> =
            lines.into_iter().flatten().map(|line| line.text.to_string()).collect();
        let Some(found) = self.tables.chain(canary, names::CANARY)? else { return Ok(false) };
        if observed::rules(&found) != wanted {
            return Ok(false);
        }
        let hooks = base::hooks(family, self.form());
        let mut seen = Observed::default();
        for table in [Table::Filter, Table::Nat] {
            let of_table = hooks.iter().map(|hook| &hook.at).filter(|at| at.table == table);
            let chains: Vec<&ChainId> = of_table.collect::<BTreeSet<_>>().into_iter().collect();
            let Some(at) = chains.get(turn % chains.len().max(1)) else { continue };
            // A chain that cannot be printed is looked at when everything is compared.
            if let Some(found) = self.tables.chain(table, &at.name)? {
                seen.read(table, &found);
                let here: Vec<Hook> =
                    hooks.iter().filter(|hook| hook.at == **at).cloned().collect();
                if !seen.hook_changes(&here).is_empty() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reads the tables and says what must change.
    fn compare(&mut self, table: &ForwardingTable) -> Result<(Desired, Script), XtablesError> {
        let mut observed = Observed::default();
        for table in Table::ALL {
            match self.tables.save(table) {
                Ok(saved) => {
                    observed.read(table, &saved);
                    self.unreadable.remove(&table);
                }
                Err(error @ XtablesError::Incompatible { .. }) => {
                    observed.chain_graph(table, &self.tables.chain_graph(table)?);
                    if self.unreadable.insert(table) {
                        tracing::warn!(
                            "{error}; our chains are written without being compared. Put that rule into a \
                             table of its own"
                        );
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let form = self.form();
        let desired = Desired::new(table, form);
        let delta = observed.difference(&desired.chains());
        let hooks = observed.hook_changes(&base::hooks(table.family, form));
        Ok((desired, Script::new(&delta, &hooks)))
    }

    /// Finds out which extensions cannot be used, the first time that something is refused; whether that
    /// explains it.
    ///
    /// # Errors
    /// If nothing works without one of them, or the programs cannot be used.
    fn finds_lacking(
        &mut self,
        family: Family,
        error: &XtablesError,
    ) -> Result<bool, XtablesError> {
        let refused = matches!(error, XtablesError::Refused { .. } | XtablesError::Failed { .. });
        if self.lacking.is_some() || !refused {
            return Ok(false);
        }
        let lacking = self.probe(family)?;
        let (optional, needed): (Vec<Extension>, Vec<Extension>) =
            lacking.iter().partition(|extension| extension.without().is_some());
        if !needed.is_empty() {
            let what: Vec<&str> = needed.into_iter().map(Extension::name).collect();
            return Err(XtablesError::Lacking { what: what.join(", ") });
        }
        for extension in &optional {
            let (name, without) = (extension.name(), extension.without().unwrap_or_default());
            tracing::warn!(%family, "the kernel or the package iptables lacks {name}; {without}");
        }
        self.lacking = Some(lacking);
        Ok(!optional.is_empty())
    }

    fn probe(&mut self, family: Family) -> Result<Lacking, XtablesError> {
        let all = Extension::ALL.map(|extension| extension.probe(family));
        // What fails without any of them is not their fault.
        self.tables.restore(&extensions::probe(&[]))?;
        let mut lacking = Lacking::default();
        if self.takes(&all)? {
            self.tables.restore(&extensions::end_of_probe())?;
            return Ok(lacking);
        }
        for (extension, rule) in Extension::ALL.into_iter().zip(all) {
            if !self.takes(&[rule])? {
                lacking.add(extension);
            }
        }
        self.tables.restore(&extensions::end_of_probe())?;
        Ok(lacking)
    }

    fn takes(&mut self, rules: &[(Table, Rule)]) -> Result<bool, XtablesError> {
        match self.tables.restore(&extensions::probe(rules)) {
            Ok(()) => Ok(true),
            Err(XtablesError::Refused { .. } | XtablesError::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
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

    fn observation(&mut self, family: Family, scope: &Scope) -> Result<Observation, XtablesError> {
        if self.programmed.is_none() || scope.full {
            return Ok(Observation::Asked);
        }
        // A change is not kept waiting for three programs; the next check is near, unless changes never end.
        self.unlooked = if scope.services.is_empty() { UNLOOKED } else { self.unlooked + 1 };
        if self.unlooked < UNLOOKED {
            return Ok(Observation::None);
        }
        self.unlooked = 0;
        Ok(if self.untouched(family)? { Observation::None } else { Observation::Drift })
    }

    /// Lets connections to node ports on localhost leave this node; before the rules, which also keep
    /// others from it.
    fn route_localnet(&mut self, table: &ForwardingTable) {
        let wanted = base::opens_localhost(&table.host, table.family, self.form());
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
        let observed = self.observation(table.family, scope)?;
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
            if self.finds_lacking(table.family, &error)? {
                continue;
            }
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
