//! Sets, chains and rules as values: everything in the table except the elements of its sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_kernel::nft::{Chain, Rule, Set};

/// All sets, chains and rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Schema {
    pub(super) sets: BTreeMap<Arc<str>, Set>,
    /// Chains with their rules.
    pub(super) chains: BTreeMap<Arc<str>, (Chain, Vec<Rule>)>,
}
