//! The base chains, and what they jump to.
//!
//! They have the names, hooks and priorities of the Go kube-proxy's (upstream:
//! `pkg/proxy/nftables/proxier.go`, nftablesBaseChains), and checks happen in the same hooks: reject
//! and drop after address translation, where only traffic that found no endpoint still has a service
//! address.

use super::writer::Rules;
use sluice_kernel::nft::statement::{self, Statement};
use sluice_kernel::nft::{Chain, ChainKind, Hook, ct_state};

/// `NF_IP_PRI_*` of `linux/netfilter_ipv4.h`.
const FILTER: i32 = 0;
pub(crate) const MANGLE: i32 = -150;
pub(crate) const DSTNAT: i32 = -100;
const BEFORE_DSTNAT: i32 = DSTNAT - 10;
pub(super) const AFTER_DSTNAT: i32 = DSTNAT + 10;
const SRCNAT: i32 = 100;

/// Where the base chains are hooked in, and what they do in one mode only.
#[derive(Debug)]
pub(crate) struct Hooks {
    /// Priority of the chains that translate destinations.
    pub(crate) dstnat: i32,
    /// Priority of the chain that checks what this node itself sends.
    pub(crate) output: i32,
    /// Chains of the mode that check new connections to this node.
    pub(crate) input_checks: &'static [&'static str],
    /// Chains of the mode that check new connections through this node.
    pub(crate) forward_checks: &'static [&'static str],
    /// Traffic of this node that does not use Services, whatever its destination.
    pub(crate) exempt: Option<Statement>,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks {
            dstnat: DSTNAT,
            output: FILTER,
            input_checks: &[],
            forward_checks: &[],
            exempt: None,
        }
    }
}

impl Rules<'_> {
    pub(in crate::service_table) fn base_chains(&mut self, hooks: Hooks) {
        use ChainKind::{Filter, Nat};
        use Hook::{Forward, Input, Output, Postrouting, Prerouting};
        let Hooks { dstnat, output, input_checks, forward_checks, exempt } = hooks;
        let input = [&["nodeport-check", "service-check"], input_checks].concat();
        let forward = [&["service-check"], forward_checks, &["cluster-ips-check"]].concat();
        let base: [(&str, ChainKind, Hook, i32, &[&str]); 8] = [
            ("filter-prerouting-pre-dnat", Filter, Prerouting, BEFORE_DSTNAT, &["sources-check"]),
            ("filter-output-pre-dnat", Filter, Output, BEFORE_DSTNAT, &["sources-check"]),
            ("filter-input", Filter, Input, FILTER, &input),
            ("filter-forward", Filter, Forward, FILTER, &forward),
            ("filter-output", Filter, Output, output, &["service-check", "cluster-ips-check"]),
            ("nat-prerouting", Nat, Prerouting, dstnat, &["services"]),
            ("nat-output", Nat, Output, dstnat, &["services"]),
            ("nat-postrouting", Nat, Postrouting, SRCNAT, &["masquerading"]),
        ];
        for (name, kind, hook, priority, _) in base {
            self.chain(Chain::base(name, kind, hook, priority));
        }
        if let Some(exempt) = exempt {
            self.rule("nat-output", [exempt, statement::leave()]);
        }
        let new = || statement::ct_state(ct_state::NEW);
        for (name, kind, _, _, targets) in base {
            for target in targets {
                let condition = if kind == Filter { new() } else { Statement::new() };
                self.rule(name, [condition, statement::jump(&(*target).into())]);
            }
        }
    }
}
