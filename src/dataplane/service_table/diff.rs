//! Diff: the operations of one transaction that lead to the desired objects.

use std::collections::BTreeMap;

use super::applied::Outcome;
use super::sets::SetId;
use sluice_core::model::ServiceName;
use sluice_kernel::nft::{Element, ElementList, ElementOps, Op, Ops, Verb};

/// What there is to do: operations of one transaction, and what is true once they are applied.
#[derive(Debug, Default)]
pub(super) struct Diff {
    /// Make room: a table to build on, new sets and chains.
    pub(super) prepare: Vec<Op>,
    pub(super) deletes: Changes,
    pub(super) adds: Changes,
    /// Rules, then chains and sets that nothing needs any more.
    pub(super) finish: Vec<Op>,
    /// The Services that change.
    pub(super) services: Vec<ServiceName>,
    /// The owner of each operation that was taken, as an index of `services`.
    owners: Vec<u32>,
    pub(super) outcome: Outcome,
}

/// Additions or deletions of elements, set by set: elements of one set side by side travel in one message.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<SetId, Owned>);

/// Elements, and the index of the Service that owns each.
#[derive(Debug, Default)]
struct Owned {
    elements: ElementList,
    owners: Vec<u32>,
}

/// Stands for the index of a Service where an operation is for the host as a whole.
pub(super) const UNOWNED: u32 = u32::MAX;

impl Changes {
    /// Appends an element, for the Service with this index.
    pub(super) fn push(&mut self, set: SetId, element: Element, owner: u32) {
        let owned = self.0.entry(set).or_default();
        owned.elements.push(element);
        owned.owners.push(owner);
    }

    /// Appends all as operations, and their owners.
    fn append_to(self, verb: Verb, ops: &mut Vec<ElementOps>, owners: &mut Vec<u32>) {
        for (set, mut owned) in self.0 {
            ops.push(ElementOps { verb, set: set.name(), elements: owned.elements });
            owners.append(&mut owned.owners);
        }
    }
}

impl Diff {
    /// Takes all operations, ordered so that each object exists before it is referred to.
    pub(super) fn take_operations(&mut self) -> Ops {
        let before = std::mem::take(&mut self.prepare);
        let after = std::mem::take(&mut self.finish);
        let mut elements = Vec::new();
        self.owners = vec![UNOWNED; before.len()];
        std::mem::take(&mut self.deletes).append_to(Verb::Delete, &mut elements, &mut self.owners);
        std::mem::take(&mut self.adds).append_to(Verb::Add, &mut elements, &mut self.owners);
        Ops { before, elements, after }
    }

    /// The Service that owns the operation at an index of [`Diff::take_operations`].
    pub(super) fn owner(&self, index: usize) -> Option<&ServiceName> {
        let owner = usize::try_from(*self.owners.get(index)?).ok()?;
        self.services.get(owner)
    }
}
