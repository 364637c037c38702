//! Notifications about changes by other programs.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::connection::{Nft, RECEIVE_QUEUE};
use super::error::{ApplyError, NftError};
use crate::netlink::attributes::{find, read_name};
use crate::netlink::netfilter::nfproto;
use crate::netlink::{Received, Socket, Wait, messages};
use crate::nft::model::{Operations, TableName};
use crate::nft::wire::uapi::{GROUP_NFTABLES, msg};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftEvent {
    /// Another program changed this table.
    ForeignChange(TableName),
    /// Notifications were lost: anything may have happened to any table.
    Overflow,
}

/// Whether changes were listened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// From now on.
    Now,
    /// Since an earlier call.
    Before,
}

/// Transactions from this many operations on are not listened to.
const LARGE: usize = 1000;

/// A socket for notifications about all changes of nf_tables in its network namespace.
///
/// The kernel drops notifications about our own changes before they use the queue, but it creates them all
/// the same: see [`NftEvents::apply_unheard`].
#[derive(Debug)]
pub struct NftEvents {
    socket: Socket,
    own: u32,
    tables: Vec<TableName>,
    pending: VecDeque<NftEvent>,
    listening: bool,
}

impl NftEvents {
    /// Opens the socket. From [`NftEvents::listen`] on, it is notified about changes of `tables` by sockets
    /// other than `own` ([`crate::nft::Nft::port_id`]).
    pub fn open(own: u32, tables: Vec<TableName>) -> Result<NftEvents, NftError> {
        let mut socket = Socket::open(NETLINK_NETFILTER)?;
        socket.enlarge_receive_queue(RECEIVE_QUEUE);
        ignore(&socket, own)?;
        Ok(NftEvents { socket, own, tables, pending: VecDeque::new(), listening: false })
    }

    /// Listens from now on, if it did not before.
    pub fn listen(&mut self) -> Result<Listening, NftError> {
        if self.listening {
            return Ok(Listening::Before);
        }
        self.socket.join(GROUP_NFTABLES)?;
        self.listening = true;
        Ok(Listening::Now)
    }

    /// Applies operations as [`Nft::apply`] does, but a large transaction without listening.
    ///
    /// While there is a listener, the kernel creates a notification of 4 KiB and more for each element and
    /// keeps them all until the commit: 100,000 elements take 600 MB for half a second, and twice the time.
    /// Unless the generation of the rule set proves that no other program made a change in the gap, the next
    /// event is an overflow.
    pub fn apply_unheard<O: Operations + ?Sized>(
        &mut self,
        nft: &mut Nft,
        table: &TableName,
        ops: &O,
    ) -> Result<(), ApplyError> {
        if !self.listening || ops.len() < LARGE {
            return nft.apply(table, ops);
        }
        let before = nft.generation()?;
        self.socket.leave(GROUP_NFTABLES).map_err(NftError::from)?;
        self.listening = false;
        let result = nft.apply(table, ops);
        let expected = before.wrapping_add(u32::from(result.is_ok()));
        // What was applied is applied, whether or not it can be listened again.
        let listening = self.listen().is_ok();
        if !listening || nft.generation().ok() != Some(expected) {
            self.pending.push_back(NftEvent::Overflow);
        }
        result
    }

    /// Changes whenever there may be an event: each time another program changed anything in nf_tables. Must
    /// be called within a Tokio runtime.
    pub fn follow(&self) -> Result<watch::Receiver<()>, NftError> {
        let wait = |source| NftError::Option { option: "readiness", source };
        // The same socket: it is read in `try_next`, here is only waited for.
        let socket = self.socket.as_fd().try_clone_to_owned().map_err(wait)?;
        let socket = readable(socket).map_err(wait)?;
        let (sender, receiver) = watch::channel(());
        tokio::spawn(async move {
            while let Ok(mut ready) = tokio::select! {
                ready = socket.readable() => ready,
                () = sender.closed() => return,
            } {
                ready.clear_ready();
                sender.send_replace(());
            }
        });
        Ok(receiver)
    }

    /// The next event, or `None` if nothing happened so far. Never blocks. Several changes of a
    /// table that are read together are one event.
    pub fn try_next(&mut self) -> Result<Option<NftEvent>, NftError> {
        while self.pending.is_empty() {
            let datagram = match self.socket.receive(Wait::Not)? {
                Received::Datagram(datagram) => datagram,
                Received::Overrun => return Ok(Some(NftEvent::Overflow)),
                Received::Nothing => return Ok(None),
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

/// Lets the runtime wait until a socket can be read.
#[allow(unsafe_code)]
fn readable(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same until the `AsyncFd` that owns it drops it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
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
fn ignore(socket: &Socket, own: u32) -> Result<(), NftError> {
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
