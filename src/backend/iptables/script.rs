//! What `iptables-restore` reads: only chains that change, each written as a whole.

use std::collections::BTreeMap;

use super::desired::Delta;
use super::line::Line;
use super::names::ChainId;
use crate::kernel::xtables::Table;
use crate::model::ServiceName;

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
    /// How many chains and rules it writes or deletes.
    pub(super) operations: usize,
    /// How many rules it writes into each table.
    pub(super) rules: BTreeMap<Table, usize>,
}

impl Script {
    pub(super) fn new(delta: &Delta, hooks: &[HookChange]) -> Script {
        let mut script = Script::default();
        for table in Table::ALL {
            let chains = || delta.iter().filter(move |(id, _)| id.table == table);
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

    /// A line by its number, from 1, with the Service that it is for.
    pub(super) fn at(&self, number: usize) -> (&str, Option<&ServiceName>) {
        let Some(index) = number.checked_sub(1) else { return ("", None) };
        let owner = self.owners.get(index).and_then(Option::as_ref);
        (self.text.lines().nth(index).unwrap_or_default(), owner)
    }

    fn rule(&mut self, id: &ChainId, line: &Line) {
        *self.rules.entry(id.table).or_default() += 1;
        self.change(format_args!("-A {} {}", id.name, line.text), line.owner.clone());
    }

    fn change(&mut self, text: std::fmt::Arguments<'_>, owner: Option<ServiceName>) {
        self.operations += 1;
        self.line(text, owner);
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>, owner: Option<ServiceName>) {
        use std::fmt::Write as _;
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{text}");
        self.owners.push(owner);
    }
}
