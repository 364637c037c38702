//! A truth for tests: a snapshot, what is known of pods, and a kernel that says what the test wants.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::truth::{
    EndpointFacts, KernelView, Known, Looked, Observed, Origin, Path, Pod, PortFacts, ServiceFacts,
    Truth, Way,
};
use crate::{Code, Explanation, Question, Refusal, explain};
use sluice_config::Mode;
use sluice_core::model::{Condition, Node, Service, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::fixtures::{NODE_IP, endpoint, host, ip, service, slice, snapshot};
use sluice_core::plan::{Hit, Host, PoolEndpoint, build};

/// What the kernel is said to have.
#[derive(Default)]
pub(crate) struct Kernel {
    pub(crate) observed: Looked<Observed>,
    pub(crate) way: Looked<Way>,
}

impl KernelView for Kernel {
    fn path(&self, hit: &Hit<'_>) -> Path {
        Path { steps: vec![format!("to {}", hit.frontend.at)], objects: Vec::new() }
    }

    fn observed(&self, _: &Hit<'_>) -> Looked<Observed> {
        self.observed.clone()
    }

    fn way(&self, _: &Hit<'_>, _: &[PoolEndpoint]) -> Looked<Way> {
        self.way.clone()
    }

    fn others(&self, _: &Hit<'_>) -> Looked<Vec<String>> {
        Looked::Not("this is a test".to_owned())
    }
}

/// Everything that a truth is made of.
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) host: Host,
    pub(crate) local: BTreeSet<IpAddr>,
    pub(crate) known: Known,
    pub(crate) origin: Origin,
    pub(crate) kernel: Kernel,
    pub(crate) families: Vec<Family>,
}

impl World {
    /// Service `default/web` with node port 30080, two pods on `node-a`, one of them not ready, and one on
    /// `node-b`; a pod `shell`.
    pub(crate) fn usual() -> World {
        let mut web = service("web", "10.96.0.80");
        web.load_balancer_ips = vec![ip("198.51.100.1")];
        let endpoints = vec![
            endpoint("10.244.1.2", Condition::Ready, true),
            endpoint("10.244.1.3", Condition::Unusable, true),
            endpoint("10.244.2.2", Condition::Ready, false),
        ];
        World::of(vec![web], vec![slice("web", "1", endpoints)])
    }

    pub(crate) fn of(
        services: Vec<Service>,
        slices: Vec<sluice_core::model::EndpointSlice>,
    ) -> World {
        let mut snapshot = snapshot(services, slices);
        snapshot.node = Some(Node { addresses: vec![ip(NODE_IP)], ..Node::default() });
        snapshot.service_cidrs = ["10.96.0.0/16".parse().expect("a prefix")].into();
        let known = Known {
            pods: Looked::At(vec![
                pod("shell", &[("app", "shell")], "10.244.1.9", "node-a"),
                pod("web-1", &[("app", "web")], "10.244.1.2", "node-a"),
                Pod {
                    not_ready: Some("GET :8080/healthz says 503".to_owned()),
                    since: Some("2026-11-27T12:00:00Z".to_owned()),
                    ..pod("web-2", &[("app", "web")], "10.244.1.3", "node-a")
                },
                pod("web-3", &[("app", "web")], "10.244.2.2", "node-b"),
            ]),
            nodes: [("node-b".to_owned(), vec![ip("192.168.0.3")])].into(),
            services: [("default/web".to_owned(), facts("web", "http"))].into(),
            endpoints: ["10.244.1.2", "10.244.1.3", "10.244.2.2"]
                .into_iter()
                .zip(1..)
                .map(|(address, number)| EndpointFacts {
                    service: "default/web".to_owned(),
                    ip: ip(address),
                    pod: Some(format!("web-{number}")),
                    node: Some(if number == 3 { "node-b" } else { "node-a" }.to_owned()),
                })
                .collect(),
            ..Known::default()
        };
        World {
            snapshot,
            host: host(),
            local: [ip(NODE_IP), ip("127.0.0.1")].into(),
            known,
            origin: Origin { text: "a test".to_owned(), ..Origin::default() },
            kernel: Kernel::default(),
            families: vec![Family::V4],
        }
    }

    /// Asks.
    pub(crate) fn ask(&self, from: &str, to: &str) -> Result<Explanation, Refusal> {
        let build = |family: &Family| build(*family, "node-a", self.host.clone(), &self.snapshot).0;
        let tables: Vec<_> = self.families.iter().map(build).collect();
        let tables: Vec<_> = tables.iter().collect();
        let truth = Truth {
            node: "node-a",
            mode: Mode::Nftables,
            snapshot: &self.snapshot,
            tables: &tables,
            local: &self.local,
            known: &self.known,
            origin: &self.origin,
            kernel: &self.kernel,
        };
        explain(&truth, &Question::new(from, to))
    }

    /// Asks, and expects an answer.
    pub(crate) fn answer(&self, from: &str, to: &str) -> Explanation {
        self.ask(from, to).unwrap_or_else(|refusal| panic!("{from} → {to}: {refusal}"))
    }

    /// The codes of an answer.
    pub(crate) fn codes(&self, from: &str, to: &str) -> Vec<Code> {
        self.answer(from, to).findings.iter().map(|finding| finding.code).collect()
    }
}

pub(crate) fn pod(name: &str, labels: &[(&str, &str)], address: &str, node: &str) -> Pod {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Pod {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        labels: labels.collect(),
        node: node.to_owned(),
        ips: if address.is_empty() { Vec::new() } else { vec![ip(address)] },
        port_names: vec!["http".to_owned()],
        ..Pod::default()
    }
}

pub(crate) fn facts(app: &str, target: &str) -> ServiceFacts {
    ServiceFacts {
        selector: [("app".to_owned(), app.to_owned())].into(),
        ports: vec![PortFacts {
            name: String::new(),
            port: 80,
            protocol: "tcp".to_owned(),
            target: target.to_owned(),
        }],
        ..ServiceFacts::default()
    }
}
