//! What a change would write into the table of a mode.

use std::collections::BTreeMap;

use super::applied::Applied;
use super::compare::from_applied;
use super::data_path::DataPath;
use super::desired::Desired;
use crate::operations::{Operations, differing};
use sluice_core::plan::ForwardingTable;
use sluice_kernel::nft::{Counting, Op, Verb};

/// The operations from one forwarding table to another, in a kernel that has the first.
pub(crate) fn operations(
    before: &ForwardingTable,
    after: &ForwardingTable,
    path: &dyn DataPath,
) -> Operations {
    let desired =
        |table| Desired { table, path, counting: Counting::Off, instead: BTreeMap::new() };
    let mut applied = None;
    let all = before.services.keys().cloned().collect();
    from_applied(&Applied::default(), &desired(before), &all).outcome.commit(&mut applied);
    let applied = applied.unwrap_or_default();
    let ops = from_applied(&applied, &desired(after), &differing(before, after)).take_operations();
    let mut counted = Operations::default();
    for list in &ops.elements {
        match list.verb {
            Verb::Add => counted.write("element", list.elements.len()),
            Verb::Delete => counted.remove("element", list.elements.len()),
        }
    }
    for op in ops.before.iter().chain(&ops.after) {
        match op {
            Op::AddSet(_) => counted.write("set", 1),
            Op::DeleteSet(_) => counted.remove("set", 1),
            Op::AddChain(_) => counted.write("chain", 1),
            Op::DeleteChain(_) => counted.remove("chain", 1),
            Op::AddRule(_) => counted.write("rule", 1),
            Op::FlushChain(name) => {
                let rules = applied.schema.chains.get(name).map_or(0, |(_, rules)| rules.len());
                counted.remove("rule", rules);
            }
            _ => {}
        }
    }
    counted
}
