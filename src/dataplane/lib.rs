//! Backends: a forwarding table as objects of one kernel mechanism.
//!
//! No decision about traffic is made here; if a backend needs another fact, the table lacks a field.
//!
//! `nftables`, `ipvs` and `userspace` are what these modes add to the table that they share, the
//! [service table](service_table), whose header also explains the words *desired*, *observed*, *applied* and
//! *diff*. `iptables` stands alone. `leftovers` finds what another mode left.

pub mod inspection;
pub mod iptables;
pub mod ipvs;
pub mod leftovers;
pub mod nftables;
pub mod operations;
pub mod packet_path;
pub mod service_table;
pub mod userspace;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use sluice_core::model::ServiceName;
use sluice_core::plan::{ForwardingTable, PortPlan};

/// Makes the kernel match forwarding tables of one IP family.
pub trait Backend: Send {
    /// Brings the kernel in line with `table`, at the cost of what `scope` names. What somebody else
    /// did to our objects since the last call is undone as well.
    ///
    /// # Errors
    /// If nothing could be applied. The kernel is as it was before; the next call repairs all.
    fn sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, SyncError>;

    /// The addresses that connection tracking has as destinations after translation at a port of a
    /// Service: its endpoints, or the relays in front of them. Changes nothing.
    fn translated_to(
        &self,
        service: &ServiceName,
        port: &PortPlan,
        endpoints: BTreeSet<SocketAddr>,
    ) -> BTreeSet<SocketAddr> {
        let _ = (service, port);
        endpoints
    }

    /// Ends connections that this process itself carries from a port of a Service to other endpoints than
    /// these. To be called when the rules are in force.
    fn retain_endpoints(
        &mut self,
        service: &ServiceName,
        port: &PortPlan,
        endpoints: &BTreeSet<SocketAddr>,
    ) {
        let _ = (service, port, endpoints);
    }

    /// The process is about to end: nothing new is taken on. Returns when all that would end with the
    /// process has ended or has had its time. The rules stay in force.
    fn stop(&mut self) {}
}

/// A family whose backend could not be opened, which is tried at the start only: each sync fails with the
/// reason.
#[derive(Debug)]
pub struct Unopened {
    /// What opening it failed for, and what an operator can do about it.
    pub reason: String,
}

impl Backend for Unopened {
    fn sync(&mut self, table: &ForwardingTable, _scope: &Scope) -> Result<Report, SyncError> {
        let (family, reason) = (table.family, self.reason.clone());
        Err(SyncError { backend: "cannot serve", family, reason })
    }
}

/// What may differ from the last successful sync.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Services whose plan may have changed; every one that ever was refused is among them.
    pub services: BTreeSet<ServiceName>,
    /// Whether to read the kernel and compare everything, whatever is believed of it.
    pub full: bool,
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How many operations the kernel carried out; 0 if all was well already.
    pub operations: usize,
    /// How many of them were on elements of sets.
    pub elements: usize,
    /// Whether the kernel's state was read and compared.
    pub observed: Observation,
    /// Services whose change the kernel refused; everything else was applied.
    pub refused: Vec<RefusedService>,
    /// What belongs to this backend in the kernel now, by kind. Kept from one sync to the next: it must
    /// not cost work for the cluster.
    pub owned: Vec<Count>,
}

/// Things of one kind in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// `element`, `object`, in the iptables mode the table that rules are in, and in the IPVS mode also
    /// `virtual-service`, `destination` and `address`.
    pub kind: &'static str,
    /// How many there are.
    pub count: usize,
    /// How many of them this sync wrote.
    pub written: usize,
}

/// Whether a sync read the kernel's state, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Observation {
    /// What is known of it was relied on.
    #[default]
    None,
    /// It was read, at the start or on request.
    Asked,
    /// It was read because somebody else had changed our objects.
    Drift,
}

/// A Service that the kernel does not serve as planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedService {
    /// Its name.
    pub service: ServiceName,
    /// The object that was refused and what the kernel said.
    pub reason: String,
}

/// Nothing could be applied.
#[derive(Debug, thiserror::Error)]
#[error("{backend} {family}: {reason}")]
pub struct SyncError {
    /// The backend's name.
    pub backend: &'static str,
    /// The family of the table.
    pub family: sluice_core::net::Family,
    /// The object and what the kernel said about it.
    pub reason: String,
}
