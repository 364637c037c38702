//! The path through the kernel's objects, as the mode would write them. Nothing is read.

use sluice_config::Mode;
use sluice_core::plan::{Hit, PoolEndpoint};
use sluice_dataplane::packet_path::PacketPath;
use sluice_dataplane::{iptables, ipvs, nftables, userspace};
use sluice_explain::Looked;
use sluice_explain::truth::{KernelView, Object, Observed, Path, Way};

/// The path in a mode.
pub(crate) fn path(mode: Mode, hit: &Hit<'_>) -> Path {
    let PacketPath { steps, objects } = match mode {
        Mode::Nftables => nftables::path(hit),
        Mode::Iptables => iptables::path(hit),
        Mode::Ipvs => ipvs::path(hit),
        Mode::Userspace => userspace::path(hit),
    };
    let object = |(set, element)| Object { set, element, state: "desired".to_owned() };
    Path { steps, objects: objects.into_iter().map(object).collect() }
}

/// The path without a kernel, and why none is asked.
pub(crate) struct Computed {
    pub(crate) mode: Mode,
    pub(crate) why: &'static str,
}

impl KernelView for Computed {
    fn path(&self, hit: &Hit<'_>) -> Path {
        path(self.mode, hit)
    }

    fn observed(&self, _: &Hit<'_>) -> Looked<Observed> {
        Looked::Not(self.why.to_owned())
    }

    fn way(&self, _: &Hit<'_>, _: &[PoolEndpoint]) -> Looked<Way> {
        Looked::Not(self.why.to_owned())
    }

    fn others(&self, _: &Hit<'_>) -> Looked<Vec<String>> {
        Looked::Not(self.why.to_owned())
    }
}
