//! One request to a subsystem of netfilter, as bytes: for what the daemon never asks, and `sluice_kernel`
//! therefore cannot say.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `nlmsghdr`.
const HEADER: usize = 16;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ACKNOWLEDGED: u16 = 0x1 | 0x4;

/// A command to a subsystem: with further `NLM_F_` flags, for an address family, with attributes.
pub(crate) struct Request<'a> {
    pub(crate) subsystem: u8,
    pub(crate) command: u8,
    pub(crate) flags: u16,
    pub(crate) family: u8,
    pub(crate) attributes: &'a [(u16, &'a [u8])],
}

impl Request<'_> {
    /// Sends it in the current network namespace. The kernel's refusal is an error.
    pub(crate) fn send(&self) -> io::Result<()> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.send_to(&self.message(), &SocketAddr::new(0, 0), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
        match code.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None => Err(io::Error::other("the kernel's answer is too short")),
        }
    }

    fn message(&self) -> Vec<u8> {
        let mut body = vec![self.family, 0, 0, 0]; // nfgenmsg
        for (kind, value) in self.attributes {
            let length = u16::try_from(value.len() + 4).expect("a short value");
            body.extend(length.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(HEADER + body.len()).expect("a short message");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(u16::from_be_bytes([self.subsystem, self.command]).to_ne_bytes());
        message.extend((self.flags | ACKNOWLEDGED).to_ne_bytes());
        message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        message.extend(body);
        message
    }
}
