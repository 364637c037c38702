//! The number of nf_tables objects in the current network namespace, of all programs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::connection::{Nft, Request};
use super::error::NftError;
use crate::netlink::Message;
use crate::netlink::attributes::{attributes, find};
use crate::netlink::netfilter::nfproto;
use crate::nft::model::TableName;
use crate::nft::wire::message::find_name;
use crate::nft::wire::uapi::{self, msg};
use sluice_core::net::Family;

/// Numbers of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObjectCount {
    /// Rules of all chains.
    pub rules: u64,
    /// Elements of all sets and maps, those without a name of their own included.
    pub elements: u64,
}

impl Nft {
    /// Counts the objects of all tables of a family. Concurrent changes make the count inexact.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn count_objects(&mut self, family: Family) -> Result<ObjectCount, NftError> {
        let mut count = ObjectCount::default();
        let mut tables: BTreeSet<Arc<str>> = BTreeSet::new();
        let own = |message: &Message<'_>| message.nfproto() == Some(nfproto(family));
        self.request(
            Request::All,
            msg::GETTABLE,
            family,
            "all tables",
            |_| {},
            |message| {
                let name = find_name(message.body(), uapi::table::NAME);
                tables.extend(name.filter(|_| own(message)));
            },
        )?;
        for name in tables {
            let table = TableName::new(family, &name);
            self.all_of(&table, msg::GETRULE, uapi::rule::TABLE, "rules", |_| count.rules += 1)?;
            let mut sets: Vec<Arc<str>> = Vec::new();
            self.all_of(&table, msg::GETSET, uapi::set::TABLE, "sets", |message| {
                sets.extend(find_name(message.body(), uapi::set::NAME));
            })?;
            for set in sets {
                count.elements += self.count_elements(&table, &set)?;
            }
        }
        Ok(count)
    }

    fn count_elements(&mut self, table: &TableName, set: &Arc<str>) -> Result<u64, NftError> {
        let mut elements = 0;
        let what = format!("elements of set {table} {set}");
        self.elements_of(table, set, &what, |message| {
            let list = find(message.body(), uapi::elem::LIST_ELEMENTS).unwrap_or_default();
            elements += attributes(list).count() as u64;
        })?;
        Ok(elements)
    }
}
