//! Reads a part of a table: what a question is about, at a cost that does not grow with the table.

use std::sync::Arc;

use super::connection::{Nft, Request};
use super::error::NftError;
use crate::netlink::Message;
use crate::netlink::attributes::Writer;
use crate::nft::model::{Element, Observed, ObservedSet, Set, SortedElements, TableName, Verb};
use crate::nft::wire::decode::Elements;
use crate::nft::wire::encode::put_element;
use crate::nft::wire::uapi::elem::{LIST_ELEMENTS, LIST_SET, LIST_TABLE};
use crate::nft::wire::uapi::msg;

impl Nft {
    /// Reads chains, rules and the definitions of sets, and of the elements those with the keys of `wanted`; `None`
    /// if there is no such table.
    ///
    /// # Errors
    /// If it cannot be read, or changes all the time.
    pub fn part(
        &mut self,
        table: &TableName,
        wanted: &[(Arc<str>, Vec<Element>)],
    ) -> Result<Option<Observed>, NftError> {
        let (read, generation) = self.at_one_moment(table, |nft| nft.read_part(table, wanted))?;
        Ok(read.map(|read| Observed { generation, ..read }))
    }

    fn read_part(
        &mut self,
        table: &TableName,
        wanted: &[(Arc<str>, Vec<Element>)],
    ) -> Result<Option<Observed>, NftError> {
        let Some(mut observed) = self.read_frame(table)? else { return Ok(None) };
        for (name, set) in self.set_definitions(table, &mut observed.foreign)? {
            let keys = wanted.iter().filter(|(of, _)| *of == name).flat_map(|(_, keys)| keys);
            let mut found = Vec::new();
            for key in keys {
                found.extend(self.read_element(table, &set, key)?);
            }
            found.sort_unstable();
            found.dedup();
            let elements = SortedElements::new(found);
            observed.sets.insert(name, ObservedSet { set, elements });
        }
        Ok(Some(observed))
    }

    /// Reads the element with the same key.
    fn read_element(
        &mut self,
        table: &TableName,
        set: &Set,
        key: &Element,
    ) -> Result<Option<Element>, NftError> {
        let what = format!("an element of set {table} {}", set.name);
        let fill = |writer: &mut Writer| {
            writer.put_name(LIST_TABLE, &table.name);
            writer.put_name(LIST_SET, &set.name);
            let list = writer.nest(LIST_ELEMENTS);
            put_element(writer, key, Verb::Delete);
            writer.end(list);
        };
        let mut elements = Elements::default();
        let each = |message: &Message<'_>| elements.read(message.body());
        match self.request(Request::One, msg::GETSETELEM, table.family, &what, fill, each) {
            Ok(()) => Ok(elements.finish(set).into_iter().next()),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
