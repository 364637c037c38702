//! Access control: none, or bearer tokens with the permissions of kube-proxy's ClusterRole.

use super::resources::{Resource, Verb};
use super::status::ApiError;

/// Whether requests need a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Everything is allowed.
    #[default]
    Open,
    /// Every request needs one of these bearer tokens.
    Tokens(Vec<Token>),
}

/// A bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub secret: String,
    /// The client's identity.
    pub identity: Identity,
}

/// The identity of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// May do anything.
    Admin,
    /// May do what ClusterRole `system:node-proxier` allows
    /// (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go`).
    NodeProxier,
}

impl Identity {
    fn user(self) -> &'static str {
        match self {
            Identity::Admin => "admin",
            Identity::NodeProxier => "system:serviceaccount:kube-system:kube-proxy",
        }
    }
}

impl Access {
    /// The identity for an `Authorization` header.
    pub(super) fn identify(&self, authorization: Option<&str>) -> Result<Identity, ApiError> {
        let Access::Tokens(tokens) = self else { return Ok(Identity::Admin) };
        authorization
            .and_then(|header| header.strip_prefix("Bearer "))
            .and_then(|secret| tokens.iter().find(|t| t.secret == secret))
            .map(|token| token.identity)
            .ok_or(ApiError::Unauthorized)
    }
}

/// Whether an identity may do this; `namespace` is empty for the whole cluster.
pub(super) fn authorize(
    identity: Identity,
    verb: Verb,
    resource: Resource,
    namespace: &str,
    subresource: &str,
) -> Result<(), ApiError> {
    let allowed = match identity {
        Identity::Admin => true,
        Identity::NodeProxier => subresource.is_empty() && node_proxier(resource).contains(&verb),
    };
    if allowed {
        return Ok(());
    }
    Err(denied(identity.user(), verb, resource, namespace))
}

/// 403 for a user; `namespace` is empty for the whole cluster.
pub(super) fn denied(
    user: &'static str,
    verb: Verb,
    resource: Resource,
    namespace: &str,
) -> ApiError {
    let place = match namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    ApiError::Forbidden { user, verb, resource, place }
}

fn node_proxier(resource: Resource) -> &'static [Verb] {
    match resource {
        Resource::Services | Resource::EndpointSlices | Resource::ServiceCidrs => {
            &[Verb::List, Verb::Watch]
        }
        Resource::Nodes => &[Verb::Get, Verb::List, Verb::Watch],
        Resource::Events | Resource::NewEvents => &[Verb::Create, Verb::Patch, Verb::Update],
        Resource::Namespaces | Resource::Pods | Resource::Deployments | Resource::ReplicaSets => {
            &[]
        }
    }
}
