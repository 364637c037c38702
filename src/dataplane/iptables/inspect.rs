//! What the kernel has of one Service in the tables of iptables: its chains, the rules by which packets find them, and
//! the jumps from built-in chains. The tables are read as a whole, because `iptables-save` prints nothing less.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use super::base::{self, Hook};
use super::dispatch::{Dispatch, Entry, Key};
use super::extensions::Lacking;
use super::form::{Form, Options};
use super::line::Chains;
use super::names::{self, ChainId};
use super::observed::{Observed, target};
use super::packet_path;
use super::programs::Programs;
use super::service::{Common, Rendered, render};
use crate::inspection::{Found, Inspection};
use sluice_core::model::ServiceName;
use sluice_core::net::Protocol;
use sluice_core::plan::{Address, ForwardingTable, Frontend, Hit, Masquerade};
use sluice_kernel::xtables::{Table, Xtables, XtablesError};

/// Looks at the tables of one family. Shares with the mode what its rules have to do without.
#[derive(Debug, Clone)]
pub struct Inspector<T = Xtables> {
    programs: T,
    options: Options,
    lacking: Arc<OnceLock<Lacking>>,
}

/// What is to be there of what is asked for.
struct Wanted {
    chains: Chains,
    entries: Vec<(Dispatch, Entry)>,
    hooks: Vec<Hook>,
    /// Rules after those of Services in the chain that a dispatch begins with.
    last: Chains,
}

impl<T: Programs> Inspector<T> {
    pub(super) fn new(
        programs: T,
        options: Options,
        lacking: Arc<OnceLock<Lacking>>,
    ) -> Inspector<T> {
        Inspector { programs, options, lacking }
    }

    /// Looks without the mode that writes the tables: nothing is missing to it.
    pub fn alone(programs: T, options: Options) -> Inspector<T> {
        Inspector::new(programs, options, Arc::default())
    }

    /// What the kernel has of a Service, or of a packet's way to it. `table` need have no other Service.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub fn inspect(
        &mut self,
        table: &ForwardingTable,
        name: &ServiceName,
        hit: Option<&Hit<'_>>,
    ) -> Result<Inspection, XtablesError> {
        let form = Form::new(self.options, self.lacking.get().copied().unwrap_or_default());
        let Some(plan) = table.services.get(name) else { return Ok(Inspection::default()) };
        let rendered = render(Common { family: table.family, host: &table.host, form }, name, plan);
        let wanted = match hit {
            None => whole(table, form, rendered),
            Some(hit) => met(table, form, rendered, hit),
        };
        let mut observed = Observed::default();
        for table in wanted.tables() {
            observed.read(table, &self.programs.save(table)?);
        }
        Ok(wanted.compare(&observed))
    }
}

/// All of a Service, and what all Services share.
fn whole(table: &ForwardingTable, form: Form, rendered: Rendered) -> Wanted {
    let base = base::chains(table, form);
    let roots: BTreeSet<ChainId> = Dispatch::ALL.map(Dispatch::root).into();
    let health_checks = ChainId::new(Table::Filter, names::NODE_PORTS);
    let (last, mut chains): (Chains, Chains) =
        base.into_iter().partition(|(id, _)| roots.contains(id));
    // It has rules of other Services.
    chains.remove(&health_checks);
    chains.extend(rendered.chains);
    Wanted { chains, entries: rendered.entries, hooks: base::hooks(table.family, form), last }
}

/// What a packet meets.
fn met(table: &ForwardingTable, form: Form, rendered: Rendered, hit: &Hit<'_>) -> Wanted {
    let steps: BTreeSet<String> = packet_path::path(hit).steps.into_iter().collect();
    let forwarded = hit.is_forwarded();
    let is_nat = |table: Table| (table == Table::Nat) == forwarded;
    let mut entries = rendered.entries;
    entries.retain(|(dispatch, entry)| is_nat(dispatch.table()) && is_for(hit.frontend, entry));
    let whole = whole(table, form, Rendered { chains: rendered.chains, entries: Vec::new() });
    let mut hooks = whole.hooks;
    hooks.retain(|hook| {
        let to = steps.contains(&*hook.to) || leads_on(&hook.to, &steps);
        is_nat(hook.at.table) && steps.contains(&*hook.at.name) && to
    });
    let mut last = whole.last;
    let node_port = matches!(hit.frontend.at, Address::NodePort { .. });
    last.retain(|id, _| node_port && is_nat(id.table) && *id.name == *names::SERVICES && forwarded);
    let mut chains = closure(&whole.chains, &entries);
    if forwarded && hit.route.masquerade == Masquerade::Yes {
        let id = ChainId::new(Table::Nat, names::POSTROUTING);
        chains
            .extend(whole.chains.get_key_value(&id).map(|(id, lines)| (id.clone(), lines.clone())));
    }
    Wanted { chains, entries, hooks, last }
}

/// In OUTPUT and FORWARD, external addresses are found through KUBE-SERVICES.
fn leads_on(to: &str, steps: &BTreeSet<String>) -> bool {
    to == names::SERVICES && steps.contains(names::EXTERNAL) && !steps.contains("INPUT")
}

/// Whether a rule of a dispatch is for a frontend.
fn is_for(frontend: &Frontend, entry: &Entry) -> bool {
    let (key, protocol, port) = match frontend.at {
        Address::Vip { ip, protocol, port } => (Key::of(ip), protocol, port),
        Address::NodePort { protocol, port } => (Key::Port(protocol, port), protocol, port),
    };
    let words: Vec<&str> = entry.line.text.split(' ').collect();
    let has = |flag: &str, value: &str| words.windows(2).any(|pair| pair == [flag, value]);
    let name = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    entry.key == key && has("-p", name) && has("--dport", &port.to_string())
}

/// The chains that rules lead to.
fn closure(chains: &Chains, entries: &[(Dispatch, Entry)]) -> Chains {
    let mut found = Chains::new();
    let start = entries.iter().filter_map(|(dispatch, entry)| {
        Some(ChainId::new(dispatch.table(), target(&entry.line.text)?))
    });
    let mut next: Vec<ChainId> = start.collect();
    while let Some(id) = next.pop() {
        let Some(lines) = chains.get(&id).filter(|_| !found.contains_key(&id)) else { continue };
        let targets = lines.iter().filter_map(|line| target(&line.text));
        next.extend(targets.map(|name| ChainId::new(id.table, name)));
        found.insert(id, lines.clone());
    }
    found
}

impl Wanted {
    fn tables(&self) -> BTreeSet<Table> {
        let chains = self.chains.keys().map(|id| id.table);
        let hooks = self.hooks.iter().map(|hook| hook.at.table);
        let entries = self.entries.iter().map(|(dispatch, _)| dispatch.table());
        chains.chain(hooks).chain(entries).filter(|table| *table != Table::Mangle).collect()
    }

    fn compare(&self, observed: &Observed) -> Inspection {
        let mut out = Inspection::default();
        for hook in &self.hooks {
            line(observed, &hook.at, &hook.line.text, &mut out);
        }
        for (id, lines) in &self.last {
            lines.iter().for_each(|wanted| line(observed, id, &wanted.text, &mut out));
        }
        for (dispatch, entry) in &self.entries {
            self.entry(*dispatch, entry, observed, &mut out);
        }
        for (id, lines) in &self.chains {
            let wanted: Vec<&str> = lines.iter().map(|line| &*line.text).collect();
            chain(observed, id, &wanted, &mut out);
        }
        out
    }

    /// A rule that leads to a Service, in one of the chains of its dispatch.
    fn entry(&self, dispatch: Dispatch, entry: &Entry, observed: &Observed, out: &mut Inspection) {
        let root = dispatch.root();
        let text = &*entry.line.text;
        let of_table = observed.chains().filter(|(id, _)| id.table == root.table);
        let mut at = of_table.filter(|(_, rules)| rules.iter().any(|rule| rule == text));
        let Some((at, _)) = at.next() else {
            out.missing.push(rule_of(&root, text));
            return;
        };
        match unreached(observed, &root, at) {
            None => out.present.push(rule_of(at, text)),
            Some(lost) => {
                let what = format!("the rule that leads to {} from {}", lost.name, root.name);
                out.missing.push(Found::new(place(&root), what));
            }
        }
    }
}

/// The chain on the way from `root` to `to` that no rule leads to, if there is one.
fn unreached<'a>(observed: &'a Observed, root: &ChainId, to: &'a ChainId) -> Option<&'a ChainId> {
    let (mut seen, mut next, mut lost) = (BTreeSet::new(), vec![to], None);
    while let Some(id) = next.pop() {
        if id == root {
            return None;
        }
        if !seen.insert(id) {
            continue;
        }
        let leads = |(from, rules): &(&ChainId, &Vec<String>)| {
            from.table == id.table && rules.iter().any(|rule| target(rule) == Some(&*id.name))
        };
        let before = next.len();
        next.extend(observed.chains().filter(leads).map(|(from, _)| from));
        if next.len() == before {
            lost = Some(id);
        }
    }
    lost
}

fn place(id: &ChainId) -> String {
    format!("table {}, chain {}", id.table, id.name)
}

fn rule_of(id: &ChainId, text: &str) -> Found {
    Found::new(place(id), format!("-A {} {text}", id.name))
}

/// One rule in a chain that has others, too.
fn line(observed: &Observed, id: &ChainId, text: &str, out: &mut Inspection) {
    let rules = observed.rules(id);
    let there = rules.is_some_and(|rules| rules.iter().any(|rule| rule == text));
    let list = if there { &mut out.present } else { &mut out.missing };
    list.push(rule_of(id, text));
}

/// A chain that is a Service's alone, or the mode's.
fn chain(observed: &Observed, id: &ChainId, wanted: &[&str], out: &mut Inspection) {
    let Some(there) = observed.rules(id) else {
        out.missing.push(Found::new(format!("table {}", id.table), format!("chain {}", id.name)));
        return;
    };
    let mut rest: Vec<&str> = there.iter().map(String::as_str).collect();
    let in_order = rest == wanted;
    let mut all = true;
    for text in wanted {
        match rest.iter().position(|other| other == text) {
            Some(at) => {
                rest.remove(at);
                out.present.push(rule_of(id, text));
            }
            None => {
                all = false;
                out.missing.push(rule_of(id, text));
            }
        }
    }
    if all && rest.is_empty() && !in_order {
        out.missing.push(Found::new(place(id), "the order of its rules"));
    }
    out.extra.extend(rest.into_iter().map(|text| rule_of(id, text)));
}
