//! What the kernel has of one Service in the service table of the userspace mode. Which port of this node a relay has is the
//! running daemon's business: what the kernel has in the slot of a frontend is taken for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::data_path::{ToRelays, path};
use super::redirected::{is_relayed, redirected, sources};
use super::visible_source::VisibleSource;
use crate::inspection::{Inspection, What};
use crate::service_table::{
    self, FrontendClass, SetId, TABLE, endpoint_of, frontend_key, pools_of,
};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, Hit, PoolKind, PortPlan, ServicePlan, route_for};
use sluice_kernel::nft::{Element, Nft, NftError, Observed, TableName};

/// What the kernel has of a Service, or of a packet's way to it. `table` need have no other Service.
///
/// # Errors
/// If it cannot be read.
pub fn inspect(
    nft: &mut Nft,
    table: &ForwardingTable,
    name: &ServiceName,
    visible: VisibleSource,
    hit: Option<&Hit<'_>>,
) -> Result<Inspection, NftError> {
    let Some(plan) = table.services.get(name) else { return Ok(Inspection::default()) };
    let part = nft.part(&TableName::new(table.family, TABLE), &slots(plan, visible))?;
    let nowhere = SocketAddr::new(table.family.unspecified(), 0);
    let relay = |port: &PortPlan, pool: PoolKind, source: VisibleSource| {
        let found = part
            .as_ref()
            .and_then(|part| found(part, table.family, port, pool, slot(visible, source)));
        Some(found.unwrap_or(nowhere)).filter(|_| !port.pool(pool).is_empty())
    };
    let plan = Arc::new(redirected(plan, visible, relay));
    let services = BTreeMap::from([(name.clone(), Arc::clone(&plan))]);
    let relayed = ForwardingTable { services, ..table.clone() };
    let hit = hit.and_then(|hit| same(hit, &relayed, &plan));
    let steps = hit.as_ref().map(|hit| path(hit).steps);
    let packet = hit.as_ref().zip(steps.as_deref());
    let mut inspection = service_table::inspect(nft, (&relayed, name), &ToRelays(visible), packet)?;
    let no_relay = format!(" : {} . 0", nowhere.ip());
    for missing in &mut inspection.missing {
        if let What::Text(text) = &mut missing.what
            && let Some(frontend) = text.strip_suffix(&no_relay)
        {
            *text = format!("{frontend} : the relay's address");
        }
    }
    Ok(inspection)
}

/// The slots in which the relays of a plan are.
fn slots(plan: &ServicePlan, visible: VisibleSource) -> Vec<(Arc<str>, Vec<Element>)> {
    let mut by_set: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
    let relayed = plan.ports.iter().filter(|port| is_relayed(port.protocol));
    for frontend in relayed.flat_map(|port| &port.frontends) {
        for (class, _) in pools_of(frontend) {
            let slots = (0..).zip(sources(visible));
            let elements =
                slots.map(|(slot, _)| Element::new(frontend_key(&frontend.at).number(slot)));
            by_set.entry(SetId::Endpoints(class)).or_default().extend(elements);
        }
    }
    by_set.into_iter().map(|(set, elements)| (set.name(), elements)).collect()
}

fn slot(visible: VisibleSource, source: VisibleSource) -> u32 {
    let at = sources(visible).iter().position(|other| *other == source);
    at.and_then(|at| u32::try_from(at).ok()).unwrap_or(0)
}

/// The relay of a pool: what is in its slot of the first frontend that has any.
fn found(
    part: &Observed,
    family: Family,
    port: &PortPlan,
    pool: PoolKind,
    slot: u32,
) -> Option<SocketAddr> {
    let in_class = |class: FrontendClass, key| {
        let set = part.sets.get(&SetId::Endpoints(class).name())?;
        let (_, element) = set.elements.find(&key)?;
        endpoint_of(family, &element.value).map(|(ip, port)| SocketAddr::new(ip, port))
    };
    port.frontends.iter().find_map(|frontend| {
        let mut classes = pools_of(frontend).filter(|(_, kind)| *kind == pool);
        classes.find_map(|(class, _)| in_class(class, frontend_key(&frontend.at).number(slot)))
    })
}

/// The same packet at the frontend of another plan.
fn same<'a>(hit: &Hit<'a>, table: &'a ForwardingTable, plan: &'a ServicePlan) -> Option<Hit<'a>> {
    let is_port =
        |port: &&PortPlan| port.name == hit.port.name && port.protocol == hit.port.protocol;
    let port = plan.ports.iter().find(is_port)?;
    let frontend = port.frontends.iter().find(|frontend| frontend.at == hit.frontend.at)?;
    let route = route_for(frontend, &table.host.pods, &hit.packet.source);
    Some(Hit { table, plan, port, frontend, route, ..*hit })
}
