//! The answer, as values: what JSON has and what text is made of.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::findings::Finding;
use crate::truth::{Object, Origin};
use sluice_core::plan::Decision;

/// The version of the JSON form.
pub const API_VERSION: &str = "sluice.dev/v1alpha1";

/// Why a connection goes where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// [`API_VERSION`].
    pub api_version: String,
    /// `Explanation`.
    pub kind: String,
    /// Who connects.
    pub from: From,
    /// To what.
    pub to: To,
    /// The node that decides.
    pub node: String,
    /// What was known.
    pub truth: Origin,
    /// What becomes of a new connection.
    pub result: Outcome,
    /// The same in a sentence.
    pub summary: String,
    /// The stages in the order in which a packet meets them.
    pub stages: Vec<Stage>,
    /// What is wrong or worth knowing.
    pub findings: Vec<Finding>,
    /// What the reasons come to: `plan::decide` says the same.
    #[serde(skip)]
    pub decision: Option<Decision>,
}

impl Explanation {
    /// A stage by its name.
    pub fn stage(&self, name: StageName) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.stage == name)
    }
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It reaches an endpoint.
    Reachable,
    /// It does not.
    Unreachable,
    /// It depends on which address or endpoint it meets.
    Mixed,
    /// What is known does not say.
    Undetermined,
}

impl Outcome {
    /// The exit code of the command.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Reachable => 0,
            Outcome::Unreachable => 10,
            Outcome::Mixed => 11,
            Outcome::Undetermined => 12,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Reachable => "reachable",
            Outcome::Unreachable => "unreachable",
            Outcome::Mixed => "mixed",
            Outcome::Undetermined => "undetermined",
        })
    }
}

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct From {
    /// As it was asked.
    pub text: String,
    /// `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// The source address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ip: Option<String>,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
}

/// What is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct To {
    /// As it was asked.
    pub text: String,
    /// `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<String>,
    /// The name of the Service port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<String>,
    /// `10.96.0.80:80/tcp`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
}

/// The stages that a connection goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageName {
    /// From a name to an address.
    Name,
    /// What the source is to this node.
    Source,
    /// Which Service has the address.
    Frontend,
    /// Whether the source may use it.
    Admission,
    /// Which pool the traffic policy selects.
    Policy,
    /// Which endpoints take traffic, and which do not.
    Endpoints,
    /// Which addresses are translated.
    Rewrite,
    /// What the kernel has for it.
    Kernel,
    /// How packets get to the endpoints.
    Way,
    /// Who else may stop them.
    Others,
}

impl StageName {
    /// All, in order.
    pub const ALL: [StageName; 10] = [
        StageName::Name,
        StageName::Source,
        StageName::Frontend,
        StageName::Admission,
        StageName::Policy,
        StageName::Endpoints,
        StageName::Rewrite,
        StageName::Kernel,
        StageName::Way,
        StageName::Others,
    ];
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StageName::Name => "name",
            StageName::Source => "source",
            StageName::Frontend => "frontend",
            StageName::Admission => "admission",
            StageName::Policy => "policy",
            StageName::Endpoints => "endpoints",
            StageName::Rewrite => "rewrite",
            StageName::Kernel => "kernel",
            StageName::Way => "way",
            StageName::Others => "others",
        })
    }
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Which.
    pub stage: StageName,
    /// Whether the connection gets through; none if it did not come here, or if that was not looked at.
    pub ok: Option<bool>,
    /// What happens, in a sentence.
    pub text: String,
    /// The rules of docs/semantics.md that say so.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rules: Vec<String>,
    /// Endpoints that take traffic.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub used: Vec<Used>,
    /// Endpoints that do not.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unused: Vec<Unused>,
    /// More lines.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
    /// The proxy mode.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mode: Option<String>,
    /// Chains, virtual services, relays on the way.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub path: Vec<String>,
    /// The objects that decide.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub objects: Vec<Object>,
    /// Those that the kernel lacks.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub missing: Vec<Object>,
    /// Those that it should not have.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub extra: Vec<Object>,
}

impl Stage {
    /// A stage with a sentence.
    pub(crate) fn new(stage: StageName, ok: Option<bool>, text: impl Into<String>) -> Stage {
        Stage {
            stage,
            ok,
            text: text.into(),
            rules: Vec::new(),
            used: Vec::new(),
            unused: Vec::new(),
            notes: Vec::new(),
            mode: None,
            path: Vec::new(),
            objects: Vec::new(),
            missing: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// With the rules that say so.
    pub(crate) fn by(mut self, rules: &[&str]) -> Stage {
        self.rules.extend(rules.iter().map(|rule| (*rule).to_owned()));
        self
    }
}

/// An endpoint that takes traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// `10.244.1.2:8080`.
    pub endpoint: String,
    /// The pod's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
}

/// An endpoint that does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// `10.244.1.2:8080`; none for a pod that is not an endpoint.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<String>,
    /// The pod's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Why not.
    pub reason: Reason,
    /// Since when, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<String>,
    /// More of the reason.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// The rules that say so.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rules: Vec<String>,
}

/// Why an endpoint is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is not ready.
    NotReady,
    /// It terminates, and others are ready.
    Terminating,
    /// It is on another node, and the policy is Local.
    OtherNode,
    /// Hints select others.
    HintsExclude,
    /// The Service's selector does not match it.
    NotSelected,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NotReady => "not ready",
            Reason::Terminating => "terminating",
            Reason::OtherNode => "on another node",
            Reason::HintsExclude => "hints select others",
            Reason::NotSelected => "not selected",
        })
    }
}
