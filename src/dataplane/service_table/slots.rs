//! Which endpoint of a pool sits in which slot.
//!
//! Slots are numbered without gaps. Endpoints keep their slots as far as possible, so that a change of one
//! endpoint changes one or two slots, and a restart, which reads the slots from the kernel, changes none.

use std::net::IpAddr;

use rustc_hash::FxHashMap;

use sluice_core::plan::PoolEndpoint;

/// What was in each slot of a pool, if anything.
pub(super) type Slots = Vec<Option<(IpAddr, u16)>>;

/// Puts `wanted` (sorted) into slots, given what was in them before.
pub(super) fn arrange(
    before: impl IntoIterator<Item = Option<(IpAddr, u16)>>,
    wanted: &[PoolEndpoint],
) -> Vec<PoolEndpoint> {
    let mut homeless: FxHashMap<(IpAddr, u16), &PoolEndpoint> =
        wanted.iter().map(|endpoint| ((endpoint.ip, endpoint.port), endpoint)).collect();
    let mut slots: Vec<Option<PoolEndpoint>> = before
        .into_iter()
        .take(wanted.len())
        .map(|old| old.and_then(|address| homeless.remove(&address)).copied())
        .collect();
    slots.resize(wanted.len(), None);
    let mut rest = wanted.iter().filter(|e| homeless.contains_key(&(e.ip, e.port)));
    slots.into_iter().filter_map(|slot| slot.or_else(|| rest.next().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(letters: &str) -> Vec<PoolEndpoint> {
        let endpoint =
            |byte: u8| PoolEndpoint { ip: [10, 0, 0, byte].into(), port: 80, local: false };
        letters.bytes().map(endpoint).collect()
    }

    #[test]
    fn endpoints_stay_in_their_slots() {
        let table = [
            ("", "abc", "abc", "a first arrangement is sorted"),
            ("cab", "abc", "cab", "nothing changed"),
            ("cab", "abcd", "cabd", "a new one is appended"),
            ("abcd", "abd", "abd", "the last one moves into the gap"),
            ("abcd", "bcd", "dbc", "the last one moves into the gap at the front"),
            ("abc", "abd", "abd", "one that is replaced gives its slot away"),
            ("abcd", "xbyd", "xbyd", "several are replaced"),
            ("abcd", "d", "d", "the last one standing"),
            ("abcd", "", "", "nobody is left"),
            ("aab", "ab", "ab", "a slot that was written twice by somebody else"),
            ("a?c", "abc", "abc", "a slot that somebody else emptied"),
        ];
        for (before, wanted, expected, story) in table {
            let mut sorted = endpoints(wanted);
            sorted.sort();
            let before = endpoints(before).into_iter().map(|endpoint| {
                let emptied = endpoint.ip == IpAddr::from([10, 0, 0, b'?']);
                (!emptied).then_some((endpoint.ip, endpoint.port))
            });
            assert_eq!(arrange(before, &sorted), endpoints(expected), "{story}");
        }
    }
}
