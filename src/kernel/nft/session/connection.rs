//! The socket through which tables are written and read, and questions to it.

use std::io;

use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::error::NftError;
use crate::netlink::attributes::{Writer, find, find_u32, read_name};
use crate::netlink::netfilter::nfproto;
use crate::netlink::{Answer, Client, End, Message};
use crate::nft::model::TableName;
use crate::nft::wire::uapi::{self, msg};
use sluice_core::net::Family;

/// Room for a refusal of each of some ten thousand messages.
pub(super) const RECEIVE_QUEUE: usize = 8 << 20;

/// nf_tables of the network namespace in which it was opened.
///
/// One for the life of the process: closing such a socket waits for the kernel to free what
/// earlier transactions deleted (20 ms and more).
#[derive(Debug)]
pub struct Nft {
    pub(super) client: Client,
}

/// What kind of request it is.
pub(super) enum Request {
    /// For one object.
    One,
    /// For all objects of a kind.
    All,
}

impl Nft {
    /// Opens the socket and finds out whether nf_tables may be used.
    pub fn open() -> Result<Nft, NftError> {
        let mut nft = Nft { client: Client::open(NETLINK_NETFILTER)? };
        nft.client.transport().enlarge_receive_queue(RECEIVE_QUEUE);
        nft.generation()?;
        Ok(nft)
    }

    /// The socket's address, by which [`super::NftEvents`] knows our own changes.
    pub fn port_id(&self) -> u32 {
        self.client.port()
    }

    /// Generation of the rule set: changes with each transaction of any program.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let mut generation = None;
        let what = "the generation of the rule set";
        let fill = |_: &mut Writer| {};
        let result = self.request(Request::One, msg::GETGEN, Family::V4, what, fill, |message| {
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

    /// Reads with `read` until nobody has changed any table meanwhile; gives the generation at which
    /// that was as well.
    pub(super) fn at_one_moment<T>(
        &mut self,
        table: &TableName,
        mut read: impl FnMut(&mut Nft) -> Result<T, NftError>,
    ) -> Result<(T, u32), NftError> {
        const ATTEMPTS: u32 = 20;
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let read = match read(self) {
                Err(error) if error.is_passing() => None,
                other => Some(other?),
            };
            if self.generation()? == before
                && let Some(read) = read
            {
                return Ok((read, before));
            }
        }
        Err(NftError::Unstable { table: table.clone(), attempts: ATTEMPTS })
    }

    /// Reads all objects of a kind in one table. The kernel may send those of other tables too.
    pub(super) fn all_of(
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
            let name = find(message.body(), table_attribute).and_then(read_name);
            if message.nfproto() == Some(family) && name == Some(&*table.name) {
                each(message);
            }
        })
    }

    /// Reads all elements of a set, those of several in each message.
    pub(super) fn elements_of(
        &mut self,
        table: &TableName,
        set: &str,
        what: &str,
        each: impl FnMut(&Message<'_>),
    ) -> Result<(), NftError> {
        let fill = |writer: &mut Writer| {
            writer.put_name(uapi::elem::LIST_TABLE, &table.name);
            writer.put_name(uapi::elem::LIST_SET, set);
        };
        self.request(Request::All, msg::GETSETELEM, table.family, what, fill, each)
    }

    /// Sends a request and gives each message of the answer to `each`.
    pub(super) fn request(
        &mut self,
        request: Request,
        kind: u8,
        family: Family,
        what: &str,
        fill: impl FnOnce(&mut Writer),
        each: impl FnMut(&Message<'_>),
    ) -> Result<(), NftError> {
        self.request_of(request, kind, nfproto(family), what, fill, each)
    }

    /// The same for a family by its number, or for all of them.
    pub(super) fn request_of(
        &mut self,
        request: Request,
        kind: u8,
        family: u8,
        what: &str,
        fill: impl FnOnce(&mut Writer),
        each: impl FnMut(&Message<'_>),
    ) -> Result<(), NftError> {
        let sequence = self.client.take_sequence(1);
        let (flags, answer) = match request {
            Request::One => (0, Answer::One),
            Request::All => (NLM_F_DUMP, Answer::Whole),
        };
        let mut writer = Writer::default();
        let message = writer.begin_nft_of(kind, flags, family, sequence);
        fill(&mut writer);
        writer.end_message(message);
        if writer.take_overfull() {
            return Err(NftError::TooLong { object: what.to_owned(), why: "its name is too long" });
        }
        let errno = match self.client.exchange(writer.bytes(), sequence, answer, each)? {
            End::Complete => return Ok(()),
            End::Interrupted => libc::EINTR,
            End::Refused(refusal) if refusal.errno == libc::EPERM => {
                return Err(NftError::NotPermitted);
            }
            End::Refused(refusal) => refusal.errno,
        };
        Err(NftError::Read { what: what.to_owned(), source: io::Error::from_raw_os_error(errno) })
    }
}
