//! What the kernel has of one Service in IPVS: its virtual services with their destinations, its address, and its part of the
//! service table. Only these are read.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::data_path::{ToVirtualServices, path};
use super::desired::{DesiredService, services_of};
use super::kernel::{DEVICE, KernelError};
use crate::inspection::{Found, Inspection};
use crate::service_table;
use sluice_core::model::ServiceName;
use sluice_core::plan::{ForwardingTable, Hit, ServicePlan};
use sluice_kernel::dummy::Dummy;
use sluice_kernel::ipvs::{Ipvs, Key, ObservedDestination};
use sluice_kernel::nft::{Nft, NftError};

/// Looks at IPVS of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Inspector {
    ipvs: Ipvs,
    device: Dummy,
    scheduler: Arc<str>,
}

/// Why IPVS or the service table was not read.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// IPVS, or the device with cluster IPs.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The service table.
    #[error(transparent)]
    Table(#[from] NftError),
}

impl Inspector {
    /// Opens IPVS; changes nothing.
    ///
    /// # Errors
    /// If the kernel has none.
    pub fn open(scheduler: Arc<str>) -> Result<Inspector, KernelError> {
        let (ipvs, device) = (Ipvs::open()?, Dummy::open(DEVICE)?);
        Ok(Inspector { ipvs, device, scheduler })
    }

    /// What the kernel has of a Service, or of a packet's way to it. `table` need have no other Service.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn inspect(
        &mut self,
        nft: &mut Nft,
        table: &ForwardingTable,
        name: &ServiceName,
        hit: Option<&Hit<'_>>,
    ) -> Result<Inspection, InspectError> {
        let Some(plan) = table.services.get(name) else { return Ok(Inspection::default()) };
        let steps = hit.map(|hit| path(hit).steps);
        let packet = hit.zip(steps.as_deref());
        let mut inspection =
            service_table::inspect(nft, (table, name), &ToVirtualServices, packet)?;
        let is_met = |key: &Key| steps.as_ref().is_none_or(|steps| steps.contains(&shown(key).0));
        let scheduler = Arc::clone(&self.scheduler);
        for desired in services_of(plan, &scheduler) {
            if is_met(&desired.service.key) {
                inspection.join(self.virtual_service(&desired)?);
            }
        }
        if hit.is_none_or(Hit::is_forwarded) {
            inspection.join(self.address(plan, table)?);
        }
        Ok(inspection)
    }

    fn virtual_service(&mut self, desired: &DesiredService) -> Result<Inspection, KernelError> {
        let key = &desired.service.key;
        let (place, flags) = shown(key);
        let mut out = Inspection::default();
        let text = format!("-A {flags} -s {}", desired.service.scheduler);
        match self.ipvs.service(key)? {
            None => {
                out.missing.push(Found::new("IPVS", text));
                return Ok(out);
            }
            Some(there) if there == desired.service => out.present.push(Found::new("IPVS", text)),
            Some(there) => {
                out.missing.push(Found::new("IPVS", text));
                out.extra.push(Found::new("IPVS", format!("-A {flags} -s {}", there.scheduler)));
            }
        }
        let there = self.ipvs.destinations(key)?;
        // One without weight drains: it is to go once its connections have ended.
        let drains = |to: &ObservedDestination| to.destination.weight == 0;
        let there: BTreeSet<(IpAddr, u16)> = there
            .iter()
            .filter(|to| !drains(to))
            .map(|to| (to.destination.ip, to.destination.port))
            .collect();
        let found = |(ip, port): &(IpAddr, u16)| {
            let to = SocketAddr::new(*ip, *port);
            Found::new(&place, format!("-a {flags} -r {to} -m -w 1"))
        };
        let wanted = &desired.destinations;
        out.present.extend(wanted.intersection(&there).map(found));
        out.missing.extend(wanted.difference(&there).map(found));
        out.extra.extend(there.difference(wanted).map(found));
        Ok(out)
    }

    /// The cluster IP is an address of this node.
    fn address(
        &mut self,
        plan: &ServicePlan,
        table: &ForwardingTable,
    ) -> Result<Inspection, KernelError> {
        let mut out = Inspection::default();
        let Some(ip) = plan.cluster_ip else { return Ok(out) };
        let all = self.device.addresses(table.family)?;
        let there = all.is_some_and(|all| all.contains(&ip));
        let list = if there { &mut out.present } else { &mut out.missing };
        list.push(Found::new(format!("device {DEVICE}"), ip));
        Ok(out)
    }
}

/// A virtual service as a step of a path, and as `ipvsadm` names it.
fn shown(key: &Key) -> (String, String) {
    let Key::Address { ip, protocol, port } = *key else { return Default::default() };
    let at = SocketAddr::new(ip, port);
    let flag = match protocol {
        sluice_core::net::Protocol::Tcp => "-t",
        sluice_core::net::Protocol::Udp => "-u",
        sluice_core::net::Protocol::Sctp => "--sctp-service",
    };
    let name = protocol.to_string().to_uppercase();
    (format!("IPVS {name} {at}"), format!("{flag} {at}"))
}
