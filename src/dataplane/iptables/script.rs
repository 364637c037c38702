//! The input of `iptables-restore`: only changed chains, each written as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::line::{Diff, Line};
use super::names::ChainId;
use sluice_core::model::ServiceName;
use sluice_kernel::xtables::{Table, XtablesError};

/// A line of a script that is about a built-in chain, where others have rules too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HookChange {
    pub(super) table: Table,
    pub(super) text: String,
}

/// Input of `iptables-restore --noflush`.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) text: String,
    /// The Service of each line.
    owners: Vec<Option<ServiceName>>,
    /// What it writes.
    pub(super) written: Written,
}

/// What scripts write.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// How many chains and rules they write or delete.
    pub(super) operations: usize,
    /// How many rules they write into each table.
    pub(super) rules: BTreeMap<Table, usize>,
}

impl Written {
    /// Merges the effect of another script.
    pub(super) fn add(&mut self, more: Written) {
        self.operations += more.operations;
        for (table, rules) in more.rules {
            *self.rules.entry(table).or_default() += rules;
        }
    }
}

/// The Services because of which a script was not applied, and the error.
#[derive(Debug)]
pub(super) enum Blame {
    /// This Service's: a line of it was refused.
    Service(ServiceName, XtablesError),
    /// Perhaps one of these: no line was named, or `COMMIT`.
    OneOf(BTreeSet<ServiceName>, XtablesError),
    /// The programs could not be used.
    Nobody(XtablesError),
}

impl Blame {
    fn of_one(suspects: BTreeSet<ServiceName>, error: XtablesError) -> Blame {
        if suspects.is_empty() { Blame::Nobody(error) } else { Blame::OneOf(suspects, error) }
    }
}

impl Script {
    pub(super) fn new(diff: &Diff, hooks: &[HookChange]) -> Script {
        let mut script = Script::default();
        for table in Table::ALL {
            let chains = || diff.iter().filter(move |(id, _)| id.table == table);
            let hooks = || hooks.iter().filter(move |hook| hook.table == table);
            if chains().next().is_none() && hooks().next().is_none() {
                continue;
            }
            script.line(format_args!("*{table}"), None);
            // Naming a chain empties it, so that all of them can be written or deleted afterwards.
            for (id, _) in chains() {
                script.change(format_args!(":{} - [0:0]", id.name), None);
            }
            for hook in hooks() {
                script.change(format_args!("{}", hook.text), None);
            }
            for (id, lines) in chains() {
                for line in lines.iter().flatten() {
                    script.rule(id, line);
                }
            }
            for (id, _) in chains().filter(|(_, lines)| lines.is_none()) {
                script.change(format_args!("-X {}", id.name), None);
            }
            script.line(format_args!("COMMIT"), None);
        }
        script
    }

    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The Services because of which this script was not applied. If only some have changed, it is one of
    /// these, though a chain that leads to many others may have been written.
    pub(super) fn blame(
        &self,
        error: XtablesError,
        changed: Option<&BTreeSet<ServiceName>>,
    ) -> Blame {
        let suspect = |name: &&ServiceName| changed.is_none_or(|changed| changed.contains(*name));
        let suspects = || self.owners.iter().flatten().filter(suspect).cloned().collect();
        match error {
            XtablesError::Refused { program, line, message } => {
                let (text, owner) = self.at(line);
                let message = format!("{message} ({text})");
                let error = XtablesError::Refused { program, line, message };
                match owner {
                    Some(owner) => Blame::Service(owner.clone(), error),
                    None => Blame::of_one(suspects(), error),
                }
            }
            XtablesError::Failed { .. } => Blame::of_one(suspects(), error),
            error => Blame::Nobody(error),
        }
    }

    /// The Services that it has lines for.
    pub(super) fn services(&self) -> BTreeSet<ServiceName> {
        self.owners.iter().flatten().cloned().collect()
    }

    /// A line by its number, from 1, with the Service that it is for.
    fn at(&self, number: usize) -> (&str, Option<&ServiceName>) {
        let Some(index) = number.checked_sub(1) else { return ("", None) };
        let owner = self.owners.get(index).and_then(Option::as_ref);
        (self.text.lines().nth(index).unwrap_or_default(), owner)
    }

    fn rule(&mut self, id: &ChainId, line: &Line) {
        *self.written.rules.entry(id.table).or_default() += 1;
        self.change(format_args!("-A {} {}", id.name, line.text), line.owner.clone());
    }

    fn change(&mut self, text: std::fmt::Arguments<'_>, owner: Option<ServiceName>) {
        self.written.operations += 1;
        self.line(text, owner);
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>, owner: Option<ServiceName>) {
        use std::fmt::Write as _;
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{text}");
        self.owners.push(owner);
    }
}
