//! Who calls whom in a table of somebody else, without the rules themselves: there may be hundreds of
//! thousands of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::NftError;
use super::transaction::Nft;
use crate::nft::model::{Expr, TableName, Verdict};
use crate::nft::wire::attributes::{find, find_name};
use crate::nft::wire::decode;
use crate::nft::wire::uapi::{self, msg};

/// How often a table is read again that changed meanwhile.
const ATTEMPTS: u32 = 20;

/// The chains of a table, and the rules that lead from one to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainGraph {
    /// Chains that packets enter from the network stack.
    pub hooked: BTreeSet<Arc<str>>,
    /// Chains that only rules enter.
    pub regular: BTreeSet<Arc<str>>,
    /// Rules that end in a jump.
    pub jumps: Vec<Jump>,
}

/// A rule that leads to a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// The chain that it is in.
    pub chain: Arc<str>,
    /// The kernel's number of it.
    pub handle: u64,
    /// Where it leads.
    pub to: Arc<str>,
}

impl Nft {
    /// Reads the chain graph of a table; an empty one if there is no such table.
    ///
    /// # Errors
    /// If it cannot be read, or changes all the time.
    pub fn chain_graph(&mut self, table: &TableName) -> Result<ChainGraph, NftError> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let read = match self.read_chain_graph(table) {
                Err(NftError::Read { source, .. }) if super::dump::vanished(&source) => None,
                read => Some(read?),
            };
            if let Some(read) = read
                && self.generation()? == before
            {
                return Ok(read);
            }
        }
        Err(NftError::Unstable { table: table.clone(), attempts: ATTEMPTS })
    }

    fn read_chain_graph(&mut self, table: &TableName) -> Result<ChainGraph, NftError> {
        let mut chain_graph = ChainGraph::default();
        self.all_of(table, msg::GETCHAIN, uapi::chain::TABLE, "chains", |message| {
            let Some(name) = find_name(message.body(), uapi::chain::NAME) else { return };
            match find(message.body(), uapi::chain::HOOK) {
                Some(_) => chain_graph.hooked.insert(name),
                None => chain_graph.regular.insert(name),
            };
        })?;
        if chain_graph.regular.is_empty() {
            return Ok(chain_graph);
        }
        self.all_of(table, msg::GETRULE, uapi::rule::TABLE, "rules", |message| {
            let Some(read) = decode::rule(message.body()) else { return };
            let handle = read.handle;
            let to = read.rule.exprs.into_iter().find_map(|expr| match expr {
                Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => Some(to),
                _ => None,
            });
            chain_graph.jumps.extend(to.map(|to| Jump { chain: read.rule.chain, handle, to }));
        })?;
        Ok(chain_graph)
    }
}
