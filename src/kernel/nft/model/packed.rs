//! Values of registers and set elements: short byte strings, stored inline.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use sluice_core::net::Protocol;

/// A set element's key: at most 48 bytes, which is an IPv6 source and destination with protocol,
/// port and two more parts.
pub type Key = Packed<48>;

/// A map element's data: at most 24 bytes, which is an IPv6 address with port and one more part.
pub type Data = Packed<24>;

/// Up to `N` bytes without allocation.
///
/// One part stands as it is. As soon as there are two, each is padded with zeros to a multiple of
/// four bytes, because a concatenation occupies whole 32-bit registers
/// (`NFT_REG32_SIZE` in `nf_tables.h`).
#[derive(Clone, Copy)]
pub struct Packed<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Packed<N> {
    /// The most bytes that fit.
    pub(crate) const MOST: usize = N;

    /// No parts yet.
    pub const fn new() -> Packed<N> {
        Packed { len: 0, bytes: [0; N] }
    }

    /// Adds an address, in network byte order.
    #[must_use]
    pub fn address(self, address: IpAddr) -> Packed<N> {
        match address {
            IpAddr::V4(v4) => self.part(&v4.octets()),
            IpAddr::V6(v6) => self.part(&v6.octets()),
        }
    }

    /// Adds a transport protocol, one byte.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Packed<N> {
        self.part(&[protocol.number()])
    }

    /// Adds a port, in network byte order.
    #[must_use]
    pub fn port(self, port: u16) -> Packed<N> {
        self.part(&port.to_be_bytes())
    }

    /// Adds a 32-bit number in host byte order, as `numgen`, marks and conntrack states are.
    #[must_use]
    pub fn number(self, number: u32) -> Packed<N> {
        self.part(&number.to_ne_bytes())
    }

    /// Adds the bytes of one part.
    ///
    /// # Panics
    /// If the whole would be longer than `N` bytes: what is put together here is decided by the
    /// code, not by input.
    #[must_use]
    pub fn part(mut self, part: &[u8]) -> Packed<N> {
        let mut start = usize::from(self.len);
        let mut end = start + part.len();
        if start > 0 {
            start = start.next_multiple_of(4);
            end = (start + part.len()).next_multiple_of(4);
        }
        assert!(end <= N, "a value of {end} bytes does not fit into {N}");
        self.bytes[start..start + part.len()].copy_from_slice(part);
        self.len = u8::try_from(end).unwrap_or(u8::MAX);
        self
    }

    /// From the kernel's bytes, which are padded already; `None` if there are too many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Packed<N>> {
        let mut packed = Packed::new();
        packed.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        packed.len = u8::try_from(bytes.len()).ok()?;
        Some(packed)
    }

    /// How many bytes there are, padding included.
    pub(crate) fn len(&self) -> u8 {
        self.len
    }

    /// The bytes, padding included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl<const N: usize> Default for Packed<N> {
    fn default() -> Self {
        Packed::new()
    }
}

impl<const N: usize> PartialEq for Packed<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> Eq for Packed<N> {}

impl<const N: usize> PartialOrd for Packed<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<const N: usize> Ord for Packed<N> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl<const N: usize> Hash for Packed<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl<const N: usize> fmt::Debug for Packed<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
