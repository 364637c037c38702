//! The content of a case file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use sluice_core::net::{Family, Protocol};

use super::mode::Mode;

/// One file: a behaviour (a single step), or a sequence of changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The rules in docs/semantics.md that it shows.
    pub(crate) spec: Vec<String>,
    pub(crate) settings: Settings,
    pub(crate) steps: Vec<Step>,
    /// Modes that do otherwise, with the reason.
    pub(crate) except: BTreeMap<String, String>,
}

/// The daemon's configuration: a restart is needed to change it. Fields as in the file format, values
/// in IPv4 words.
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord)]
pub(crate) struct Settings(pub(crate) BTreeMap<String, String>);

/// Writes to the API, and what packets do then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    pub(crate) title: String,
    pub(crate) writes: Vec<Write>,
    pub(crate) packets: Vec<PacketLine>,
}

/// One write.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    Service(Service),
    Slice(Slice),
    /// A ServiceCIDR object with an IPv4 prefix and its twin.
    ServiceCidr {
        name: String,
        prefix: String,
    },
    /// An object as YAML; `<10.96.0.10>` stands for the address in the family under test.
    Raw {
        name: String,
        yaml: String,
    },
    /// This node's object and interfaces.
    Node(NodeState),
    /// Takes back what an earlier step wrote under this name.
    Delete(String),
}

/// What is particular about this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeState {
    /// Label `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<String>,
    /// Further addresses of its interface, which the Node object does not tell.
    pub(crate) addresses: Vec<Ipv4Addr>,
}

/// A Service; addresses stand for their IPv6 twins, too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// `None` is headless.
    pub(crate) cluster_ip: Option<Ipv4Addr>,
    /// Only this family; both without.
    pub(crate) only: Option<Family>,
    /// Fields of the spec in the words of the file: `external`, `internal`, `affinity`, …
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) ports: Vec<Port>,
}

#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    pub(crate) node_port: Option<u16>,
}

/// EndpointSlices, one in each family.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slice {
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) only: Option<Family>,
    /// Name, number (`None` is null), protocol.
    pub(crate) ports: Vec<(String, Option<u16>, Protocol)>,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoint {
    /// A pod, or an IPv4 address.
    pub(crate) at: String,
    /// A second address, which no proxy uses.
    pub(crate) second: Option<String>,
    pub(crate) node: Option<String>,
    /// `ready`, `serving`, `terminating`; all absent is the API's default.
    pub(crate) conditions: BTreeMap<String, bool>,
    pub(crate) zones: Vec<String>,
    pub(crate) nodes: Vec<String>,
}

/// `FROM -> TO:PORT/PROTOCOL   EXPECTED`.
#[derive(Debug, Clone)]
pub(crate) struct PacketLine {
    /// As it is written, for messages.
    pub(crate) text: String,
    /// Only in this family.
    pub(crate) only: Option<Family>,
    pub(crate) from: String,
    /// A source address other than the host's own.
    pub(crate) source: Option<Ipv4Addr>,
    /// A source port, so that several lines speak of one flow.
    pub(crate) source_port: Option<u16>,
    /// A host's name or an IPv4 address.
    pub(crate) to: String,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    /// What happens in modes that [`PacketLine::otherwise`] does not name.
    pub(crate) expected: Expected,
    /// The outcome in other modes, by their name in the configuration.
    pub(crate) otherwise: BTreeMap<String, Expected>,
}

impl PacketLine {
    /// What happens in a mode.
    pub(crate) fn expected_in(&self, mode: Mode) -> &Expected {
        self.otherwise.get(mode.setting()).unwrap_or(&self.expected)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// These pods, all of them and no other.
    Pods(Vec<ExpectedPod>),
    Refuse,
    Silence,
    /// The proxy leaves it alone.
    Pass,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpectedPod {
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
    pub(crate) source: Option<SourceSeen>,
}

/// The source that the pod sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SourceSeen {
    Kept,
    Masqueraded,
}

impl Write {
    /// What it is called in the file.
    pub(crate) fn name(&self) -> &str {
        match self {
            Write::Service(Service { name, .. })
            | Write::Slice(Slice { name, .. })
            | Write::ServiceCidr { name, .. }
            | Write::Raw { name, .. }
            | Write::Delete(name) => name,
            Write::Node(_) => "node",
        }
    }
}

/// The objects after some steps: the last write of each name.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) writes: BTreeMap<String, Write>,
}

impl World {
    /// The objects after a further step.
    pub(crate) fn after(&self, step: &Step) -> World {
        let mut world = self.clone();
        for write in &step.writes {
            match write {
                Write::Delete(name) => world.writes.remove(name),
                other => world.writes.insert(other.name().to_owned(), other.clone()),
            };
        }
        world
    }

    /// What is particular about the node.
    pub(crate) fn node(&self) -> NodeState {
        match self.writes.get("node") {
            Some(Write::Node(node)) => node.clone(),
            _ => NodeState::default(),
        }
    }
}
