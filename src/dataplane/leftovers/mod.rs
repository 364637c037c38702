//! Finds and removes what another mode, or the Go kube-proxy, left in the kernel.
//!
//! To be called when the rules of the new mode are in place. [`chains`] has which iptables chains and rules
//! are kube-proxy's, [`legacy`] reads and writes those of `iptables-legacy`, [`sets`] handles ipsets,
//! [`ipvs`] IPVS. Tables of `iptables-nft` are nf_tables objects and are changed over netlink, without its
//! programs. `docs/takeover.md` explains the order.

mod chains;
mod ipvs;
mod legacy;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use self::chains::{Jump, Listing, Removal, Whose};
pub use self::ipvs::{Connections, IpvsLeftoverError};
use crate::service_table::TABLE;
use sluice_core::net::Family;
use sluice_kernel::addresses::IPVS_DEVICE;
use sluice_kernel::has_family;
use sluice_kernel::ipset::{self, IpsetError};
use sluice_kernel::nft::{ApplyError, Nft, NftError, Op, Refused, TableName};
use sluice_kernel::policy_routing::{PolicyRouting, PolicyRoutingError};
use sluice_kernel::xtables::{Table, Variant, XtablesError, legacy_programs, legacy_tables};

/// How often a table is read again if another program changes it meanwhile.
const ATTEMPTS: usize = 4;

/// What the mode that runs works with, and what therefore stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// No mode runs: everything goes.
    Nothing,
    /// Our table of nf_tables: the modes nftables and userspace.
    Nftables,
    /// The same, and the routing rules of relays that endpoints do not see.
    Transparent,
    /// This table, IPVS and its device.
    Ipvs,
    /// Chains of iptables in this variant; those of our other modes go from it.
    Iptables(Variant),
}

/// A leftover could not be read or removed.
#[derive(Debug, thiserror::Error)]
pub enum LeftoverError {
    /// nf_tables cannot be used at all.
    #[error("look for leftovers in nf_tables: {0}")]
    Nftables(#[source] NftError),
    /// A table of iptables-nft.
    #[error("remove kube-proxy's chains from table {table}: {source}")]
    Chains {
        /// The table.
        table: TableName,
        /// Why.
        source: ApplyError,
    },
    /// The table of the nftables mode.
    #[error("delete table {table}: {source}")]
    Table {
        /// The table.
        table: TableName,
        /// Why.
        source: ApplyError,
    },
    /// A table of iptables-legacy.
    #[error(
        "remove kube-proxy's chains from table {table} of iptables-legacy ({family}): {source}"
    )]
    Legacy {
        /// The IP family.
        family: Family,
        /// The table.
        table: Table,
        /// Why.
        source: XtablesError,
    },
    /// There are legacy tables, and nothing to read them by.
    #[error(
        "iptables-legacy has tables in {family}, and its programs are not installed: if they have chains of \
         kube-proxy, run `sluice --cleanup` once in an image with the programs, or restart the node"
    )]
    Unreadable {
        /// The IP family.
        family: Family,
    },
    /// Routing rules of transparent relays.
    #[error("remove routing rules: {0}")]
    Routing(#[source] PolicyRoutingError),
    /// Sets of ipset, as a whole.
    #[error("remove kube-proxy's sets: {0}")]
    Sets(#[source] IpsetError),
    /// IPVS, as a whole.
    #[error("remove kube-proxy's virtual services and {IPVS_DEVICE}: {0}")]
    Ipvs(#[source] IpvsLeftoverError),
    /// The kernel refuses to give one thing up.
    #[error("remove {0}")]
    Refused(String),
}

impl LeftoverError {
    /// Whether it may help to try again.
    pub fn may_pass(&self) -> bool {
        !matches!(self, LeftoverError::Unreadable { .. })
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was removed, for people.
    pub removed: Vec<String>,
    /// Descriptions of what stays because another program uses it.
    pub used: Vec<String>,
    /// IPVS still has connections; their objects were kept.
    pub connections: u64,
    /// What could not be removed.
    pub failed: Vec<LeftoverError>,
}

/// Removes what is kube-proxy's in the current network namespace, its own included, but for what is in
/// use. Virtual services in `excluded` are not kube-proxy's. Of families that are not named, all stays, and
/// so does what families share.
///
/// It continues after a failure with what is independent of it.
pub fn remove(
    in_use: InUse,
    families: &BTreeSet<Family>,
    excluded: &[IpNet],
    connections: Connections,
) -> Outcome {
    let mut outcome = Outcome::default();
    match Nft::open() {
        Ok(mut nft) => {
            families.iter().for_each(|family| outcome.nf_tables(&mut nft, *family, in_use));
        }
        // Without nf_tables there is nothing of it.
        Err(NftError::Unsupported) => {}
        Err(error) => outcome.failed.push(LeftoverError::Nftables(error)),
    }
    for family in families {
        outcome.legacy(*family, in_use);
    }
    if in_use != InUse::Transparent {
        for family in families.iter().filter(|family| has_family(**family)) {
            outcome.routing(*family);
        }
    }
    if Family::BOTH.iter().any(|family| !families.contains(family)) {
        return outcome;
    }
    // Rules hold sets, so these come after the rules.
    outcome.sets();
    if in_use != InUse::Ipvs {
        outcome.ipvs(excluded, connections);
    }
    outcome
}

impl Outcome {
    fn nf_tables(&mut self, nft: &mut Nft, family: Family, in_use: InUse) {
        let whose = match in_use {
            InUse::Iptables(Variant::Nft | Variant::Only) => Whose::ForeignToIptables,
            _ => Whose::EveryMode,
        };
        for table in Table::ALL {
            let table = TableName::new(family, &table.to_string());
            match remove_chains(nft, &table, whose) {
                Ok(removal) => self.note(&removal, &format!("table {table}")),
                Err(source) => self.failed.push(LeftoverError::Chains { table, source }),
            }
        }
        if !matches!(in_use, InUse::Nftables | InUse::Transparent | InUse::Ipvs) {
            let table = TableName::new(family, TABLE);
            match nft.apply(&table, &[Op::DeleteTable]) {
                Ok(()) => self.removed.push(format!("table {table}")),
                Err(ApplyError::Refused(refused)) if refused.iter().all(is_absent) => {}
                Err(source) => self.failed.push(LeftoverError::Table { table, source }),
            }
        }
    }

    fn legacy(&mut self, family: Family, in_use: InUse) {
        let tables = legacy_tables(family);
        if tables.is_empty() {
            return;
        }
        let whose = match in_use {
            InUse::Iptables(Variant::Legacy | Variant::Only) => Whose::ForeignToIptables,
            _ => Whose::EveryMode,
        };
        let Some(programs) = legacy_programs(family) else {
            return self.failed.push(LeftoverError::Unreadable { family });
        };
        for table in tables {
            let removed = programs.save(table).and_then(|saved| {
                let removal = legacy::listing(&saved).removal(whose);
                if !removal.is_empty() {
                    programs.restore(&legacy::script(table, &removal))?;
                }
                Ok(removal)
            });
            match removed {
                Ok(removal) => {
                    self.note(&removal, &format!("table {table} of iptables-legacy ({family})"));
                }
                Err(source) => self.failed.push(LeftoverError::Legacy { family, table, source }),
            }
        }
    }

    fn note<R>(&mut self, removal: &Removal<R>, place: &str) {
        if !removal.is_empty() {
            let (chains, rules) = (removal.chains.len(), removal.rules.len());
            self.removed.push(format!("{chains} chains and {rules} jumps in {place}"));
        }
        let used = removal.used.iter();
        self.used.extend(
            used.map(|(chain, by)| format!("chain {chain} in {place}, which chain {by} jumps to")),
        );
    }

    fn routing(&mut self, family: Family) {
        match PolicyRouting::open(family).and_then(|mut rules| rules.remove()) {
            // A kernel without routing rules has none of ours.
            Ok(0) | Err(PolicyRoutingError::Unsupported { .. }) => {}
            Ok(changes) => {
                self.removed.push(format!("{changes} routing rules and routes ({family})"));
            }
            Err(error) => self.failed.push(LeftoverError::Routing(error)),
        }
    }

    fn sets(&mut self) {
        let names = sets::names();
        let answers = match ipset::destroy(&names) {
            Ok(answers) => answers,
            Err(error) => return self.failed.push(LeftoverError::Sets(error)),
        };
        let mut gone = 0;
        for (name, answer) in names.iter().zip(answers) {
            match answer {
                Ok(()) => gone += 1,
                Err(refusal) if refusal.contradicts_state() => {}
                Err(refusal) => {
                    let refused = LeftoverError::Refused(format!("set {name}: {refusal}"));
                    self.failed.push(refused);
                }
            }
        }
        if gone > 0 {
            self.removed.push(format!("{gone} sets of ipset"));
        }
    }

    fn ipvs(&mut self, excluded: &[IpNet], connections: Connections) {
        match ipvs::remove(excluded, connections) {
            Ok(done) => {
                if done.services > 0 {
                    self.removed.push(format!("{} virtual services of IPVS", done.services));
                }
                if done.device {
                    self.removed.push(format!("device {IPVS_DEVICE}"));
                }
                self.connections = done.connections;
                self.failed.extend(done.refused.into_iter().map(LeftoverError::Refused));
            }
            Err(error) => self.failed.push(LeftoverError::Ipvs(error)),
        }
    }
}

fn is_absent(refused: &Refused) -> bool {
    refused.contradicts_state()
}

/// Deletes kube-proxy's chains from a table of iptables-nft, in one transaction.
fn remove_chains(
    nft: &mut Nft,
    table: &TableName,
    whose: Whose,
) -> Result<Removal<u64>, ApplyError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let chain_graph = nft.chain_graph(table)?;
        let jumps = chain_graph.jumps.into_iter();
        let jumps = jumps.map(|jump| Jump { chain: jump.chain, to: jump.to, rule: jump.handle });
        let listing = Listing {
            chains: chain_graph.regular,
            builtin: chain_graph.hooked,
            jumps: jumps.collect(),
        };
        let removal = listing.removal(whose);
        match nft.apply(table, &operations(&removal)) {
            Ok(()) => return Ok(removal),
            // Another program was faster.
            Err(ApplyError::Refused(refused))
                if attempt < ATTEMPTS && refused.iter().any(Refused::contradicts_state) => {}
            Err(error) => return Err(error),
        }
    }
}

fn operations(removal: &Removal<u64>) -> Vec<Op> {
    let rules = removal.rules.iter();
    let rules =
        rules.map(|jump| Op::DeleteRule { chain: Arc::clone(&jump.chain), handle: jump.rule });
    let flushed = removal.chains.iter().map(|chain| Op::FlushChain(Arc::clone(chain)));
    let deleted = removal.chains.iter().map(|chain| Op::DeleteChain(Arc::clone(chain)));
    rules.chain(flushed).chain(deleted).collect()
}
