//! What the kernel has of one Service in the service table. Only its elements are read, one by one, and the chains and rules,
//! whose number does not grow with the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compare::arranged;
use super::data_path::DataPath;
use super::desired::Desired;
use super::elements::Elements;
use super::frontends::{FrontendClass, frontend_key};
use super::observed::{ObservedTable, Repair};
use super::packet_path::{class_of, is_met};
use super::schema::Schema;
use super::sets::{SetId, TABLE, slots_for};
use crate::inspection::{Found, Inspection, What};
use sluice_core::model::ServiceName;
use sluice_core::plan::{Address, ForwardingTable, Frontend, Hit, PortPlan, ServicePlan};
use sluice_kernel::nft::{
    Chain, Counting, Element, Nft, NftError, Observed, ObservedChain, Rule, TableName,
};

/// What a Service is, and which of it is asked for.
struct Question<'a> {
    desired: Desired<'a>,
    name: &'a ServiceName,
    plan: &'a Arc<ServicePlan>,
    hit: Option<&'a Hit<'a>>,
}

/// Compares all of a Service, or what a packet to it meets, with the kernel. `steps` are the chains on the packet's way.
pub(crate) fn inspect(
    nft: &mut Nft,
    (table, name): (&ForwardingTable, &ServiceName),
    path: &dyn DataPath,
    packet: Option<(&Hit<'_>, &[String])>,
) -> Result<Inspection, NftError> {
    let Some(plan) = table.services.get(name) else { return Ok(Inspection::default()) };
    let (counting, instead) = (Counting::Off, BTreeMap::new());
    let desired = Desired { table, path, counting, instead };
    let question = Question { desired, name, plan, hit: packet.map(|(hit, _)| hit) };
    let at = TableName::new(table.family, TABLE);
    let mut inspection = Inspection::default();
    let Some(part) = nft.part(&at, &question.keys())? else {
        inspection.missing.push(Found::new("tables", at));
        return Ok(inspection);
    };
    let observed = ObservedTable::new(table.family, Some(part), Repair::Migrate);
    question.elements(&observed, &mut inspection);
    let Some(part) = observed.table() else { return Ok(inspection) };
    let steps = packet.map(|(_, steps)| steps);
    question.chains(part, steps, &mut inspection);
    let flags = part.foreign.iter().filter(|what| what.starts_with("table flags"));
    inspection.extra.extend(flags.map(|flags| Found::new(format!("table {at}"), flags)));
    Ok(inspection)
}

impl Question<'_> {
    /// What is to be there.
    fn wanted(&self, plan: &ServicePlan) -> Elements {
        let mut wanted = self.desired.own_elements(self.name, plan);
        wanted.extend(self.desired.shared_elements(plan));
        wanted.retain(|(set, element)| self.concerns(*set, element));
        wanted.sort_unstable();
        wanted
    }

    fn concerns(&self, set: SetId, element: &Element) -> bool {
        self.hit.is_none_or(|hit| {
            let key = frontend_key(&hit.frontend.at);
            element.key.as_bytes().starts_with(key.as_bytes()) && is_met(hit, set, class_of(hit))
        })
    }

    /// The keys to look for: of what is to be there, and of what might be there.
    fn keys(&self) -> Vec<(Arc<str>, Vec<Element>)> {
        let mut keys = self.wanted(self.plan);
        for port in &self.plan.ports {
            for frontend in &port.frontends {
                self.neighbours(port, frontend, &mut keys);
            }
        }
        keys.retain(|(set, element)| self.concerns(*set, element));
        let mut by_set: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        for (set, element) in keys {
            by_set.entry(set).or_default().push(element);
        }
        by_set.into_iter().map(|(set, elements)| (set.name(), elements)).collect()
    }

    /// Elements that would change what happens at a frontend.
    fn neighbours(&self, port: &PortPlan, frontend: &Frontend, out: &mut Elements) {
        let (class, key) = (FrontendClass::of(&frontend.at), frontend_key(&frontend.at));
        let sets =
            [SetId::Reject, SetId::Drop, SetId::Masquerade, SetId::Split].map(|set| set(class));
        out.extend(sets.map(|set| (set, Element::new(key))));
        if matches!(frontend.at, Address::Vip { .. }) {
            out.push((SetId::Restricted, Element::new(key)));
        }
        if !self.desired.path.balances(port.protocol) {
            return;
        }
        for (class, pool) in super::frontends::pools_of(frontend) {
            let pool = port.pool(pool);
            let beyond = u32::try_from(pool.len()).unwrap_or(u32::MAX)..slots_for(pool.len());
            let slot = |slot| (SetId::Endpoints(class), Element::new(key.number(slot)));
            out.extend(beyond.map(slot));
        }
    }

    fn elements(&self, observed: &ObservedTable, out: &mut Inspection) {
        let plan = arranged(self.plan, &self.desired, |port, kind| observed.slots_of(port, kind));
        let wanted: BTreeSet<(SetId, Element)> = self.wanted(&plan).into_iter().collect();
        let sets: BTreeMap<_, _> =
            observed.table().into_iter().flat_map(|table| &table.sets).collect();
        let family = self.desired.table.family;
        let found = |set: SetId, element: &Element| {
            let text = element.text(&set.definition(family));
            Found::new(set.name(), text)
        };
        let mut absent: BTreeSet<SetId> = BTreeSet::new();
        for (set, element) in &wanted {
            let there = sets.get(&set.name()).map(|there| there.elements.find(&element.key));
            match there {
                Some(Some((_, there))) if there == *element => {
                    out.present.push(found(*set, element))
                }
                Some(_) => out.missing.push(found(*set, element)),
                None if absent.insert(*set) => out.missing.push(Found::new("sets", set.name())),
                None => {}
            }
        }
        let permanent: Vec<_> = self.permanent();
        for (name, there) in sets {
            let Some(set) = SetId::from_name(name, &permanent) else { continue };
            let rest = there.elements.iter().map(|element| (set, element));
            let extra = rest.filter(|element| !wanted.contains(element));
            out.extra.extend(extra.map(|(set, element)| found(set, &element)));
        }
    }

    fn permanent(&self) -> Vec<(SetId, Arc<str>)> {
        SetId::permanent(self.desired.path.sets()).map(|id| (id, id.name())).collect()
    }

    /// Chains and rules, as they are to be for the sets that are in use.
    fn chains(&self, part: &Observed, steps: Option<&[String]>, out: &mut Inspection) {
        let permanent = self.permanent();
        let used = part.sets.keys().filter_map(|name| SetId::from_name(name, &permanent));
        let needed = self.wanted(self.plan).into_iter().map(|(set, _)| set);
        let on_demand = used.chain(needed).filter(|set| set.is_on_demand()).collect();
        let schema: Schema = self.desired.schema(on_demand);
        let is_met = |name: &str| steps.is_none_or(|steps| steps.iter().any(|step| step == name));
        for (name, (chain, rules)) in schema.chains.iter().filter(|(name, _)| is_met(name)) {
            compare(chain, rules, part.chains.get(name), out);
            let strange = format!("rule of chain {name}");
            let strange = part.foreign.iter().filter(|what| **what == strange);
            let strange =
                strange.map(|_| Found::new(format!("chain {name}"), "a rule in unknown words"));
            out.extra.extend(strange);
        }
        if steps.is_none() {
            let others = part.chains.keys().filter(|name| !schema.chains.contains_key(*name));
            out.extra.extend(others.map(|name| Found::new("chains", name)));
        }
    }
}

/// One chain: that it is there, where packets enter it, and its rules.
fn compare(chain: &Chain, rules: &[Rule], there: Option<&ObservedChain>, out: &mut Inspection) {
    let place = format!("chain {}", chain.name);
    let Some(there) = there else {
        out.missing.push(Found::new("chains", &chain.name));
        return;
    };
    if there.chain.base != chain.base {
        out.missing.push(Found::new(&place, "its hook: it is at another one, or at none"));
    }
    let mut rest: Vec<&Rule> = there.rules.iter().map(|rule| &rule.rule).collect();
    let in_order = rest.iter().copied().eq(rules);
    let mut same = true;
    let of = |rule: &Rule| Found { place: place.clone(), what: What::Rule(rule.clone()) };
    for rule in rules {
        match rest.iter().position(|other| *other == rule) {
            Some(at) => drop(rest.remove(at)),
            None => {
                same = false;
                out.missing.push(of(rule));
            }
        }
    }
    if same && rest.is_empty() && !in_order {
        out.missing.push(Found::new(&place, "the order of its rules"));
    }
    out.extra.extend(rest.into_iter().map(of));
}
