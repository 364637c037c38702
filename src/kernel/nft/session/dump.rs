//! Reads a table as a whole.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};

use super::error::NftError;
use super::socket::{Answer, Wait};
use super::transaction::Nft;
use crate::datagram::{Message, messages};
use crate::nft::model::{
    Element, Observed, ObservedChain, ObservedSet, Set, SortedElements, TableName,
};
use crate::nft::wire::attributes::{Writer, find, find_name, find_u32, nfproto};
use crate::nft::wire::decode::{self, Elements};
use crate::nft::wire::uapi::{self, msg};
use crate::nft::wire::userdata;

/// How often a table is read again that changed meanwhile.
const ATTEMPTS: u32 = 20;

/// What kind of request it is.
pub(crate) enum Request {
    /// For one object.
    One,
    /// For all objects of a kind.
    All,
}

impl Nft {
    /// Reads a table; `None` if there is none of this name.
    ///
    /// If somebody changes any table meanwhile, it is read again, so that what is returned was
    /// there at one moment.
    pub fn dump(&mut self, table: &TableName) -> Result<Option<Observed>, NftError> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let read = match self.read_table(table) {
                Err(NftError::Read { source, .. }) if vanished(&source) => None,
                other => Some(other?),
            };
            if self.generation()? == before
                && let Some(read) = read
            {
                return Ok(read.map(|read| Observed { generation: before, ..read }));
            }
        }
        Err(NftError::Unstable { table: table.clone(), attempts: ATTEMPTS })
    }

    /// Generation of the rule set: changes with each transaction of anybody.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let mut generation = None;
        let fill = |_: &mut Writer| {};
        let what = "the generation of the rule set";
        let family = sluice_core::net::Family::V4;
        let result = self.request(Request::One, msg::GETGEN, family, what, fill, |message| {
            generation = find_u32(message.body(), uapi::generation::ID);
        });
        match result {
            // nfnetlink answers like this if no module registered for nf_tables.
            Err(NftError::Read { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
            {
                return Err(NftError::Unsupported);
            }
            other => other?,
        }
        let malformed = || NftError::Malformed { what: what.to_owned(), why: "it has no number" };
        generation.ok_or_else(malformed)
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
            Err(NftError::Read { source, .. }) if is_absent(&source) => return Ok(None),
            other => other?,
        }
        self.read_chains(table, &mut observed)?;
        self.read_rules(table, &mut observed)?;
        self.read_sets(table, &mut observed)?;
        self.read_foreign(table, &mut observed)?;
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
            Err(NftError::Read { source, .. }) if is_absent(&source) => Ok(Vec::new()),
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
            let fill = |writer: &mut Writer| {
                writer.put_name(uapi::elem::LIST_TABLE, &table.name);
                writer.put_name(uapi::elem::LIST_SET, &set.name);
            };
            let each = |message: &Message<'_>| elements.read(message.body());
            self.request(Request::All, msg::GETSETELEM, table.family, &what, fill, each)?;
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

    /// Reads all objects of a kind in one table. The kernel may send those of other tables too.
    pub(crate) fn all_of(
        &mut self,
        table: &TableName,
        kind: u8,
        table_attribute: u16,
        objects: &str,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<(), NftError> {
        let fill = |writer: &mut Writer| writer.put_name(table_attribute, &table.name);
        let what = format!("{objects} of table {table}");
        let family = nfproto(table.family);
        self.request(Request::All, kind, table.family, &what, fill, |message| {
            let name = find(message.body(), table_attribute)
                .and_then(crate::nft::wire::attributes::read_name);
            if message.nfproto() == Some(family) && name == Some(&*table.name) {
                each(message);
            }
        })
    }

    /// Sends a request and gives each message of the answer to `each`.
    pub(crate) fn request(
        &mut self,
        request: Request,
        kind: u8,
        family: sluice_core::net::Family,
        what: &str,
        fill: impl FnOnce(&mut Writer),
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<(), NftError> {
        let sequence = self.take_sequence(1);
        let flags = match request {
            Request::One => 0,
            Request::All => NLM_F_DUMP,
        };
        let mut writer = Writer::default();
        let message = writer.message(kind, flags, family, sequence);
        fill(&mut writer);
        writer.end_message(message);
        if writer.take_overfull() {
            return Err(NftError::TooLong { object: what.to_owned(), why: "its name is too long" });
        }
        self.socket.send(writer.bytes())?;
        let mut interrupted = false;
        loop {
            let datagram = self.socket.receive(Wait::Patiently)?;
            let datagram = datagram.ok_or_else(|| refused(what, libc::ENOBUFS))?;
            for message in messages(datagram).filter(|message| message.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                let errno = match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => Answer::read(&message).map(|answer| answer.errno),
                    _ => None,
                };
                match errno {
                    Some(0) if interrupted => return Err(refused(what, libc::EINTR)),
                    Some(0) => return Ok(()),
                    Some(libc::EPERM) => return Err(NftError::NotPermitted),
                    Some(errno) => return Err(refused(what, errno)),
                    None => each(&message),
                }
                if matches!(request, Request::One) {
                    return Ok(());
                }
            }
        }
    }
}

fn refused(what: &str, errno: i32) -> NftError {
    NftError::Read { what: what.to_owned(), source: io::Error::from_raw_os_error(errno) }
}

pub(crate) fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

/// Whether a reading failed because the table changed meanwhile.
pub(crate) fn vanished(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::ENOBUFS | libc::EAGAIN))
}

impl Observed {
    /// Takes in a rule. One that cannot be read, or is in a chain that cannot, is said to be there: a
    /// table that has it is not what it should be.
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
