//! The zone: which records a name has, from Services, EndpointSlices and namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::name::{Question, label, question};

/// The version of the specification that the answers follow.
const VERSION: &str = "1.1.0";

/// The type of a question or record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the DNS's own names
pub enum Type {
    A,
    Aaaa,
    Srv,
    Ptr,
    Cname,
    Txt,
    Soa,
    Ns,
    Other,
}

/// A record, its names without the last dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub name: String,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the DNS's own names
pub enum Data {
    Address(IpAddr),
    Srv {
        port: u16,
        weight: u16,
        target: String,
    },
    Ptr(String),
    Cname(String),
    Txt(String),
    Ns(String),
    /// The primary server of the zone, and whom to ask.
    Soa {
        server: String,
        mailbox: String,
    },
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The name is there, if perhaps without such a record.
    Good,
    /// There is no such name.
    NoSuchName,
    /// The name is not of this zone.
    Refused,
}

/// An answer. Without records it has the zone's SOA as its authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub code: Code,
    /// The records.
    pub records: Vec<Record>,
    /// The addresses of the targets of SRV records.
    pub additional: Vec<Record>,
    /// The SOA of a negative answer.
    pub authority: Option<Record>,
}

type Name = (String, String);

/// The zone's content.
#[derive(Debug, Default)]
pub struct Zone {
    domain: String,
    namespaces: BTreeSet<String>,
    services: BTreeMap<Name, Value>,
    /// The slices of each Service by their own names.
    slices: BTreeMap<Name, BTreeMap<String, Value>>,
    /// The Services of each slice, by the slice's namespace and name.
    service_of: BTreeMap<Name, Name>,
}

/// A name that answers with addresses: a Service, or one of its endpoints.
struct Target {
    name: String,
    addresses: Vec<IpAddr>,
    port: u16,
}

impl Zone {
    /// An empty zone, e.g. of `cluster.local`.
    pub fn new(domain: &str) -> Zone {
        Zone { domain: domain.to_owned(), ..Zone::default() }
    }

    /// Puts a namespace in, or takes it out.
    pub fn set_namespace(&mut self, name: &str, there: bool) {
        if there {
            self.namespaces.insert(name.to_owned());
        } else {
            self.namespaces.remove(name);
        }
    }

    /// Puts a Service in, or takes it out.
    pub fn set_service(&mut self, namespace: &str, name: &str, service: Option<Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        match service {
            Some(service) => self.services.insert(key, service),
            None => self.services.remove(&key),
        };
    }

    /// Puts an EndpointSlice in, or takes it out.
    pub fn set_slice(&mut self, namespace: &str, name: &str, slice: Option<Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(service) = self.service_of.remove(&key)
            && let Some(slices) = self.slices.get_mut(&service)
        {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        if let Some(slice) = slice
            && let Some(service) =
                slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str()
        {
            let service = (namespace.to_owned(), service.to_owned());
            self.service_of.insert(key, service.clone());
            self.slices.entry(service).or_default().insert(name.to_owned(), slice);
        }
    }

    /// Answers a question; capital letters and a last dot do not matter.
    pub fn lookup(&self, name: &str, kind: Type) -> Answer {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let records = match question(&name, &self.domain) {
            Question::Apex => Some(self.apex(kind)),
            Question::Version => Some(vec![record(&name, Data::Txt(VERSION.to_owned()))]),
            Question::Between(None) => Some(Vec::new()),
            Question::Between(Some(namespace)) => self.has(namespace).then(Vec::new),
            Question::Service { namespace, service } => self.service(&name, namespace, service),
            Question::Host { namespace, service, host } => {
                self.host(&name, namespace, service, host)
            }
            Question::Port { namespace, service, port, protocol } => {
                return self.port(&name, kind, (namespace, service), (port, protocol));
            }
            Question::Pod { namespace, address } => {
                self.has(namespace).then(|| vec![record(&name, Data::Address(address))])
            }
            Question::Reverse(address) => return self.reverse(&name, kind, address),
            Question::Nothing => None,
            Question::Elsewhere => return self.answer(Code::Refused, Vec::new(), Vec::new()),
        };
        match records {
            None => self.answer(Code::NoSuchName, Vec::new(), Vec::new()),
            Some(mut records) => {
                // A CNAME is the answer to every question.
                records.retain(|r| type_of(&r.data) == kind || type_of(&r.data) == Type::Cname);
                self.answer(Code::Good, records, Vec::new())
            }
        }
    }

    fn answer(&self, code: Code, records: Vec<Record>, additional: Vec<Record>) -> Answer {
        let negative = records.is_empty() && code != Code::Refused;
        let authority = negative.then(|| record(&self.domain, self.soa()));
        Answer { code, records, additional, authority }
    }

    fn soa(&self) -> Data {
        let server = format!("ns.dns.{}", self.domain);
        Data::Soa { server, mailbox: format!("hostmaster.{}", self.domain) }
    }

    fn apex(&self, kind: Type) -> Vec<Record> {
        match kind {
            Type::Soa => vec![record(&self.domain, self.soa())],
            Type::Ns => vec![record(&self.domain, Data::Ns(format!("ns.dns.{}", self.domain)))],
            _ => Vec::new(),
        }
    }

    fn has(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace)
    }

    fn get(&self, namespace: &str, service: &str) -> Option<(&Value, String)> {
        let found = self.services.get(&(namespace.to_owned(), service.to_owned()))?;
        Some((found, format!("{service}.{namespace}.svc.{}", self.domain)))
    }

    fn service(&self, name: &str, namespace: &str, service: &str) -> Option<Vec<Record>> {
        let (found, own) = self.get(namespace, service)?;
        if found["spec"]["type"] == "ExternalName" {
            let target = found["spec"]["externalName"].as_str()?.trim_end_matches('.');
            return Some(vec![record(name, Data::Cname(target.to_owned()))]);
        }
        let addresses = if is_headless(found) {
            let endpoints = self.endpoints(namespace, service, &own, None);
            endpoints.into_iter().flat_map(|target| target.addresses).collect()
        } else {
            cluster_ips(found)
        };
        let records = addresses.into_iter().map(|ip| record(name, Data::Address(ip))).collect();
        Some(records).filter(|records: &Vec<Record>| !records.is_empty())
    }

    fn host(&self, name: &str, namespace: &str, service: &str, host: &str) -> Option<Vec<Record>> {
        let (found, own) = self.get(namespace, service)?;
        if !is_headless(found) {
            return None;
        }
        let wanted = format!("{host}.{own}");
        let endpoints = self.endpoints(namespace, service, &own, None).into_iter();
        let addresses: Vec<IpAddr> = endpoints
            .filter(|target| target.name == wanted)
            .flat_map(|target| target.addresses)
            .collect();
        let records = addresses.into_iter().map(|ip| record(name, Data::Address(ip)));
        Some(records.collect()).filter(|records: &Vec<Record>| !records.is_empty())
    }

    /// SRV records of a named port, with the addresses of their targets.
    fn port(
        &self,
        name: &str,
        kind: Type,
        (namespace, service): (&str, &str),
        wanted: (&str, &str),
    ) -> Answer {
        let targets = self.port_targets(namespace, service, wanted);
        if targets.is_empty() {
            return self.answer(Code::NoSuchName, Vec::new(), Vec::new());
        }
        if kind != Type::Srv {
            return self.answer(Code::Good, Vec::new(), Vec::new());
        }
        let weight = u16::try_from(100 / targets.len().clamp(1, 100)).unwrap_or(1);
        let records = targets.iter().map(|target| {
            let data = Data::Srv { port: target.port, weight, target: target.name.clone() };
            record(name, data)
        });
        let additional = targets.iter().flat_map(|target| {
            target.addresses.iter().map(|ip| record(&target.name, Data::Address(*ip)))
        });
        self.answer(Code::Good, records.collect(), additional.collect())
    }

    fn port_targets(&self, namespace: &str, service: &str, wanted: (&str, &str)) -> Vec<Target> {
        let Some((found, own)) = self.get(namespace, service) else { return Vec::new() };
        if is_headless(found) {
            return self.endpoints(namespace, service, &own, Some(wanted));
        }
        let ports = list(&found["spec"]["ports"]).iter().filter(|port| is_port(port, wanted));
        let target = |port: &Value| {
            let port = u16::try_from(port["port"].as_u64()?).ok()?;
            Some(Target { name: own.clone(), addresses: cluster_ips(found), port })
        };
        ports.filter_map(target).collect()
    }

    /// The ready endpoints of a headless Service, those with the same name together; of one port, if wanted.
    fn endpoints(
        &self,
        namespace: &str,
        service: &str,
        own: &str,
        wanted: Option<(&str, &str)>,
    ) -> Vec<Target> {
        let key = (namespace.to_owned(), service.to_owned());
        let mut targets: Vec<Target> = Vec::new();
        for slice in self.slices.get(&key).into_iter().flat_map(BTreeMap::values) {
            let port = match wanted {
                None => 0,
                Some(wanted) => {
                    let port = list(&slice["ports"]).iter().find(|port| is_port(port, wanted));
                    let number = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
                    let Some(number) = number else { continue };
                    number
                }
            };
            for (host, addresses) in ready(slice) {
                let name = format!("{host}.{own}");
                match targets.iter_mut().find(|other| other.name == name && other.port == port) {
                    Some(target) => target.addresses.extend(addresses),
                    None => targets.push(Target { name, addresses, port }),
                }
            }
        }
        targets
    }

    fn reverse(&self, name: &str, kind: Type, address: IpAddr) -> Answer {
        let mut names = Vec::new();
        for ((namespace, service), found) in &self.services {
            let own = format!("{service}.{namespace}.svc.{}", self.domain);
            if is_headless(found) {
                let endpoints = self.endpoints(namespace, service, &own, None).into_iter();
                let with = endpoints.filter(|target| target.addresses.contains(&address));
                names.extend(with.map(|target| target.name));
            } else if cluster_ips(found).contains(&address) {
                names.push(own);
            }
        }
        if names.is_empty() {
            return self.answer(Code::NoSuchName, Vec::new(), Vec::new());
        }
        if kind != Type::Ptr {
            names.clear();
        }
        let records = names.into_iter().map(|target| record(name, Data::Ptr(target))).collect();
        self.answer(Code::Good, records, Vec::new())
    }
}

fn record(name: &str, data: Data) -> Record {
    Record { name: name.to_owned(), data }
}

fn type_of(data: &Data) -> Type {
    match data {
        Data::Address(IpAddr::V4(_)) => Type::A,
        Data::Address(IpAddr::V6(_)) => Type::Aaaa,
        Data::Srv { .. } => Type::Srv,
        Data::Ptr(_) => Type::Ptr,
        Data::Cname(_) => Type::Cname,
        Data::Txt(_) => Type::Txt,
        Data::Ns(_) => Type::Ns,
        Data::Soa { .. } => Type::Soa,
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIP"] == "None"
}

fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let ips = list(&service["spec"]["clusterIPs"]).iter();
    ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

/// Whether a port has a name and protocol, in small letters.
fn is_port(port: &Value, (name, protocol): (&str, &str)) -> bool {
    let own = port["protocol"].as_str().unwrap_or("TCP");
    !name.is_empty()
        && port["name"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name))
        && own.eq_ignore_ascii_case(protocol)
}

/// The first labels of the ready endpoints of a slice, and their addresses.
fn ready(slice: &Value) -> Vec<(String, Vec<IpAddr>)> {
    let endpoints = list(&slice["endpoints"]).iter();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    ready
        .filter_map(|endpoint| {
            let addresses = list(&endpoint["addresses"]).iter();
            let addresses: Vec<IpAddr> =
                addresses.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
            let first = *addresses.first()?;
            let host = endpoint["hostname"].as_str().filter(|host| !host.is_empty());
            Some((host.map_or_else(|| label(first), str::to_owned), addresses))
        })
        .collect()
}

#[cfg(test)]
mod tests;
