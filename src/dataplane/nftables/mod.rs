//! The nftables mode: the kernel draws an endpoint from the slots of a pool and translates to it.
//!
//! All of it is in the [service table](crate::service_table): the userspace mode uses the same rules for
//! drawing. See `docs/modes/nftables.md`.

mod inspect;

pub use self::inspect::inspect;
use crate::operations::Operations;
use crate::packet_path::PacketPath;
use crate::service_table::packet_path;
use crate::service_table::{
    self, DataPath, Elements, FrontendClass, KernelTable, Rules, Ruleset, ServiceTable, SetId,
    slot_elements,
};
use sluice_core::net::Protocol;
use sluice_core::plan::{ForwardingTable, Hit, ServicePlan};

/// The mode for one IP family.
pub fn table<T: KernelTable>(kernel: T) -> ServiceTable<T> {
    ServiceTable::new(kernel, Box::new(ToEndpoints))
}

/// The path of a packet that has found a frontend.
pub fn path(hit: &Hit<'_>) -> PacketPath {
    packet_path(hit, Some(&ToEndpoints), drawn)
}

/// From the pool to an endpoint.
pub(crate) fn drawn(class: FrontendClass, slots: Option<SetId>) -> Vec<String> {
    let mut steps = Vec::new();
    let size = match slots {
        Some(SetId::StickySlots(_, size)) => {
            steps.push(format!("{class}-recall-{size}"));
            size
        }
        Some(SetId::Slots(_, size)) => size,
        _ => return steps,
    };
    steps.push(Rules::draw_chain(class, size).to_string());
    steps.push("dnat".to_owned());
    steps
}

/// What the mode writes into an empty kernel.
pub fn ruleset(table: &ForwardingTable) -> Ruleset {
    service_table::ruleset(table, &ToEndpoints)
}

/// What a change would write.
pub fn operations(before: &ForwardingTable, after: &ForwardingTable) -> Operations {
    service_table::operations(before, after, &ToEndpoints)
}

/// Destinations are translated to endpoints.
#[derive(Debug)]
pub(crate) struct ToEndpoints;

impl DataPath for ToEndpoints {
    fn balances(&self, _: Protocol) -> bool {
        true
    }

    fn remembers_clients(&self) -> bool {
        true
    }

    fn sets(&self) -> Vec<SetId> {
        FrontendClass::ALL.map(SetId::Endpoints).to_vec()
    }

    fn deliver(&self, rules: &mut Rules<'_>, frontends: FrontendClass) {
        rules.draw_endpoints(frontends);
    }

    fn elements(&self, plan: &ServicePlan, out: &mut Elements) {
        slot_elements(plan, out);
    }
}
