//! Who calls whom in a table of somebody else, without the rules themselves: there may be hundreds of
//! thousands of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::decode;
use super::error::NftError;
use super::expr::Expr;
use super::object::{TableName, Verdict};
use super::transaction::Nft;
use super::uapi::{self, msg};
use super::wire::{find, find_name};

/// How often a table is read again that changed meanwhile.
const ATTEMPTS: u32 = 20;

/// The chains of a table, and the rules that lead from one to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
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
    /// Reads the outline of a table; an empty one if there is no such table.
    ///
    /// # Errors
    /// If it cannot be read, or changes all the time.
    pub fn outline(&mut self, table: &TableName) -> Result<Outline, NftError> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let read = match self.read_outline(table) {
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

    fn read_outline(&mut self, table: &TableName) -> Result<Outline, NftError> {
        let mut outline = Outline::default();
        self.all_of(table, msg::GETCHAIN, uapi::chain::TABLE, "chains", |message| {
            let Some(name) = find_name(message.body(), uapi::chain::NAME) else { return };
            match find(message.body(), uapi::chain::HOOK) {
                Some(_) => outline.hooked.insert(name),
                None => outline.regular.insert(name),
            };
        })?;
        if outline.regular.is_empty() {
            return Ok(outline);
        }
        self.all_of(table, msg::GETRULE, uapi::rule::TABLE, "rules", |message| {
            let Some(read) = decode::rule(message.body()) else { return };
            let handle = read.handle;
            let to = read.rule.exprs.into_iter().find_map(|expr| match expr {
                Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => Some(to),
                _ => None,
            });
            outline.jumps.extend(to.map(|to| Jump { chain: read.rule.chain, handle, to }));
        })?;
        Ok(outline)
    }
}
