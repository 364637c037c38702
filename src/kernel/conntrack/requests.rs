//! Requests to connection tracking: lists, single flows, and what it is to forget.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::wire::{self, Forget};
use super::{ConntrackError, Flow, Part, Reading};
use crate::netlink::attributes::Writer;
use crate::netlink::{Answer, Client, End, Message, Refusal, SocketError};
use sluice_core::net::{Family, Protocol};

/// Connection tracking of the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Conntrack(Client);

impl Conntrack {
    pub(super) fn open() -> Result<Conntrack, ConntrackError> {
        Ok(Conntrack(Client::open(NETLINK_NETFILTER)?))
    }

    /// Reads flows of these protocols, one by one.
    pub(super) fn read(
        &mut self,
        family: Family,
        which: &BTreeMap<Protocol, Part>,
        mut each: impl FnMut(Flow, Forget),
    ) -> Result<Reading, ConntrackError> {
        // Kernels send more than is asked for: old ones always, others where it is several protocols.
        let asked = |flow: &Flow| {
            which.get(&flow.protocol).is_some_and(|part| *part == Part::All || !flow.replied)
        };
        let sequence = self.0.take_sequence(1);
        let mut writer = Writer::default();
        wire::list_request(&mut writer, family, which, sequence);
        let ended = self.0.exchange(writer.bytes(), sequence, Answer::Whole, |message| {
            let flow = wire::flow(message);
            if let Some((flow, forget)) = flow.filter(|(flow, _)| asked(flow)) {
                each(flow, forget);
            }
        });
        match ended {
            Ok(End::Complete) => Ok(Reading::Complete),
            Ok(End::Interrupted) | Err(SocketError::Overrun) => Ok(Reading::Incomplete),
            Ok(End::Refused(Refusal {
                errno: libc::EINTR | libc::EAGAIN | libc::ENOBUFS, ..
            })) => Ok(Reading::Incomplete),
            Ok(End::Refused(refusal)) => Err(refused_list(family, refusal.errno)),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is a flow, not ended, of which one direction has these ends.
    pub(super) fn knows(
        &mut self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<bool, ConntrackError> {
        let mut ended = false;
        let write = |writer: &mut Writer, sequence| {
            wire::look_request(writer, protocol, source, destination, sequence);
        };
        let there = self.ask(Family::of(source.ip()), write, |answer| {
            ended |= wire::has_ended(answer);
        })?;
        Ok(there && !ended)
    }

    /// A flow that was read before, as it is now; `None` if it has ended.
    pub(super) fn reread(
        &mut self,
        family: Family,
        forget: &Forget,
    ) -> Result<Option<Flow>, ConntrackError> {
        let mut found = None;
        let write = |writer: &mut Writer, sequence| {
            wire::reread_request(writer, family, forget, sequence);
        };
        let there = self.ask(family, write, |answer| {
            let same = wire::flow(answer).filter(|(_, other)| other == forget);
            found = same.map(|(flow, _)| flow);
        })?;
        Ok(found.filter(|_| there))
    }

    /// Asks for one flow; whether it is there.
    fn ask(
        &mut self,
        family: Family,
        write: impl FnOnce(&mut Writer, u32),
        each: impl FnMut(&Message<'_>),
    ) -> Result<bool, ConntrackError> {
        let sequence = self.0.take_sequence(1);
        let mut writer = Writer::default();
        write(&mut writer, sequence);
        match self.0.exchange(writer.bytes(), sequence, Answer::Whole, each)? {
            End::Complete | End::Interrupted => Ok(true),
            End::Refused(Refusal { errno: libc::ENOENT, .. }) => Ok(false),
            End::Refused(refusal) => Err(refused_list(family, refusal.errno)),
        }
    }

    /// Deletes flows, and returns how many existed.
    pub(super) fn forget(
        &mut self,
        family: Family,
        flows: &[Forget],
    ) -> Result<usize, ConntrackError> {
        let answers = self.0.change_each(flows, |writer, flow, sequence| {
            wire::forget_request(writer, family, flow, sequence);
        })?;
        let mut refusals = Refusals::default();
        answers
            .iter()
            .filter_map(|answer| answer.as_ref().err())
            .for_each(|r| refusals.count(r.errno));
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
}

/// The flows that could not be deleted.
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
        [libc::ENOENT, libc::EBUSY, libc::ENOENT].into_iter().for_each(|e| refusals.count(e));
        assert_eq!((refusals.gone, refusals.failed), (2, 1));
        assert_eq!(refusals.first, Some(libc::EBUSY));
    }
}
