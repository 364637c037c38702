//! What a name asks for: its labels from the right, below the zone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A question about the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question<'a> {
    /// The zone itself.
    Apex,
    /// `dns-version`: the version of the specification.
    Version,
    /// A name that exists because others are below it: `svc`, `pod`, or a namespace in one of them.
    Between(Option<&'a str>),
    /// `NAME.NAMESPACE.svc`.
    Service {
        /// Namespace.
        namespace: &'a str,
        /// Name.
        service: &'a str,
    },
    /// `HOST.NAME.NAMESPACE.svc`.
    Host {
        /// Namespace.
        namespace: &'a str,
        /// Name of the Service.
        service: &'a str,
        /// Hostname of an endpoint, or its address with dashes.
        host: &'a str,
    },
    /// `_PORT._PROTOCOL.NAME.NAMESPACE.svc`.
    Port {
        /// Namespace.
        namespace: &'a str,
        /// Name of the Service.
        service: &'a str,
        /// Name of the port.
        port: &'a str,
        /// Protocol.
        protocol: &'a str,
    },
    /// `a-b-c-d.NAMESPACE.pod`.
    Pod {
        /// Namespace.
        namespace: &'a str,
        /// Its address.
        address: IpAddr,
    },
    /// `d.c.b.a.in-addr.arpa`, or the same in IPv6.
    Reverse(IpAddr),
    /// A name of the zone that nothing can have.
    Nothing,
    /// A name of another zone.
    Elsewhere,
}

/// Reads a name in small letters, without its last dot.
pub fn question<'a>(name: &'a str, zone: &str) -> Question<'a> {
    if let Some(address) = reverse(name) {
        return Question::Reverse(address);
    }
    let Some(inside) = name.strip_suffix(zone) else { return Question::Elsewhere };
    let Some(inside) = inside.strip_suffix('.') else {
        return if inside.is_empty() { Question::Apex } else { Question::Elsewhere };
    };
    let labels: Vec<&str> = inside.split('.').collect();
    match labels[..] {
        ["dns-version"] => Question::Version,
        ["svc" | "pod"] => Question::Between(None),
        [namespace, "svc" | "pod"] => Question::Between(Some(namespace)),
        [service, namespace, "svc"] => Question::Service { namespace, service },
        [host, service, namespace, "svc"] => Question::Host { namespace, service, host },
        [port, protocol, service, namespace, "svc"] => {
            match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => {
                    Question::Port { namespace, service, port, protocol }
                }
                _ => Question::Nothing,
            }
        }
        [address, namespace, "pod"] => match dashed(address) {
            Some(address) => Question::Pod { namespace, address },
            None => Question::Nothing,
        },
        _ => Question::Nothing,
    }
}

/// An address whose dots or colons are dashes.
fn dashed(text: &str) -> Option<IpAddr> {
    let v4 = text.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| text.replace('-', ":").parse().ok().map(IpAddr::V6))
}

/// An address as a label.
pub fn label(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string().replace('.', "-"),
        IpAddr::V6(v6) => {
            let segments: Vec<String> = v6.segments().iter().map(|s| format!("{s:x}")).collect();
            segments.join("-")
        }
    }
}

fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<&str> = digits.split('.').collect();
        parts.reverse();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    if nibbles.len() != 32 || nibbles.iter().any(|nibble| nibble.len() != 1) {
        return None;
    }
    let bits = u128::from_str_radix(&nibbles.concat(), 16).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}
