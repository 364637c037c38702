//! The netlink socket, and what its answers mean.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::error::NftError;
use crate::datagram::{HEADER, Message};
use crate::nft::wire::attributes::{attributes, read_name};

/// The kernel answers before `send` returns, so this is only ever waited for when it does not
/// answer at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel builds dumps in pieces of at most 32 KiB, or as large as the receiver's buffer was
/// the last time, if that is less (`netlink_dump` in `net/netlink/af_netlink.c`).
const RECEIVE: usize = 64 * 1024;
/// Room for a refusal of each of some ten thousand messages.
const RECEIVE_QUEUE: usize = 8 << 20;

/// A netlink socket of the netfilter family.
pub(crate) struct NetfilterSocket {
    socket: Socket,
    port: u32,
    send_queue: usize,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for NetfilterSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetfilterSocket").field("port", &self.port).finish_non_exhaustive()
    }
}

impl NetfilterSocket {
    /// Opens a socket in the current network namespace.
    pub(crate) fn open() -> Result<NetfilterSocket, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Open)?;
        let port = socket.bind_auto().map_err(NftError::Open)?.port_number();
        let option = |option| move |source| NftError::Option { option, source };
        socket.set_cap_ack(true).map_err(option("NETLINK_CAP_ACK"))?;
        socket.set_ext_ack(true).map_err(option("NETLINK_EXT_ACK"))?;
        let patience = TimeVal::new(i64::try_from(PATIENCE.as_secs()).unwrap_or(10), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)
            .map_err(|errno| option("SO_RCVTIMEO")(errno.into()))?;
        // Without the privilege, the system's limit has to do.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_QUEUE).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_QUEUE);
        }
        Ok(NetfilterSocket { socket, port, send_queue: 0, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// The socket's address.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Receives the notifications of a group from now on.
    pub(crate) fn join(&mut self, group: u32) -> Result<(), NftError> {
        let option = "NETLINK_ADD_MEMBERSHIP";
        self.socket.add_membership(group).map_err(|source| NftError::Option { option, source })
    }

    /// Receives no more notifications of a group.
    pub(crate) fn leave(&mut self, group: u32) -> Result<(), NftError> {
        let option = "NETLINK_DROP_MEMBERSHIP";
        self.socket.drop_membership(group).map_err(|source| NftError::Option { option, source })
    }

    /// Sends messages in one system call, making room for them first.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        if bytes.len() > self.send_queue {
            // The kernel takes messages up to the size of the send queue less some 32 bytes.
            let room = (bytes.len() + 4096).next_power_of_two();
            if setsockopt(&self.socket, sockopt::SndBufForce, &room).is_err() {
                let _ = setsockopt(&self.socket, sockopt::SndBuf, &room);
            }
            self.send_queue = room;
        }
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EMSGSIZE) => NftError::TooLarge { bytes: bytes.len() },
            _ => NftError::Send { bytes: bytes.len(), source },
        };
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(failed)?;
        if sent != bytes.len() {
            return Err(failed(io::ErrorKind::WriteZero.into()));
        }
        Ok(())
    }

    /// Receives one datagram of the kernel. `Ok(None)` means that some were lost because the queue
    /// was full.
    pub(crate) fn receive(&mut self, wait: Wait) -> Result<Option<&[u8]>, NftError> {
        loop {
            self.buffer.clear();
            let flags = match wait {
                Wait::Patiently => 0,
                Wait::Not => libc::MSG_DONTWAIT,
            };
            match self.socket.recv_from(&mut self.buffer, flags) {
                // Only the kernel (port 0) is believed; any process may write to a netlink port.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((len, _)) => return Ok(Some(&self.buffer[..len.min(self.buffer.len())])),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => return Ok(None),
                    Some(libc::EAGAIN) => {
                        return Err(NftError::Timeout { seconds: PATIENCE.as_secs() });
                    }
                    _ => return Err(NftError::Receive(error)),
                },
            }
        }
    }
}

impl AsFd for NetfilterSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether to wait for a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For [`PATIENCE`].
    Patiently,
    /// Not at all.
    Not,
}

/// The kernel's answer to one message (`struct nlmsgerr` of `netlink.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0 for success, else a number of `errno.h`.
    pub(crate) errno: i32,
    /// What the kernel says beside the number.
    pub(crate) text: Option<String>,
}

impl Answer {
    /// Reads a message of type `NLMSG_ERROR`.
    pub(crate) fn read(message: &Message<'_>) -> Option<Answer> {
        const TEXT: u16 = 1; // NLMSGERR_ATTR_MSG
        let (code, rest) = message.payload.split_first_chunk::<4>()?;
        let errno = i32::from_ne_bytes(*code).saturating_neg();
        if message.flags & NLM_F_ACK_TLVS == 0 {
            return Some(Answer { errno, text: None });
        }
        // The refused message comes next: only its header if it was capped.
        let original = match message.flags & NLM_F_CAPPED {
            0 => usize::try_from(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)).ok()?,
            _ => HEADER,
        };
        let extras = rest.get(original.next_multiple_of(4)..).unwrap_or_default();
        let text = attributes(extras).find(|&(kind, _)| kind == TEXT).map(|(_, value)| value);
        Some(Answer { errno, text: text.and_then(read_name).map(str::to_owned) })
    }

    /// The error number in words, and what the kernel says beside it.
    pub(crate) fn words(&self) -> String {
        let words = io::Error::from_raw_os_error(self.errno).to_string();
        match &self.text {
            Some(text) => format!("{words}: {text}"),
            None => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_number_and_perhaps_a_text() {
        let mut payload = (-17_i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; 16]);
        payload.extend_from_slice(&[8, 0, 1, 0, b'n', b'o', b'!', 0]);
        let mut message = Message { kind: 2, flags: 0, sequence: 1, port: 2, payload: &payload };
        assert_eq!(Answer::read(&message), Some(Answer { errno: 17, text: None }));
        message.flags = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        let answer = Answer::read(&message).expect("a whole answer");
        assert_eq!((answer.errno, answer.text.as_deref()), (17, Some("no!")));
        assert!(answer.words().ends_with(": no!"));
    }
}
