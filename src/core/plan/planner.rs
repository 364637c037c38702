//! From a [`Snapshot`] to a [`ForwardingTable`], as a whole or one Service at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::affinity_ids::AffinityIds;
use super::claims::{Claims, Origin};
use super::endpoints::{Categories, Here, categorize, local_ready};
use super::policy;
use super::table::{
    Address, Admit, Affinity, ForwardingTable, Frontend, FrontendKind, HealthCheck, Host, PoolKind,
    PortPlan, ServicePlan,
};
use crate::model::{Service, ServiceName, ServicePort, Snapshot, SourceRanges, Warning};
use crate::net::{Family, Protocol};

/// What an update changed in the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effect {
    /// The Services whose plan was added, changed or removed.
    pub services: BTreeSet<ServiceName>,
    /// Whether a setting for all Services, or the ServiceCIDRs, changed.
    pub host: bool,
    /// Whether a health check was added, changed or removed.
    pub health_checks: bool,
    /// Warnings that the previous plan of the Service did not have.
    pub warnings: Vec<Warning>,
}

/// Updates the forwarding table of one family at a cost that follows the change.
#[derive(Debug, Clone)]
pub struct Planner {
    table: ForwardingTable,
    /// Claims to cluster IPs; Services that lose theirs are not served.
    cluster_ips: Claims<IpAddr>,
    /// Claims to frontends, by the Services that are served.
    claims: Claims,
    affinity_ids: AffinityIds,
    node_name: String,
    zone: Option<String>,
    /// The warnings of each Service's last plan.
    warned: BTreeMap<ServiceName, Vec<Warning>>,
}

/// Computes the whole table.
pub fn build(
    family: Family,
    node_name: &str,
    host: Host,
    snapshot: &Snapshot,
) -> (ForwardingTable, Vec<Warning>) {
    let mut planner = Planner::new(family, node_name, host);
    let every = snapshot.services.keys().cloned().collect();
    let effect = planner.update(snapshot, &every);
    (planner.table, effect.warnings)
}

impl Planner {
    /// An empty table for the node `node_name`.
    pub fn new(family: Family, node_name: &str, host: Host) -> Planner {
        let table = ForwardingTable {
            family,
            host,
            service_cidrs: BTreeSet::new(),
            services: BTreeMap::new(),
            health_checks: BTreeMap::new(),
        };
        Planner {
            table,
            cluster_ips: Claims::default(),
            claims: Claims::default(),
            affinity_ids: AffinityIds::default(),
            node_name: node_name.to_owned(),
            zone: None,
            warned: BTreeMap::new(),
        }
    }

    /// The table as of the last update.
    pub fn table(&self) -> &ForwardingTable {
        &self.table
    }

    /// The claims to frontends as of the last update.
    #[cfg(test)]
    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Replaces the settings for all Services. If they differ, every Service is planned again.
    pub fn set_host(&mut self, snapshot: &Snapshot, host: Host) -> Effect {
        if self.table.host == host {
            return Effect::default();
        }
        self.table.host = host;
        let every = snapshot.services.keys().cloned().collect();
        let mut effect = self.update(snapshot, &every);
        effect.host = true;
        effect
    }

    /// Plans the Services in `dirty` again, and those that win or lose an address because of them. Changes of the node's
    /// zone and of the ServiceCIDRs are detected here too.
    pub fn update(&mut self, snapshot: &Snapshot, dirty: &BTreeSet<ServiceName>) -> Effect {
        let mut effect = Effect::default();
        let mut todo = dirty.clone();
        let zone = snapshot.node.as_ref().and_then(|node| node.zone.clone());
        if self.zone != zone {
            self.zone = zone;
            todo.extend(snapshot.services.keys().cloned());
        }
        let family = self.table.family;
        let cidrs: BTreeSet<IpNet> = snapshot
            .service_cidrs
            .iter()
            .filter(|c| Family::of_net(c) == family)
            .copied()
            .collect();
        if self.table.service_cidrs != cidrs {
            self.table.service_cidrs = cidrs;
            effect.host = true;
        }

        self.settle_claims(snapshot, &mut todo);
        for name in todo {
            let mut warnings = Vec::new();
            let service = snapshot.services.get(&name).map(|service| &**service);
            let service = service.filter(|service| self.is_served(service, &mut warnings));
            let check = service.and_then(|s| self.health_check(s, snapshot, &mut warnings));
            effect.health_checks |= self.table.health_checks.get(&name) != check.as_ref();
            match check {
                Some(check) => self.table.health_checks.insert(name.clone(), check),
                None => self.table.health_checks.remove(&name),
            };
            let mut plan = service.and_then(|s| self.plan(s, snapshot, &mut warnings));
            effect.warnings.extend(self.new_warnings(&name, warnings));
            self.assign_affinity_ids(service, plan.as_mut(), &name);
            if self.table.plan(&name) == plan.as_ref() {
                continue;
            }
            match plan {
                Some(plan) => self.table.services.insert(name.clone(), Arc::new(plan)),
                None => self.table.services.remove(&name),
            };
            effect.services.insert(name);
        }
        effect
    }

    /// Updates the claims of the Services in `todo`, and adds to it those that win or lose an address. Cluster IPs come
    /// first: a Service that loses its cluster IP claims nothing else.
    fn settle_claims(&mut self, snapshot: &Snapshot, todo: &mut BTreeSet<ServiceName>) {
        let family = self.table.family;
        let mut rivals = BTreeSet::new();
        for name in &*todo {
            let service = snapshot.services.get(name);
            let ip = service.and_then(|s| first_of(&s.cluster_ips, family));
            let wanted = ip.map(|ip| (ip, Origin::Allocated));
            let created = service.map_or(0, |s| s.created);
            rivals.extend(self.cluster_ips.replace(name, created, wanted.as_slice()));
        }
        todo.append(&mut rivals);
        for name in &*todo {
            let service = snapshot.services.get(name);
            let served = service.filter(|s| self.cluster_ip_rival(s).is_none());
            let wanted = served.map(|s| addresses(s, family)).unwrap_or_default();
            let created = served.map_or(0, |s| s.created);
            rivals.extend(self.claims.replace(name, created, &wanted));
        }
        todo.append(&mut rivals);
    }

    /// The cluster IP of a Service if another Service has it, and that Service.
    fn cluster_ip_rival(&self, service: &Service) -> Option<(IpAddr, &ServiceName)> {
        let ip = first_of(&service.cluster_ips, self.table.family)?;
        let holder = self.cluster_ips.holder(&ip).filter(|holder| **holder != service.name)?;
        Some((ip, holder))
    }

    /// Whether a Service has its cluster IP; if not, it is not served, with a warning.
    fn is_served(&self, service: &Service, warnings: &mut Vec<Warning>) -> bool {
        let Some((ip, holder)) = self.cluster_ip_rival(service) else { return true };
        warnings.push(Warning {
            object: format!("Service {}", service.name),
            field: "spec.clusterIPs".to_owned(),
            problem: format!(
                "{ip} belongs to Service {holder}; this Service, including its node ports and external \
                 IPs, is not served until it is recreated with another address"
            ),
        });
        false
    }

    /// The warnings that the Service's previous plan did not have, so that each is logged once.
    fn new_warnings(&mut self, name: &ServiceName, warnings: Vec<Warning>) -> Vec<Warning> {
        let known = self.warned.get(name).map(Vec::as_slice).unwrap_or_default();
        let new = warnings.iter().filter(|warning| !known.contains(warning)).cloned().collect();
        if warnings.is_empty() {
            self.warned.remove(name);
        } else {
            self.warned.insert(name.clone(), warnings);
        }
        new
    }

    /// The plan of one Service, or none if it has no address of this family.
    fn plan(
        &self,
        service: &Service,
        snapshot: &Snapshot,
        warnings: &mut Vec<Warning>,
    ) -> Option<ServicePlan> {
        let family = self.table.family;
        let here = Here { node: &self.node_name, zone: self.zone.as_deref() };
        let ranges = self.source_ranges(service);
        let mut ports = Vec::with_capacity(service.ports.len());
        for (index, port) in service.ports.iter().enumerate() {
            let slices = snapshot.slices.get(&service.name).into_iter().flatten();
            let endpoints = categorize(slices, family, (&port.name, port.protocol), here);
            let frontends = self.frontends(service, (index, port), &endpoints, &ranges, warnings);
            if frontends.is_empty() {
                continue;
            }
            let pool = |kind, found: Vec<_>| {
                if policy::uses(service, port, kind) { found.into() } else { Box::default() }
            };
            ports.push(PortPlan {
                name: Arc::clone(&port.name),
                protocol: port.protocol,
                cluster: pool(PoolKind::Cluster, endpoints.cluster),
                local: pool(PoolKind::Local, endpoints.local),
                affinity: None, // see assign_affinity_ids
                frontends,
            });
        }
        let cluster_ip = first_of(&service.cluster_ips, family);
        (!ports.is_empty()).then(|| ServicePlan { cluster_ip, ports: ports.into() })
    }

    /// Sets the session affinity of a Service's ports.
    fn assign_affinity_ids(
        &mut self,
        service: Option<&Service>,
        plan: Option<&mut ServicePlan>,
        name: &ServiceName,
    ) {
        self.affinity_ids.release(name);
        let Some(timeout) = service.and_then(|service| service.affinity) else { return };
        for port in plan.into_iter().flat_map(|plan| &mut plan.ports) {
            let id = self.affinity_ids.assign(name, &port.name, port.protocol);
            port.affinity = Some(Affinity { timeout, id });
        }
    }

    /// The health check of a Service, if it has one. Its port is claimed as a node port, so that no two Services use it.
    fn health_check(
        &self,
        service: &Service,
        snapshot: &Snapshot,
        warnings: &mut Vec<Warning>,
    ) -> Option<HealthCheck> {
        let family = self.table.family;
        let at = health_check_address(service, family)?;
        let port = service.health_check_node_port?;
        if let Some(holder) = self.claims.holder(&at).filter(|h| **h != service.name) {
            warnings.push(Warning {
                object: format!("Service {}", service.name),
                field: "spec.healthCheckNodePort".to_owned(),
                problem: format!("{at} belongs to Service {holder}; health checks of this Service are not answered"),
            });
            return None;
        }
        let slices = snapshot.slices.get(&service.name).into_iter().flatten();
        Some(HealthCheck { port, local_endpoints: local_ready(slices, family) })
    }

    fn frontends(
        &self,
        service: &Service,
        (index, port): (usize, &ServicePort),
        endpoints: &Categories,
        ranges: &Admit,
        warnings: &mut Vec<Warning>,
    ) -> Box<[Frontend]> {
        let mut frontends: Vec<Frontend> = Vec::new();
        for (at, kind) in port_addresses(service, port, self.table.family) {
            if frontends.iter().any(|f| f.at == at) {
                continue;
            }
            if let Some(holder) = self.claims.holder(&at).filter(|h| **h != service.name) {
                warnings.push(Warning {
                    object: format!("Service {}", service.name),
                    field: format!("spec.ports[{index}]"),
                    problem: format!(
                        "{at} belongs to Service {holder}; not served for this Service"
                    ),
                });
                continue;
            }
            let admit = match kind {
                FrontendKind::LoadBalancer => ranges.clone(),
                _ => Admit::Anyone,
            };
            let routes = policy::routes(kind, service, endpoints, &self.table.host);
            frontends.push(Frontend { at, kind, admit, routes });
        }
        frontends.into()
    }

    /// Which sources may use the load balancer IPs. If the node's address is admitted, the load balancer IPs are as well: a
    /// node that has one as a local address uses it as the source (upstream: `allowFromNode`).
    fn source_ranges(&self, service: &Service) -> Admit {
        let SourceRanges::Only(ranges) = &service.source_ranges else { return Admit::Anyone };
        let family = self.table.family;
        let mut admitted: Vec<IpNet> =
            ranges.iter().filter(|net| Family::of_net(net) == family).copied().collect();
        if admitted.is_empty() && !ranges.is_empty() {
            // As upstream: ranges of the other family do not restrict this one.
            return Admit::Anyone;
        }
        if self.table.host.node_ip.is_some_and(|ip| admitted.iter().any(|net| net.contains(&ip))) {
            let own = service.load_balancer_ips.iter().filter(|ip| Family::of(**ip) == family);
            admitted.extend(own.map(|ip| IpNet::from(*ip)));
        }
        Admit::Only(IpNet::aggregate(&admitted).into())
    }
}

fn first_of(ips: &[IpAddr], family: Family) -> Option<IpAddr> {
    ips.iter().copied().find(|ip| Family::of(*ip) == family)
}

/// Every address that a Service claims, in the order of its ports' frontends.
fn addresses(service: &Service, family: Family) -> Vec<(Address, Origin)> {
    let frontends = service.ports.iter().flat_map(|port| port_addresses(service, port, family));
    let health = health_check_address(service, family).map(|at| (at, FrontendKind::NodePort));
    frontends.chain(health).map(|(at, kind)| (at, kind.into())).collect()
}

/// The health check node port of a Service, in the families of its cluster IPs.
fn health_check_address(service: &Service, family: Family) -> Option<Address> {
    first_of(&service.cluster_ips, family)?;
    let port = service.health_check_node_port?;
    Some(Address::NodePort { protocol: Protocol::Tcp, port })
}

/// The addresses of one port, if the Service has a cluster IP of the family: without one, none of its addresses is
/// served there, including external IPs (upstream: `pkg/proxy/servicechangetracker.go`, serviceToServiceMap). An address
/// that is both load balancer IP and external IP is treated as the former, because only that is subject to source ranges.
fn port_addresses<'a>(
    service: &'a Service,
    port: &'a ServicePort,
    family: Family,
) -> impl Iterator<Item = (Address, FrontendKind)> + 'a {
    let protocol: Protocol = port.protocol;
    let vip = move |ip: IpAddr| Address::Vip { ip, protocol, port: port.port };
    let of_family = move |ip: &&IpAddr| Family::of(**ip) == family;
    let node_port =
        port.node_port.map(|port| (Address::NodePort { protocol, port }, FrontendKind::NodePort));
    let kinds = [
        (FrontendKind::LoadBalancer, &service.load_balancer_ips),
        (FrontendKind::ExternalIp, &service.external_ips),
    ];
    first_of(&service.cluster_ips, family).into_iter().flat_map(move |cluster_ip| {
        let external = kinds.into_iter().flat_map(move |(kind, ips)| {
            ips.iter().filter(of_family).map(move |ip| (vip(*ip), kind))
        });
        [(vip(cluster_ip), FrontendKind::ClusterIp)].into_iter().chain(external).chain(node_port)
    })
}
