//! What a change would write: relays that open and close, and the table that redirects to them. An endpoint that comes or
//! goes changes nothing but what a relay of the daemon chooses from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::data_path::ToRelays;
use super::redirected::{RelayKey, needed, redirected, sources};
use super::visible_source::VisibleSource;
use crate::operations::Operations;
use crate::service_table;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;

/// The operations from one forwarding table to another, in a kernel that has the first. Relays have other ports in a
/// daemon; what is counted is the same.
pub fn operations(
    before: &ForwardingTable,
    after: &ForwardingTable,
    visible: VisibleSource,
) -> Operations {
    let (old, new) = (relays(before, visible), relays(after, visible));
    let places: BTreeMap<&RelayKey, SocketAddr> =
        old.union(&new).zip((0..).map(|number| place(before.family, number))).collect();
    let redirect = |table: &ForwardingTable| {
        let mut table = table.clone();
        for (name, plan) in &mut table.services {
            let at = |port: &_, pool, source| {
                places.get(&RelayKey::new(name, port, pool, source)).copied()
            };
            *plan = Arc::new(redirected(plan, visible, at));
        }
        table
    };
    let (from, to) = (redirect(before), redirect(after));
    let mut counted = service_table::operations(&from, &to, &ToRelays(visible));
    counted.write("relay", new.difference(&old).count());
    counted.remove("relay", old.difference(&new).count());
    counted
}

fn relays(table: &ForwardingTable, visible: VisibleSource) -> BTreeSet<RelayKey> {
    let mut all = BTreeSet::new();
    for (name, plan) in &table.services {
        for (port, pool) in needed(plan) {
            let of = |source: &VisibleSource| RelayKey::new(name, port, pool, *source);
            all.extend(sources(visible).iter().map(of));
        }
    }
    all
}

/// An address and port for each number.
fn place(family: Family, number: u32) -> SocketAddr {
    let (high, port) = (number >> 16, (number & 0xffff) as u16);
    match family {
        Family::V4 => SocketAddr::from((Ipv4Addr::from(high), port)),
        Family::V6 => SocketAddr::from((Ipv6Addr::from(u128::from(high)), port)),
    }
}
