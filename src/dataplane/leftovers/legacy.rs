//! Tables from the text of `iptables-save`, and the input that removes kube-proxy's part.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use super::chains::{Jump, Listing, Removal};
use sluice_kernel::xtables::Table;

/// Reads a table. A rule is known by its line.
pub(super) fn listing(saved: &str) -> Listing<String> {
    let mut listing =
        Listing { chains: BTreeSet::new(), builtin: BTreeSet::new(), jumps: Vec::new() };
    for line in saved.lines() {
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let name: Arc<str> = words.next().unwrap_or_default().into();
            match words.next() {
                Some("-") => listing.chains.insert(name),
                _ => listing.builtin.insert(name),
            };
        } else if let Some(rule) = line.strip_prefix("-A ")
            && let Some((chain, to)) = jump(rule)
        {
            let (chain, to) = (chain.into(), to.into());
            listing.jumps.push(Jump { chain, to, rule: line.to_owned() });
        }
    }
    listing
}

/// The chain of a rule and where it leads.
fn jump(rule: &str) -> Option<(&str, &str)> {
    let words = words(rule);
    let at = words.iter().position(|word| matches!(*word, "-j" | "-g"))?;
    Some((words.first()?, words.get(at + 1)?))
}

/// Words, where one in quotation marks (a comment) is one word with them.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.find(|c: char| {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = !quoted,
                ' ' => return !quoted,
                _ => {}
            }
            false
        });
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        words.push(word);
        rest = after.trim_start();
    }
    words
}

/// The script for `iptables-restore --noflush`.
pub(super) fn script(table: Table, removal: &Removal<String>) -> String {
    let mut script = format!("*{table}\n");
    for chain in &removal.chains {
        // Declared again, a chain is emptied.
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    for Jump { rule, .. } in &removal.rules {
        let _ = writeln!(script, "-D {}", rule.trim_start_matches("-A "));
    }
    for chain in &removal.chains {
        let _ = writeln!(script, "-X {chain}");
    }
    script.push_str("COMMIT\n");
    script
}
