//! What is known without a daemon: objects from files or from an API server, and the settings of a node.
//!
//! - [`objects`]: what people want to know of objects, and the plan does not need
//! - [`files`]: objects from files, also those of a dump
//! - [`api`]: the same objects from an API server
//! - [`mod@operations`]: what a change would have the node write
//! - [`settings`]: the node's settings, also those of another kube-proxy

pub(crate) mod api;
pub(crate) mod files;
pub(crate) mod objects;
mod operations;
pub(crate) mod settings;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

pub(crate) use self::operations::operations;
use crate::kernel_view::Computed;
use crate::sync::host::host;
use sluice_config::Config;
use sluice_core::model::{Snapshot, Warning};
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, build};
use sluice_explain::{Explanation, Known, Origin, Question, Refusal, Truth, explain};
use sluice_kubernetes::watch::manifests;

const WHY: &str = "files and an API server say nothing about a node's kernel";

/// Everything that one node would know, had it been sent these objects.
pub(crate) struct Gathered {
    pub(crate) node: String,
    pub(crate) config: Config,
    pub(crate) snapshot: Snapshot,
    pub(crate) known: Known,
    pub(crate) origin: Origin,
    pub(crate) warnings: Vec<Warning>,
    local: BTreeSet<IpAddr>,
    tables: Vec<ForwardingTable>,
}

impl Gathered {
    /// What the node makes of the objects. Without the addresses of its interfaces, it has those of its Node.
    pub(crate) fn new(
        objects: &[Value],
        (known, origin, addresses): (Known, Origin, Option<BTreeSet<IpAddr>>),
        node: &str,
        config: Config,
    ) -> Gathered {
        let (snapshot, warnings) = manifests::snapshot(objects, node);
        let local = addresses.unwrap_or_else(|| {
            let own = snapshot.node.iter().flat_map(|node| node.addresses.clone());
            own.chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect()
        });
        let (node, tables) = (node.to_owned(), Vec::new());
        let gathered = Gathered { node, config, snapshot, known, origin, warnings, local, tables };
        gathered.planned()
    }

    /// With another state of the API.
    pub(crate) fn with(&self, snapshot: Snapshot) -> Gathered {
        let other = Gathered {
            node: self.node.clone(),
            config: self.config.clone(),
            snapshot,
            known: self.known.clone(),
            origin: self.origin.clone(),
            warnings: Vec::new(),
            local: self.local.clone(),
            tables: Vec::new(),
        };
        other.planned()
    }

    fn planned(mut self) -> Gathered {
        let table = |family: Family| {
            let host = host(family, &self.config, self.snapshot.node.as_ref(), &self.local);
            build(family, &self.node, host, &self.snapshot).0
        };
        self.tables = Family::BOTH.map(table).into();
        self
    }

    /// What the node does with traffic of a family.
    pub(crate) fn table(&self, family: Family) -> Option<&ForwardingTable> {
        self.tables.iter().find(|table| table.family == family)
    }

    /// Why a connection goes where it goes.
    pub(crate) fn explain(&self, question: &Question) -> Result<Explanation, Refusal> {
        let tables: Vec<&ForwardingTable> = self.tables.iter().collect();
        let truth = Truth {
            node: &self.node,
            mode: self.config.mode,
            snapshot: &self.snapshot,
            tables: &tables,
            local: &self.local,
            known: &self.known,
            origin: &self.origin,
            kernel: &Computed { mode: self.config.mode, why: WHY },
        };
        explain(&truth, question)
    }
}
