//! Netlink requests that the kernel answers one by one: many changes in one system call, and lists.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkMessage, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::datagram::{HEADER, Message, messages};

/// The kernel answers before `send` returns, so this is only waited for when it does not answer at
/// all.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel builds dumps in pieces of at most 32 KiB (`netlink_dump` in `net/netlink/af_netlink.c`).
const RECEIVE: usize = 64 * 1024;
/// Messages that travel together: their answers find room in the smallest usual receive queue.
const TOGETHER: usize = 128;

/// The kernel could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such socket.
    #[error("open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// A message could not be sent.
    #[error("send to the kernel: {0}")]
    Send(#[source] io::Error),
    /// An answer could not be received.
    #[error("receive from the kernel: {0}")]
    Receive(#[source] io::Error),
    /// No answer came.
    #[error("the kernel did not answer within {seconds} s")]
    Timeout {
        /// How long was waited.
        seconds: u64,
    },
    /// A list changed while it was read, every time.
    #[error("the kernel's list changed while it was read; trying again helps")]
    Interrupted,
    /// The kernel refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// The kernel's no to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A number of `errno.h`.
    pub errno: i32,
    /// What the kernel says beside it.
    pub text: Option<String>,
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Whether it says that the kernel's state is not what the change was made for: something is
    /// there already, or not there.
    pub fn contradicts_state(&self) -> bool {
        matches!(
            self.errno,
            libc::EEXIST | libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL
        )
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

/// A netlink socket in the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// Opens a socket of a netlink protocol.
    pub(super) fn open(protocol: isize) -> Result<Requests, RequestError> {
        let mut socket = Socket::new(protocol).map_err(RequestError::Open)?;
        socket.bind_auto().map_err(RequestError::Open)?;
        socket.set_cap_ack(true).map_err(RequestError::Open)?;
        socket.set_ext_ack(true).map_err(RequestError::Open)?;
        let patience = TimeVal::new(i64::try_from(PATIENCE.as_secs()).unwrap_or(10), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)
            .map_err(|errno| RequestError::Open(errno.into()))?;
        Ok(Requests { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// Sends changes, each with `flags` beside the usual ones, and gives an answer for each.
    pub(super) fn change<M: NetlinkSerializable>(
        &mut self,
        changes: impl IntoIterator<Item = (M, u16)>,
    ) -> Result<Vec<Result<(), Refusal>>, RequestError> {
        let mut answers = Vec::new();
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            let mut count = 0;
            for (message, flags) in changes.by_ref().take(TOGETHER) {
                self.write(&mut bytes, message, flags | NLM_F_ACK);
                count += 1;
            }
            self.send(&bytes)?;
            self.collect(first, count, &mut answers)?;
        }
        Ok(answers)
    }

    /// Sends a question and gives the content of each message of the answer to `each`.
    pub(super) fn ask<M: NetlinkSerializable>(
        &mut self,
        question: M,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), RequestError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes, question, NLM_F_ACK);
        self.send(&bytes)?;
        self.read(&mut each).map(drop)
    }

    /// Asks for a list and gives the content of each message to `each`.
    pub(super) fn list<M: NetlinkSerializable>(
        &mut self,
        question: M,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<Reading, RequestError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes, question, NLM_F_DUMP);
        self.send(&bytes)?;
        self.read(&mut each)
    }

    fn write<M: NetlinkSerializable>(&mut self, bytes: &mut Vec<u8>, message: M, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = netlink_packet_core::NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let payload = netlink_packet_core::NetlinkPayload::InnerMessage(message);
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + message.buffer_len()]);
    }

    fn send(&self, bytes: &[u8]) -> Result<(), RequestError> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0);
        match sent.map_err(RequestError::Send)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(RequestError::Send(io::ErrorKind::WriteZero.into())),
        }
    }

    /// Receives the answers to `count` messages from the sequence number `first` on.
    fn collect(
        &mut self,
        first: u32,
        count: usize,
        answers: &mut Vec<Result<(), Refusal>>,
    ) -> Result<(), RequestError> {
        let before = answers.len();
        while answers.len() < before + count {
            let datagram = self.receive()?;
            for message in messages(datagram) {
                // The kernel answers in the order of the messages; what is older belongs to a
                // question that was given up.
                let index = usize::try_from(message.sequence.wrapping_sub(first));
                if message.kind == NLMSG_ERROR && index == Ok(answers.len() - before) {
                    answers.push(message.answer());
                }
            }
        }
        Ok(())
    }

    /// Reads answers to the last question until the end.
    fn read(&mut self, each: &mut impl FnMut(u16, &[u8])) -> Result<Reading, RequestError> {
        let sequence = self.sequence;
        let mut reading = Reading::Complete;
        loop {
            let datagram = self.receive()?;
            for message in messages(datagram).filter(|message| message.sequence == sequence) {
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    reading = Reading::Interrupted;
                }
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        message.answer()?;
                        return Ok(reading);
                    }
                    kind => each(kind, message.payload),
                }
            }
        }
    }

    fn receive(&mut self) -> Result<&[u8], RequestError> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Only the kernel (port 0) is believed; any process may write to a netlink port.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((len, _)) => return Ok(&self.buffer[..len.min(self.buffer.len())]),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => {
                        return Err(RequestError::Timeout { seconds: PATIENCE.as_secs() });
                    }
                    _ => return Err(RequestError::Receive(error)),
                },
            }
        }
    }
}

/// Whether a list is one state of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is.
    Complete,
    /// It changed while it was read.
    Interrupted,
}

impl Message<'_> {
    /// What a message of type `NLMSG_ERROR` or `NLMSG_DONE` says (`struct nlmsgerr` of `netlink.h`).
    fn answer(&self) -> Result<(), Refusal> {
        const TEXT: u16 = 1; // NLMSGERR_ATTR_MSG
        let code = self.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        if code == 0 {
            return Ok(());
        }
        let errno = code.saturating_neg();
        let rest = self.payload.get(4..).unwrap_or_default();
        // The refused message comes next: only its header if it was capped.
        let original = match (self.kind, self.flags & NLM_F_CAPPED, rest.first_chunk()) {
            (NLMSG_DONE, ..) => 0,
            (_, 0, Some(length)) => usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(0),
            _ => HEADER,
        };
        let extras = rest.get(original.next_multiple_of(4)..).unwrap_or_default();
        let text = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| find(extras, TEXT))
            .flatten()
            .map(|value| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        Err(Refusal { errno, text })
    }
}

/// The content of the first attribute of a type.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let attributes = NlasIterator::new(attributes);
    attributes.map_while(Result::ok).find(|attribute| attribute.kind() == kind).map(value)
}

/// The content of an attribute, for as long as the message.
pub(super) fn value<'a>(attribute: NlaBuffer<&'a [u8]>) -> &'a [u8] {
    let end = usize::from(attribute.length());
    let whole: &'a [u8] = attribute.into_inner();
    whole.get(netlink_packet_core::NLA_HEADER_SIZE..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_number_and_perhaps_a_text() {
        let mut payload = (-17_i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; 16]);
        payload.extend_from_slice(&[8, 0, 1, 0, b'n', b'o', b'!', 0]);
        let mut message =
            Message { kind: NLMSG_ERROR, flags: 0, sequence: 1, port: 0, payload: &payload };
        assert_eq!(message.answer(), Err(Refusal { errno: 17, text: None }));
        message.flags = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        let refusal = message.answer().expect_err("17 is an error");
        assert_eq!(refusal.text.as_deref(), Some("no!"));
        assert!(refusal.to_string().ends_with(": no!"));
        let fine = Message { kind: NLMSG_ERROR, flags: 0, sequence: 1, port: 0, payload: &[0; 20] };
        assert_eq!(fine.answer(), Ok(()));
    }
}
