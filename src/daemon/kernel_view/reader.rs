//! How this node's kernel is read: only for questions, by sockets of its own, so that the sync loop waits for nothing.

use std::sync::{Arc, Mutex, PoisonError};

use sluice_config::{Config, Mode};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, Hit, PoolEndpoint};
use sluice_dataplane::inspection::{Found, Inspection, What};
use sluice_dataplane::iptables::{Layout, LocalhostNodePorts, OutOfWindow};
use sluice_dataplane::userspace::VisibleSource;
use sluice_dataplane::{iptables, ipvs, nftables, userspace};
use sluice_explain::truth::{Object, Observed, Way};
use sluice_kernel::nft::Nft;
use sluice_kernel::xtables::{self, Xtables, XtablesError};

use super::others;
use super::way::Routes;
use crate::rules::rule_text;

/// What a mode writes its rules with.
#[derive(Debug)]
pub(crate) enum Mechanism {
    /// nf_tables alone.
    Nftables,
    /// The programs of each family.
    Iptables(Vec<(Family, iptables::Inspector)>),
    /// IPVS with this scheduler, and nf_tables.
    Ipvs(Arc<str>),
    /// Relays, and nf_tables.
    Userspace(VisibleSource),
}

impl Mechanism {
    /// What a daemon with this configuration, and no flags of its own, writes its rules with.
    ///
    /// # Errors
    /// If it cannot be found out.
    pub(crate) fn of(config: &Config) -> Result<Mechanism, XtablesError> {
        Ok(match config.mode {
            Mode::Nftables => Mechanism::Nftables,
            Mode::Userspace => Mechanism::Userspace(VisibleSource::Node),
            Mode::Ipvs => Mechanism::Ipvs(scheduler(config)),
            Mode::Iptables => {
                let variant = Xtables::open(Family::V4)?.variant();
                let options = iptables_options(config, Layout::default());
                let inspector = |family| {
                    (family, iptables::Inspector::alone(Xtables::new(family, variant), options))
                };
                Mechanism::Iptables(Family::BOTH.map(inspector).into())
            }
        })
    }
}

/// The scheduler of IPVS.
pub(crate) fn scheduler(config: &Config) -> Arc<str> {
    let scheduler = &config.ipvs.scheduler;
    if scheduler.is_empty() { "rr".into() } else { Arc::from(&**scheduler) }
}

/// What rules of iptables depend on.
pub(crate) fn iptables_options(config: &Config, layout: Layout) -> iptables::Options {
    iptables::Options {
        layout,
        localhost_node_ports: match config.localhost_node_ports {
            true => LocalhostNodePorts::Open,
            false => LocalhostNodePorts::Closed,
        },
        // Where connection tracking is not loaded yet, its setting is made when it is.
        out_of_window: match xtables::accepts_outside_of_window()
            .unwrap_or(config.conntrack.tcp_be_liberal)
        {
            true => OutOfWindow::Keep,
            false => OutOfWindow::Drop,
        },
    }
}

/// This node's kernel, for those who look.
#[derive(Debug)]
pub(crate) struct Kernel {
    mechanism: Mechanism,
    sockets: Mutex<Sockets>,
}

/// Opened by the first question that needs them. (To close one of nf_tables takes long.)
#[derive(Debug, Default)]
struct Sockets {
    nft: Option<Nft>,
    ipvs: Option<ipvs::Inspector>,
    routes: Option<Routes>,
}

impl Kernel {
    /// Nothing is opened.
    pub(crate) fn new(mechanism: Mechanism) -> Kernel {
        Kernel { mechanism, sockets: Mutex::default() }
    }

    /// How packets get to endpoints, and their answers back.
    pub(super) fn way(&self, hit: &Hit<'_>, endpoints: &[PoolEndpoint]) -> Result<Way, String> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let routes = match &mut sockets.routes {
            Some(routes) => routes,
            none => none.insert(Routes::open().map_err(|error| error.to_string())?),
        };
        let way = routes.way(hit, self.mode(), endpoints);
        if way.is_err() {
            sockets.routes = None;
        }
        way.map_err(|error| error.to_string())
    }

    /// Chains of other programs on the way of a packet.
    pub(super) fn others(&self, hit: &Hit<'_>) -> Result<Vec<String>, String> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let nft = opened(&mut sockets.nft)?;
        let chains = nft.base_chains(hit.table.family).map_err(|error| error.to_string());
        if chains.is_err() {
            sockets.nft = None;
        }
        drop(sockets);
        Ok(others::on_the_way(hit, self.mode(), &chains?))
    }

    pub(super) fn mode(&self) -> Mode {
        match self.mechanism {
            Mechanism::Nftables => Mode::Nftables,
            Mechanism::Iptables(_) => Mode::Iptables,
            Mechanism::Ipvs(_) => Mode::Ipvs,
            Mechanism::Userspace(_) => Mode::Userspace,
        }
    }

    /// What the kernel has of a Service, or of a packet's way to it; or why it was not read.
    pub(super) fn inspect(
        &self,
        table: &ForwardingTable,
        name: &ServiceName,
        hit: Option<&Hit<'_>>,
    ) -> Result<Observed, String> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let read = match &self.mechanism {
            Mechanism::Iptables(programs) => {
                // They run without holding others up.
                drop(sockets);
                by_programs(programs, table, name, hit)
            }
            mechanism => {
                let read = sockets.inspect(mechanism, table, name, hit);
                if read.is_err() {
                    // What is left in them may answer the next question.
                    *sockets = Sockets::default();
                }
                read
            }
        };
        read.map(|inspection| observed(table.family, inspection))
    }
}

fn by_programs(
    programs: &[(Family, iptables::Inspector)],
    table: &ForwardingTable,
    name: &ServiceName,
    hit: Option<&Hit<'_>>,
) -> Result<Inspection, String> {
    let found = programs.iter().find(|(family, _)| *family == table.family);
    let Some((_, inspector)) = found else {
        return Err(format!("there are no programs of iptables for {}", table.family));
    };
    inspector.clone().inspect(table, name, hit).map_err(|error| error.to_string())
}

impl Sockets {
    fn inspect(
        &mut self,
        mechanism: &Mechanism,
        table: &ForwardingTable,
        name: &ServiceName,
        hit: Option<&Hit<'_>>,
    ) -> Result<Inspection, String> {
        let nft = opened(&mut self.nft)?;
        match mechanism {
            Mechanism::Ipvs(scheduler) => {
                let ipvs = match &mut self.ipvs {
                    Some(ipvs) => ipvs,
                    none => {
                        let opened = ipvs::Inspector::open(Arc::clone(scheduler));
                        none.insert(opened.map_err(|error| error.to_string())?)
                    }
                };
                ipvs.inspect(nft, table, name, hit).map_err(|error| error.to_string())
            }
            Mechanism::Userspace(visible) => {
                let read = userspace::inspect(nft, table, name, *visible, hit);
                read.map_err(|error| error.to_string())
            }
            Mechanism::Nftables | Mechanism::Iptables(_) => {
                nftables::inspect(nft, table, name, hit).map_err(|error| error.to_string())
            }
        }
    }
}

fn opened(nft: &mut Option<Nft>) -> Result<&mut Nft, String> {
    match nft {
        Some(nft) => Ok(nft),
        none => Ok(none.insert(Nft::open().map_err(|error| error.to_string())?)),
    }
}

fn observed(family: Family, inspection: Inspection) -> Observed {
    let objects = |list: Vec<Found>, state: &str| {
        let object = |Found { place, what }: Found| Object {
            set: place,
            element: match what {
                What::Text(text) => text,
                What::Rule(rule) => rule_text(family, &rule),
            },
            state: state.to_owned(),
        };
        list.into_iter().map(object).collect()
    };
    Observed {
        present: objects(inspection.present, "present"),
        missing: objects(inspection.missing, "missing"),
        extra: objects(inspection.extra, "extra"),
    }
}
