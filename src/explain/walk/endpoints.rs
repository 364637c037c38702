//! Which endpoints are in the pool, and why the others are not.

use std::net::SocketAddr;

use super::{causes, policy};
use crate::explanation::{Reason, Stage, StageName, Unused, Used};
use crate::findings::{Code, Finding};
use crate::truth::{EndpointFacts, Truth};
use sluice_core::model::Hints;
use sluice_core::plan::Hit;
use sluice_core::plan::{Here, Judged, PoolEndpoint, PoolKind, Standing, Topology, judge};

/// The endpoints of a connection.
pub(super) struct Chosen {
    pub(super) stage: Stage,
    pub(super) findings: Vec<Finding>,
    /// Those in the pool.
    pub(super) pool: Vec<PoolEndpoint>,
    /// Whether any endpoint on any node is usable.
    pub(super) any: bool,
}

/// Everything that is said about the endpoints of one Service port.
struct Judgement<'a> {
    truth: &'a Truth<'a>,
    hit: &'a Hit<'a>,
    kind: PoolKind,
    judged: Vec<Judged>,
}

pub(super) fn endpoints(truth: &Truth<'_>, hit: &Hit<'_>) -> Chosen {
    let zone = truth.snapshot.node.as_ref().and_then(|node| node.zone.as_deref());
    let here = Here { node: truth.node, zone };
    let slices = truth.snapshot.slices.get(hit.service).into_iter().flatten();
    let port = (&*hit.port.name, hit.port.protocol);
    let judged = judge(slices, hit.table.family, port, here);
    let any = judged.iter().any(|judged| judged.cluster.is_used());
    let kind = policy::pool(truth, hit);
    let of = Judgement { truth, hit, kind, judged };
    let pool: Vec<PoolEndpoint> = of.used().map(|judged| judged.endpoint).collect();
    let mut stage = Stage::new(StageName::Endpoints, Some(!pool.is_empty()), of.sentence(any));
    stage.rules = of.rules(any);
    stage.used = of.used().map(|judged| of.shown(judged)).collect();
    stage.unused = of.judged.iter().filter_map(|judged| of.unused(judged)).collect();
    let mut findings = of.findings(any);
    if truth.known.without_slices {
        stage.ok = None;
        "no EndpointSlice was read: which endpoints there are is not known"
            .clone_into(&mut stage.text);
        findings.clear();
    } else {
        let (mut more, unselected) = causes::causes(truth, hit, pool.is_empty());
        findings.append(&mut more);
        stage.unused.extend(unselected);
    }
    if let Some(affinity) = hit.port.affinity.filter(|_| pool.len() > 1) {
        let timeout = affinity.timeout;
        stage.notes.push(format!(
            "sessionAffinity ClientIP: a client stays with its endpoint until it has been quiet for {timeout} s"
        ));
    }
    Chosen { stage, findings, pool, any }
}

/// The pod's name if it is known, else the address.
pub(super) fn name(truth: &Truth<'_>, hit: &Hit<'_>, endpoint: &PoolEndpoint) -> String {
    let pod = facts(truth, hit, endpoint).and_then(|facts| facts.pod.clone());
    pod.unwrap_or_else(|| address(endpoint))
}

fn address(endpoint: &PoolEndpoint) -> String {
    SocketAddr::new(endpoint.ip, endpoint.port).to_string()
}

fn facts<'a>(
    truth: &Truth<'a>,
    hit: &Hit<'_>,
    endpoint: &PoolEndpoint,
) -> Option<&'a EndpointFacts> {
    let service = hit.service.to_string();
    let mut all = truth.known.endpoints.iter();
    all.find(|facts| facts.ip == endpoint.ip && facts.service == service)
}

impl Judgement<'_> {
    fn used(&self) -> impl Iterator<Item = &Judged> {
        self.judged.iter().filter(|judged| judged.standing(self.kind).is_used())
    }

    fn shown(&self, judged: &Judged) -> Used {
        let facts = facts(self.truth, self.hit, &judged.endpoint);
        let here = judged.endpoint.local.then(|| self.truth.node.to_owned());
        Used {
            endpoint: address(&judged.endpoint),
            pod: facts.and_then(|facts| facts.pod.clone()),
            node: facts.and_then(|facts| facts.node.clone()).or(here),
        }
    }

    /// Why one is not in the pool.
    fn unused(&self, judged: &Judged) -> Option<Unused> {
        let (reason, rules): (Reason, &[&str]) = match judged.standing(self.kind) {
            Standing::Ready | Standing::LastResort => return None,
            Standing::Unusable => (Reason::NotReady, &["S-32", "S-63"]),
            Standing::Terminating => (Reason::Terminating, &["S-60"]),
            Standing::Elsewhere
                if self.hit.frontend.kind == sluice_core::plan::FrontendKind::ClusterIp =>
            {
                (Reason::OtherNode, &["S-42"])
            }
            Standing::Elsewhere => (Reason::OtherNode, &["S-43"]),
            Standing::HintsExclude if judged.topology == Topology::SameNode => {
                (Reason::HintsExclude, &["S-64"])
            }
            Standing::HintsExclude => (Reason::HintsExclude, &["S-65"]),
        };
        let Used { endpoint, pod, node } = self.shown(judged);
        let known = self.pod(judged).filter(|_| reason == Reason::NotReady);
        let detail = match reason {
            Reason::HintsExclude => {
                judged.hints.as_ref().map(|hints| hinted(hints, judged.topology))
            }
            Reason::NotReady => known.and_then(|pod| pod.not_ready.clone()),
            _ => None,
        };
        Some(Unused {
            endpoint: Some(endpoint),
            pod,
            node,
            reason,
            since: known.and_then(|pod| pod.since.clone()),
            detail,
            rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        })
    }

    fn pod(&self, judged: &Judged) -> Option<&crate::truth::Pod> {
        let pods = self.truth.known.pods.seen()?;
        pods.iter().find(|pod| !pod.host_network && pod.ips.contains(&judged.endpoint.ip))
    }

    fn count(&self, standing: Standing) -> usize {
        self.judged.iter().filter(|judged| judged.standing(self.kind) == standing).count()
    }

    fn sentence(&self, any: bool) -> String {
        let (used, all) = (self.used().count(), self.judged.len());
        let node = self.truth.node;
        match (used, all) {
            (0, 0) => "none: no EndpointSlice has an endpoint for this port: rejected".to_owned(),
            (0, _) if any => {
                format!("0 of {all}: none usable on {node}: dropped without an answer")
            }
            (0, _) => format!("0 of {all}: none is ready: rejected"),
            (1, 1) => "1 of 1".to_owned(),
            (1, _) => format!("1 of {all}"),
            _ if self.hit.port.affinity.is_some() => format!("{used} of {all}"),
            _ => format!("{used} of {all}, equal chances"),
        }
    }

    fn rules(&self, any: bool) -> Vec<String> {
        let mut rules = Vec::new();
        let last = self.count(Standing::LastResort) > 0;
        if self.used().count() == 0 {
            let dropped = if super::policy::is_internal(self.hit) { "S-41" } else { "S-44" };
            rules.push(if any { dropped } else { "S-40" });
        } else if last {
            rules.push(if self.kind == PoolKind::Local { "S-62" } else { "S-61" });
        } else {
            rules.push("S-60");
        }
        if self.hit.port.affinity.is_some() && self.used().count() > 1 {
            rules.push("S-19");
        }
        rules.into_iter().map(str::to_owned).collect()
    }

    fn findings(&self, any: bool) -> Vec<Finding> {
        let service = self.hit.service;
        let (used, all) = (self.used().count(), self.judged.len());
        let (namespace, name) = (service.namespace(), service.name());
        let mut findings = Vec::new();
        if used == 0 && any {
            findings.push(self.local_only());
        } else if used == 0 {
            let text = if all == 0 {
                format!("no EndpointSlice has an endpoint for this port of Service {service}")
            } else {
                format!(
                    "none of the {all} endpoints of Service {service} is ready, or serving while it terminates"
                )
            };
            let fix = format!(
                "kubectl get endpointslices -n {namespace} -l kubernetes.io/service-name={name}"
            );
            findings.push(Code::NoEndpoints.finding(text, Some(fix)));
        }
        let down = self.judged.iter().filter(|judged| judged.cluster == Standing::Unusable);
        let down: Vec<String> =
            down.map(|judged| self::name(self.truth, self.hit, &judged.endpoint)).collect();
        if !down.is_empty() {
            let verb = if down.len() == 1 { "is" } else { "are" };
            let text = format!(
                "{} of {all} endpoints of Service {service} {verb} not ready: {}",
                down.len(),
                super::any_of(&down).replace(" or ", " and ")
            );
            let fix = format!("kubectl describe pod -n {namespace} {}", pod_or_all(self, &down));
            findings.push(Code::EndpointsNotReady.finding(text, Some(fix)));
        }
        if self.count(Standing::LastResort) > 0 {
            let text = format!(
                "no endpoint of Service {service} is ready: connections go to {used} that terminate and still serve"
            );
            let fix =
                format!("kubectl get pods -n {namespace} -o wide: new pods should become ready");
            findings.push(Code::EndpointsTerminating.finding(text, Some(fix)));
        }
        let excluded = self.count(Standing::HintsExclude);
        if excluded > 0 {
            let text = format!(
                "{excluded} ready endpoints of Service {service} get nothing from node {}: topology hints keep traffic near",
                self.truth.node
            );
            let fix = format!(
                "if that is not wanted: remove trafficDistribution from service {namespace}/{name}"
            );
            findings.push(Code::HintsExclude.finding(text, Some(fix)));
        }
        findings
    }

    fn local_only(&self) -> Finding {
        let service = self.hit.service;
        let usable = self.judged.iter().filter(|judged| judged.cluster.is_used());
        let mut nodes: Vec<String> = usable.filter_map(|judged| self.shown(judged).node).collect();
        nodes.sort();
        nodes.dedup();
        let elsewhere = if nodes.is_empty() { "other nodes".to_owned() } else { nodes.join(", ") };
        let field = if super::policy::is_internal(self.hit) {
            "internalTrafficPolicy"
        } else {
            "externalTrafficPolicy"
        };
        let text = format!(
            "{field} of Service {service} is Local, and node {} has no usable endpoint: there are some on {elsewhere}",
            self.truth.node
        );
        let fix = format!(
            "connect through a node that has one, or: kubectl patch service -n {} {} -p \
             '{{\"spec\":{{\"{field}\":\"Cluster\"}}}}'",
            service.namespace(),
            service.name()
        );
        Code::LocalPolicyNoEndpoint.finding(text, Some(fix))
    }
}

fn pod_or_all(of: &Judgement<'_>, down: &[String]) -> String {
    let known = of.truth.known.endpoints.iter().any(|facts| facts.pod.as_ref() == down.first());
    match down.first().filter(|_| known) {
        Some(pod) => pod.clone(),
        None => String::new(),
    }
}

fn hinted(hints: &Hints, topology: Topology) -> String {
    match topology {
        Topology::SameNode => format!("meant for nodes {}", hints.nodes.join(", ")),
        _ => format!("meant for zones {}", hints.zones.join(", ")),
    }
}
