//! The interface to IPVS and to the device with cluster IPs, and its implementation by the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use sluice_core::net::Family;
use sluice_kernel::dummy::{Dummy, DummyError, DummyOp};
use sluice_kernel::ipvs::{Ipvs, IpvsError, Key, ObservedDestination, Op, Service, Timeouts};
use sluice_kernel::sysctl::{Setting, SysctlError, Wanted};
use sluice_kernel::{self as kernel, Refusal};

/// The device that has all cluster IPs, as the Go kube-proxy calls it.
pub(super) const DEVICE: &str = kernel::addresses::IPVS_DEVICE;

/// What this mode needs of the kernel: the kernel itself, or in tests a model of it.
pub trait Kernel: Send {
    /// Virtual services that are ours.
    fn services(&mut self) -> Result<Vec<Service>, KernelError>;
    /// The destinations of one of them.
    fn destinations(&mut self, key: &Key) -> Result<Vec<ObservedDestination>, KernelError>;
    /// Cluster IPs that this node has and that are ours; none if there is no device for them.
    fn addresses(&mut self) -> Result<Option<BTreeSet<IpAddr>>, KernelError>;
    /// Changes virtual services, each on its own.
    fn change_services(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, KernelError>;
    /// Changes addresses, each on its own.
    fn change_addresses(
        &mut self,
        ops: &[DummyOp],
    ) -> Result<Vec<Result<(), Refusal>>, KernelError>;
    /// The time.
    fn now(&self) -> Instant;
}

/// The kernel could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// IPVS.
    #[error(transparent)]
    Ipvs(#[from] IpvsError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DummyError),
    /// Settings of the kernel.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// IPVS settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scheduler's name.
    pub scheduler: Arc<str>,
    /// Virtual services and addresses in these prefixes are not ours.
    pub excluded: Vec<IpNet>,
    /// Whether this node answers ARP only for addresses of the receiving interface.
    pub strict_arp: bool,
    /// Timeouts of idle connections: TCP, TCP after FIN, UDP.
    pub timeouts: [Option<Duration>; 3],
}

/// The kernel, for one IP family.
#[derive(Debug)]
pub struct Live {
    ipvs: Ipvs,
    device: Dummy,
    family: Family,
    excluded: Vec<IpNet>,
}

impl Live {
    /// Opens IPVS of the current network namespace and prepares it: the scheduler is there, timeouts
    /// and settings are as they should be.
    ///
    /// # Errors
    /// If the kernel lacks something, with its name.
    pub fn open(family: Family, options: &Options) -> Result<Live, KernelError> {
        let mut ipvs = Ipvs::open()?;
        ipvs.check_scheduler(&options.scheduler)?;
        let [tcp, tcp_fin, udp] = options.timeouts.map(|timeout| {
            timeout.map_or(0, |timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX))
        });
        if (tcp, tcp_fin, udp) != (0, 0, 0) {
            ipvs.set_timeouts(Timeouts { tcp, tcp_fin, udp })?;
        }
        for setting in settings(options.strict_arp) {
            setting.ensure(Path::new("/"))?;
        }
        let device = Dummy::open(DEVICE)?;
        Ok(Live { ipvs, device, family, excluded: options.excluded.clone() })
    }

    fn is_ours(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family && !self.excluded.iter().any(|net| net.contains(&ip))
    }
}

/// Settings that this mode rests on (upstream: `pkg/proxy/ipvs/proxier.go`, `NewProxier`). Those of IPVS
/// are there only once it is.
pub fn settings(strict_arp: bool) -> Vec<Setting> {
    let setting = |(file, value)| Setting { file, wanted: Wanted::Exactly(value) };
    let always = [
        // Connections are tracked, so that they can be masqueraded.
        ("proc/sys/net/ipv4/vs/conntrack", 1),
        // What went to a destination that is gone finds another one.
        ("proc/sys/net/ipv4/vs/expire_nodest_conn", 1),
        // Clients do not come back to a destination that leaves.
        ("proc/sys/net/ipv4/vs/expire_quiescent_template", 1),
        ("proc/sys/net/ipv4/ip_forward", 1),
    ];
    let strict = [
        ("proc/sys/net/ipv4/conf/all/arp_ignore", 1),
        ("proc/sys/net/ipv4/conf/all/arp_announce", 2),
    ];
    let strict = strict.into_iter().filter(|_| strict_arp);
    always.into_iter().chain(strict).map(setting).collect()
}

impl Kernel for Live {
    fn services(&mut self) -> Result<Vec<Service>, KernelError> {
        let mut all = self.ipvs.services()?;
        all.retain(|service| match service.key {
            Key::Address { ip, .. } => self.is_ours(ip),
            Key::Mark { .. } => false,
        });
        Ok(all)
    }

    fn destinations(&mut self, key: &Key) -> Result<Vec<ObservedDestination>, KernelError> {
        Ok(self.ipvs.destinations(key)?)
    }

    fn addresses(&mut self) -> Result<Option<BTreeSet<IpAddr>>, KernelError> {
        let mut all = self.device.addresses(self.family)?;
        if let Some(all) = &mut all {
            all.retain(|ip| self.is_ours(*ip));
        }
        Ok(all)
    }

    fn change_services(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, KernelError> {
        Ok(self.ipvs.apply(ops)?)
    }

    fn change_addresses(
        &mut self,
        ops: &[DummyOp],
    ) -> Result<Vec<Result<(), Refusal>>, KernelError> {
        Ok(self.device.apply(ops)?)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}
