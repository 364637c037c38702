//! Why a connection goes where it goes, as this daemon has it.
//!
//! Only what the question can be about is copied: the Services with the name that is asked for, and those that have
//! the address or the node port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::{Timestamp, Unit};

use super::answers::{Answers, NoAnswer};
use crate::kernel_view::Live;
use crate::sync::{Facts, Stage, View};
use sluice_core::model::{ServiceName, Snapshot};
use sluice_core::plan::{Address, ForwardingTable, ServicePlan, build};
use sluice_explain::question::{self, Host, PortText, ToText};
use sluice_explain::truth::ServiceFacts;
use sluice_explain::{Explanation, Known, Looked, Origin, Question, Truth};

/// The Service by which names are looked up, in almost all clusters.
const DNS: (&str, &str) = ("kube-system", "kube-dns");

/// Why a connection goes where it goes.
pub(super) fn explain(answers: &Answers, from: &str, to: &str) -> Result<Explanation, NoAnswer> {
    let question = Question::new(from, to);
    question::from(from)?;
    let Relevant { snapshot, tables, known } = relevant(&answers.view, &question::to(to)?);
    let facts = answers.view.facts();
    let origin = origin(answers, &facts, &snapshot, &tables);
    let settled =
        |family, name: &ServiceName, plan: &ServicePlan| answers.settled(family, name, plan);
    let truth = Truth {
        node: &answers.node,
        mode: answers.mode,
        snapshot: &snapshot,
        tables: &tables.iter().collect::<Vec<_>>(),
        local: &facts.addresses,
        known: &known,
        origin: &origin,
        kernel: &Live { kernel: &answers.kernel, settled: &settled },
    };
    Ok(sluice_explain::explain(&truth, &question)?)
}

/// The part of the state that a question can be about.
struct Relevant {
    snapshot: Snapshot,
    tables: Vec<ForwardingTable>,
    known: Known,
}

fn relevant(view: &View, to: &ToText) -> Relevant {
    let mut snapshot = view.node();
    let mut names = named(view, &to.host);
    let nobody = names.is_empty();
    names.insert(ServiceName::new(DNS.0, DNS.1));
    take(view, &names, &mut snapshot);
    let ips = addresses(&to.host, &snapshot);
    let port = match &to.port {
        Some(PortText::Number(port)) => Some(*port),
        _ => None,
    };
    let is_asked_for = |name: &ServiceName, plan: &ServicePlan| {
        let frontends = || plan.ports.iter().flat_map(|port| &port.frontends);
        let fits = |at: &Address| match at {
            Address::Vip { ip, .. } => ips.contains(ip),
            Address::NodePort { port: number, .. } => Some(*number) == port,
        };
        names.contains(name)
            || plan.cluster_ip.is_some_and(|ip| ips.contains(&ip))
            || frontends().any(|frontend| fits(&frontend.at))
    };
    let tables: Vec<ForwardingTable> = view
        .families()
        .into_iter()
        .filter_map(|family| {
            let mut table = view.bare_table(family)?;
            table.services = view.plans_where(family, is_asked_for).into_iter().collect();
            Some(table)
        })
        .collect();
    let holders = tables.iter().flat_map(|table| table.services.keys().cloned()).collect();
    take(view, &holders, &mut snapshot);
    let near = if nobody { view.names() } else { Vec::new() };
    let known = Known {
        pods: Looked::Not("a daemon is not told of pods".to_owned()),
        services: near.iter().map(|it| (it.to_string(), ServiceFacts::default())).collect(),
        served_only: true,
        ..Known::default()
    };
    Relevant { snapshot, tables, known }
}

/// Services with the name that is asked for, in all namespaces.
fn named(view: &View, host: &Host) -> BTreeSet<ServiceName> {
    let label = match host {
        Host::Service { name, .. } => name.as_str(),
        Host::Name(host) => host.split('.').next().unwrap_or_default(),
        Host::Ip(_) | Host::Node(_) => return BTreeSet::new(),
    };
    view.names_where(|name| name.name() == label).into_iter().collect()
}

/// Adds Services with their EndpointSlices.
fn take(view: &View, names: &BTreeSet<ServiceName>, snapshot: &mut Snapshot) {
    for name in names {
        if snapshot.services.contains_key(name) {
            continue;
        }
        if let Some((service, slices)) = view.service(name) {
            snapshot.services.insert(name.clone(), Box::new(service));
            snapshot.slices.insert(name.clone(), slices);
        }
    }
}

/// The addresses that a packet can be sent to.
fn addresses(host: &Host, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let node = || snapshot.node.iter().flat_map(|node| node.addresses.clone());
    match host {
        Host::Ip(ip) => BTreeSet::from([*ip]),
        Host::Node(_) => node().collect(),
        Host::Service { .. } | Host::Name(_) => {
            snapshot.services.values().flat_map(|service| service.cluster_ips.clone()).collect()
        }
    }
}

/// How old all of this is, and what is not in the kernel yet.
fn origin(
    answers: &Answers,
    facts: &Facts,
    snapshot: &Snapshot,
    tables: &[ForwardingTable],
) -> Origin {
    let now = Timestamp::now();
    let seconds =
        |since: Timestamp| u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0);
    let mut text = format!("running daemon, mode {}", answers.mode);
    let progress = tables.iter().map(|table| answers.view.progress(table.family));
    let progress: Vec<_> = progress.collect();
    match progress.iter().filter_map(|progress| progress.synced).max() {
        Some(synced) => text.push_str(&format!(", last sync {} s ago", seconds(synced))),
        None => text.push_str(", no sync yet"),
    }
    if let Some((reason, since)) = progress.iter().find_map(|progress| progress.failing.as_ref()) {
        text.push_str(&format!(", failing for {} s: {reason}", seconds(*since)));
    }
    let stale = facts.lost.iter().min_by_key(|(_, since)| **since);
    if let Some((resource, since)) = stale {
        text.push_str(&format!(", no changes of {resource} for {} s", seconds(*since)));
    }
    let ahead = unplanned(answers, snapshot, tables);
    if !ahead.is_empty() {
        let ahead: Vec<String> = ahead.iter().map(ToString::to_string).collect();
        text.push_str(&format!(", a change of {} is being taken in", ahead.join(", ")));
    }
    Origin {
        source: "daemon".to_owned(),
        text,
        at: now.round(Unit::Second).ok().map(|now| now.to_string()),
        stale_seconds: stale.map(|(_, since)| seconds(*since)),
        pending_seconds: pending(&answers.view, tables).map(seconds),
        other_proxy: false,
    }
}

/// Since when the oldest change of these Services waits.
fn pending(view: &View, tables: &[ForwardingTable]) -> Option<Timestamp> {
    let stages = tables.iter().flat_map(|table| {
        let names: Vec<ServiceName> = table.services.keys().cloned().collect();
        view.stages(table.family, &names)
    });
    let since = stages.flatten().filter_map(|stage| match stage {
        Stage::Pending(since) => Some(since),
        Stage::Programmed(_) | Stage::Refused(..) => None,
    });
    since.min()
}

/// Services whose last change has arrived, and is not planned yet.
fn unplanned(
    answers: &Answers,
    snapshot: &Snapshot,
    tables: &[ForwardingTable],
) -> BTreeSet<ServiceName> {
    let differing = |table: &ForwardingTable| {
        let (anew, _) = build(table.family, &answers.node, table.host.clone(), snapshot);
        let plans: &BTreeMap<ServiceName, Arc<ServicePlan>> = &table.services;
        let differ = plans.iter().filter(|(name, plan)| anew.services.get(*name) != Some(*plan));
        differ.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    tables.iter().flat_map(differing).collect::<BTreeSet<_>>()
}
