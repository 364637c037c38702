//! What is told, from what the sync loop shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::wire::{
    Change, Changes, Failing, FamilyStatus, Frontend, Lost, PortStatus, Relays, Route,
    ServiceStatus, Services, State, Status, Table,
};
use crate::kernel_view::difference::Difference;
use crate::kernel_view::{Kernel, Settled};
use crate::rules::{self, Rules};
use crate::sync::{Stage, Synced, View};
use sluice_config::Mode;
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{
    Admit, ForwardingTable, FrontendKind, Masquerade, PoolEndpoint, PortPlan, ServicePlan,
    SourceClass, Verdict,
};
use sluice_dataplane::userspace::Counters;
use sluice_explain::{API_VERSION, Refusal};

/// Everything that answers are made of.
pub(crate) struct Answers {
    /// What the loop knows.
    pub(crate) view: View,
    /// The own Node's name.
    pub(crate) node: String,
    /// The proxy mode.
    pub(crate) mode: Mode,
    /// When the daemon started.
    pub(crate) started: Timestamp,
    /// The effective configuration in JSON.
    pub(crate) configuration: Arc<dyn Fn() -> String + Send + Sync>,
    /// What relays count, in the mode that has them.
    pub(crate) relays: Option<Arc<Counters>>,
    /// This node's kernel.
    pub(crate) kernel: Kernel,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// There is no such thing.
    Unknown(String),
    /// The question means nothing.
    Malformed(String),
}

impl From<Refusal> for NoAnswer {
    fn from(refusal: Refusal) -> NoAnswer {
        let text = refusal.to_string();
        if refusal.exit_code() == 2 { NoAnswer::Malformed(text) } else { NoAnswer::Unknown(text) }
    }
}

/// `default/web` of `web`, `web.default`, `svc/web` or `default/web`.
pub(crate) fn service_name(text: &str) -> Option<ServiceName> {
    let text = ["svc/", "service/", "services/"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    let (namespace, name) = match (text.split_once('/'), text.split_once('.')) {
        (Some((namespace, name)), _) => (namespace, name),
        (None, Some((name, namespace))) => (namespace, name),
        (None, None) => ("default", text),
    };
    let is_label = |text: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !text.is_empty() && text.len() <= 63 && text.chars().all(plain)
    };
    (is_label(namespace) && is_label(name)).then(|| ServiceName::new(namespace, name))
}

impl Answers {
    pub(super) fn status(&self) -> Status {
        let facts = self.view.facts();
        let mut unsettled = Vec::new();
        let families = self.view.families().into_iter().map(|family| {
            let progress = self.view.progress(family);
            let open = self.view.unsettled(family);
            let refused = open.values().filter(|stage| matches!(stage, Stage::Refused(..))).count();
            let pending = open.len() - refused;
            unsettled.extend(open.into_iter().map(|(name, stage)| {
                let plan = self.view.plan(family, &name);
                service_status(&name, family, plan.as_deref(), Some(&stage))
            }));
            FamilyStatus {
                family: family.to_string(),
                services: self.view.count(family),
                pending,
                refused,
                synced: progress.synced.map(|at| at.to_string()),
                failing: progress
                    .failing
                    .map(|(reason, since)| Failing { reason, since: since.to_string() }),
            }
        });
        let families = families.collect();
        let lost = facts.lost.into_iter();
        Status {
            api_version: API_VERSION.to_owned(),
            kind: "Status".to_owned(),
            version: sluice_config::version(),
            node: self.node.clone(),
            mode: self.mode.to_string(),
            started: self.started.to_string(),
            now: Timestamp::now().to_string(),
            lost: lost
                .map(|(resource, since)| Lost { resource, since: since.to_string() })
                .collect(),
            families,
            unsettled,
        }
    }

    pub(super) fn services(&self) -> Services {
        let families = self.view.families().into_iter();
        let services = families.flat_map(|family| {
            let plans = self.view.plans(family);
            let names: Vec<ServiceName> = plans.iter().map(|(name, _)| name.clone()).collect();
            let stages = self.view.stages(family, &names);
            let all = plans.into_iter().zip(stages);
            all.map(move |((name, plan), stage)| {
                service_status(&name, family, Some(&plan), stage.as_ref())
            })
        });
        listed(services.collect())
    }

    /// One Service in each family that has it.
    pub(super) fn service(&self, text: &str) -> Result<Services, NoAnswer> {
        let name = self.known(text)?;
        let families = self.view.families().into_iter();
        let statuses = families.filter_map(|family| {
            let plan = self.view.plan(family, &name);
            let stage = self.view.stages(family, std::slice::from_ref(&name)).pop().flatten();
            let known = plan.is_some() || stage.is_some();
            known.then(|| service_status(&name, family, plan.as_deref(), stage.as_ref()))
        });
        let mut statuses: Vec<ServiceStatus> = statuses.collect();
        if statuses.is_empty() {
            statuses.push(ServiceStatus {
                service: name.to_string(),
                family: String::new(),
                state: State::Unserved,
                since: None,
                reason: None,
                ports: Vec::new(),
            });
        }
        Ok(listed(statuses))
    }

    /// A Service that the API server has, by what people type.
    pub(super) fn known(&self, text: &str) -> Result<ServiceName, NoAnswer> {
        let name = service_name(text).ok_or_else(|| {
            let shown = text.escape_debug();
            NoAnswer::Malformed(format!(
                "\"{shown}\" is no Service's name; expected NAME, NAME.NAMESPACE or NAMESPACE/NAME"
            ))
        })?;
        if self.view.service(&name).is_some() {
            return Ok(name);
        }
        let names = self.view.names();
        Err(NoAnswer::Unknown(unknown(&name, &names)))
    }

    pub(super) fn table(&self, family: &str) -> Result<Table, NoAnswer> {
        let family = if family == "v4" { Family::V4 } else { Family::V6 };
        let bare = self
            .view
            .bare_table(family)
            .ok_or_else(|| NoAnswer::Unknown(format!("this node does not serve {family}")))?;
        let plans = self.view.plans(family).into_iter();
        let frontends = plans.flat_map(|(name, plan)| {
            let all = plan.ports.iter().flat_map(|port| {
                port.frontends.iter().map(|frontend| shown_frontend(&name, port, frontend))
            });
            all.collect::<Vec<_>>()
        });
        Ok(Table {
            api_version: API_VERSION.to_owned(),
            kind: "Table".to_owned(),
            family: family.to_string(),
            host: format!("{:?}", bare.host),
            service_cidrs: bare.service_cidrs.iter().map(ToString::to_string).collect(),
            frontends: frontends.collect(),
        })
    }

    pub(super) fn changes(&self) -> Changes {
        Changes {
            api_version: API_VERSION.to_owned(),
            kind: "Changes".to_owned(),
            changes: self.view.changes().iter().map(|synced| change(synced)).collect(),
        }
    }

    pub(super) fn follow(&self) -> broadcast::Receiver<Arc<Synced>> {
        self.view.follow()
    }

    pub(super) fn relays(&self) -> Relays {
        let all = self.relays.iter().flat_map(|counters| counters.all());
        Relays {
            api_version: API_VERSION.to_owned(),
            kind: "Relays".to_owned(),
            relays: self.relays.is_some(),
            counters: all.map(|(name, count)| (name.to_owned(), count)).collect(),
        }
    }

    pub(super) fn rules(&self, service: &str, mode: &str) -> Result<Rules, NoAnswer> {
        let name = self.known(service)?;
        let modes = rules::modes(mode).map_err(NoAnswer::Malformed)?;
        let tables = self.tables_of(&name);
        Ok(rules::of(&name, &tables, &modes, self.view.facts().config.as_ref()))
    }

    /// What the kernel has of a Service.
    pub(super) fn kernel(&self, service: &str) -> Result<Difference, NoAnswer> {
        let name = self.known(service)?;
        Ok(Difference::of(&self.kernel, &name, &self.tables_of(&name), |table| {
            let plan = table.services.get(&name)?;
            let settled = self.settled(table.family, &name, plan) == Settled::Yes;
            (!settled).then(|| format!("a change of {name} is being written"))
        }))
    }

    /// The tables of both families with one Service.
    fn tables_of(&self, name: &ServiceName) -> Vec<ForwardingTable> {
        let tables = self.view.families().into_iter().filter_map(|family| {
            let plan = self.view.plan(family, name)?;
            let mut table = self.view.bare_table(family)?;
            table.services = BTreeMap::from([(name.clone(), plan)]);
            Some(table)
        });
        tables.collect()
    }

    /// Whether the kernel is to have this plan by now.
    pub(super) fn settled(
        &self,
        family: Family,
        name: &ServiceName,
        plan: &ServicePlan,
    ) -> Settled {
        if self.view.plan(family, name).as_deref() != Some(plan) {
            return Settled::Changed;
        }
        match self.view.stages(family, std::slice::from_ref(name)).pop().flatten() {
            Some(Stage::Programmed(_) | Stage::Refused(..)) => Settled::Yes,
            Some(Stage::Pending(_)) | None => Settled::NotYet,
        }
    }
}

/// Names of the same Service elsewhere, and names that look like it.
fn unknown(name: &ServiceName, names: &[ServiceName]) -> String {
    let same = names.iter().filter(|other| other.name() == name.name());
    // A letter too many, too few, another one, or two the wrong way round; or a part of the name.
    let mut near: Vec<(usize, &ServiceName)> = names
        .iter()
        .filter(|other| other.namespace() == name.namespace())
        .map(|other| (strsim::osa_distance(other.name(), name.name()), other))
        .filter(|(distance, other)| {
            *distance <= 1 + name.name().len() / 6 || other.name().starts_with(name.name())
        })
        .collect();
    near.sort();
    let near = near.into_iter().map(|(_, name)| name);
    let found: Vec<String> = same.chain(near).take(3).map(ToString::to_string).collect();
    match found.as_slice() {
        [] => format!("there is no Service {name}; `sluice status` counts those that there are"),
        found => format!("there is no Service {name}; there is {}", found.join(", ")),
    }
}

fn listed(services: Vec<ServiceStatus>) -> Services {
    Services { api_version: API_VERSION.to_owned(), kind: "Services".to_owned(), services }
}

pub(super) fn change(synced: &Synced) -> Change {
    Change {
        number: synced.number,
        at: synced.at.to_string(),
        family: synced.family.to_string(),
        services: synced.services.iter().map(ToString::to_string).collect(),
        count: synced.count,
        operations: synced.operations,
        microseconds: u64::try_from(synced.elapsed.as_micros()).unwrap_or(u64::MAX),
        error: synced.error.clone(),
    }
}

fn service_status(
    name: &ServiceName,
    family: Family,
    plan: Option<&ServicePlan>,
    stage: Option<&Stage>,
) -> ServiceStatus {
    let (state, since, reason) = match stage {
        Some(Stage::Programmed(since)) => (State::Programmed, Some(since), None),
        Some(Stage::Pending(since)) => (State::Pending, Some(since), None),
        Some(Stage::Refused(reason, since)) => {
            (State::Refused, Some(since), Some(reason.to_string()))
        }
        None => (State::Unserved, None, None),
    };
    let port = |port: &PortPlan| PortStatus {
        name: port.name.to_string(),
        addresses: port.frontends.iter().map(|frontend| frontend.at.to_string()).collect(),
        cluster: sockets(&port.cluster),
        local: sockets(&port.local),
    };
    ServiceStatus {
        service: name.to_string(),
        family: family.to_string(),
        state,
        since: since.map(ToString::to_string),
        reason,
        ports: plan.iter().flat_map(|plan| &plan.ports).map(port).collect(),
    }
}

fn sockets(pool: &[PoolEndpoint]) -> Vec<SocketAddr> {
    pool.iter().map(|endpoint| SocketAddr::new(endpoint.ip, endpoint.port)).collect()
}

fn shown_frontend(
    name: &ServiceName,
    port: &PortPlan,
    frontend: &sluice_core::plan::Frontend,
) -> Frontend {
    let kind = match frontend.kind {
        FrontendKind::ClusterIp => "cluster IP",
        FrontendKind::ExternalIp => "external IP",
        FrontendKind::LoadBalancer => "load balancer IP",
        FrontendKind::NodePort => "node port",
    };
    let routes = frontend.routes.iter().map(|route| {
        let from = match route.from {
            SourceClass::Pod => "pods",
            SourceClass::ThisNode => "this node",
            SourceClass::Anyone => "anyone",
        };
        let (verdict, endpoints) = match route.verdict {
            Verdict::Forward(pool) => ("forward", sockets(port.pool(pool))),
            Verdict::Reject => ("reject", Vec::new()),
            Verdict::Drop => ("drop", Vec::new()),
        };
        Route {
            from: from.to_owned(),
            verdict: verdict.to_owned(),
            masquerade: route.masquerade == Masquerade::Yes,
            endpoints,
        }
    });
    let admitted = match &frontend.admit {
        Admit::Anyone => None,
        Admit::Only(nets) => Some(nets.iter().map(ToString::to_string).collect()),
    };
    Frontend {
        address: frontend.at.to_string(),
        service: name.to_string(),
        port: port.name.to_string(),
        kind: kind.to_owned(),
        admitted,
        routes: routes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_people_type() {
        let table = [
            ("web", Some("default/web")),
            ("web.shop", Some("shop/web")),
            ("shop/web", Some("shop/web")),
            ("svc/web.shop", Some("shop/web")),
            ("service/web", Some("default/web")),
            ("", None),
            ("web.", None),
            ("Web", None),
            ("a/b/c", None),
            ("we\u{7}b", None),
        ];
        for (text, expected) in table {
            let name = service_name(text).map(|name| name.to_string());
            assert_eq!(name.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_like_it() {
        let names: Vec<ServiceName> = [("default", "webshop"), ("shop", "web"), ("default", "dns")]
            .map(|(namespace, name)| ServiceName::new(namespace, name))
            .to_vec();
        let said = unknown(&ServiceName::new("default", "web"), &names);
        assert_eq!(said, "there is no Service default/web; there is shop/web, default/webshop");
        let said = unknown(&ServiceName::new("default", "zzz"), &names);
        assert!(said.contains("`sluice status`"), "{said}");
    }
}
