//! A strict model of the iptables programs, for tests: it refuses what they would refuse.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::extensions::PROBE;
use super::programs::Programs;
use sluice_kernel::xtables::{ChainGraph, Table, XtablesError};

/// Tables as the programs keep them.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) chains: BTreeMap<Table, BTreeMap<String, Vec<String>>>,
    /// Rules with these words are refused.
    pub(super) refuses: Vec<&'static str>,
    /// Rules with these words are refused at `COMMIT`.
    pub(super) refuses_at_commit: Vec<&'static str>,
    /// How many scripts were tried.
    pub(super) restores: usize,
    /// Another program holds the lock.
    pub(super) locked: bool,
    /// What was applied last.
    pub(super) script: String,
    pub(super) saves: usize,
    /// How often `route_localnet` was set.
    pub(super) localnet: usize,
    /// How often chains were checked.
    pub(super) looks: usize,
    /// Tables with a native rule of another program, and the chain of that rule.
    pub(super) incompatible: BTreeMap<Table, &'static str>,
}

pub(super) const BUILTIN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

fn refused(line: usize, message: impl Into<String>) -> XtablesError {
    XtablesError::Refused { program: "model".to_owned(), line, message: message.into() }
}

impl Model {
    pub(super) fn table(&mut self, table: Table) -> &mut BTreeMap<String, Vec<String>> {
        let builtin = || BUILTIN.map(|chain| (chain.to_owned(), Vec::new())).into();
        self.chains.entry(table).or_insert_with(builtin)
    }

    fn line(&mut self, table: Table, text: &str) -> Result<(), String> {
        if let Some(word) = self.refuses.iter().find(|word| text.contains(**word)) {
            return Err(format!("no {word} here"));
        }
        let chains = self.table(table);
        if let Some(declared) = text.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if name.len() > 28 {
                return Err(format!("{name} is too long"));
            }
            chains.insert(name.to_owned(), Vec::new());
            return Ok(());
        }
        let mut words = text.splitn(3, ' ');
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        let target = rest.rfind("-j ").map(|at| rest[at + 3..].split(' ').next().unwrap_or(""));
        if let Some(target) = target.filter(|target| target.starts_with("KUBE-"))
            && !chains.contains_key(target)
        {
            return Err(format!("there is no chain {target}"));
        }
        if verb == "-X" {
            let jump = format!("-j {name}");
            if chains.values().flatten().any(|rule| rule.ends_with(&jump)) {
                return Err(format!("{name} is in use"));
            }
            return match chains.remove(name) {
                Some(rules) if rules.is_empty() => Ok(()),
                Some(_) => Err(format!("{name} is not empty")),
                None => Err(format!("there is no chain {name}")),
            };
        }
        let Some(rules) = chains.get_mut(name) else {
            return Err(format!("there is no chain {name}"));
        };
        match verb {
            "-A" => rules.push(rest.to_owned()),
            "-I" => {
                let rest = rest.strip_prefix("1 ").ok_or("a position is missing")?;
                rules.insert(0, rest.to_owned());
            }
            "-D" => {
                let at = rules.iter().position(|rule| rule == rest);
                rules.remove(at.ok_or_else(|| format!("no such rule in {name}"))?);
            }
            other => return Err(format!("what is {other}?")),
        }
        Ok(())
    }

    pub(super) fn rules(&self) -> usize {
        self.chains.values().flat_map(|chains| chains.values()).map(Vec::len).sum()
    }
}

impl Programs for Model {
    fn save(&mut self, table: Table) -> Result<String, XtablesError> {
        self.saves += 1;
        if self.incompatible.contains_key(&table) {
            return Err(XtablesError::Incompatible { program: "model".to_owned(), table });
        }
        let chains = self.table(table);
        let declared = chains.keys().map(|name| format!(":{name} - [0:0]\n"));
        let rules = chains
            .iter()
            .flat_map(|(name, rules)| rules.iter().map(move |rule| format!("-A {name} {rule}\n")));
        let text: String = declared.chain(rules).collect();
        Ok(format!("# comment\n*{table}\n{text}COMMIT\n"))
    }

    fn chain_graph(&mut self, table: Table) -> Result<ChainGraph, XtablesError> {
        let native = self.incompatible.get(&table).copied();
        let mut chain_graph = ChainGraph::default();
        for (name, rules) in self.table(table).clone() {
            let at: Arc<str> = name.as_str().into();
            let target = |rule: &String| Some(rule.rsplit_once("-j ")?.1.split(' ').next()?.into());
            let jumps = rules.iter().filter_map(target).map(|to| (Arc::clone(&at), to));
            chain_graph.jumps.extend(jumps);
            if BUILTIN.contains(&name.as_str()) {
                let rules = rules.iter().map(|rule| format!("-A {name} {rule}\n")).collect();
                chain_graph.hooked.insert(at, Some(rules).filter(|_| native != Some(&*name)));
            } else {
                chain_graph.regular.insert(at);
            }
        }
        Ok(chain_graph)
    }

    fn restore(&mut self, script: &str) -> Result<(), XtablesError> {
        if self.locked {
            return Err(XtablesError::Locked { program: "model".to_owned() });
        }
        self.restores += usize::from(!script.contains(PROBE));
        let mut tried = self.clone();
        let mut current = None;
        for (number, line) in (1..).zip(script.lines()) {
            if let Some(name) = line.strip_prefix('*') {
                current = Table::ALL.into_iter().find(|table| table.to_string() == name);
            } else if line == "COMMIT" {
                let rules = || tried.chains.values().flat_map(|chains| chains.values()).flatten();
                let bad = |rule: &String| self.refuses_at_commit.iter().any(|w| rule.contains(w));
                if rules().any(bad) {
                    return Err(refused(number, "invalid argument"));
                }
                *self = tried.clone();
            } else {
                let table = current.ok_or_else(|| refused(number, "no table"))?;
                tried.line(table, line).map_err(|message| refused(number, message))?;
            }
        }
        self.script = script.to_owned();
        Ok(())
    }

    fn chains(&mut self, asked: &[(Table, &str)]) -> Result<Vec<Option<String>>, XtablesError> {
        self.looks += 1;
        let mut one = |(table, chain): &(Table, &str)| {
            if self.incompatible.get(table) == Some(chain) {
                return None;
            }
            let rules = self.table(*table).get(*chain).cloned();
            let line = |rule: String| format!("-A {chain} {rule}\n");
            rules.map(|rules| rules.into_iter().map(line).collect())
        };
        Ok(asked.iter().map(&mut one).collect())
    }

    fn route_localnet(&mut self) -> std::io::Result<()> {
        self.localnet += 1;
        Ok(())
    }
}
