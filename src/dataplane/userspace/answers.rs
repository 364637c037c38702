//! The way of what endpoints answer to clients' addresses: routing delivers it to this node, by the mark
//! that the kernel's table gives it.

use tokio::sync::watch;

use crate::nftables::delivery_mark;
use sluice_core::net::Family;
use sluice_kernel::policy_routing::{PolicyRouting, PolicyRoutingError};

/// Keeps the routing rules of one family there.
#[derive(Debug)]
pub(super) struct Answers {
    rules: PolicyRouting,
    /// Changes when some may have gone.
    gone: watch::Receiver<()>,
    /// The mark that they are there for, as far as is known.
    mark: Option<u32>,
}

impl Answers {
    /// For a family. Nothing is written yet.
    pub(super) fn open(
        family: Family,
        gone: watch::Receiver<()>,
    ) -> Result<Answers, PolicyRoutingError> {
        Ok(Answers { rules: PolicyRouting::open(family)?, gone, mark: None })
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
        // After a failure, they are looked at again.
        self.mark = None;
        let changes = self.rules.ensure(mark)?;
        self.mark = Some(mark);
        Ok(changes)
    }
}
