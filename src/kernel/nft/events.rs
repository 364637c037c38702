//! Notifications of foreign changes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use socket2::{SockFilter, SockRef};

use super::error::{ApplyError, NftError};
use super::object::TableName;
use super::op::Op;
use super::socket::{NetfilterSocket, Wait};
use super::transaction::Nft;
use super::uapi::{GROUP_NFTABLES, msg};
use super::wire::{find, messages, nfproto, read_name};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftEvent {
    /// Somebody else changed something in this table.
    ForeignChange(TableName),
    /// Notifications were lost: anything may have happened to any table.
    Overflow,
}

/// Transactions from this many operations on are not listened to.
const LARGE: usize = 1000;

/// A socket that hears of every change of nf_tables in its network namespace.
///
/// The kernel drops notifications of our own changes before they take up room here, but it makes
/// them all the same: see [`NftEvents::apply_unheard`].
#[derive(Debug)]
pub struct NftEvents {
    socket: NetfilterSocket,
    own: u32,
    tables: Vec<TableName>,
    pending: VecDeque<NftEvent>,
}

impl NftEvents {
    /// Listens for changes of `tables` by sockets other than `own` ([`super::Nft::port_id`]).
    pub fn open(own: u32, tables: Vec<TableName>) -> Result<NftEvents, NftError> {
        let mut socket = NetfilterSocket::open()?;
        ignore(&socket, own)?;
        socket.join(GROUP_NFTABLES)?;
        Ok(NftEvents { socket, own, tables, pending: VecDeque::new() })
    }

    /// Applies operations as [`Nft::apply`] does, but a large transaction without listening.
    ///
    /// As long as anybody listens, the kernel makes a notification of 4 KiB and more for each element
    /// and keeps them all until it commits: 100,000 elements take 600 MB for half a second, and twice
    /// the time. If the generation of the rule set says that somebody else used the gap, the next
    /// event is an overflow.
    pub fn apply_unheard(
        &mut self,
        nft: &mut Nft,
        table: &TableName,
        ops: &[Op],
    ) -> Result<(), ApplyError> {
        if ops.len() < LARGE {
            return nft.apply(table, ops);
        }
        let before = nft.generation()?;
        self.socket.leave(GROUP_NFTABLES)?;
        let result = nft.apply(table, ops);
        self.socket.join(GROUP_NFTABLES)?;
        let ours = u32::from(result.is_ok());
        if nft.generation()? != before.wrapping_add(ours) {
            self.pending.push_back(NftEvent::Overflow);
        }
        result
    }

    /// The next event, or `None` if nothing happened so far. Never blocks. Several changes of a
    /// table that are read together are one event.
    pub fn try_next(&mut self) -> Result<Option<NftEvent>, NftError> {
        while self.pending.is_empty() {
            let datagram = match self.socket.receive(Wait::Not) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return Ok(Some(NftEvent::Overflow)),
                Err(NftError::Timeout { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            for message in messages(datagram).filter(|message| message.port != self.own) {
                let table = self.tables.iter().find(|table| {
                    let name = find(message.body(), TABLE).and_then(read_name);
                    message.nfproto() == Some(nfproto(table.family)) && name == Some(&*table.name)
                });
                let Some(table) = table.filter(|_| message.nft().is_some_and(is_change)) else {
                    continue;
                };
                let event = NftEvent::ForeignChange(table.clone());
                if !self.pending.contains(&event) {
                    self.pending.push_back(event);
                }
            }
        }
        Ok(self.pending.pop_front())
    }
}

impl AsRawFd for NftEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

impl AsFd for NftEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, ...: all kinds of objects name their table first.
const TABLE: u16 = 1;

fn is_change(message: u8) -> bool {
    use msg::{
        DELCHAIN, DELFLOWTABLE, DELOBJ, DELRULE, DELSET, DELSETELEM, DELTABLE, NEWCHAIN,
        NEWFLOWTABLE, NEWOBJ, NEWRULE, NEWSET, NEWSETELEM, NEWTABLE,
    };
    matches!(
        message,
        NEWTABLE
            | DELTABLE
            | NEWCHAIN
            | DELCHAIN
            | NEWRULE
            | DELRULE
            | NEWSET
            | DELSET
            | NEWSETELEM
            | DELSETELEM
            | NEWOBJ
            | DELOBJ
            | NEWFLOWTABLE
            | DELFLOWTABLE
    )
}

/// Makes the kernel drop notifications of transactions that came from this port. All messages of
/// a datagram are of one transaction (`nft_commit_notify` in `net/netfilter/nf_tables_api.c`), so
/// that the first one's `nlmsg_pid` decides.
fn ignore(socket: &NetfilterSocket, own: u32) -> Result<(), NftError> {
    const NLMSG_PID: u32 = 12;
    let instruction = |code: u32, jump_true, jump_false, k| {
        SockFilter::new(u16::try_from(code).unwrap_or(0), jump_true, jump_false, k)
    };
    // Classic BPF loads words in network byte order; nlmsg_pid is in host byte order.
    let program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NLMSG_PID),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, own.to_be()),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    SockRef::from(socket)
        .attach_filter(&program)
        .map_err(|source| NftError::Option { option: "SO_ATTACH_FILTER", source })
}
