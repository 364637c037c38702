//! What a change would write. `iptables-restore` writes a chain that changes as a whole, so its rules count all.

use super::desired::Desired;
use super::extensions::Lacking;
use super::form::{Form, Options};
use crate::operations::{Operations, differing};
use sluice_core::plan::ForwardingTable;

/// The operations from one forwarding table to another, in a kernel that has the first.
pub fn operations(
    before: &ForwardingTable,
    after: &ForwardingTable,
    options: Options,
) -> Operations {
    let mut desired = Desired::new(before, Form::new(options, Lacking::default()));
    let there = desired.chains();
    let mut counted = Operations::default();
    for (id, lines) in desired.update(after, &differing(before, after)) {
        let old = there.get(&id);
        counted.remove("rule", old.map_or(0, Vec::len));
        match (lines, old) {
            (Some(lines), old) => {
                counted.write("chain", usize::from(old.is_none()));
                counted.write("rule", lines.len());
            }
            (None, _) => counted.remove("chain", 1),
        }
    }
    counted
}
