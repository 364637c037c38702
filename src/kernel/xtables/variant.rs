//! Detection of the iptables variant of a node.
//!
//! Rules in both variants would be active at once, in an undefined order, so the proxy uses the variant that
//! the kubelet and others use. It is detected as by the `iptables-wrappers` of kube-proxy's image
//! (kubernetes-sigs/iptables-wrappers): by a chain that the kubelet leaves as a hint, else the variant with
//! more rules.

use std::fmt;
use std::fs;

use super::{Table, Xtables, XtablesError, finished, run, text};
use sluice_core::net::Family;

/// Chains that the kubelet creates in the table mangle: for this purpose, and before there was one.
const HINTS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// A variant of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Rules are nf_tables objects.
    Nft,
    /// Rules are the kernel's older tables.
    Legacy,
    /// There is one only, whichever it is.
    Only,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Variant::Nft => "nft",
            Variant::Legacy => "legacy",
            Variant::Only => "iptables",
        })
    }
}

impl Variant {
    /// The part of program names: `iptables-nft-save`.
    pub(super) fn infix(self) -> &'static str {
        match self {
            Variant::Nft => "-nft",
            Variant::Legacy => "-legacy",
            Variant::Only => "",
        }
    }

    /// The one in use.
    pub(super) fn detect() -> Result<Variant, XtablesError> {
        let installed = |variant: Variant| {
            let program = format!("iptables{}-restore", variant.infix());
            run(&program, &["--version"], None).map(drop)
        };
        match (installed(Variant::Nft), installed(Variant::Legacy)) {
            (Ok(()), Ok(())) => {}
            (Ok(()), Err(_)) => return Ok(Variant::Nft),
            (Err(_), Ok(())) => return Ok(Variant::Legacy),
            (Err(_), Err(_)) => return installed(Variant::Only).map(|()| Variant::Only),
        }
        let nft = Traces::of(Variant::Nft);
        if nft.hinted {
            return Ok(Variant::Nft);
        }
        // Listing legacy tables creates them, and iptables-nft warns of them from then on.
        if !has_legacy_tables() {
            return Ok(Variant::Nft);
        }
        let legacy = Traces::of(Variant::Legacy);
        let wins = legacy.hinted || legacy.rules > nft.rules;
        Ok(if wins { Variant::Legacy } else { Variant::Nft })
    }
}

/// What a variant shows of its use.
struct Traces {
    hinted: bool,
    rules: usize,
}

impl Traces {
    /// Both families together; a program that fails shows nothing.
    fn of(variant: Variant) -> Traces {
        let mut traces = Traces { hinted: false, rules: 0 };
        for family in Family::BOTH {
            let programs = Xtables::new(family, variant);
            let mangle = programs.save(Table::Mangle).unwrap_or_default();
            traces.hinted |= mangle.lines().any(|l| HINTS.iter().any(|hint| l.starts_with(hint)));
            let program = programs.program("-save");
            let all = run(&program, &[], None).ok().filter(|o| finished(&program, o).is_ok());
            let all = all.map(|output| text(&output.stdout)).unwrap_or_default();
            traces.rules += all.lines().filter(|line| line.starts_with('-')).count();
        }
        traces
    }
}

/// Whether this thread's network namespace has legacy tables of either family; `/proc/net` is that of
/// the process's first thread.
fn has_legacy_tables() -> bool {
    ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"]
        .iter()
        .any(|path| fs::read_to_string(path).is_ok_and(|names| !names.trim().is_empty()))
}
