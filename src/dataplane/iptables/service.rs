//! The plan of one Service: its own chains, and the dispatch rules that lead to them.

use std::sync::Arc;

use ipnet::IpNet;

use super::dispatch::{Dispatch, Entry, Key, Rank, only};
use super::form::{Form, Layout};
use super::line::{Chains, Line};
use super::names::{self, ChainId, PortName};
use super::rule::{Match, Rule, Sense, Target, place};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{
    Address, Admit, Frontend, FrontendKind, Host, Masquerade, PodDetector, PoolEndpoint, PoolKind,
    PortPlan, ServicePlan, SourceClass, Verdict,
};
use sluice_kernel::xtables::Table;

/// How many endpoints a chain may draw from before the pool is drawn from in parts.
pub(super) const LONGEST_POOL: usize = 64;

/// How many endpoints a part has on average, at most.
const PART: usize = 32;

/// What rules of all Services have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common<'a> {
    pub(super) family: Family,
    pub(super) host: &'a Host,
    pub(super) form: Form,
}

/// What one Service adds to the tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rendered {
    pub(super) chains: Chains,
    pub(super) entries: Vec<(Dispatch, Entry)>,
}

/// Writes a Service down.
pub(super) fn render(common: Common<'_>, name: &ServiceName, plan: &ServicePlan) -> Rendered {
    let mut rendered = Rendered::default();
    for port in &plan.ports {
        let id = PortName::new(name, port);
        let mut writer = Writer { common, service: name, port, id, out: &mut rendered };
        port.frontends.iter().for_each(|frontend| writer.frontend(frontend));
        writer.pools();
    }
    if let Some(ip) = plan.cluster_ip.filter(|_| common.host.cluster_ip_guard.refuses_ports()) {
        let rule = Rule::new().to(Sense::Is, only(ip));
        let rule = rule.comment(format!("{name} has no such port")).jump(names::REJECT);
        let line = common.form.owned_line(&rule, name);
        let entry = line.map(|line| Entry { key: Key::of(ip), rank: Rank::Last, line });
        rendered.entries.extend(entry.map(|entry| (Dispatch::ClusterIps, entry)));
    }
    rendered
}

struct Writer<'a> {
    common: Common<'a>,
    service: &'a ServiceName,
    port: &'a PortPlan,
    id: PortName,
    out: &'a mut Rendered,
}

impl Writer<'_> {
    fn rule(&mut self, table: Table, chain: &Arc<str>, rule: &Rule) {
        let line = self.line(rule);
        let id = ChainId { table, name: Arc::clone(chain) };
        self.out.chains.entry(id).or_default().extend(line);
    }

    fn line(&self, rule: &Rule) -> Option<Line> {
        self.common.form.owned_line(rule, self.service)
    }

    fn has(&self, table: Table, chain: &Arc<str>) -> bool {
        self.out.chains.contains_key(&ChainId { table, name: Arc::clone(chain) })
    }

    /// Matches traffic to an address, with a comment.
    fn to(&self, at: Address, what: &str) -> Rule {
        match at {
            Address::Vip { ip, protocol, port } => {
                let rule = Rule::new().to(Sense::Is, only(ip)).protocol(protocol);
                rule.comment(format!("{} {what}", self.id)).port(protocol, port)
            }
            Address::NodePort { protocol, port } => {
                let rule = Rule::new().protocol(protocol).comment(format!("{} {what}", self.id));
                rule.port(protocol, port)
            }
        }
    }

    fn find(&mut self, dispatch: Dispatch, at: Address, rule: &Rule) {
        let key = match at {
            Address::Vip { ip, .. } => Key::of(ip),
            Address::NodePort { protocol, port } => Key::Port(protocol, port),
        };
        let entry = self.line(rule).map(|line| Entry { key, rank: Rank::Any, line });
        self.out.entries.extend(entry.map(|entry| (dispatch, entry)));
    }

    fn frontend(&mut self, frontend: &Frontend) {
        let at = frontend.at;
        let what = match frontend.kind {
            FrontendKind::ClusterIp => "cluster IP",
            FrontendKind::ExternalIp => "external IP",
            FrontendKind::LoadBalancer => "loadbalancer IP",
            FrontendKind::NodePort => "node port",
        };
        let forwards = frontend.routes.iter().any(|r| matches!(r.verdict, Verdict::Forward(_)));
        if forwards {
            let target = match frontend.kind {
                FrontendKind::ClusterIp => self.internal(frontend),
                _ => self.external(frontend),
            };
            let target = match &frontend.admit {
                Admit::Anyone => target,
                Admit::Only(ranges) => self.firewall(ranges, Table::Nat, &target),
            };
            let dispatch = match at {
                Address::Vip { .. } => Dispatch::Services,
                Address::NodePort { .. } => Dispatch::NodePorts,
            };
            let rule = self.to(at, what).jump(&target);
            self.find(dispatch, at, &rule);
        }
        self.without_endpoint(frontend, forwards);
    }

    /// What happens to traffic that no rule of the table nat has sent to an endpoint.
    fn without_endpoint(&mut self, frontend: &Frontend, forwards: bool) {
        let at = frontend.at;
        if let Admit::Only(ranges) = &frontend.admit {
            let target: Arc<str> = if forwards {
                "DROP".into()
            } else {
                let chain = self.firewall(ranges, Table::Filter, &"RETURN".into());
                self.close(&chain);
                chain
            };
            let rule = self.to(at, "traffic from outside of its source ranges").jump(&target);
            self.find(Dispatch::Firewall, at, &rule);
        }
        let (why, target) = match frontend.routes.for_anyone().verdict {
            Verdict::Forward(_) => return,
            Verdict::Reject => ("has no endpoints", names::REJECT),
            Verdict::Drop => ("has no local endpoints", "DROP"),
        };
        let dispatch = match (at, frontend.kind) {
            (Address::NodePort { .. }, _) => Dispatch::ExternalNodePorts,
            (_, FrontendKind::ClusterIp) => Dispatch::ClusterIps,
            _ => Dispatch::External,
        };
        let rule = self.to(at, why).jump(target);
        self.find(dispatch, at, &rule);
    }

    /// A cluster IP leads to its pool; what is to be masqueraded is marked there.
    fn internal(&mut self, frontend: &Frontend) -> Arc<str> {
        let mut pool = PoolKind::Cluster;
        let mut from_pods_too = true;
        let mut marks = false;
        for route in frontend.routes.iter() {
            if let Verdict::Forward(kind) = route.verdict {
                pool = kind;
            }
            marks |= route.masquerade == Masquerade::Yes;
            from_pods_too &= route.from != SourceClass::Pod;
        }
        let chain = self.id.pool(pool);
        if marks {
            let rule = self.to(frontend.at, "cluster IP");
            let rule = if from_pods_too {
                rule.jump(names::MARK_MASQ)
            } else {
                mark_unless_pod(&self.common.host.pods, rule)
            };
            self.rule(Table::Nat, &chain, &rule);
        }
        chain
    }

    /// All external addresses of a port share one chain.
    fn external(&mut self, frontend: &Frontend) -> Arc<str> {
        let chain = self.id.external();
        if self.has(Table::Nat, &chain) {
            return chain;
        }
        for route in frontend.routes.iter() {
            let (conditions, who) = match route.from {
                SourceClass::Pod => (of_pods(&self.common.host.pods), "pod traffic"),
                SourceClass::ThisNode => (vec![Rule::new()], "LOCAL traffic"),
                SourceClass::Anyone => (vec![Rule::new()], "traffic"),
            };
            for condition in conditions {
                let about = |verb: &str| {
                    let text = format!("{verb}{who} for {} external destinations", self.id);
                    let rule = condition.clone().comment(text);
                    match route.from {
                        SourceClass::ThisNode => rule.when(Match::SourceIsLocal),
                        _ => rule,
                    }
                };
                let mark = about("masquerade ").jump(names::MARK_MASQ);
                let go = match route.verdict {
                    Verdict::Forward(pool) => Some(about("").jump(&self.id.pool(pool))),
                    Verdict::Reject | Verdict::Drop => None,
                };
                if route.masquerade == Masquerade::Yes {
                    self.rule(Table::Nat, &chain, &mark);
                }
                if let Some(go) = go {
                    self.rule(Table::Nat, &chain, &go);
                }
            }
        }
        chain
    }

    /// A chain for admitted sources.
    fn firewall(&mut self, ranges: &[IpNet], table: Table, then: &Arc<str>) -> Arc<str> {
        let chain = self.id.firewall();
        if !self.has(table, &chain) {
            // Invalid ranges admit no source: an empty chain.
            self.out.chains.entry(ChainId { table, name: Arc::clone(&chain) }).or_default();
            for range in ranges {
                let rule = Rule::new().from(Sense::Is, range.trunc());
                let rule = rule.comment(format!("{} source range", self.id)).jump(then);
                self.rule(table, &chain, &rule);
            }
        }
        chain
    }

    /// Ends a chain of source ranges in the table filter.
    fn close(&mut self, chain: &Arc<str>) {
        let last = Rule::new().comment(format!("{} not a source range", self.id));
        let last = last.then(Target::Drop);
        let id = ChainId { table: Table::Filter, name: Arc::clone(chain) };
        let line = self.line(&last);
        if self.out.chains.get(&id).is_none_or(|lines| lines.last() != line.as_ref()) {
            self.rule(Table::Filter, chain, &last);
        }
    }

    /// The pools that some route leads to.
    fn pools(&mut self) {
        for kind in [PoolKind::Cluster, PoolKind::Local] {
            if self.uses(kind) {
                self.pool(kind);
            }
        }
    }

    /// Whether some route leads to a pool.
    fn uses(&self, kind: PoolKind) -> bool {
        let mut routes = self.port.frontends.iter().flat_map(|frontend| frontend.routes.iter());
        routes.any(|route| route.verdict == Verdict::Forward(kind))
    }

    fn pool(&mut self, kind: PoolKind) {
        let port = self.port;
        let endpoints = port.pool(kind);
        let chain = self.id.pool(kind);
        if let Some(affinity) = port.affinity {
            let seconds = affinity.timeout;
            for endpoint in endpoints {
                let list = self.endpoint(kind, endpoint);
                let known = Match::Recently {
                    list: Arc::clone(&list),
                    seconds,
                    family: self.common.family,
                };
                let rule = self.about(&chain, endpoint).when(known).jump(&list);
                self.rule(Table::Nat, &chain, &rule);
            }
        }
        if endpoints.len() <= LONGEST_POOL || self.has_chains_of_endpoints() {
            self.draw(kind, &chain, endpoints.iter());
        } else {
            self.draw_in_parts(kind, &chain, endpoints);
        }
    }

    /// Gives each endpoint its share, one rule after the other.
    fn draw<'a>(
        &mut self,
        kind: PoolKind,
        chain: &Arc<str>,
        endpoints: impl ExactSizeIterator<Item = &'a PoolEndpoint>,
    ) {
        let mut left = endpoints.len();
        for endpoint in endpoints {
            let rule = at_random(self.about(chain, endpoint), 1, left);
            left -= 1;
            let rule = if self.has_chains_of_endpoints() {
                rule.jump(&self.endpoint(kind, endpoint))
            } else {
                rule.protocol(self.port.protocol).then(Target::Dnat(*endpoint))
            };
            self.rule(Table::Nat, chain, &rule);
        }
    }

    /// Draws a part of the pool first, each by its size, and an endpoint of it then. Which part an
    /// endpoint is in follows from its address, so that one that comes or goes changes two chains.
    fn draw_in_parts(&mut self, kind: PoolKind, chain: &Arc<str>, endpoints: &[PoolEndpoint]) {
        let count = endpoints.len().div_ceil(PART).next_power_of_two();
        let mut parts: Vec<Vec<&PoolEndpoint>> = vec![Vec::new(); count];
        for endpoint in endpoints {
            parts[names::number(&place(endpoint)) % count].push(endpoint);
        }
        let mut left = endpoints.len();
        for (number, part) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let then = self.id.part(kind, number);
            let rule = Rule::new().comment(format!("{} -> {} of {left}", self.id, part.len()));
            self.rule(Table::Nat, chain, &at_random(rule, part.len(), left).jump(&then));
            left -= part.len();
            self.draw(kind, &then, part.into_iter());
        }
    }

    /// The beginning of an endpoint's rule in a chain. In the compact layout only the first rule of a chain has a
    /// comment: each costs the kernel half a kilobyte, and time whenever anything changes in the table.
    fn about(&self, chain: &Arc<str>, endpoint: &PoolEndpoint) -> Rule {
        let id = ChainId { table: Table::Nat, name: Arc::clone(chain) };
        let begun = self.out.chains.get(&id).is_some_and(|lines| !lines.is_empty());
        if begun && self.common.form.layout == Layout::Compact {
            return Rule::new();
        }
        Rule::new().comment(format!("{} -> {}", self.id, place(endpoint)))
    }

    fn has_chains_of_endpoints(&self) -> bool {
        self.port.affinity.is_some() || self.common.form.layout == Layout::Classic
    }

    /// The chain of an endpoint; with affinity, its name is also that of the list of its clients. Each pool
    /// has its own lists: otherwise a client could be in the lists of two endpoints and alternate between
    /// them.
    fn endpoint(&mut self, kind: PoolKind, endpoint: &PoolEndpoint) -> Arc<str> {
        let apart = kind == PoolKind::Local && self.port.affinity.is_some();
        let pool = if apart && self.uses(PoolKind::Cluster) { " local" } else { "" };
        let chain = self.id.endpoint(&format!("{}{pool}", place(endpoint)));
        if self.has(Table::Nat, &chain) {
            return chain;
        }
        if self.common.form.layout == Layout::Classic {
            let hairpin = Rule::new().from(Sense::Is, only(endpoint.ip));
            let hairpin = hairpin.comment(&self.id).jump(names::MARK_MASQ);
            self.rule(Table::Nat, &chain, &hairpin);
        }
        let go = Rule::new().protocol(self.port.protocol).comment(&self.id);
        let go = match self.port.affinity {
            Some(_) => {
                let (list, family) = (Arc::clone(&chain), self.common.family);
                go.when(Match::Remember { list, family })
            }
            None => go,
        };
        self.rule(Table::Nat, &chain, &go.then(Target::Dnat(*endpoint)));
        chain
    }
}

/// Lets a rule match with the probability of some among so many, in units of 2^-31, which is what the
/// kernel compares with; always if there are no others. With each rule taking the nearest multiple for
/// what is left, no endpoint's share is off by more than the last bit.
fn at_random(rule: Rule, some: usize, left: usize) -> Rule {
    let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let (some, left) = (wide(some), wide(left));
    if some >= left {
        return rule;
    }
    let share = ((some << 31) + left / 2) / left;
    rule.when(Match::Random(u32::try_from(share).unwrap_or(1 << 31)))
}

/// Marks what `rule` matches, unless a pod sent it.
fn mark_unless_pod(pods: &PodDetector, rule: Rule) -> Rule {
    match pods {
        PodDetector::None => rule.jump(names::MARK_MASQ),
        PodDetector::Cidrs(nets) => match &nets[..] {
            [net] => rule.from(Sense::IsNot, *net).jump(names::MARK_MASQ),
            _ => rule.jump(names::MARK_NOT_POD),
        },
        PodDetector::BridgeInterface(name) => {
            rule.through(Sense::IsNot, name.to_string()).jump(names::MARK_MASQ)
        }
        PodDetector::InterfacePrefix(prefix) => {
            rule.through(Sense::IsNot, format!("{prefix}+")).jump(names::MARK_MASQ)
        }
    }
}

/// Each of these matches traffic that some pods sent.
fn of_pods(pods: &PodDetector) -> Vec<Rule> {
    match pods {
        PodDetector::None => Vec::new(),
        PodDetector::Cidrs(nets) => {
            nets.iter().map(|net| Rule::new().from(Sense::Is, *net)).collect()
        }
        PodDetector::BridgeInterface(name) => {
            vec![Rule::new().through(Sense::Is, name.to_string())]
        }
        PodDetector::InterfacePrefix(prefix) => {
            vec![Rule::new().through(Sense::Is, format!("{prefix}+"))]
        }
    }
}
