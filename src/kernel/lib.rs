//! The system calls: everything that reads or changes the kernel.
//!
//! [`nft`] speaks nf_tables, [`ipvs`] IPVS, [`xtables`] runs iptables; the other modules speak of links, addresses and connections.
//! Those that speak netlink do so through one client, [`netlink`]. Nothing here knows of Services.

pub mod addresses;
pub mod conntrack;
pub mod dummy;
pub mod files;
pub mod ipset;
pub mod ipvs;
pub mod links;
pub mod listen;
mod netlink;
pub mod nft;
pub mod policy_routing;
pub mod process;
pub mod route_lookup;
pub mod sockets;
pub mod sysctl;
pub mod terminal;
pub mod xtables;

use std::path::Path;

pub use self::netlink::{NetlinkError, Refusal, SocketError};
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

/// Sets glibc's `M_MMAP_THRESHOLD` (mallopt(3)), so that large temporary allocations (lists, batches,
/// dumps) go back to the system as soon as they are freed. Left alone, glibc raises the threshold to up to
/// 32 MiB and keeps such blocks in its heap; other C libraries do not.
pub fn set_mmap_threshold() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: i32 = 128 * 1024;
        #[allow(unsafe_code)]
        // SAFETY: it takes two numbers and is safe at any time; what it cannot set, it leaves.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}
