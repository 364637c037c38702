//! IPVS virtual services that no mode needs any more.

use std::net::IpAddr;

use ipnet::IpNet;

use sluice_core::net::Family;
use sluice_kernel::addresses::IPVS_DEVICE;
use sluice_kernel::dummy::{Dummy, DummyError, DummyOp};
use sluice_kernel::ipvs::{Ipvs, IpvsError, Key, Op};

/// What happens to IPVS connections, whose packets are dropped as soon as their virtual service is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// They may end in peace; what they need stays until then.
    Keep,
    /// They are cut.
    Cut,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) services: usize,
    /// Whether the device is gone.
    pub(super) device: bool,
    /// Connections that are waited for.
    pub(super) connections: u64,
    pub(super) refused: Vec<String>,
}

/// Talking to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum IpvsLeftoverError {
    /// To IPVS.
    #[error(transparent)]
    Ipvs(#[from] IpvsError),
    /// About the device.
    #[error(transparent)]
    Device(#[from] DummyError),
}

/// Deletes virtual services, their addresses and finally the device. Without the device, IPVS belongs to
/// another program; with it, kube-proxy owns all virtual services except those by mark and `excluded`
/// (upstream: `pkg/proxy/ipvs/proxier.go`, cleanLegacyService).
pub(super) fn remove(
    excluded: &[IpNet],
    connections: Connections,
) -> Result<Outcome, IpvsLeftoverError> {
    let mut device = Dummy::open(IPVS_DEVICE)?;
    let (v4, v6) = (device.addresses(Family::V4)?, device.addresses(Family::V6)?);
    let (Some(v4), Some(v6)) = (v4, v6) else { return Ok(Outcome::default()) };
    let ours = |ip: &IpAddr| !excluded.iter().any(|net| net.contains(ip));
    let mut outcome = Outcome::default();
    let mut needed = Vec::new();
    match Ipvs::open() {
        Ok(mut ipvs) => needed = delete_services(&mut ipvs, ours, connections, &mut outcome)?,
        // What is no longer in the kernel need not be deleted.
        Err(IpvsError::Unsupported) => {}
        Err(error) => return Err(error.into()),
    }
    let addresses: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    if needed.is_empty() && addresses.iter().all(ours) && outcome.refused.is_empty() {
        device.delete()?;
        outcome.device = true;
        return Ok(outcome);
    }
    // An address of IPv6 that the kernel gave the device itself goes with the device.
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let gone = addresses.into_iter().filter(|ip| ours(ip) && !needed.contains(ip));
    let ops: Vec<DummyOp> = gone.filter(|ip| !link_local(ip)).map(DummyOp::Remove).collect();
    for (op, answer) in ops.iter().zip(device.apply(&ops)?) {
        if let (DummyOp::Remove(ip), Err(refusal)) = (op, answer)
            && !refusal.contradicts_state()
        {
            outcome.refused.push(format!("address {ip} of {IPVS_DEVICE}: {refusal}"));
        }
    }
    Ok(outcome)
}

/// Deletes virtual services, and gives the addresses of those that are still needed.
fn delete_services(
    ipvs: &mut Ipvs,
    ours: impl Fn(&IpAddr) -> bool,
    connections: Connections,
    outcome: &mut Outcome,
) -> Result<Vec<IpAddr>, IpvsError> {
    let (mut needed, mut ops) = (Vec::new(), Vec::new());
    for service in ipvs.services()? {
        let Key::Address { ip, .. } = service.key else { continue };
        if !ours(&ip) {
            continue;
        }
        let carried = match connections {
            Connections::Keep => ipvs.destinations(&service.key)?,
            Connections::Cut => Vec::new(),
        };
        let carried: u64 =
            carried.iter().map(|to| u64::from(to.active) + u64::from(to.inactive)).sum();
        if carried > 0 {
            outcome.connections += carried;
            needed.push(ip);
        } else {
            ops.push(Op::DeleteService(service.key));
        }
    }
    for (op, answer) in ops.iter().zip(ipvs.apply(&ops)?) {
        match answer {
            Ok(()) => outcome.services += 1,
            Err(refusal) if refusal.contradicts_state() => {}
            Err(refusal) => outcome.refused.push(format!("{op}: {refusal}")),
        }
    }
    Ok(needed)
}
