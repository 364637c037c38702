//! The kernel of the tests: one table, with what it refuses and what others do to it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Tables;
use super::layout::{Place, SetId, frontend_key};
use super::observed::endpoint;
use sluice_core::net::Family;
use sluice_core::plan::{Address, SourceClass};
use sluice_kernel::nft::{
    ApplyError, Chain, Element, Expr, Key, Listening, NftError, Observed, ObservedChain,
    ObservedRule, ObservedSet, Op, Operations, Ops, Refused, Rule, Set, SortedElements, Verdict,
};

/// Where traffic is sent in a table beside IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// To a virtual service.
    Virtual(IpAddr, u16),
    Reject,
    Drop,
    /// Nothing is done about it.
    Pass,
}

/// One table, as strict as the kernel about what exists and what is referred to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) exists: bool,
    pub(crate) sets: BTreeMap<Arc<str>, (Set, BTreeMap<Key, Element>)>,
    pub(crate) chains: BTreeMap<Arc<str>, (Chain, Vec<Rule>)>,
}

impl Model {
    fn apply_one(&mut self, op: Op) -> Result<(), &'static str> {
        match op {
            Op::AddTable { .. } => self.exists = true,
            Op::DeleteTable => *self = Model::default(),
            _ if !self.exists => return Err("no table"),
            Op::AddChain(chain) => {
                self.chains.entry(Arc::clone(&chain.name)).or_insert((chain, Vec::new()));
            }
            Op::FlushChain(name) => self.chains.get_mut(&name).ok_or("no chain")?.1.clear(),
            Op::DeleteChain(name) => {
                self.chains.remove(&name).ok_or("no chain")?;
            }
            Op::AddSet(set) => {
                self.sets.entry(Arc::clone(&set.name)).or_insert((set, BTreeMap::new()));
            }
            Op::DeleteSet(name) => {
                self.sets.remove(&name).ok_or("no set")?;
            }
            Op::FlushSet(name) => self.sets.get_mut(&name).ok_or("no set")?.1.clear(),
            Op::AddRule(rule) => {
                self.chains.get_mut(&rule.chain).ok_or("no chain")?.1.push(rule);
            }
            Op::DeleteRule { .. } => return Err("not used by this mode"),
            Op::AddElement { set, element } => {
                let elements = &mut self.sets.get_mut(&set).ok_or("no set")?.1;
                // What is there already is accepted, as long as it says the same.
                let before = elements.insert(element.key, element.clone());
                if before.is_some_and(|before| before != element) {
                    return Err("element exists");
                }
            }
            Op::DeleteElement { set, element } => {
                let elements = &mut self.sets.get_mut(&set).ok_or("no set")?.1;
                elements.remove(&element.key).ok_or("no element")?;
            }
        }
        Ok(())
    }

    /// Where traffic to a frontend is sent in a table beside IPVS: from outside, or from a pod.
    pub(crate) fn sent(&self, family: Family, at: &Address, from: SourceClass) -> Sent {
        let key = frontend_key(at);
        let place = Place::of(at);
        let element = |id: SetId, key: &Key| self.sets.get(&id.name())?.1.get(key);
        let split = element(SetId::Split(place), &key).is_some();
        let looked_up = if split && from == SourceClass::Anyone { place.local() } else { place };
        let translated = element(SetId::Virtual(looked_up), &key)
            .and_then(|element| endpoint(family, &element.value))
            // What is translated to itself stays what it is.
            .filter(|(ip, port)| !matches!(at, Address::Vip { ip: own, port: at, .. } if (own, at) == (ip, port)));
        let (protocol, to) = match (*at, translated) {
            (Address::Vip { protocol, .. } | Address::NodePort { protocol, .. }, Some(to)) => {
                (protocol, Some(to))
            }
            (Address::Vip { ip, protocol, port }, None) => (protocol, Some((ip, port))),
            (Address::NodePort { protocol, .. }, None) => (protocol, None),
        };
        if translated.is_none() && element(SetId::Reject(place), &key).is_some() {
            return Sent::Reject;
        }
        if translated.is_none() && element(SetId::Drop(place), &key).is_some() {
            return Sent::Drop;
        }
        let Some((ip, port)) = to else { return Sent::Pass };
        let address = Key::new().address(ip);
        if element(SetId::ClusterIps, &address).is_none() {
            return Sent::Pass;
        }
        let virtual_service = address.protocol(protocol).port(port);
        let direct = element(SetId::VirtualServices, &virtual_service).is_some();
        let indirect = element(SetId::VirtualTranslated, &virtual_service).is_some();
        match direct || translated.is_some() && indirect {
            true => Sent::Virtual(ip, port),
            false => Sent::Reject,
        }
    }

    fn check_references(&self) {
        for rule in self.chains.values().flat_map(|(_, rules)| rules) {
            for expr in &rule.exprs {
                match expr {
                    Expr::Lookup { set, .. } => assert!(self.sets.contains_key(set), "{rule:?}"),
                    Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => {
                        assert!(self.chains.contains_key(chain), "{rule:?}");
                    }
                    _ => {}
                }
            }
        }
    }

    /// What a process that starts now would read.
    fn observed(&self) -> Option<Observed> {
        let sets = self.sets.iter().map(|(name, (set, elements))| {
            let elements = SortedElements::new(elements.values().cloned());
            (Arc::clone(name), ObservedSet { set: set.clone(), elements })
        });
        let chains = self.chains.iter().map(|(name, (chain, rules))| {
            let rule = |rule: &Rule| ObservedRule { handle: 1, rule: rule.clone(), counted: None };
            let rules = rules.iter().map(rule).collect();
            (Arc::clone(name), ObservedChain { chain: chain.clone(), rules })
        });
        let observed =
            Observed { sets: sets.collect(), chains: chains.collect(), ..Observed::default() };
        self.exists.then_some(observed)
    }
}

/// The kernel of a test: the model, with what it refuses and what others do to it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Kernel {
    pub(crate) model: Model,
    pub(crate) generation: u32,
    pub(crate) listening: bool,
    pub(crate) touched: bool,
    /// Elements of this key are refused, as if the kernel did not want them.
    pub(crate) poison: Option<Key>,
    /// It does not say which of all operations it was.
    pub(crate) vague: bool,
    /// The table cannot be read.
    pub(crate) unreadable: bool,
    /// What the last transaction did.
    pub(crate) last: Vec<Op>,
}

impl Kernel {
    /// Somebody else deletes an element.
    pub(crate) fn foreign_delete(&mut self, set: &str, key: Key) {
        let (_, elements) = self.model.sets.get_mut(set).expect("the set is there");
        elements.remove(&key).expect("the element is there");
        self.generation += 1;
        self.touched = self.listening;
    }
}

impl Tables for Kernel {
    fn apply(&mut self, ops: &Ops) -> Result<(), ApplyError> {
        let ops: Vec<Op> = ops.each().map(Cow::into_owned).collect();
        let refusal = |(op, errno)| Refused {
            op: if self.vague { 0 } else { op },
            count: if self.vague { ops.len() } else { 1 },
            errno,
            detail: "refused".to_owned(),
            object: format!("{:?}", ops[op]),
        };
        let poisoned = |op: &Op| matches!(op, Op::AddElement { element, .. } if Some(element.key) == self.poison);
        let refused: Vec<Refused> = ops
            .iter()
            .enumerate()
            .filter(|(_, op)| poisoned(op))
            .map(|(i, _)| refusal((i, 22)))
            .collect();
        if !refused.is_empty() {
            return Err(ApplyError::Refused(refused));
        }
        let mut next = self.model.clone();
        for (index, op) in ops.iter().enumerate() {
            if next.apply_one(op.clone()).is_err() {
                return Err(ApplyError::Refused(vec![refusal((index, 2))]));
            }
        }
        next.check_references();
        self.model = next;
        self.generation += 1;
        self.last = ops;
        Ok(())
    }

    fn dump(&mut self) -> Result<Option<Observed>, NftError> {
        if self.unreadable {
            return Err(NftError::Timeout { seconds: 10 });
        }
        Ok(self.model.observed())
    }

    fn elements(&mut self, set: &Set) -> Result<Vec<Element>, NftError> {
        let observed = self.model.observed().unwrap_or_default();
        let found = observed.sets.get(&set.name);
        Ok(found.map(|set| set.elements.iter().collect()).unwrap_or_default())
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        Ok(self.generation)
    }

    fn listen(&mut self) -> Result<Listening, NftError> {
        let before = std::mem::replace(&mut self.listening, true);
        Ok(if before { Listening::Before } else { Listening::Now })
    }

    fn drifted(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }
}
