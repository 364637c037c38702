//! The elements of endpoints in slots and of session affinity, for modes whose rules [draw
//! endpoints](super::rules::Rules::draw_endpoints).

use std::collections::BTreeSet;

use super::affinity::{affinity_number, endpoint_id, remembered};
use super::elements::Elements;
use super::frontends::{FrontendClass, frontend_key, pools_of};
use super::sets::{SetId, slots_for};
use sluice_core::plan::{Affinity, PoolEndpoint, PortPlan, ServicePlan};
use sluice_kernel::nft::{Data, Element, Key};

/// Appends the elements of all pools of a Service, whose endpoints are in slot order.
pub(crate) fn slot_elements(plan: &ServicePlan, out: &mut Elements) {
    for port in &plan.ports {
        for frontend in &port.frontends {
            let key = frontend_key(&frontend.at);
            let number = affinity_number(port, frontend);
            if let Some(number) = number {
                let sticky = SetId::Sticky(FrontendClass::of(&frontend.at));
                out.push((sticky, Element::data(key, Data::new().number(number))));
            }
            for (class, pool) in pools_of(frontend) {
                pool_elements((class, key), port.pool(pool), number, out);
            }
        }
        if let Some(affinity) = port.affinity {
            affinity_elements(port, affinity, out);
        }
    }
}

/// A pool, and how its frontend finds it; `number` is that of its affinity entries, if any.
fn pool_elements(
    (class, key): (FrontendClass, Key),
    pool: &[PoolEndpoint],
    number: Option<u32>,
    out: &mut Elements,
) {
    if pool.is_empty() {
        return;
    }
    // A single endpoint needs no memory.
    let number = number.filter(|_| pool.len() > 1);
    let slots = slots_for(pool.len());
    let set = match number {
        Some(_) => SetId::StickySlots(class, slots),
        None => SetId::Slots(class, slots),
    };
    out.push((set, Element::new(key)));
    for (slot, endpoint) in (0..).zip(pool) {
        let key = key.number(slot);
        let data = Data::new().address(endpoint.ip).port(endpoint.port);
        out.push((SetId::Endpoints(class), Element::data(key, data)));
        if let Some(number) = number {
            let id = endpoint_id(number, endpoint.ip, endpoint.port);
            let id = Data::new().number(id);
            out.push((SetId::SlotIds(class), Element::data(key, id)));
        }
    }
}

fn affinity_elements(port: &PortPlan, Affinity { timeout, .. }: Affinity, out: &mut Elements) {
    let frontends = port.frontends.iter();
    let numbers: BTreeSet<u32> =
        frontends.filter_map(|frontend| affinity_number(port, frontend)).collect();
    let number = |number| Element::new(Key::new().number(number));
    out.extend(numbers.into_iter().map(|n| (SetId::Remembered(timeout), number(n))));
    let known: BTreeSet<_> =
        remembered(port).map(|(number, endpoint)| (number, endpoint.ip, endpoint.port)).collect();
    out.extend(known.into_iter().map(|(number, ip, port)| {
        let key = Key::new().number(number).address(ip).port(port);
        let id = Data::new().number(endpoint_id(number, ip, port));
        (SetId::EndpointIds, Element::data(key, id))
    }));
}
