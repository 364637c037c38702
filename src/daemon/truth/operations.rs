//! What a change would have this node write, in its mode and in the others: the modes are pure.

use super::Gathered;
use crate::rules::{self, MODES};
use sluice_config::Mode;
use sluice_core::plan::ForwardingTable;
use sluice_dataplane::operations::Operations;
use sluice_dataplane::userspace::VisibleSource;
use sluice_dataplane::{iptables, ipvs, nftables, userspace};
use sluice_explain::compared;

/// The operations of each mode and family, those of which there are any.
pub(crate) fn operations(before: &Gathered, after: &Gathered) -> Vec<compared::Operations> {
    let mut all = Vec::new();
    for mode in MODES {
        for (from, to) in before.tables.iter().zip(&after.tables) {
            let of = |(kind, counted): (&str, sluice_dataplane::operations::Counted)| {
                compared::Operations {
                    mode: mode.to_string(),
                    current: mode == before.config.mode,
                    family: from.family.to_string(),
                    kind: kind.to_owned(),
                    written: counted.written,
                    removed: counted.removed,
                }
            };
            all.extend(in_mode(mode, before, (from, to)).iter().map(of));
        }
    }
    all
}

fn in_mode(
    mode: Mode,
    of: &Gathered,
    (from, to): (&ForwardingTable, &ForwardingTable),
) -> Operations {
    let config = Some(&of.config);
    match mode {
        Mode::Nftables => nftables::operations(from, to),
        Mode::Iptables => iptables::operations(from, to, rules::iptables_options(config)),
        Mode::Ipvs => ipvs::operations(from, to, &rules::ipvs_scheduler(config)),
        Mode::Userspace => userspace::operations(from, to, VisibleSource::Node),
    }
}
