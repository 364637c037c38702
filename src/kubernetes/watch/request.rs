//! What a list or watch asks for: the path of a resource, and how new a list must be.

use std::fmt::Write as _;

use super::Resource;

/// Path and selectors, which are kube-proxy's (`cmd/kube-proxy/app/server.go`).
pub(super) fn path(resource: Resource, node_name: &str) -> String {
    match resource {
        Resource::Services => "/api/v1/services?labelSelector=%21service.kubernetes.io%2F\
             service-proxy-name&fieldSelector=spec.clusterIP%21%3DNone"
            .to_owned(),
        Resource::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21\
             service.kubernetes.io%2Fheadless"
            .to_owned(),
        Resource::Node => {
            format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", percent(node_name))
        }
        Resource::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs?".to_owned(),
    }
}

/// Escapes everything that could mean something in a query.
pub(super) fn percent(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

/// How the next list is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListMethod {
    /// As a watch that begins with all objects (KEP-3157): one object at a time in memory, and no
    /// load on etcd.
    Streamed,
    /// Paged, because a streamed list has just failed. If pages work, and streaming was a possible reason,
    /// lists are paged from then on.
    Instead(Option<String>),
    /// Page by page for good: this server gave pages where it gave no stream.
    Paged,
}

/// How new a paged list must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListFrom {
    /// Whatever the server has in its watch cache: nothing is known yet.
    Anything,
    /// Not older than this.
    Version(String),
    /// What etcd has now.
    Newest,
}

impl ListFrom {
    /// What it adds to the query.
    pub(super) fn query(&self) -> String {
        match self {
            ListFrom::Anything => "&resourceVersion=0".to_owned(),
            ListFrom::Version(version) => format!("&resourceVersion={}", percent(version)),
            ListFrom::Newest => String::new(),
        }
    }
}
