//! What is connected to: from TO to addresses, as the cluster's DNS would answer a client in its namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::client::Client;
use crate::explanation::{Stage, StageName, To};
use crate::findings::{Code, Finding};
use crate::nearest::{hint, nearest};
use crate::question::{Host, PortText, ToText};
use crate::refusal::Refusal;
use crate::truth::{Truth, Unserved};
use sluice_core::model::ServiceName;
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{Here, categorize};

/// The domain of names in the cluster, unless it was configured otherwise.
const DOMAIN: &str = "cluster.local";

/// Where the cluster's DNS is, in almost all clusters.
const DNS: (&str, &str) = ("kube-system", "kube-dns");

/// An address to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.ip, self.port), self.protocol)
    }
}

/// What a TO comes to.
#[derive(Debug, Clone)]
pub struct Destination {
    /// For the first line.
    pub shown: To,
    /// Its addresses, those to try first at the beginning; none if the name leads nowhere.
    pub targets: Vec<Target>,
    /// The Service that is named.
    pub service: Option<ServiceName>,
    /// How the name was looked up.
    pub stage: Stage,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// Whether no proxy has a part in it, so that the result is not known here.
    pub beyond: bool,
}

/// Looks a TO up.
///
/// # Errors
/// If it could mean several things, or a node that is not known.
pub fn destination(
    truth: &Truth<'_>,
    client: &Client,
    text: &str,
    to: &ToText,
) -> Result<Destination, Refusal> {
    let lookup = Lookup { truth, client, text, to };
    match &to.host {
        Host::Ip(ip) => {
            Ok(lookup.address(*ip, format!("{ip} is an address: nothing is looked up")))
        }
        Host::Node(name) => lookup.node(name),
        Host::Service { name, namespace } => {
            let namespace = match namespace {
                Some(namespace) => namespace.clone(),
                None => lookup.namespace_of(name)?,
            };
            lookup.service(&namespace, name, Code::NoSuchService)
        }
        Host::Name(host) => lookup.name(host),
    }
}

#[derive(Clone, Copy)]
struct Lookup<'a> {
    truth: &'a Truth<'a>,
    client: &'a Client,
    text: &'a str,
    to: &'a ToText,
}

impl Lookup<'_> {
    fn protocol(&self) -> Protocol {
        self.to.protocol.unwrap_or(Protocol::Tcp)
    }

    fn shown(&self) -> To {
        To { text: self.text.to_owned(), ..To::default() }
    }

    fn found(&self, targets: Vec<Target>, stage: Stage) -> Destination {
        let (findings, service) = (Vec::new(), None);
        let shown = To { address: targets.first().map(ToString::to_string), ..self.shown() };
        Destination { shown, targets, service, stage, findings, beyond: false }
    }

    /// The name leads nowhere.
    fn nowhere(&self, text: String, finding: Finding) -> Destination {
        let stage = Stage::new(StageName::Name, Some(false), text);
        Destination { findings: vec![finding], ..self.found(Vec::new(), stage) }
    }

    fn address(&self, ip: IpAddr, text: String) -> Destination {
        let Some(PortText::Number(port)) = self.to.port else {
            return self.found(Vec::new(), Stage::new(StageName::Name, Some(false), text));
        };
        let target = Target { ip, port, protocol: self.protocol() };
        self.found(vec![target], Stage::new(StageName::Name, Some(true), text))
    }

    fn node(&self, name: &str) -> Result<Destination, Refusal> {
        let own = self.truth.snapshot.node.as_ref().map(|node| &node.addresses);
        let own = own.filter(|_| name == self.truth.node);
        let Some(ips) = own.or_else(|| self.truth.known.nodes.get(name)) else {
            if self.truth.known.served_only {
                let here = self.truth.node.to_owned();
                return Err(Refusal::OtherNodeUnknown { name: name.to_owned(), here });
            }
            let known = self.truth.known.nodes.keys().map(String::as_str).chain([self.truth.node]);
            let hint = hint(&nearest(name, known));
            return Err(Refusal::NoSuchNode { name: name.to_owned(), hint });
        };
        let ip = ips.iter().find(|ip| self.client.source(Family::of(**ip)).is_some());
        let Some(ip) = ip.or_else(|| ips.first()) else {
            let hint = " with an address".to_owned();
            return Err(Refusal::NoSuchNode { name: name.to_owned(), hint });
        };
        Ok(self.address(*ip, format!("node {name} → {ip}")))
    }

    /// Namespaces of the Services with a name, those without virtual IP too.
    fn namespaces(&self, name: &str) -> BTreeSet<String> {
        let models = self.truth.snapshot.services.keys();
        let models = models.filter(|service| service.name() == name);
        let models = models.map(|service| service.namespace().to_owned());
        let known = self.truth.known.services.keys().filter_map(|full| full.split_once('/'));
        let known = known.filter(|(_, other)| *other == name);
        models.chain(known.map(|(namespace, _)| namespace.to_owned())).collect()
    }

    /// The namespace that a Service name without one means: the client's, else the only one that has it.
    fn namespace_of(&self, name: &str) -> Result<String, Refusal> {
        if let Some(namespace) = &self.client.namespace {
            return Ok(namespace.clone());
        }
        let mut namespaces: Vec<String> = self.namespaces(name).into_iter().collect();
        match namespaces.len() {
            0 => Ok("default".to_owned()),
            1 => Ok(namespaces.remove(0)),
            _ => Err(Refusal::Ambiguous { name: name.to_owned(), namespaces }),
        }
    }

    /// What the resolver of a pod does: names with few dots are completed by its namespace, `svc` and the domain.
    fn name(&self, host: &str) -> Result<Destination, Refusal> {
        let suffix = format!(".svc.{DOMAIN}");
        let inner =
            host.strip_suffix(&suffix).or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
        let (name, namespace) = match inner.split_once('.') {
            None => (inner, self.namespace_of(inner)?),
            Some((name, namespace)) if !namespace.contains('.') => (name, namespace.to_owned()),
            Some(_) => {
                let text = format!(
                    "{host} is no name of a Service: it is looked up outside of the cluster"
                );
                let stage = Stage::new(StageName::Name, None, text);
                return Ok(Destination { beyond: true, ..self.found(Vec::new(), stage) });
            }
        };
        let mut found = self.service(&namespace, name, Code::DnsNoSuchName)?;
        let full = format!("{name}.{namespace}{suffix}");
        if found.stage.ok != Some(false) && full != host {
            found.stage.text = format!("{host} → {}", found.stage.text);
        }
        found.findings.extend(self.dns());
        Ok(found)
    }

    /// Whether the cluster's DNS can answer.
    fn dns(&self) -> Option<Finding> {
        let name = ServiceName::new(DNS.0, DNS.1);
        let service = self.truth.snapshot.services.get(&name)?;
        if self.truth.known.without_slices {
            return None;
        }
        let here = Here { node: self.truth.node, zone: None };
        let slices = || self.truth.snapshot.slices.get(&name).into_iter().flatten();
        let answers = service.ports.iter().filter(|port| port.port == 53).any(|port| {
            let port = (&*port.name, port.protocol);
            Family::BOTH.iter().any(|family| categorize(slices(), *family, port, here).any)
        });
        (!answers).then(|| {
            let text = format!("the cluster's DNS, Service {name}, has no usable endpoint: no name can be looked up");
            let fix = "kubectl -n kube-system get pods -l k8s-app=kube-dns -o wide".to_owned();
            Code::DnsNoEndpoints.finding(text, Some(fix))
        })
    }

    fn service(&self, namespace: &str, name: &str, absent: Code) -> Result<Destination, Refusal> {
        let service = ServiceName::new(namespace, name);
        let full = format!("{name}.{namespace}.svc.{DOMAIN}");
        let facts = self.truth.known.services.get(&service.to_string());
        let unserved = facts.and_then(|facts| facts.unserved.as_ref());
        let Some(model) = self.truth.snapshot.services.get(&service) else {
            return Ok(match unserved {
                Some(why) => self.unserved(&service, &full, why),
                None => self.absent(namespace, name, absent),
            });
        };
        let ports: Vec<(String, u16, Protocol)> =
            model.ports.iter().map(|p| (p.name.to_string(), p.port, p.protocol)).collect();
        let (name, number, protocol) = match self.port(&service, &ports)? {
            Ok(port) => port,
            Err(finding) => {
                let mut found = self.nowhere(finding.text.clone(), finding);
                found.shown.service = Some(service.to_string());
                found.service = Some(service);
                return Ok(found);
            }
        };
        let ips = model.cluster_ips.iter();
        let targets: Vec<Target> =
            ips.map(|ip| Target { ip: *ip, port: number, protocol }).collect();
        let listed: Vec<String> = targets.iter().map(|target| target.ip.to_string()).collect();
        let text = format!("{full} → {}", listed.join(", "));
        let mut found = self.found(targets, Stage::new(StageName::Name, Some(true), text));
        found.shown.service = Some(service.to_string());
        found.shown.port = Some(name).filter(|name| !name.is_empty());
        found.service = Some(service);
        Ok(found)
    }

    /// The port that is meant. A number that the Service does not have is kept: what becomes of it is for the walk.
    #[allow(clippy::type_complexity)] // a refusal, a finding, or a port
    fn port(
        &self,
        service: &ServiceName,
        ports: &[(String, u16, Protocol)],
    ) -> Result<Result<(String, u16, Protocol), Finding>, Refusal> {
        let fits = |protocol: Protocol| self.to.protocol.is_none_or(|wanted| wanted == protocol);
        let list = || ports.iter().map(|port| written(service, port)).collect::<Vec<_>>();
        let found = match &self.to.port {
            Some(PortText::Number(number)) => {
                let of_number = || ports.iter().filter(|(_, port, _)| port == number);
                let tcp = of_number().find(|(_, _, p)| *p == self.protocol());
                let any = of_number().find(|(_, _, protocol)| fits(*protocol));
                let unnamed = || (String::new(), *number, self.protocol());
                tcp.or(any).cloned().unwrap_or_else(unnamed)
            }
            Some(PortText::Name(name)) => {
                let named = ports.iter().find(|(other, _, p)| other == name && fits(*p));
                let Some(port) = named else {
                    let text = format!(
                        "Service {service} has no port {name:?}; it has {}",
                        list().join(", ")
                    );
                    let fix = list().first().map(|port| format!("use {port}"));
                    return Ok(Err(Code::NoSuchPort.finding(text, fix)));
                };
                port.clone()
            }
            None => match ports {
                [one] => one.clone(),
                [] => {
                    let text = format!("Service {service} has no ports");
                    return Ok(Err(Code::NoSuchPort.finding(text, None)));
                }
                _ => {
                    return Err(Refusal::WhichPort { service: service.to_string(), ports: list() });
                }
            },
        };
        Ok(Ok(found))
    }

    fn absent(&self, namespace: &str, name: &str, code: Code) -> Destination {
        let with = if self.truth.known.served_only {
            " with a virtual IP, as far as this proxy is told"
        } else {
            ""
        };
        let text = format!("there is no Service {namespace}/{name}{with}");
        let elsewhere = self.namespaces(name);
        let (near, fix) = if elsewhere.is_empty() {
            let names: BTreeSet<String> = self.names_in(namespace);
            let near = nearest(name, names.iter().map(String::as_str));
            (near.iter().map(|near| (*near).to_owned()).collect(), None)
        } else {
            let full = elsewhere.iter().map(|other| format!("{name}.{other}"));
            let full: Vec<String> = full.collect();
            let fix =
                format!("use the name {}: names without a namespace mean the client's", full[0]);
            (full, Some(fix))
        };
        let fix = fix.or_else(|| near.first().map(|near| format!("use the name {near}")));
        let fix = fix.or_else(|| Some(format!("kubectl get services -n {namespace}")));
        let finding = code.finding(format!("{text}{}", hint(&near)), fix);
        let mut found = self.nowhere(text, finding);
        found.shown.service = Some(format!("{namespace}/{name}"));
        found
    }

    fn names_in(&self, namespace: &str) -> BTreeSet<String> {
        let models = self.truth.snapshot.services.keys().map(ToString::to_string);
        let all = models.chain(self.truth.known.services.keys().cloned());
        let inside = all.filter_map(|full| {
            let (other, name) = full.split_once('/')?;
            (other == namespace).then(|| name.to_owned())
        });
        inside.collect()
    }

    /// A Service that no proxy serves: its name leads elsewhere, or nowhere.
    fn unserved(&self, service: &ServiceName, full: &str, why: &Unserved) -> Destination {
        let (text, finding) = match why {
            Unserved::Headless => (
                format!("{full} → the addresses of its ready pods: the Service is headless"),
                Code::NoClusterIp.finding(
                    format!("Service {service} has clusterIP None: clients connect to its pods directly, without a proxy, and at the pods' own port"),
                    Some(format!("kubectl get endpointslices -n {} -l kubernetes.io/service-name={}", service.namespace(), service.name())),
                ),
            ),
            Unserved::ExternalName(name) => (
                format!("{full} → {name}: the Service has type ExternalName"),
                Code::NoClusterIp.finding(
                    format!("Service {service} stands for the name {name}: clients connect to that, without a proxy"),
                    None,
                ),
            ),
            Unserved::OtherProxy(proxy) => (
                format!("{service} is served by another proxy, {proxy:?}"),
                Code::OtherProxy.finding(
                    format!("Service {service} has the label service.kubernetes.io/service-proxy-name={proxy}: this proxy leaves it alone"),
                    Some(format!("kubectl label service -n {} {} service.kubernetes.io/service-proxy-name-", service.namespace(), service.name())),
                ),
            ),
            Unserved::NoAddress => (
                format!("{service} has no cluster IP yet"),
                Code::NoClusterIp.finding(
                    format!("Service {service} has no cluster IP: the API server allocates one when the Service is created"),
                    Some("explain what the API server has: kubectl get services -A -o yaml".to_owned()),
                ),
            ),
        };
        let mut found = self.found(Vec::new(), Stage::new(StageName::Name, None, text));
        found.stage.rules.clone_from(&finding.rules);
        found.shown.service = Some(service.to_string());
        found.service = Some(service.clone());
        found.findings.push(finding);
        found.beyond = true;
        found
    }
}

/// A port as TO names it.
fn written(service: &ServiceName, (name, number, protocol): &(String, u16, Protocol)) -> String {
    let port = if name.is_empty() { number.to_string() } else { name.clone() };
    format!("svc/{}.{}:{port} ({number}/{protocol})", service.name(), service.namespace())
}
