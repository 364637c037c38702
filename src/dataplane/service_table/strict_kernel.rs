//! The kernel of the tests: one table, with refusals and changes by other programs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::connection::KernelTable;
use sluice_kernel::nft::{
    ApplyError, Chain, Element, Expr, Key, Listening, NftError, Observed, ObservedChain,
    ObservedRule, ObservedSet, Op, Operations, Ops, Refused, Rule, Set, SortedElements, Verdict,
};

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
                // Existing objects are accepted if they are equal.
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
    /// What each transaction did.
    pub(crate) transactions: Vec<Vec<Op>>,
}

impl Kernel {
    /// Another program deletes an element.
    pub(crate) fn foreign_delete(&mut self, set: &str, key: Key) {
        let (_, elements) = self.model.sets.get_mut(set).expect("the set is there");
        elements.remove(&key).expect("the element is there");
        self.generation += 1;
        self.touched = self.listening;
    }
}

impl KernelTable for Kernel {
    fn apply(&mut self, ops: &Ops) -> Result<(), ApplyError> {
        let ops: Vec<Op> = ops.ops().map(Cow::into_owned).collect();
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
        self.transactions.push(ops);
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
