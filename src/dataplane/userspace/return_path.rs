//! Return path of transparent relays: replies to a client's address are marked by the service table and
//! delivered to this node by policy routing.

use tokio::sync::watch;

use sluice_core::net::Family;
use sluice_kernel::policy_routing::{PolicyRouting, PolicyRoutingError};

/// Keeps the routing rules of one family.
#[derive(Debug)]
pub(super) struct ReturnPath {
    rules: PolicyRouting,
    /// Changes when some may have gone.
    gone: watch::Receiver<()>,
    /// The mark for which they exist, if known.
    mark: Option<u32>,
}

impl ReturnPath {
    /// For a family. Nothing is written yet.
    pub(super) fn open(
        family: Family,
        gone: watch::Receiver<()>,
    ) -> Result<ReturnPath, PolicyRoutingError> {
        Ok(ReturnPath { rules: PolicyRouting::open(family)?, gone, mark: None })
    }

    /// Brings the rules in line, if they may differ; how many changes it took.
    pub(super) fn ensure(
        &mut self,
        masquerade_mark: u32,
        full: bool,
    ) -> Result<usize, PolicyRoutingError> {
        let mark = delivery_mark(masquerade_mark);
        let gone = self.gone.has_changed().unwrap_or(true);
        if self.mark == Some(mark) && !full && !gone {
            return Ok(0);
        }
        self.gone.mark_unchanged();
        // After a failure, they are checked again.
        self.mark = None;
        let changes = self.rules.ensure(mark)?;
        self.mark = Some(mark);
        Ok(changes)
    }
}

/// The bit of the packet mark by which packets are delivered to this node: 12, which neither Cilium (8 to 11)
/// nor the CNI plugin portmap (13) uses; 14 where masquerading has 12.
pub(super) fn delivery_mark(masquerade_mark: u32) -> u32 {
    const USUAL: u32 = 1 << 12;
    if masquerade_mark == USUAL { 1 << 14 } else { USUAL }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_a_mark_that_nobody_else_sets() {
        for (masquerade, delivery) in [(14, 12), (12, 14), (13, 12), (0, 12), (31, 12)] {
            assert_eq!(delivery_mark(1 << masquerade), 1 << delivery, "masqueradeBit {masquerade}");
        }
    }
}
