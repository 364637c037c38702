//! The chains and jumps of another program's table, without its other rules, of which there may be hundreds
//! of thousands.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::connection::Nft;
use super::error::NftError;
use crate::netlink::attributes::find;
use crate::nft::model::{Expr, TableName, Verdict};
use crate::nft::wire::decode;
use crate::nft::wire::message::find_name;
use crate::nft::wire::uapi::{self, msg};

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
        let (graph, _) = self.at_one_moment(table, |nft| nft.read_chain_graph(table))?;
        Ok(graph)
    }

    fn read_chain_graph(&mut self, table: &TableName) -> Result<ChainGraph, NftError> {
        let mut graph = ChainGraph::default();
        self.all_of(table, msg::GETCHAIN, uapi::chain::TABLE, "chains", |message| {
            let Some(name) = find_name(message.body(), uapi::chain::NAME) else { return };
            match find(message.body(), uapi::chain::HOOK) {
                Some(_) => graph.hooked.insert(name),
                None => graph.regular.insert(name),
            };
        })?;
        if graph.regular.is_empty() {
            return Ok(graph);
        }
        self.all_of(table, msg::GETRULE, uapi::rule::TABLE, "rules", |message| {
            let Some(read) = decode::rule(message.body()) else { return };
            let handle = read.handle;
            let to = read.rule.exprs.into_iter().find_map(|expr| match expr {
                Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => Some(to),
                _ => None,
            });
            graph.jumps.extend(to.map(|to| Jump { chain: read.rule.chain, handle, to }));
        })?;
        Ok(graph)
    }
}
