//! Destroying ipsets (`linux/netfilter/ipset/ip_set.h`).

use std::path::Path;

use netlink_packet_core::NLM_F_EXCL;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::attributes::Writer;
use super::netlink::{Client, Refusal, SocketError};

/// `NFNL_SUBSYS_IPSET` of `nfnetlink.h` and `IPSET_CMD_DESTROY`.
const DESTROY: u16 = 6 << 8 | 3;
/// `IPSET_ATTR_PROTOCOL` and the oldest protocol that kernels of today speak.
const PROTOCOL: (u16, u8) = (1, 6);
/// `IPSET_ATTR_SETNAME`
const NAME: u16 = 2;
/// `IPSET_MAXNAMELEN`, the terminating zero included.
const LONGEST: usize = 32;

/// Sets could not be destroyed.
#[derive(Debug, thiserror::Error)]
pub enum IpsetError {
    /// The kernel could not be talked to.
    #[error("talk to ipset: {0}")]
    Request(#[from] SocketError),
}

/// Destroys sets of the current network namespace and returns the result of each: `ENOENT` if there is none
/// of this name. If ipset is not in use, its module is not loaded for this.
///
/// # Errors
/// If the kernel could not be talked to.
pub fn destroy(names: &[String]) -> Result<Vec<Result<(), Refusal>>, IpsetError> {
    let absent = || Err(Refusal { errno: libc::ENOENT, text: None });
    if !Path::new("/sys/module/ip_set").exists() {
        return Ok(names.iter().map(|_| absent()).collect());
    }
    let mut client = Client::open(NETLINK_NETFILTER)?;
    Ok(client.change_each(names.iter().map(String::as_str), put_destroy)?)
}

/// Writes the request to destroy a set.
fn put_destroy(writer: &mut Writer, name: &str, sequence: u32) {
    const ANY_FAMILY: u8 = 0; // NFPROTO_UNSPEC
    // Without the flag, to destroy what is not there is a success.
    let message = writer.begin_netfilter(DESTROY, NLM_F_EXCL, ANY_FAMILY, 0, sequence);
    writer.put(PROTOCOL.0, &[PROTOCOL.1]);
    let name: Vec<u8> = name.bytes().take(LONGEST - 1).chain([0]).collect();
    writer.put(NAME, &name);
    writer.end_message(message);
}
