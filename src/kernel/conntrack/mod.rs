//! Conntrack over netlink: reads flows and deletes some.
//!
//! The protocol is defined by `include/uapi/linux/netfilter/nfnetlink_conntrack.h` and implemented in
//! `net/netfilter/nf_conntrack_netlink.c`. A delete request without a flow empties the whole table, so only a
//! [`Flow`] that was read before can be deleted here: by its tuple as read, and the id that distinguishes it
//! from a later flow with the same tuple.
//!
//! [`remove_judged`] opens its own socket each time: it is rarely used, and closing the socket discards the
//! rest of an interrupted read.

mod error;
mod flow;
mod lookup;
mod requests;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

pub use error::ConntrackError;
pub use flow::{Flow, Part};
pub use lookup::Lookup;

use self::requests::Conntrack;
use self::wire::Forget;
use sluice_core::net::{Family, Protocol};

/// How often the table is read again when a reading was incomplete.
const ATTEMPTS: u32 = 4;
/// Flows that are judged and forgotten together.
const GROUP: usize = 128;
/// Up to so many flows, one reading of several protocols takes less time than one of each. The kernel walks
/// all buckets for each (262,144 of them on a machine of 16 GiB, shared by all network namespaces: 6 to 19 ms),
/// and sends a flow in 2 to 4 µs.
const FEW: usize = 4096;

/// What [`remove`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removal {
    /// The number of flows read.
    pub seen: usize,
    /// The number of flows deleted.
    pub removed: usize,
}

/// Deletes every flow of these protocols for which `stale` is true, in the current network namespace.
///
/// A flow that ended meanwhile, or was replaced by another with the same tuple, is skipped.
///
/// # Errors
/// As for [`remove_judged`].
pub fn remove(
    family: Family,
    protocols: &BTreeSet<Protocol>,
    stale: impl Fn(&Flow) -> bool,
) -> Result<Removal, ConntrackError> {
    let which = protocols.iter().map(|protocol| (*protocol, Part::All)).collect();
    remove_judged(family, &which, &stale, || &stale)
}

/// The same without blocking others during the read: `suspected` selects flows while they are read. They are
/// then decided in groups, each with a `judge` that is kept until the group's flows are deleted; its locks
/// are held that long. A TCP flow without a reply is read again before, and decided by its current state.
///
/// Each protocol is read once; all of them together where there are few flows. Kernels before 5.8 send the
/// flows of all protocols each time; of those, others are not even looked at.
///
/// # Errors
/// If the table could not be read, or a flow not be removed; others may have been. Also when the
/// table could never be read completely: then all that was found is removed.
pub fn remove_judged<J: Fn(&Flow) -> bool>(
    family: Family,
    which: &BTreeMap<Protocol, Part>,
    mut suspected: impl FnMut(&Flow) -> bool,
    mut judge: impl FnMut() -> J,
) -> Result<Removal, ConntrackError> {
    let mut sum = Removal::default();
    for which in readings(which, tracked()) {
        remove_of(family, &which, &mut suspected, &mut judge, &mut sum)?;
    }
    Ok(sum)
}

/// What to read together, if so many flows are tracked in this network namespace, of both families.
fn readings(
    which: &BTreeMap<Protocol, Part>,
    tracked: Option<usize>,
) -> Vec<BTreeMap<Protocol, Part>> {
    match tracked {
        Some(0) => Vec::new(),
        Some(..=FEW) if !which.is_empty() => vec![which.clone()],
        _ => which.iter().map(|(protocol, part)| [(*protocol, *part)].into()).collect(),
    }
}

/// How many flows this network namespace has, if the kernel tells.
fn tracked() -> Option<usize> {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").ok()?;
    count.trim().parse().ok()
}

/// One reading of [`remove_judged`].
fn remove_of<J: Fn(&Flow) -> bool>(
    family: Family,
    which: &BTreeMap<Protocol, Part>,
    suspected: &mut impl FnMut(&Flow) -> bool,
    judge: &mut impl FnMut() -> J,
    sum: &mut Removal,
) -> Result<(), ConntrackError> {
    for attempt in 1..=ATTEMPTS {
        let mut socket = Conntrack::open()?;
        let mut found: Vec<(Flow, Forget)> = Vec::new();
        let mut seen = 0;
        let reading = socket.read(family, which, |flow, forget| {
            seen += 1;
            if suspected(&flow) {
                found.push((flow, forget));
            }
        })?;
        if attempt == 1 {
            sum.seen += seen;
        }
        if reading == Reading::Incomplete {
            // Late messages of the unfinished read must not be mistaken for answers.
            socket = Conntrack::open()?;
        }
        for group in found.chunks(GROUP) {
            let judge = judge();
            let mut stale = Vec::with_capacity(group.len());
            for (flow, forget) in group.iter().filter(|(flow, _)| judge(flow)) {
                // A TCP connection that was silent may have been answered since it was read.
                let all = which.get(&flow.protocol) == Some(&Part::All);
                let still = flow.replied
                    || flow.protocol != Protocol::Tcp
                    || socket
                        .reread(family, forget)?
                        .is_some_and(|now| judge(&now) && (all || !now.replied));
                if still {
                    stale.push(forget.clone());
                }
            }
            sum.removed += socket.forget(family, &stale)?;
        }
        if reading == Reading::Complete {
            return Ok(());
        }
    }
    Err(ConntrackError::Incomplete { family, attempts: ATTEMPTS })
}

/// Lists the flows of these protocols in the current network namespace.
///
/// # Errors
/// As for [`remove`].
pub fn list(family: Family, protocols: &BTreeSet<Protocol>) -> Result<Vec<Flow>, ConntrackError> {
    let mut flows = Vec::new();
    for protocol in protocols {
        flows.extend(list_part(family, *protocol, Part::All)?);
    }
    Ok(flows)
}

/// Lists one part of the flows of a protocol in the current network namespace.
///
/// # Errors
/// As for [`remove`].
pub fn list_part(
    family: Family,
    protocol: Protocol,
    part: Part,
) -> Result<Vec<Flow>, ConntrackError> {
    for _ in 0..ATTEMPTS {
        let mut flows = Vec::new();
        let socket = &mut Conntrack::open()?;
        let which = [(protocol, part)].into();
        let reading = socket.read(family, &which, |flow, _| flows.push(flow))?;
        if reading == Reading::Complete {
            return Ok(flows);
        }
    }
    Err(ConntrackError::Incomplete { family, attempts: ATTEMPTS })
}

/// Whether conntrack picks up TCP connections mid-stream: then a deleted flow is translated again at its next
/// segment. This is the default (`net.netfilter.nf_conntrack_tcp_loose`).
pub fn takes_up_tcp_midstream() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_loose");
    setting.map_or(true, |value| value.trim() != "0")
}

/// Whether a reading saw the whole table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It did.
    Complete,
    /// Something was lost on the way, or the table changed its shape meanwhile.
    Incomplete,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_flows_are_read_together_and_many_by_protocol() {
        let which: BTreeMap<Protocol, Part> =
            [(Protocol::Tcp, Part::Unreplied), (Protocol::Udp, Part::All)].into();
        let apart: Vec<BTreeMap<Protocol, Part>> =
            which.iter().map(|(protocol, part)| [(*protocol, *part)].into()).collect();
        for (tracked, wanted) in [
            (Some(0), Vec::new()),
            (Some(1), vec![which.clone()]),
            (Some(FEW), vec![which.clone()]),
            (Some(FEW + 1), apart.clone()),
            // The kernel does not tell.
            (None, apart),
        ] {
            assert_eq!(readings(&which, tracked), wanted, "{tracked:?}");
        }
        assert!(readings(&BTreeMap::new(), Some(9)).is_empty());
    }
}
