//! Connection tracking over netlink: reads the flows that the kernel tracks, and makes it forget some.
//!
//! The protocol is defined by `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; what the kernel
//! does with it is in `net/netfilter/nf_conntrack_netlink.c`. A request to delete that names no flow
//! empties the whole table there, so the only thing that can be deleted here is a [`Flow`] that was
//! read before: its address in the table travels back as it came, with the number that tells it from
//! a later flow between the same ends.
//!
//! [`remove`] opens a socket of its own each time: it is used seldom, and what an interrupted reading
//! leaves behind in a socket is gone with it.

mod error;
mod flow;
mod lookup;
mod socket;
mod wire;

use std::collections::BTreeSet;

pub use error::ConntrackError;
pub use flow::Flow;
pub use lookup::Lookup;

use self::socket::ConntrackSocket;
use self::wire::Forget;
use crate::net::{Family, Protocol};

/// How often the table is read again when a reading was incomplete.
const ATTEMPTS: u32 = 4;

/// What [`remove`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removal {
    /// How many flows were looked at.
    pub seen: usize,
    /// How many of them the kernel has forgotten.
    pub removed: usize,
}

/// Makes the kernel forget every flow of these protocols for which `stale` says so, in the current
/// network namespace. The table is read once, by one protocol if only one is asked for; flows of
/// other protocols are not even looked at.
///
/// A flow that ended meanwhile, or was replaced by another between the same ends, is passed over.
///
/// # Errors
/// If the table could not be read, or a flow not be removed; others may have been. Also when the
/// table could never be read completely: then all that was found is removed.
pub fn remove(
    family: Family,
    protocols: &BTreeSet<Protocol>,
    mut stale: impl FnMut(&Flow) -> bool,
) -> Result<Removal, ConntrackError> {
    let mut sum = Removal::default();
    for _ in 0..ATTEMPTS {
        let mut socket = ConntrackSocket::open()?;
        let mut found: Vec<Forget> = Vec::new();
        let mut seen = 0;
        let reading = socket.read(family, protocols, |flow, forget| {
            seen += 1;
            if stale(&flow) {
                found.push(forget);
            }
        })?;
        sum.seen = sum.seen.max(seen);
        if reading == Reading::Incomplete {
            // Late messages of the unfinished reading shall not be taken for answers.
            socket = ConntrackSocket::open()?;
        }
        sum.removed += socket.forget(family, &found)?;
        if reading == Reading::Complete {
            return Ok(sum);
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
    for _ in 0..ATTEMPTS {
        flows.clear();
        let socket = &mut ConntrackSocket::open()?;
        if socket.read(family, protocols, |flow, _| flows.push(flow))? == Reading::Complete {
            return Ok(flows);
        }
    }
    Err(ConntrackError::Incomplete { family, attempts: ATTEMPTS })
}

/// Whether the kernel takes a TCP connection up whose beginning it has not seen: then a connection
/// that it was made to forget is translated anew with its next segment. This is the default
/// (`net.netfilter.nf_conntrack_tcp_loose`).
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
