//! Allocation of cluster IPs and node ports.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use sluice_core::net::Family;

/// The allocations of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) addresses: Vec<IpAddr>,
    /// Each number once, even if a TCP and a UDP port of the Service share it.
    pub(super) ports: Vec<u16>,
}

impl Claim {
    /// The allocations that `other` lacks.
    pub(super) fn beyond(&self, other: &Claim) -> Claim {
        let addresses =
            self.addresses.iter().filter(|a| !other.addresses.contains(a)).copied().collect();
        let ports = self.ports.iter().filter(|p| !other.ports.contains(p)).copied().collect();
        Claim { addresses, ports }
    }
}

/// Why an address or a port cannot be allocated, in the API's wording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AllocError {
    #[error("failed to allocate IP {0}: provided IP is already allocated")]
    AddressTaken(IpAddr),
    #[error(
        "failed to allocate IP {0}: the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}"
    )]
    AddressOutside(IpAddr, String),
    #[error("failed to allocate a serviceIP: range is full")]
    AddressesFull,
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    PortOutside(u16, u16),
    #[error("failed to allocate a nodePort: range is full")]
    PortsFull,
}

/// Allocated addresses and ports, with counts, because an unvalidated object may have those of another.
#[derive(Debug, Clone)]
pub(super) struct Allocator {
    ranges: Vec<IpNet>,
    ports: RangeInclusive<u16>,
    addresses_held: HashMap<IpAddr, u32>,
    ports_held: HashMap<u16, u32>,
    next_address: HashMap<Family, u128>,
    next_port: u16,
}

impl Allocator {
    pub(super) fn new(ports: RangeInclusive<u16>) -> Allocator {
        Allocator {
            ranges: Vec::new(),
            next_port: *ports.start(),
            ports,
            addresses_held: HashMap::new(),
            ports_held: HashMap::new(),
            next_address: HashMap::new(),
        }
    }

    /// Replaces the ranges; the family of the first is the cluster's default.
    pub(super) fn set_ranges(&mut self, ranges: Vec<IpNet>) {
        if self.ranges != ranges {
            self.ranges = ranges;
            self.next_address.clear();
        }
    }

    /// The families that can be allocated from, the default first.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families = Vec::new();
        for family in self.ranges.iter().map(Family::of_net) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }

    /// Allocates a given address.
    pub(super) fn take_address(&mut self, ip: IpAddr) -> Result<(), AllocError> {
        let family = Family::of(ip);
        if !self.ranges.iter().any(|r| r.contains(&ip)) {
            let ranges: Vec<String> = self
                .ranges
                .iter()
                .filter(|r| Family::of_net(r) == family)
                .map(IpNet::to_string)
                .collect();
            return Err(AllocError::AddressOutside(ip, ranges.join(", ")));
        }
        if self.addresses_held.contains_key(&ip) {
            return Err(AllocError::AddressTaken(ip));
        }
        self.addresses_held.insert(ip, 1);
        Ok(())
    }

    /// Allocates the next free address of a family. Addresses are ascending and start above the range's lower band,
    /// which is for given addresses (KEP-3070), so that identical labs have identical addresses.
    pub(super) fn next_address(&mut self, family: Family) -> Result<IpAddr, AllocError> {
        let ranges: Vec<IpNet> =
            self.ranges.iter().filter(|r| Family::of_net(r) == family).copied().collect();
        let total: u128 = ranges.iter().map(size).sum();
        let first = ranges.first().map_or(0, lower_band);
        let mut position = *self.next_address.get(&family).unwrap_or(&first);
        // Each allocated address and both ends of each range can be in the way at most once.
        for _ in 0..=self.addresses_held.len() + 2 * ranges.len() {
            position = if position >= total { 0 } else { position };
            let ip = nth(&ranges, position);
            position += 1;
            if let Some(ip) = ip.filter(|ip| !self.addresses_held.contains_key(ip)) {
                self.next_address.insert(family, position);
                self.addresses_held.insert(ip, 1);
                return Ok(ip);
            }
        }
        Err(AllocError::AddressesFull)
    }

    /// Allocates a given node port.
    pub(super) fn take_port(&mut self, port: u16) -> Result<(), AllocError> {
        if !self.ports.contains(&port) {
            return Err(AllocError::PortOutside(*self.ports.start(), *self.ports.end()));
        }
        if self.ports_held.contains_key(&port) {
            return Err(AllocError::PortTaken);
        }
        self.ports_held.insert(port, 1);
        Ok(())
    }

    /// Allocates the next free node port.
    pub(super) fn next_port(&mut self) -> Result<u16, AllocError> {
        for _ in self.ports.clone() {
            let port = self.next_port;
            self.next_port = match port {
                last if last >= *self.ports.end() => *self.ports.start(),
                other => other + 1,
            };
            if self.take_port(port).is_ok() {
                return Ok(port);
            }
        }
        Err(AllocError::PortsFull)
    }

    /// Counts the allocations of an unvalidated object.
    pub(super) fn hold(&mut self, claim: &Claim) {
        for ip in &claim.addresses {
            *self.addresses_held.entry(*ip).or_default() += 1;
        }
        for port in &claim.ports {
            *self.ports_held.entry(*port).or_default() += 1;
        }
    }

    /// Frees an object's allocations.
    pub(super) fn release(&mut self, claim: &Claim) {
        for ip in &claim.addresses {
            release_one(&mut self.addresses_held, *ip);
        }
        for port in &claim.ports {
            release_one(&mut self.ports_held, *port);
        }
    }
}

fn release_one<K: std::hash::Hash + Eq>(held: &mut HashMap<K, u32>, key: K) {
    if let Some(count) = held.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            held.remove(&key);
        }
    }
}

/// Number of addresses in a range.
fn size(range: &IpNet) -> u128 {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1_u128.checked_shl(host_bits).unwrap_or(u128::MAX)
}

/// Size of the band at a range's start that is kept for named addresses, as kube-apiserver
/// computes it: a sixteenth of the range, at least 16 and at most 256, and nothing of a small range.
fn lower_band(range: &IpNet) -> u128 {
    match size(range) {
        small if small <= 32 => 0,
        size => (size / 16).clamp(16, 256),
    }
}

/// The address at a position, counted over all ranges; no network or broadcast address.
fn nth(ranges: &[IpNet], mut position: u128) -> Option<IpAddr> {
    for range in ranges {
        let size = size(range);
        if position >= size {
            position -= size;
            continue;
        }
        let last_is_broadcast = range.addr().is_ipv4() && size > 2;
        if (position == 0 && size > 1) || (position == size - 1 && last_is_broadcast) {
            return None;
        }
        return match range.network() {
            IpAddr::V4(net) => {
                let offset = u32::try_from(position).ok()?;
                Some(IpAddr::from((u32::from(net) + offset).to_be_bytes()))
            }
            IpAddr::V6(net) => Some(IpAddr::from((u128::from(net) + position).to_be_bytes())),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(ranges: &[&str]) -> Allocator {
        let mut allocator = Allocator::new(30000..=30002);
        allocator.set_ranges(ranges.iter().map(|r| r.parse().expect("a range")).collect());
        allocator
    }

    #[test]
    fn a_small_range_is_used_up_to_the_last_host_address() {
        let mut allocator = allocator(&["10.0.0.0/29"]);
        let got: Vec<String> = std::iter::from_fn(|| allocator.next_address(Family::V4).ok())
            .map(|ip| ip.to_string())
            .collect();
        let expected: Vec<String> = (1..7).map(|n| format!("10.0.0.{n}")).collect();
        assert_eq!(got, expected);
        assert_eq!(allocator.next_address(Family::V4), Err(AllocError::AddressesFull));
        assert_eq!(allocator.next_address(Family::V6), Err(AllocError::AddressesFull));
    }

    #[test]
    fn addresses_start_above_the_band_for_named_ones_and_wrap_around() {
        let mut allocator = allocator(&["10.96.0.0/16", "fd00::/112"]);
        assert_eq!(allocator.next_address(Family::V4), Ok("10.96.1.0".parse().expect("ip")));
        assert_eq!(allocator.next_address(Family::V6), Ok("fd00::100".parse().expect("ip")));
        assert_eq!(allocator.families(), [Family::V4, Family::V6]);
    }

    #[test]
    fn a_held_address_or_port_is_refused_until_it_is_released() {
        let mut allocator = allocator(&["10.96.0.0/16"]);
        let ip = "10.96.0.10".parse().expect("ip");
        assert_eq!(allocator.take_address(ip), Ok(()));
        assert_eq!(allocator.take_address(ip), Err(AllocError::AddressTaken(ip)));
        assert_eq!(allocator.take_port(30001), Ok(()));
        assert_eq!(allocator.take_port(30001), Err(AllocError::PortTaken));
        assert_eq!(allocator.take_port(80), Err(AllocError::PortOutside(30000, 30002)));
        assert_eq!(allocator.next_port(), Ok(30000));
        assert_eq!(allocator.next_port(), Ok(30002));
        assert_eq!(allocator.next_port(), Err(AllocError::PortsFull));
        allocator.release(&Claim { addresses: vec![ip], ports: vec![30001] });
        assert_eq!(allocator.take_address(ip), Ok(()));
        assert_eq!(allocator.next_port(), Ok(30001));
    }
}
