//! Requests and what comes back.

use std::ops::{ControlFlow, RangeInclusive};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};

use super::attributes::Writer;
use super::error::{NetlinkError, Refusal, SocketError};
use super::message::{Message, messages};
use super::socket::{Received, Socket, Wait};

/// Changes that travel together: refusals of all of them find room in the smallest usual receive queue.
const TOGETHER: u16 = 128;
/// How often a list is read that changes meanwhile.
const ATTEMPTS: usize = 8;

/// Sends requests through a socket, one after the other, and reads the answers.
#[derive(Debug)]
pub(crate) struct Client<T = Socket> {
    transport: T,
    sequence: u32,
}

/// What carries bytes to the kernel and back: a [`Socket`], or a script in tests.
pub(crate) trait Transport {
    /// Sends messages, all at once.
    fn send(&mut self, bytes: &[u8]) -> Result<(), SocketError>;
    /// Receives a datagram.
    fn receive(&mut self, wait: Wait) -> Result<Received<'_>, SocketError>;
}

impl Transport for Socket {
    fn send(&mut self, bytes: &[u8]) -> Result<(), SocketError> {
        Socket::send(self, bytes)
    }

    fn receive(&mut self, wait: Wait) -> Result<Received<'_>, SocketError> {
        Socket::receive(self, wait)
    }
}

/// What an answer consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One message.
    One,
    /// Messages until one of type `NLMSG_ERROR` or `NLMSG_DONE`: of a dump, or of a request that asks to be
    /// acknowledged.
    Whole,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an answer may have ended with a refusal"]
pub(crate) enum End {
    /// It was all of it.
    Complete,
    /// It was all, but what it is about changed meanwhile (`NLM_F_DUMP_INTR`): some may be missing, some twice.
    Interrupted,
    /// The kernel refused.
    Refused(Refusal),
}

/// Whether all refusals of a batch are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// They are.
    All,
    /// Answers were lost.
    Some,
}

impl Client {
    /// Opens a socket of a netlink protocol in the current network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Client, SocketError> {
        Socket::open(protocol).map(Client::new)
    }

    /// The socket's address (`nlmsg_pid`).
    pub(crate) fn port(&self) -> u32 {
        self.transport.port()
    }
}

impl<T: Transport> Client<T> {
    /// Sends through this from now on.
    pub(crate) fn new(transport: T) -> Client<T> {
        Client { transport, sequence: 1 }
    }

    /// What it sends through.
    pub(crate) fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Allocates sequence numbers that have not been used for a long time.
    pub(crate) fn take_sequence(&mut self, count: u32) -> u32 {
        // 0 is reserved for messages that answer nothing.
        if self.sequence.checked_add(count).is_none() {
            self.sequence = 1;
        }
        let first = self.sequence;
        self.sequence += count;
        first
    }

    /// Sends one request and gives each message of the answer to `each`, but for that which ends it.
    pub(crate) fn exchange(
        &mut self,
        request: &[u8],
        sequence: u32,
        answer: Answer,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<End, SocketError> {
        self.transport.send(request)?;
        let mut end = End::Complete;
        loop {
            let Received::Datagram(datagram) = self.transport.receive(Wait::Patiently)? else {
                return Err(SocketError::Overrun);
            };
            for message in messages(datagram).filter(|message| message.sequence == sequence) {
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    end = End::Interrupted;
                }
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return Ok(message.outcome().map_or_else(End::Refused, |()| end));
                    }
                    _ => each(&message),
                }
                if answer == Answer::One {
                    return Ok(end);
                }
            }
        }
    }

    /// Sends requests with these numbers in one system call, and tells of each that was refused, in their
    /// order, until all are answered or `refused` has heard enough. Only the last one may ask to be
    /// acknowledged, and must: the kernel answers in the order of the requests, the others if it refuses
    /// them, so that the last one's answer is the end.
    pub(crate) fn transmit(
        &mut self,
        requests: &[u8],
        numbers: RangeInclusive<u32>,
        mut refused: impl FnMut(u32, Refusal) -> ControlFlow<()>,
    ) -> Result<Heard, SocketError> {
        self.transport.send(requests)?;
        let mut heard = Heard::All;
        loop {
            let wait = match heard {
                Heard::All => Wait::Patiently,
                // All answers are there by now, but for those that were lost.
                Heard::Some => Wait::Not,
            };
            let datagram = match self.transport.receive(wait)? {
                Received::Datagram(datagram) => datagram,
                Received::Overrun => {
                    heard = Heard::Some;
                    continue;
                }
                Received::Nothing => return Ok(heard),
            };
            let answers = messages(datagram)
                .filter(|m| m.kind == NLMSG_ERROR && numbers.contains(&m.sequence));
            for answer in answers {
                if let Err(refusal) = answer.outcome()
                    && refused(answer.sequence, refusal).is_break()
                {
                    return Ok(heard);
                }
                if answer.sequence == *numbers.end() {
                    return Ok(heard);
                }
            }
        }
    }

    /// Sends changes, in groups, and says of each how it went: one that is refused does not keep the others
    /// from being done. `write` writes the message of one, with a sequence number.
    pub(crate) fn change_each<C>(
        &mut self,
        changes: impl IntoIterator<Item = C>,
        mut write: impl FnMut(&mut Writer, C, u32),
    ) -> Result<Vec<Result<(), Refusal>>, SocketError> {
        let mut results = Vec::new();
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let before = results.len();
            let first = self.take_sequence(TOGETHER.into());
            let mut writer = Writer::default();
            let (mut last, mut start) = (first, 0);
            for (change, sequence) in changes.by_ref().zip(first..).take(TOGETHER.into()) {
                (last, start) = (sequence, writer.len());
                write(&mut writer, change, sequence);
                results.push(Ok(()));
            }
            writer.add_flags(start, NLM_F_ACK);
            let heard = self.transmit(writer.bytes(), first..=last, |number, refusal| {
                let index = usize::try_from(number - first).ok();
                if let Some(result) = index.and_then(|index| results.get_mut(before + index)) {
                    *result = Err(refusal);
                }
                ControlFlow::Continue(())
            })?;
            if heard == Heard::Some {
                return Err(SocketError::Overrun);
            }
        }
        Ok(results)
    }

    /// The same for messages of the netlink crates, each with `flags` beside the usual ones.
    pub(crate) fn change<M: NetlinkSerializable>(
        &mut self,
        changes: impl IntoIterator<Item = (M, u16)>,
    ) -> Result<Vec<Result<(), Refusal>>, NetlinkError> {
        let write = |writer: &mut Writer, (message, flags), sequence| {
            put_message(writer, message, flags, sequence);
        };
        Ok(self.change_each(changes, write)?)
    }

    /// Sends a question and gives the content of each message of the answer to `each`.
    pub(crate) fn ask<M: NetlinkSerializable>(
        &mut self,
        question: M,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        let sequence = self.take_sequence(1);
        let mut writer = Writer::default();
        put_message(&mut writer, question, NLM_F_ACK, sequence);
        let each = |message: &Message<'_>| each(message.payload);
        match self.exchange(writer.bytes(), sequence, Answer::Whole, each)? {
            End::Refused(refusal) => Err(refusal.into()),
            End::Complete | End::Interrupted => Ok(()),
        }
    }

    /// Asks for a list and reads the content of each message with `read`; the list is read again if it changed
    /// meanwhile.
    pub(crate) fn list<M: NetlinkSerializable, I>(
        &mut self,
        question: M,
        mut read: impl FnMut(&[u8]) -> Option<I>,
    ) -> Result<Vec<I>, NetlinkError> {
        let sequence = self.take_sequence(1);
        let mut writer = Writer::default();
        put_message(&mut writer, question, NLM_F_DUMP, sequence);
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let each = |message: &Message<'_>| found.extend(read(message.payload));
            // A list that was read to its end has no late messages, so its number may be used again.
            match self.exchange(writer.bytes(), sequence, Answer::Whole, each)? {
                End::Complete => return Ok(found),
                End::Interrupted => {}
                End::Refused(refusal) => return Err(refusal.into()),
            }
        }
        Err(NetlinkError::Interrupted)
    }
}

fn put_message<M: NetlinkSerializable>(writer: &mut Writer, message: M, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let len = message.buffer_len();
    let bytes = writer.extend(len.next_multiple_of(4));
    message.serialize(&mut bytes[..len]);
}
