//! Small network values that every layer uses: no project knowledge, no I/O.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An IP family. It is a value; no code is written twice for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in processing order.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family that an address belongs to.
    pub fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The family that a prefix belongs to.
    pub fn of_net(net: &IpNet) -> Family {
        Family::of(net.network())
    }

    /// The unspecified address, `0.0.0.0` or `::`.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Length of an address in bytes.
    pub fn address_len(self) -> usize {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A transport protocol that a Service port can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Every protocol of the Service API.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The IANA protocol number, as in `linux/in.h`.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol with this IANA number.
    pub fn from_number(number: u8) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|p| p.number() == number)
    }

    /// The protocol with this name in the Kubernetes API, where an absent name means TCP.
    pub fn from_api(name: Option<&str>) -> Option<Protocol> {
        match name {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// Parses an IP address as tolerantly as the Go kube-proxy does: leading zeros in IPv4 octets are
/// decimal (`010.0.0.1` is 10.0.0.1) and an IPv4-mapped IPv6 address is the IPv4 address it maps.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    // A mapped address may carry the sloppy form too: `::ffff:010.0.0.1`.
    let lower = text.to_ascii_lowercase();
    let dotted = lower.strip_prefix("::ffff:").unwrap_or(&lower);
    let mut octets = [0_u8; 4];
    let mut parts = dotted.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::from(octets))
}

/// Parses a prefix as tolerantly as [`parse_ip`], and clears the host bits.
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let ip = parse_ip(address)?;
    let mut length: u8 = length.parse().ok()?;
    if ip.is_ipv4() && address.contains(':') {
        length = length.checked_sub(96)?;
    }
    Some(IpNet::new(ip, length).ok()?.trunc())
}

/// Starts a 64-bit FNV-1a hash (Fowler, Noll, Vo) with these bytes. Every build computes the same hash, so it may name
/// objects that outlive the process. It is not collision-resistant against chosen input.
pub fn fnv1a(bytes: &[u8]) -> Fnv1a {
    Fnv1a(0xcbf2_9ce4_8422_2325).and(bytes)
}

/// An FNV-1a hash in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fnv1a(u64);

impl Fnv1a {
    /// Continues with more bytes.
    #[must_use]
    pub fn and(self, bytes: &[u8]) -> Fnv1a {
        let next = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        Fnv1a(bytes.iter().fold(self.0, next))
    }

    /// All 64 bits.
    pub fn whole(self) -> u64 {
        self.0
    }

    /// The hash folded to `bits` bits, at most 32. The low bits of FNV alone are badly mixed.
    pub fn fold(self, bits: u32) -> u32 {
        let [folded, mask] = [self.0 ^ self.0 >> 32, (1 << bits.min(32)) - 1];
        u32::try_from((folded ^ folded >> bits) & mask).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of the authors.
    #[test]
    fn fnv1a_is_the_one_that_is_published() {
        assert_eq!(fnv1a(b""), Fnv1a(0xcbf2_9ce4_8422_2325));
        assert_eq!(fnv1a(b"foobar"), Fnv1a(0x8594_4171_f739_67e8));
        assert_eq!(fnv1a(b"foo").and(b"bar"), fnv1a(b"foobar"));
        assert!((0..100_u32).all(|n| fnv1a(&n.to_be_bytes()).fold(5) < 32));
    }

    #[test]
    fn addresses_are_parsed_as_kube_proxy_parses_them() {
        let table = [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.0.01", Some("10.0.0.1")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("::FFFF:001.2.3.4", Some("1.2.3.4")),
            ("fd00::1", Some("fd00::1")),
            ("10.0.0", None),
            ("10.0.0.256", None),
            ("10.0.0.1.2", None),
            ("10.0.0.0001", None),
            ("", None),
            ("host", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|e| e.parse().expect("table entry is an address"));
            assert_eq!(parse_ip(text), expected, "{text:?}");
        }
    }

    #[test]
    fn prefixes_lose_their_host_bits() {
        let table = [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("010.1.2.3/24", Some("10.1.2.0/24")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("fd00::1/64", Some("fd00::/64")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
            ("::ffff:10.0.0.0/64", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|e| e.parse().expect("table entry is a prefix"));
            assert_eq!(parse_cidr(text), expected, "{text:?}");
        }
    }
}
