//! Deletes all flows of a node, in one request.
//!
//! The daemon never does this; `sluice_kernel::conntrack` cannot even say it. Reading the table flow by
//! flow takes the kernel milliseconds even where there is none, because it walks all its buckets.

use std::io;

use crate::netlink::Request;

/// `NFNL_SUBSYS_CTNETLINK`.
const CONNTRACK: u8 = 1;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u8 = 2;
/// `AF_UNSPEC`, which stands for all families.
const ALL_FAMILIES: u8 = 0;

/// Empties the table of the current network namespace.
pub(crate) fn delete_all() -> io::Result<()> {
    Request {
        subsystem: CONNTRACK,
        command: DELETE,
        flags: 0,
        family: ALL_FAMILIES,
        attributes: &[],
    }
    .send()
}
