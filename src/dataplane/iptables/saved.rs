//! All tables as `iptables-save` would print them, for who wants to see them without a kernel.

use std::fmt::Write;

use super::base;
use super::desired::Desired;
use super::extensions::Lacking;
use super::form::{Form, Options};
use sluice_core::plan::ForwardingTable;
use sluice_kernel::xtables::Table;

/// Our chains and the jumps to them, in a form that `iptables-restore` loads.
pub fn saved(table: &ForwardingTable, options: Options) -> String {
    let form = Form::new(options, Lacking::default());
    let chains = Desired::new(table, form).chains();
    let hooks = base::hooks(table.family, form);
    let mut text = String::new();
    // Writing to a string does not fail.
    for table in Table::ALL {
        let _ = writeln!(text, "*{table}");
        let mut builtin: Vec<&str> =
            hooks.iter().filter(|hook| hook.at.table == table).map(|hook| &*hook.at.name).collect();
        builtin.dedup();
        for name in &builtin {
            let _ = writeln!(text, ":{name} ACCEPT [0:0]");
        }
        let ours = || chains.iter().filter(|(id, _)| id.table == table);
        for (id, _) in ours() {
            let _ = writeln!(text, ":{} - [0:0]", id.name);
        }
        for hook in hooks.iter().filter(|hook| hook.at.table == table) {
            let _ = writeln!(text, "-A {} {}", hook.at.name, hook.line.text);
        }
        for (id, lines) in ours() {
            for line in lines {
                let _ = writeln!(text, "-A {} {}", id.name, line.text);
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}
