//! The netlink socket of connection tracking: requests out, answers in.

use std::io;

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::wire::{self, Forget};
use super::{ConntrackError, Flow, Part, Reading};
use crate::datagram::{Message, messages};
use sluice_core::net::{Family, Protocol};

/// The kernel answers before `send` returns, so this is only waited for when it does not answer at
/// all. In seconds.
const PATIENCE: u32 = 10;
/// The kernel builds dumps in pieces of at most 32 KiB (`netlink_dump` in `net/netlink/af_netlink.c`).
const RECEIVE: usize = 64 * 1024;
/// Requests to forget that travel together. Refusals of all of them find room in the smallest usual
/// receive queue.
pub(super) const TOGETHER: usize = 128;

/// A socket in the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct ConntrackSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl ConntrackSocket {
    pub(super) fn open() -> Result<ConntrackSocket, ConntrackError> {
        let mut socket =
            Socket::new(NETLINK_NETFILTER).map_err(|source| match source.raw_os_error() {
                Some(libc::EPROTONOSUPPORT) => ConntrackError::Unsupported,
                _ => ConntrackError::Open(source),
            })?;
        socket.bind_auto().map_err(ConntrackError::Open)?;
        socket.set_cap_ack(true).map_err(ConntrackError::Open)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(i64::from(PATIENCE), 0))
            .map_err(|errno| ConntrackError::Open(errno.into()))?;
        Ok(ConntrackSocket { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// Reads flows of a protocol, one by one.
    pub(super) fn read(
        &mut self,
        family: Family,
        protocol: Protocol,
        part: Part,
        mut each: impl FnMut(Flow, Forget),
    ) -> Result<Reading, ConntrackError> {
        self.sequence += 1;
        let sequence = self.sequence;
        self.send(&wire::list_request(family, protocol, part, sequence))?;
        // Old kernels send more than was asked for.
        let asked = |flow: &Flow| flow.protocol == protocol && (part == Part::All || !flow.replied);
        let mut reading = Reading::Complete;
        loop {
            let Some(datagram) = self.receive()? else { return Ok(Reading::Incomplete) };
            for message in messages(datagram).filter(|message| message.sequence == sequence) {
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    reading = Reading::Incomplete;
                }
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => match message.errno() {
                        None | Some(0) => return Ok(reading),
                        Some(libc::EINTR | libc::EAGAIN | libc::ENOBUFS) => {
                            return Ok(Reading::Incomplete);
                        }
                        Some(errno) => return Err(refused_list(family, errno)),
                    },
                    _ => {
                        let flow = wire::flow(&message);
                        if let Some((flow, forget)) = flow.filter(|(flow, _)| asked(flow)) {
                            each(flow, forget);
                        }
                    }
                }
            }
        }
    }

    /// Whether there is a flow, not ended, of which one direction has these ends.
    pub(super) fn knows(
        &mut self,
        protocol: Protocol,
        source: std::net::SocketAddr,
        destination: std::net::SocketAddr,
    ) -> Result<bool, ConntrackError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(&wire::look_request(protocol, source, destination, sequence))?;
        let mut ended = false;
        loop {
            let Some(datagram) = self.receive()? else {
                return Err(ConntrackError::Receive(io::Error::from_raw_os_error(libc::ENOBUFS)));
            };
            for answer in messages(datagram).filter(|message| message.sequence == sequence) {
                ended |= wire::has_ended(&answer);
                match (answer.kind, answer.errno()) {
                    (NLMSG_ERROR, Some(libc::ENOENT)) => return Ok(false),
                    (NLMSG_ERROR, None | Some(0)) => return Ok(!ended),
                    (NLMSG_ERROR, Some(errno)) => {
                        return Err(refused_list(Family::of(source.ip()), errno));
                    }
                    _ => {}
                }
            }
        }
    }

    /// A flow that was read before, as it is now; `None` if it has ended.
    pub(super) fn reread(
        &mut self,
        family: Family,
        forget: &Forget,
    ) -> Result<Option<Flow>, ConntrackError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(&wire::reread_request(family, forget, sequence))?;
        let mut found = None;
        loop {
            let Some(datagram) = self.receive()? else {
                return Err(ConntrackError::Receive(io::Error::from_raw_os_error(libc::ENOBUFS)));
            };
            for answer in messages(datagram).filter(|message| message.sequence == sequence) {
                match (answer.kind, answer.errno()) {
                    (NLMSG_ERROR, Some(libc::ENOENT)) => return Ok(None),
                    (NLMSG_ERROR, None | Some(0)) => return Ok(found),
                    (NLMSG_ERROR, Some(errno)) => return Err(refused_list(family, errno)),
                    _ => {
                        let same = wire::flow(&answer).filter(|(_, other)| other == forget);
                        found = same.map(|(flow, _)| flow);
                    }
                }
            }
        }
    }

    /// Makes the kernel forget flows, and says how many it knew.
    pub(super) fn forget(
        &mut self,
        family: Family,
        flows: &[Forget],
    ) -> Result<usize, ConntrackError> {
        let mut refusals = Refusals::default();
        for some in flows.chunks(TOGETHER) {
            let first = self.sequence + 1;
            let (bytes, last) = wire::forget_requests(family, some, first);
            self.sequence = last;
            self.send(&bytes)?;
            self.collect(first, last, &mut refusals)?;
        }
        match refusals.first {
            None => Ok(flows.len() - refusals.gone),
            Some(libc::EPERM) => Err(ConntrackError::NotPermitted),
            Some(errno) => Err(ConntrackError::Remove {
                family,
                failed: refusals.failed,
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }

    /// Reads answers up to that to the message `last`; only it is always answered, the others if
    /// they are refused.
    fn collect(
        &mut self,
        first: u32,
        last: u32,
        refusals: &mut Refusals,
    ) -> Result<(), ConntrackError> {
        loop {
            let Some(datagram) = self.receive()? else {
                return Err(ConntrackError::Receive(io::Error::from_raw_os_error(libc::ENOBUFS)));
            };
            let answers = messages(datagram)
                .filter(|m| m.kind == NLMSG_ERROR && (first..=last).contains(&m.sequence));
            for answer in answers {
                refusals.count(answer.errno().unwrap_or(libc::EBADMSG));
                if answer.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), ConntrackError> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0);
        match sent.map_err(ConntrackError::Send)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(ConntrackError::Send(io::ErrorKind::WriteZero.into())),
        }
    }

    /// Receives one datagram of the kernel; `None` if some were lost.
    fn receive(&mut self) -> Result<Option<&[u8]>, ConntrackError> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Only the kernel (port 0) is believed; any process may write to a netlink port.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((len, _)) => return Ok(Some(&self.buffer[..len.min(self.buffer.len())])),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => return Ok(None),
                    Some(libc::EAGAIN) => {
                        return Err(ConntrackError::Timeout { seconds: PATIENCE.into() });
                    }
                    _ => return Err(ConntrackError::Receive(error)),
                },
            }
        }
    }
}

/// What the kernel would not forget.
#[derive(Debug, Default)]
struct Refusals {
    /// Flows that were not there any more.
    gone: usize,
    /// Flows that are still there.
    failed: usize,
    /// The first error about those.
    first: Option<i32>,
}

impl Refusals {
    fn count(&mut self, errno: i32) {
        match errno {
            0 => {}
            libc::ENOENT => self.gone += 1,
            errno => {
                self.failed += 1;
                self.first.get_or_insert(errno);
            }
        }
    }
}

/// What it means that the kernel would not list: nfnetlink answers `EINVAL` or `EOPNOTSUPP` if no
/// module has registered for connection tracking (`nfnetlink_rcv_msg` in `net/netfilter/nfnetlink.c`).
fn refused_list(family: Family, errno: i32) -> ConntrackError {
    match errno {
        libc::EPERM => ConntrackError::NotPermitted,
        libc::EINVAL | libc::EOPNOTSUPP => ConntrackError::Unsupported,
        _ => ConntrackError::List { family, source: io::Error::from_raw_os_error(errno) },
    }
}

impl Message<'_> {
    /// The number in an answer of the kernel: 0 for success, else one of `errno.h`.
    fn errno(&self) -> Option<i32> {
        let code = self.payload.first_chunk::<4>()?;
        Some(i32::from_ne_bytes(*code).saturating_neg())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_module_is_told_from_one_that_refuses() {
        let family = Family::V4;
        assert!(matches!(refused_list(family, libc::EINVAL), ConntrackError::Unsupported));
        assert!(matches!(refused_list(family, libc::EOPNOTSUPP), ConntrackError::Unsupported));
        assert!(matches!(refused_list(family, libc::EPERM), ConntrackError::NotPermitted));
        assert!(matches!(refused_list(family, libc::ENOMEM), ConntrackError::List { .. }));
    }

    #[test]
    fn a_flow_that_ended_by_itself_is_no_failure() {
        let mut refusals = Refusals::default();
        [0, libc::ENOENT, libc::EBUSY, libc::ENOENT].into_iter().for_each(|e| refusals.count(e));
        assert_eq!((refusals.gone, refusals.failed), (2, 1));
        assert_eq!(refusals.first, Some(libc::EBUSY));
    }
}
