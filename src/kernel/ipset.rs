//! Sets of ipset (`linux/netfilter/ipset/ip_set.h`), as far as they are to be destroyed.

use std::path::Path;

use netlink_packet_core::{NLM_F_EXCL, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::requests::{Refusal, RequestError, Requests};

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
    Request(#[from] RequestError),
}

/// Destroys sets of the current network namespace and says of each how it went: `ENOENT` if there is
/// none of this name. Where ipset is not in use at all, its module is not loaded for this.
///
/// # Errors
/// If the kernel could not be talked to.
pub fn destroy(names: &[String]) -> Result<Vec<Result<(), Refusal>>, IpsetError> {
    let absent = || Err(Refusal { errno: libc::ENOENT, text: None });
    if !Path::new("/sys/module/ip_set").exists() {
        return Ok(names.iter().map(|_| absent()).collect());
    }
    let mut requests = Requests::open(NETLINK_NETFILTER)?;
    // Without the flag, to destroy what is not there is a success.
    Ok(requests.change(names.iter().map(|name| (Destroy(name), NLM_F_EXCL)))?)
}

/// The request to destroy a set.
struct Destroy<'a>(&'a str);

impl Destroy<'_> {
    fn content(&self) -> Vec<u8> {
        // `struct nfgenmsg`: of any family.
        let mut bytes = vec![0; 4];
        let mut put = |kind: u16, value: &[u8]| {
            let len = u16::try_from(4 + value.len()).unwrap_or(0);
            bytes.extend_from_slice(&len.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        };
        put(PROTOCOL.0, &[PROTOCOL.1]);
        let name: Vec<u8> = self.0.bytes().take(LONGEST - 1).chain([0]).collect();
        put(NAME, &name);
        bytes
    }
}

impl NetlinkSerializable for Destroy<'_> {
    fn message_type(&self) -> u16 {
        DESTROY
    }

    fn buffer_len(&self) -> usize {
        self.content().len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.content());
    }
}
