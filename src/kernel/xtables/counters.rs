//! Packet counters of rules.
//!
//! Upstream counts with nfacct objects, which need a module that many kernels lack (xt_nfacct). Every rule
//! has counters of its own; they start at zero when its chain is written again, like the counters of a
//! restarted process.

use std::process::Output;

use super::{Table, Xtables, XtablesError, finished, run, text};

/// How long reading counters waits for the lock: scrapes must not wait long for one part of the metrics.
const LOCK_SECONDS: u32 = 1;

/// Rules whose packets are counted: those of a chain that contain some words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedRule {
    /// Where the chain is.
    pub table: Table,
    /// The chain.
    pub chain: &'static str,
    /// What the rules have and no other rule of the chain has.
    pub words: &'static str,
}

impl CountedRule {
    /// Packets dropped because connection tracking holds them for invalid (upstream: nfacct
    /// `ct_state_invalid_dropped_pkts`, metric `kubeproxy_iptables_ct_state_invalid_dropped_packets_total`).
    pub const INVALID_DROPPED: CountedRule =
        CountedRule { table: Table::Filter, chain: "KUBE-FORWARD", words: "--ctstate INVALID" };

    /// Connections that came to a node port on 127.0.0.0/8; IPv4 only (upstream: nfacct
    /// `localhost_nps_accepted_pkts`, metric `kubeproxy_iptables_localhost_nodeports_accepted_packets_total`).
    pub const LOCALHOST_NODE_PORTS: CountedRule = CountedRule {
        table: Table::Nat,
        chain: "KUBE-POSTROUTING",
        words: "--ctorigdst 127.0.0.0/8",
    };
}

impl Xtables {
    /// How many packets these rules have met since they were written; none if there are no such rules.
    /// It takes one run of a program, a few milliseconds (with many Services longer in the legacy
    /// variant, which reads the whole table).
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn packets(&self, of: CountedRule) -> Result<Option<u64>, XtablesError> {
        let program = self.program("");
        let (wait, table) = (LOCK_SECONDS.to_string(), of.table.to_string());
        let arguments = ["-w", &wait, "-t", &table, "-v", "-S", of.chain];
        let output: Output = run(&program, &arguments, None)?;
        match finished(&program, &output) {
            Ok(()) => Ok(packets(&text(&output.stdout), of.words)),
            Err(XtablesError::Failed { .. }) if output.status.code() == Some(1) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The sum over lines of `iptables -v -S`: `-A CHAIN … -c PACKETS BYTES -j TARGET`.
fn packets(listed: &str, words: &str) -> Option<u64> {
    let count = |rule: &str| rule.split(" -c ").last()?.split(' ').next()?.parse().ok();
    let counts = listed.lines().filter(|line| line.starts_with("-A ") && line.contains(words));
    counts.filter_map(count).reduce(|sum: u64, count| sum.saturating_add(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_of_the_rules_with_the_words_are_added_up() {
        let listed = "-N KUBE-FORWARD\n\
            -A KUBE-FORWARD -m conntrack --ctstate INVALID -c 7 420 -j DROP\n\
            -A KUBE-FORWARD -m comment --comment \"a -c 9 9\" -c 5 300\n\
            -A KUBE-FORWARD -m conntrack --ctstate INVALID -c 2 80 -j DROP\n";
        let table = [("--ctstate INVALID", Some(9)), ("a -c", Some(5)), ("absent", None)];
        for (words, expected) in table {
            assert_eq!(packets(listed, words), expected, "{words}");
        }
    }
}
