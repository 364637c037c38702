//! Session affinity: affinity ids, and the part that no rule can do: when an endpoint is removed, its
//! affinity entries must be deleted, or clients would be sent to it until the timeout.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::frontends::{is_split, pools_of};
use super::sets::SetId;
use sluice_core::net::fnv1a;
use sluice_core::plan::{Frontend, PoolEndpoint, PoolKind, PortPlan, ServicePlan};
use sluice_kernel::nft::{Element, Key, Op};

/// The number of a frontend's affinity entries. Frontends of a port share it if they lead to the same
/// endpoints; a frontend that leads pods and other sources to different endpoints has its own.
///
/// The highest bit sets it apart from priorities that applications ask for (`SO_PRIORITY`).
pub(super) fn affinity_number(port: &PortPlan, frontend: &Frontend) -> Option<u32> {
    let affinity = port.affinity?;
    let (_, kind) = pools_of(frontend).next()?;
    let endpoints = match kind {
        _ if is_split(frontend) => 2,
        PoolKind::Cluster => 0,
        PoolKind::Local => 1,
    };
    Some(1 << 31 | affinity.id << 2 | endpoints)
}

/// Every number of a port, with each endpoint that affinity entries under it may have. May contain
/// duplicates.
pub(super) fn remembered(port: &PortPlan) -> impl Iterator<Item = (u32, &PoolEndpoint)> {
    port.frontends
        .iter()
        .filter_map(|frontend| Some((affinity_number(port, frontend)?, frontend)))
        .flat_map(|(number, frontend)| {
            let endpoints = pools_of(frontend).flat_map(|(_, kind)| port.pool(kind));
            endpoints.map(move |endpoint| (number, endpoint))
        })
}

/// The endpoint id in affinity entries: a hash of the number and the endpoint, so that a restart finds the
/// same one. Unlike numbers, it lacks the highest bit.
///
/// Two endpoints of one number have the same identity with a probability of 2^-31; a client of one of
/// them may then be sent to the other.
pub(super) fn endpoint_id(number: u32, ip: IpAddr, port: u16) -> u32 {
    let hash = fnv1a(&number.to_be_bytes());
    let hash = match ip {
        IpAddr::V4(ip) => hash.and(&ip.octets()),
        IpAddr::V6(ip) => hash.and(&ip.octets()),
    };
    hash.and(&port.to_be_bytes()).fold(31)
}

/// The numbers and endpoint ids that affinity entries may have, and how changes of Services change them.
#[derive(Debug, Default)]
pub(super) struct AffinityChange {
    /// What the changed Services have now.
    present: FxHashSet<u32>,
    /// What they had before, and do not have any more.
    gone: FxHashSet<u32>,
    /// Whether everything is in `present`.
    complete: bool,
}

impl AffinityChange {
    /// Takes a change of a Service into account.
    pub(super) fn note(&mut self, old: Option<&ServicePlan>, new: Option<&ServicePlan>) {
        let after: FxHashSet<u32> = new.into_iter().flat_map(entries).collect();
        self.gone.extend(old.into_iter().flat_map(entries).filter(|entry| !after.contains(entry)));
        self.present.extend(after);
    }

    /// All Services have been noted: what is filed under anything else is stale too.
    pub(super) fn note_complete(&mut self) {
        self.complete = true;
    }

    /// Whether there may be affinity entries of removed endpoints.
    pub(super) fn leaves_stale_entries(&self) -> bool {
        self.complete || !self.gone.is_empty()
    }

    /// Deletes what is stale among the elements of the set that rules write.
    pub(super) fn purge(&self, elements: Vec<Element>) -> Vec<Op> {
        let set = SetId::Affinity.name();
        let stale = |element: &Element| {
            entry_of(&element.key).is_some_and(|entry| {
                let left = self.complete || self.gone.contains(&entry);
                left && !self.present.contains(&entry)
            })
        };
        let stale = elements.into_iter().filter(stale);
        stale.map(|element| Op::DeleteElement { set: Arc::clone(&set), element }).collect()
    }
}

/// Everything that clients of a Service are remembered under.
fn entries(plan: &ServicePlan) -> impl Iterator<Item = u32> {
    plan.ports
        .iter()
        .flat_map(remembered)
        .flat_map(|(number, endpoint)| [number, endpoint_id(number, endpoint.ip, endpoint.port)])
}

/// The last part of the key.
fn entry_of(key: &Key) -> Option<u32> {
    Some(u32::from_ne_bytes(*key.as_bytes().last_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Affinity entries keep them across upgrades of this program.
    #[test]
    fn identities_of_endpoints_are_the_same_in_every_version() {
        let table = [
            (1 << 31, "10.244.1.1", 8080, 1_736_184_724),
            (1 << 31 | 1, "10.244.1.1", 8080, 1_995_671_566),
            (1 << 31, "10.244.1.2", 8080, 1_052_159_893),
            (1 << 31, "fd00:10:244:1::1", 8080, 1_166_042_930),
        ];
        for (number, ip, port, expected) in table {
            let ip = ip.parse().expect("an address");
            assert_eq!(endpoint_id(number, ip, port), expected, "{number:#x} {ip} {port}");
        }
    }
}
