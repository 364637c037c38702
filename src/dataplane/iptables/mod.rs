//! The iptables mode: kube-proxy's chains, with fewer rules and without traversing all Services.
//!
//! Reading order: [`names`] has the chains, [`rule`] the words of rules, [`service`] writes one
//! Service's plan down, [`dispatch`] leads packets to it through a [`tree`], [`base`] is what holds it all, [`form`] what all
//! rules are written by. [`desired`] and [`observed`] are what
//! [these words](crate::service_table#what-is-what-should-be-and-the-difference) say; both give a diff, and
//! [`script`] is the diff as the programs read it. [`isolation`] finds out which Service the kernel refuses,
//! [`extensions`] what rules have to do without, [`programs`] are iptables'.
//! `docs/modes/iptables.md` explains the shape.

#[cfg(test)]
mod around_tests;
mod base;
mod desired;
mod dispatch;
mod extensions;
mod form;
mod inspect;
mod isolation;
mod line;
mod names;
mod observed;
mod operations;
mod packet_path;
mod programs;
mod rule;
mod saved;
mod script;
mod service;
#[cfg(test)]
mod strict_programs;
#[cfg(test)]
mod tests;
mod tree;
#[cfg(test)]
mod tree_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use self::base::Hook;
use self::desired::Desired;
use self::extensions::{Extension, Lacking};
use self::form::Form;
pub use self::form::{Layout, LocalhostNodePorts, Options, OutOfWindow};
pub use self::inspect::Inspector;
use self::isolation::{Attempt, isolate};
use self::names::ChainId;
pub use self::names::is_of_proxy;
use self::observed::Observed;
pub use self::operations::operations;
pub use self::packet_path::path;
pub use self::programs::Programs;
use self::rule::Rule;
pub use self::saved::saved;
use self::script::{Blame, Script, Written};
use crate::{Backend, Count, Observation, RefusedService, Report, Scope, SyncError};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_kernel::xtables::{Table, Xtables, XtablesError};
use sluice_telemetry::trace;

/// How many scripts are tried, each without the Service whose line was refused in the one before.
const ROUNDS: usize = 16;

/// Every so many changes one of them checks for changes by other programs, too, although no check came between.
const UNLOOKED: usize = 3;

/// The iptables mode for one IP family.
#[derive(Debug)]
pub struct Iptables<T = Xtables> {
    programs: T,
    options: Options,
    /// The objects that the kernel has, as last written or read; `None` makes the next sync read them.
    applied: Option<Desired>,
    /// `route_localnet` was set since the kernel was last read.
    localnet: bool,
    /// Extensions that cannot be used; known once something has been refused.
    lacking: Arc<OnceLock<Lacking>>,
    /// Tables that cannot be read.
    unreadable: BTreeSet<Table>,
    /// The number of changes applied since the last check for changes by other programs.
    unlooked: usize,
}

impl<T: Programs> Iptables<T> {
    /// The mode, with these programs.
    pub fn new(programs: T, options: Options) -> Iptables<T> {
        Iptables {
            programs,
            options,
            applied: None,
            localnet: false,
            lacking: Arc::default(),
            unreadable: BTreeSet::new(),
            unlooked: 0,
        }
    }

    /// Who looks at the tables that this mode writes.
    pub fn inspector(&self) -> Inspector<T>
    where
        T: Clone,
    {
        Inspector::new(self.programs.clone(), self.options, Arc::clone(&self.lacking))
    }

    fn form(&self) -> Form {
        Form::new(self.options, self.lacking.get().copied().unwrap_or_default())
    }

    /// Whether the canaries are as we left them, and the built-in chains have the jumps: a table that was flushed
    /// or that older rules were restored into is noticed, and a jump that is gone.
    fn untouched(&mut self, family: Family) -> Result<bool, XtablesError> {
        let hooks = base::hooks(family, self.form());
        let canaries = Table::ALL.map(|table| ChainId::new(table, names::CANARY));
        let all: BTreeSet<&ChainId> =
            canaries.iter().chain(hooks.iter().map(|hook| &hook.at)).collect();
        let asked: Vec<(Table, &str)> = all.iter().map(|id| (id.table, &*id.name)).collect();
        let found = self.programs.chains(&asked)?;
        let found: BTreeMap<&ChainId, String> =
            all.iter().zip(found).filter_map(|(id, rules)| Some((*id, rules?))).collect();
        let same = |canary: &ChainId| {
            let wanted = self.applied.as_ref().and_then(|desired| desired.canary(canary.table));
            let wanted = wanted.into_iter().flatten().map(|line| &*line.text);
            found.get(canary).is_some_and(|rules| observed::rules(rules).eq(wanted))
        };
        if !canaries.iter().all(same) {
            return Ok(false);
        }
        // A chain that cannot be printed is checked by the full comparison.
        let here: Vec<Hook> =
            hooks.iter().filter(|hook| found.contains_key(&hook.at)).cloned().collect();
        let mut seen = Observed::default();
        found.iter().for_each(|(id, rules)| seen.read(id.table, rules));
        Ok(seen.hook_changes(&here).is_empty())
    }

    /// Reads the tables and returns what must change.
    fn compare(&mut self, table: &ForwardingTable) -> Result<(Desired, Script), XtablesError> {
        let mut observed = Observed::default();
        for table in Table::ALL {
            match self.programs.save(table) {
                Ok(saved) => {
                    observed.read(table, &saved);
                    self.unreadable.remove(&table);
                }
                Err(error @ XtablesError::Incompatible { .. }) => {
                    observed.chain_graph(table, &self.programs.chain_graph(table)?);
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
        let diff = observed.difference(&desired.chains());
        let hooks = observed.hook_changes(&base::hooks(table.family, form));
        Ok((desired, Script::new(&diff, &hooks)))
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
        if self.lacking.get().is_some() || !refused {
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
        // Nobody else sets it.
        let _ = self.lacking.set(lacking);
        Ok(!optional.is_empty())
    }

    fn probe(&mut self, family: Family) -> Result<Lacking, XtablesError> {
        let all = Extension::ALL.map(|extension| extension.probe(family));
        // What fails without any of them is not their fault.
        self.programs.restore(&extensions::probe(&[]))?;
        let mut lacking = Lacking::default();
        if self.takes(&all)? {
            self.programs.restore(&extensions::end_of_probe())?;
            return Ok(lacking);
        }
        for (extension, rule) in Extension::ALL.into_iter().zip(all) {
            if !self.takes(&[rule])? {
                lacking.add(extension);
            }
        }
        self.programs.restore(&extensions::end_of_probe())?;
        Ok(lacking)
    }

    fn takes(&mut self, rules: &[(Table, Rule)]) -> Result<bool, XtablesError> {
        match self.programs.restore(&extensions::probe(rules)) {
            Ok(()) => Ok(true),
            Err(XtablesError::Refused { .. } | XtablesError::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One run of iptables-restore, until it has ended.
    fn restore(&mut self, script: &Script) -> Result<(), XtablesError> {
        let _span = trace::step("kernel transaction");
        trace::note("operations", || script.written.operations.to_string());
        let result = self.programs.restore(&script.text);
        trace::note("answer", || match &result {
            Ok(()) => "acknowledged".to_owned(),
            Err(error) => error.to_string(),
        });
        result
    }

    fn observation(&mut self, family: Family, scope: &Scope) -> Result<Observation, XtablesError> {
        if self.applied.is_none() || scope.full {
            return Ok(Observation::Asked);
        }
        // A change is not kept waiting for that; the next check is near, unless changes never end.
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
        if let Err(error) = self.programs.route_localnet() {
            tracing::warn!(
                %error,
                "node ports are not open on 127.0.0.1: cannot write net.ipv4.conf.all.route_localnet"
            );
        }
    }

    /// Makes the tables match; Services whose rules are refused are left out.
    fn converge(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, XtablesError> {
        let observed = self.observation(table.family, scope)?;
        let mut refused: BTreeMap<ServiceName, String> = BTreeMap::new();
        let mut applied = self.applied.take().filter(|_| observed == Observation::None);
        self.localnet &= applied.is_some();
        self.route_localnet(table);
        let mut rounds = 0;
        loop {
            rounds += 1;
            let changed = applied.is_some().then_some(&scope.services);
            let (desired, script) = {
                let _span = trace::step("diff");
                match applied.take() {
                    Some(mut desired) => {
                        let diff = desired.update(table, &scope.services);
                        (desired, Script::new(&diff, &[]))
                    }
                    None => self.compare(&without(table, refused.keys()))?,
                }
            };
            let result = if script.is_empty() { Ok(()) } else { self.restore(&script) };
            let Err(error) = result else {
                self.applied = Some(desired);
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
            let attempt = |out: Vec<&ServiceName>| self.attempt(table, out);
            let written = isolate(attempt, &mut refused, suspects, &error)?;
            return Ok(self.report(written, observed, refused));
        }
    }

    /// Makes the tables match, but for these Services.
    fn attempt(
        &mut self,
        table: &ForwardingTable,
        out: Vec<&ServiceName>,
    ) -> Result<Attempt, XtablesError> {
        let (desired, script) = self.compare(&without(table, out.into_iter()))?;
        if !script.is_empty()
            && let Err(error) = self.programs.restore(&script.text)
        {
            return Ok(Attempt::Failed(script.blame(error, None)));
        }
        self.applied = Some(desired);
        Ok(Attempt::Applied(script.written))
    }

    fn report(
        &self,
        written: Written,
        observed: Observation,
        refused: BTreeMap<ServiceName, String>,
    ) -> Report {
        // The number of rules in the tables that handle traffic, and how many were written.
        let count = |table: Table| Count {
            kind: table.name(),
            count: self.applied.as_ref().map_or(0, |desired| desired.rules(table)),
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

impl<T: Programs> Backend for Iptables<T> {
    fn sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, SyncError> {
        let family = table.family;
        self.converge(table, scope).map_err(|error| {
            self.applied = None;
            SyncError { backend: "iptables", family, reason: error.to_string() }
        })
    }
}
