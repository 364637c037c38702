//! Reads a table as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::connection::{Nft, Request};
use super::error::NftError;
use crate::netlink::Message;
use crate::netlink::attributes::{Writer, find, find_u32};
use crate::nft::model::{
    Element, Observed, ObservedChain, ObservedSet, Set, SortedElements, TableName,
};
use crate::nft::wire::decode::{self, Elements};
use crate::nft::wire::message::find_name;
use crate::nft::wire::uapi::{self, msg};
use crate::nft::wire::userdata;

/// How often a set is read again of which elements were read twice.
const ATTEMPTS: u32 = 20;

impl Nft {
    /// Reads a table; `None` if there is none of this name.
    ///
    /// If any table changes meanwhile, it is read again, so that the result is a consistent snapshot.
    pub fn dump(&mut self, table: &TableName) -> Result<Option<Observed>, NftError> {
        let (read, generation) = self.at_one_moment(table, |nft| nft.read_table(table))?;
        Ok(read.map(|read| Observed { generation, ..read }))
    }

    /// Reads the definitions of all sets of a table, and appends those that cannot be read to `foreign`.
    pub(crate) fn set_definitions(
        &mut self,
        table: &TableName,
        foreign: &mut Vec<String>,
    ) -> Result<BTreeMap<Arc<str>, Set>, NftError> {
        let mut sets = BTreeMap::new();
        self.all_of(table, msg::GETSET, uapi::set::TABLE, "sets", |message| {
            match decode::set(message.body()) {
                Some(set) => drop(sets.insert(Arc::clone(&set.name), set)),
                None => foreign.push(named("set", message.body(), uapi::set::NAME)),
            }
        })?;
        Ok(sets)
    }

    fn read_table(&mut self, table: &TableName) -> Result<Option<Observed>, NftError> {
        let Some(mut observed) = self.read_frame(table)? else { return Ok(None) };
        self.read_sets(table, &mut observed)?;
        self.read_foreign(table, &mut observed)?;
        Ok(Some(observed))
    }

    /// Reads a table without its sets; `None` if there is none of this name.
    pub(super) fn read_frame(&mut self, table: &TableName) -> Result<Option<Observed>, NftError> {
        let mut observed = Observed::default();
        let fill = |writer: &mut Writer| writer.put_name(uapi::table::NAME, &table.name);
        let what = format!("table {table}");
        let result =
            self.request(Request::One, msg::GETTABLE, table.family, &what, fill, |message| {
                let user = find(message.body(), uapi::table::USERDATA);
                observed.comment = user.and_then(userdata::read_comment);
                match find_u32(message.body(), uapi::table::FLAGS) {
                    None | Some(0) => {}
                    Some(flags) => observed.foreign.push(format!("table flags {flags:#x}")),
                }
            });
        match result {
            Err(error) if error.is_absence() => return Ok(None),
            other => other?,
        }
        self.read_chains(table, &mut observed)?;
        self.read_rules(table, &mut observed)?;
        Ok(Some(observed))
    }

    fn read_chains(&mut self, table: &TableName, into: &mut Observed) -> Result<(), NftError> {
        self.all_of(table, msg::GETCHAIN, uapi::chain::TABLE, "chains", |message| {
            match decode::chain(message.body()) {
                Some(chain) => {
                    let name = Arc::clone(&chain.name);
                    into.chains.insert(name, ObservedChain { chain, rules: Vec::new() });
                }
                None => into.foreign.push(named("chain", message.body(), uapi::chain::NAME)),
            }
        })
    }

    fn read_rules(&mut self, table: &TableName, into: &mut Observed) -> Result<(), NftError> {
        self.all_of(table, msg::GETRULE, uapi::rule::TABLE, "rules", |message| {
            into.take_rule(message.body());
        })
    }

    fn read_sets(&mut self, table: &TableName, into: &mut Observed) -> Result<(), NftError> {
        for (name, set) in self.set_definitions(table, &mut into.foreign)? {
            let (elements, foreign) = self.read_elements(table, &set)?;
            if foreign > 0 {
                into.foreign.push(format!("{foreign} elements of set {name}"));
            }
            let elements = SortedElements::new(elements);
            into.sets.insert(name, ObservedSet { set, elements });
        }
        Ok(())
    }

    /// Reads the elements of one set, sorted by key; none if it is not there.
    pub fn elements(&mut self, table: &TableName, set: &Set) -> Result<Vec<Element>, NftError> {
        match self.read_elements(table, set) {
            Ok((elements, _)) => Ok(elements),
            Err(error) if error.is_absence() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Reads the elements of a set, sorted by key, and how many could not be read.
    ///
    /// The kernel continues a dump where it stopped by counting the elements before that
    /// (`nf_tables_dump_set`). After a large transaction, its hash table is being resized in the
    /// background, which changes their order without changing the generation: then the dump has
    /// some elements twice, and as many are missing. So a dump with an element twice is repeated.
    fn read_elements(
        &mut self,
        table: &TableName,
        set: &Set,
    ) -> Result<(Vec<Element>, usize), NftError> {
        let what = format!("elements of set {table} {}", set.name);
        for _ in 0..ATTEMPTS {
            let mut elements = Elements::default();
            let each = |message: &Message<'_>| elements.read(message.body());
            self.elements_of(table, &set.name, &what, each)?;
            let foreign = elements.foreign;
            let elements = elements.finish(set);
            if elements.is_sorted_by(|before, after| before.key < after.key) {
                return Ok((elements, foreign));
            }
        }
        Err(NftError::Unstable { table: table.clone(), attempts: ATTEMPTS })
    }

    fn read_foreign(&mut self, table: &TableName, into: &mut Observed) -> Result<(), NftError> {
        self.all_of(table, msg::GETOBJ, uapi::object::TABLE, "stateful objects", |message| {
            into.foreign.push(named("stateful object", message.body(), uapi::object::NAME));
        })?;
        let kind = uapi::flowtable::TABLE;
        let result = self.all_of(table, msg::GETFLOWTABLE, kind, "flow tables", |message| {
            into.foreign.push(named("flow table", message.body(), uapi::flowtable::NAME));
        });
        match result {
            // A kernel without flow tables has none in this table either.
            Err(NftError::Read { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

impl Observed {
    /// Adds a rule. One that cannot be decoded, or is in a chain that cannot, is recorded as foreign: its
    /// table differs from the desired one.
    pub(crate) fn take_rule(&mut self, body: &[u8]) {
        let rule = decode::rule(body);
        match rule.and_then(|rule| Some((self.chains.get_mut(&rule.rule.chain)?, rule))) {
            Some((chain, rule)) => chain.rules.push(rule),
            None => self.foreign.push(named("rule of chain", body, uapi::rule::CHAIN)),
        }
    }
}

fn named(kind: &str, body: &[u8], attribute: u16) -> String {
    format!("{kind} {}", find_name(body, attribute).as_deref().unwrap_or("without a name"))
}
