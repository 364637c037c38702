//! A compact list of endpoints.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Condition, Endpoint, Hints};

/// The endpoints of a slice in as many bytes as they need: five for one in IPv4, where an [`Endpoint`] takes 32.
/// A large cluster has a hundred thousand of them, and each node knows them all.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Endpoints {
    /// Of each endpoint: [flags](Flags), the address, and with [`Flags::HINTS`] the index of its hints.
    packed: Box<[u8]>,
    /// The hints, each once; most slices have none.
    hints: Box<[Arc<Hints>]>,
}

/// The first byte of an endpoint. Its lowest bits are the [`Condition`].
struct Flags;

impl Flags {
    const CONDITION: u8 = 3;
    const LOCAL: u8 = 1 << 2;
    const V6: u8 = 1 << 3;
    const HINTS: u8 = 1 << 4;
}

const CONDITIONS: [Condition; 3] = [Condition::Ready, Condition::Terminating, Condition::Unusable];

impl Endpoints {
    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Endpoint> {
        let mut rest = &*self.packed;
        std::iter::from_fn(move || {
            let (endpoint, after) = self.first(rest)?;
            rest = after;
            Some(endpoint)
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// The first endpoint of packed ones, and those after it.
    fn first<'a>(&self, packed: &'a [u8]) -> Option<(Endpoint, &'a [u8])> {
        let (flags, rest) = packed.split_first()?;
        let (address, rest): (IpAddr, _) = if flags & Flags::V6 == 0 {
            let (bytes, rest) = rest.split_first_chunk::<4>()?;
            ((*bytes).into(), rest)
        } else {
            let (bytes, rest) = rest.split_first_chunk::<16>()?;
            ((*bytes).into(), rest)
        };
        let (hints, rest) = if flags & Flags::HINTS == 0 {
            (None, rest)
        } else {
            let (index, rest) = rest.split_first_chunk::<4>()?;
            let index = usize::try_from(u32::from_ne_bytes(*index)).ok()?;
            (self.hints.get(index).cloned(), rest)
        };
        let condition = *CONDITIONS.get(usize::from(flags & Flags::CONDITION))?;
        let local = flags & Flags::LOCAL != 0;
        Some((Endpoint { address, condition, local, hints }, rest))
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(endpoints: I) -> Endpoints {
        let (mut packed, mut known) = (Vec::new(), Vec::new());
        for Endpoint { address, condition, local, hints } in endpoints {
            let mut flags = condition as u8;
            flags |= if local { Flags::LOCAL } else { 0 };
            flags |= if address.is_ipv6() { Flags::V6 } else { 0 };
            flags |= if hints.is_some() { Flags::HINTS } else { 0 };
            packed.push(flags);
            match address {
                IpAddr::V4(ip) => packed.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => packed.extend_from_slice(&ip.octets()),
            }
            if let Some(hints) = hints {
                packed.extend_from_slice(&index_of(hints, &mut known).to_ne_bytes());
            }
        }
        Endpoints { packed: packed.into(), hints: known.into() }
    }
}

/// The index of hints in a list, to which they are appended if it lacks them. Neighbours mostly have the same ones.
fn index_of(hints: Arc<Hints>, known: &mut Vec<Arc<Hints>>) -> u32 {
    let index = known.iter().rposition(|other| *other == hints).unwrap_or_else(|| {
        known.push(hints);
        known.len() - 1
    });
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl From<Vec<Endpoint>> for Endpoints {
    fn from(endpoints: Vec<Endpoint>) -> Endpoints {
        endpoints.into_iter().collect()
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        let condition = prop::sample::select(CONDITIONS.to_vec());
        let zones = prop::sample::select(vec!["a", "b", "c"]);
        let hints = prop::option::of(zones).prop_map(|zone| {
            zone.map(|zone| Arc::new(Hints { zones: vec![zone.into()], nodes: Vec::new() }))
        });
        (any::<IpAddr>(), condition, any::<bool>(), hints).prop_map(
            |(address, condition, local, hints)| Endpoint { address, condition, local, hints },
        )
    }

    proptest! {
        #[test]
        fn endpoints_come_out_as_they_went_in(
            all in prop::collection::vec(any_endpoint(), 0..20),
        ) {
            let packed: Endpoints = all.iter().cloned().collect();
            prop_assert_eq!(packed.is_empty(), all.is_empty());
            prop_assert!(packed.iter().eq(all));
        }
    }

    #[test]
    fn endpoints_take_few_bytes_and_hints_are_kept_once() {
        let hints = |zone: &str| Arc::new(Hints { zones: vec![zone.into()], nodes: Vec::new() });
        let endpoint = |n: u8, hints| {
            let address = [10, 244, 0, n].into();
            Endpoint { address, condition: Condition::Ready, local: false, hints }
        };
        let plain: Endpoints = (0..5).map(|n| endpoint(n, None)).collect();
        assert_eq!((plain.packed.len(), plain.hints.is_empty()), (25, true));
        let zones = ["a", "b", "a", "a", "b"];
        let hinted: Endpoints =
            (0..5).zip(zones).map(|(n, zone)| endpoint(n, Some(hints(zone)))).collect();
        assert_eq!(hinted.hints.len(), 2);
        assert_ne!(plain, hinted);
    }
}
