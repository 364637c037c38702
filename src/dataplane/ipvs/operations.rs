//! What a change would write: virtual services, destinations and addresses, and the table in front of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::applied::AppliedService;
use super::data_path::ToVirtualServices;
use super::desired::{Desired, DesiredService};
use super::diff::{Diff, WEIGHT};
use crate::operations::Operations;
use crate::service_table;
use sluice_core::plan::ForwardingTable;
use sluice_kernel::ipvs::{Destination, Key, Op};

/// The operations from one forwarding table to another, in a kernel that has the first. What drains is counted as
/// removed.
pub fn operations(
    before: &ForwardingTable,
    after: &ForwardingTable,
    scheduler: &Arc<str>,
) -> Operations {
    let mut counted = service_table::operations(before, after, &ToVirtualServices);
    let (old, new) = (Desired::of(before, scheduler), Desired::of(after, scheduler));
    let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
    let mut diff = Diff::default();
    for key in keys {
        let there = old.service(key).map(|(_, service)| written(service));
        diff.compare(key, there.as_ref(), new.service(key).map(|(_, service)| service), false);
    }
    for op in diff.arrivals.iter().chain(&diff.departures) {
        match op {
            Op::AddService(_) | Op::SetService(_) => counted.write("virtual-service", 1),
            Op::DeleteService(_) => counted.remove("virtual-service", 1),
            Op::AddDestination(..) | Op::SetDestination(..) => counted.write("destination", 1),
            Op::DeleteDestination(..) => counted.remove("destination", 1),
        }
    }
    let (old, new): (BTreeSet<&IpAddr>, BTreeSet<&IpAddr>) =
        (old.addresses().collect(), new.addresses().collect());
    counted.write("address", new.difference(&old).count());
    counted.remove("address", old.difference(&new).count());
    counted
}

/// As the kernel has it once it is written.
fn written(desired: &DesiredService) -> AppliedService {
    let to = |(ip, port): &(IpAddr, u16)| ((*ip, *port), Destination::new(*ip, *port, WEIGHT));
    AppliedService {
        service: desired.service.clone(),
        destinations: desired.destinations.iter().map(to).collect(),
    }
}
