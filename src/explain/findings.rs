//! The closed list of what can be wrong. docs/findings.md has a section for each code.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which of the list.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What is so, with the names of this cluster.
    pub text: String,
    /// A command to paste, or what to do.
    pub fix: Option<String>,
    /// The rules of docs/semantics.md that say so.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rules: Vec<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It may surprise, and is as it should be.
    Info,
    /// Connections work, or some of them, and something is not as it could be.
    Warning,
    /// It stops connections.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $code:literal $severity:ident [$($rule:literal)*]),* $(,)?) => {
        /// A kind of finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }

            /// How bad it is.
            pub fn severity(self) -> Severity {
                match self { $(Code::$variant => Severity::$severity,)* }
            }

            /// The rules of docs/semantics.md behind it.
            pub fn rules(self) -> &'static [&'static str] {
                match self { $(Code::$variant => &[$($rule,)*],)* }
            }
        }
    };
}

codes! {
    /// No Service has this name or address.
    NoSuchService "no-such-service" Error ["S-49"],
    /// The Service has no such port.
    NoSuchPort "no-such-port" Error ["S-48"],
    /// The Service has the port for another protocol.
    WrongProtocol "wrong-protocol" Error ["S-18" "S-48"],
    /// Client and Service have no IP family in common.
    WrongFamily "wrong-family" Error ["S-11"],
    /// The Service has no virtual IP, so that no proxy has a part in it.
    NoClusterIp "no-cluster-ip" Info ["S-02" "S-03"],
    /// The Service is another proxy's.
    OtherProxy "other-proxy" Warning ["S-01"],
    /// The selector matches no pod.
    SelectorMatchesNothing "selector-matches-nothing" Error ["S-40"],
    /// Pods have a label that is almost what the selector wants.
    SelectorNearMiss "selector-near-miss" Warning [],
    /// No selected pod has a port of the name that targetPort has.
    NamedPortMissing "named-port-missing" Error ["S-34"],
    /// Some or all endpoints are not ready.
    EndpointsNotReady "endpoints-not-ready" Warning ["S-32" "S-60"],
    /// Only endpoints that terminate are left.
    EndpointsTerminating "endpoints-terminating" Warning ["S-61" "S-62"],
    /// The Service has no usable endpoint.
    NoEndpoints "no-endpoints" Error ["S-40"],
    /// Policy Local, and no usable endpoint on this node.
    LocalPolicyNoEndpoint "local-policy-no-endpoint" Error ["S-41" "S-44"],
    /// Topology hints keep ready endpoints out.
    HintsExclude "hints-exclude" Info ["S-64" "S-65"],
    /// Source ranges do not admit the source.
    SourceNotAdmitted "source-not-admitted" Error ["S-21" "S-51"],
    /// The node port is not open on this address.
    NodePortNotHere "node-port-not-here" Error ["S-50" "S-80"],
    /// Another Service has the address.
    ContestedAddress "contested-address" Error ["S-28"],
    /// The kernel lacks an object.
    KernelObjectMissing "kernel-object-missing" Error [],
    /// The kernel has an object that should not be there.
    KernelObjectExtra "kernel-object-extra" Warning [],
    /// A change has waited long to be written.
    ProxyBehind "proxy-behind" Warning [],
    /// What is known is old.
    StaleTruth "stale-truth" Warning [],
    /// No route to an endpoint.
    NoRoute "no-route" Error [],
    /// The node does not forward packets.
    ForwardingOff "forwarding-off" Error [],
    /// The reverse path filter drops what is forwarded.
    ReversePath "reverse-path" Error [],
    /// Endpoints see the node's address.
    MasqueradeHidesSource "masquerade-hides-source" Info ["S-74"],
    /// The cluster's DNS has no such name.
    DnsNoSuchName "dns-no-such-name" Error [],
    /// The cluster's DNS has no endpoint.
    DnsNoEndpoints "dns-no-endpoints" Error [],
}

impl Code {
    /// A finding of this kind.
    pub(crate) fn finding(self, text: impl Into<String>, fix: Option<String>) -> Finding {
        let rules = self.rules().iter().map(|rule| (*rule).to_owned()).collect();
        Finding { code: self, severity: self.severity(), text: text.into(), fix, rules }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
