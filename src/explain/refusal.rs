//! Questions without an answer: what is asked cannot be read, or does not exist.

/// Why there is no explanation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Refusal {
    /// FROM cannot be read.
    #[error(
        "FROM {text:?} is not understood: write pod/NAME[.NAMESPACE], node/NAME or an IP address{hint}"
    )]
    From { text: String, hint: String },
    /// TO cannot be read.
    #[error(
        "TO {text:?} is not understood: {reason}; write svc/NAME[.NAMESPACE][:PORT], a name like \
         web.shop:80, a URL, or IP:PORT[/udp]"
    )]
    To { text: String, reason: String },
    /// There is no such pod.
    #[error("there is no pod {namespace}/{name}{hint}")]
    NoSuchPod { namespace: String, name: String, hint: String },
    /// There is no such node.
    #[error("there is no node {name}{hint}")]
    NoSuchNode { name: String, hint: String },
    /// Only the own node is known.
    #[error(
        "node {name} is not known: a daemon knows only its own node, which is {here}; give an address of \
         {name}, or ask there"
    )]
    OtherNodeUnknown { name: String, here: String },
    /// Pods are not known.
    #[error("pods are not known ({reason}): give the pod's IP address as FROM")]
    PodsUnknown { reason: String },
    /// It has no address.
    #[error("pod {pod} has no IP address yet ({reason}): it cannot connect to anything")]
    PodWithoutAddress { pod: String, reason: String },
    /// Another node decides for it.
    #[error(
        "pod {pod} is on node {node}, and what is known is what node {here} does with traffic: ask \
         there, with {command}"
    )]
    OtherNode { pod: String, node: String, here: String, command: String },
    /// Several Services have the name.
    #[error("several Services are called {name}, in namespaces {}: write svc/{name}.NAMESPACE", namespaces.join(", "))]
    Ambiguous { name: String, namespaces: Vec<String> },
    /// The Service has several ports.
    #[error("Service {service} has several ports: write one of {}", ports.join(", "))]
    WhichPort { service: String, ports: Vec<String> },
    /// What is to change is not understood.
    #[error("--what-if {text:?} is not understood: {reason}")]
    WhatIf { text: String, reason: String },
}

impl Refusal {
    /// The exit code of the command: 2 for what cannot be read, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Refusal::From { .. } | Refusal::To { .. } | Refusal::WhatIf { .. } => 2,
            _ => 1,
        }
    }
}
