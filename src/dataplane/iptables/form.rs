//! The form of all rules: the options of this mode, and the missing extensions.

use super::extensions::{Extension, Lacking};
use super::line::Line;
use super::rule::Rule;
use sluice_core::model::ServiceName;

/// The shape of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Endpoints in the chain of their pool, Services found through prefixes.
    #[default]
    Compact,
    /// A chain per endpoint and one list of all Services, as in the Go kube-proxy.
    Classic,
}

/// Whether node ports answer on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalhostNodePorts {
    /// They do, in IPv4, where node ports are open on all addresses.
    Open,
    /// They do not.
    Closed,
}

/// What happens to packets that conntrack considers invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfWindow {
    /// They are dropped.
    Drop,
    /// Connection tracking lets them pass (`nf_conntrack_tcp_be_liberal`), and so do the rules.
    Keep,
}

/// The options of this mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The shape of the rules.
    pub layout: Layout,
    /// Whether node ports answer on 127.0.0.1.
    pub localhost_node_ports: LocalhostNodePorts,
    /// What happens to packets that conntrack considers invalid.
    pub out_of_window: OutOfWindow,
}

/// What all rules are written by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) layout: Layout,
    pub(super) localhost_node_ports: LocalhostNodePorts,
    pub(super) out_of_window: OutOfWindow,
    lacking: Lacking,
}

impl Form {
    pub(super) fn new(options: Options, lacking: Lacking) -> Form {
        let Options { mut layout, localhost_node_ports, out_of_window } = options;
        if lacking.has(Extension::Bpf) {
            layout = Layout::Classic;
        }
        Form { layout, localhost_node_ports, out_of_window, lacking }
    }

    /// The line of a rule; `None` if nothing remains without the missing extensions.
    pub(super) fn line(self, rule: &Rule) -> Option<Line> {
        self.lacking.adapt(rule).map(|rule| Line::of(&rule))
    }

    /// The line of a rule that is for a Service.
    pub(super) fn owned_line(self, rule: &Rule, owner: &ServiceName) -> Option<Line> {
        self.lacking.adapt(rule).map(|rule| Line::owned(&rule, owner))
    }
}
