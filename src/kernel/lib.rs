//! The system calls: everything that reads or changes the kernel.
//!
//! [`nft`] speaks nf_tables over netlink, [`ipvs`] IPVS, [`xtables`] runs iptables; the other modules speak of links, addresses and
//! connections. Nothing here knows of Services.

pub mod addresses;
pub mod conntrack;
mod datagram;
pub mod delivery;
pub mod dummy;
pub mod ipset;
pub mod ipvs;
pub mod listen;
pub mod nft;
pub mod process;
mod requests;
pub mod sockets;
pub mod sysctl;
pub mod ways;
pub mod xtables;

use std::path::Path;

pub use self::requests::{Refusal, RequestError};
use sluice_core::net::Family;

/// This host's name.
///
/// # Errors
/// If the kernel does not tell, or the name is not text.
pub fn host_name() -> std::io::Result<String> {
    let name = nix::unistd::gethostname()?;
    name.into_string().map_err(|name| {
        std::io::Error::other(format!("the host name {} is not UTF-8", name.display()))
    })
}

/// Whether this kernel speaks an IP family: IPv6 may be missing (`ipv6.disable=1`).
pub fn has_family(family: Family) -> bool {
    match family {
        Family::V4 => true,
        Family::V6 => Path::new("/proc/net/if_inet6").exists(),
    }
}

/// Gives memory for large passing things (lists, transactions, tables that were read) back to the
/// system as soon as it is free. Otherwise glibc soon keeps such blocks, up to 32 MiB each, among the
/// small ones that stay for ever (`M_MMAP_THRESHOLD` in mallopt(3)); other C libraries do not.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: i32 = 128 * 1024;
        #[allow(unsafe_code)]
        // SAFETY: it takes two numbers and is safe at any time; what it cannot set, it leaves.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}
