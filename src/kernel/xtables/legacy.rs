//! The tables of `iptables-legacy` in this network namespace.

use std::fs;

use super::{Table, Variant, Xtables, run, text};
use sluice_core::net::Family;

/// Its tables of one family that exist; to list others would make them.
pub fn legacy_tables(family: Family) -> Vec<Table> {
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let names = fs::read_to_string(path).unwrap_or_default();
    let exists = |table: &Table| names.lines().any(|name| name == table.to_string());
    Table::ALL.into_iter().filter(exists).collect()
}

/// Its programs, if they are installed.
pub fn legacy_programs(family: Family) -> Option<Xtables> {
    let version = |variant: Variant| {
        let program = format!("iptables{}-restore", variant.infix());
        let output = run(&program, &["--version"], None).ok()?;
        Some(text(&output.stdout))
    };
    let named = version(Variant::Legacy).map(|_| Variant::Legacy);
    // Before version 1.8 there was this variant only, and it had no name.
    let only = || version(Variant::Only).filter(|said| !said.contains("nf_tables"));
    let variant = named.or_else(|| only().map(|_| Variant::Only))?;
    Some(Xtables::new(family, variant))
}
