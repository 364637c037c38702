//! The resources that the server knows, as a table: names, scope, verbs, and which of them share
//! their storage.

use std::fmt;

/// A resource that the server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// `v1/namespaces`.
    Namespaces,
    /// `v1/nodes`.
    Nodes,
    /// `v1/services`.
    Services,
    /// `v1/pods`.
    Pods,
    /// `v1/events`.
    Events,
    /// `discovery.k8s.io/v1/endpointslices`.
    EndpointSlices,
    /// `networking.k8s.io/v1/servicecidrs`.
    ServiceCidrs,
    /// `apps/v1/deployments`.
    Deployments,
    /// `apps/v1/replicasets`.
    ReplicaSets,
    /// `events.k8s.io/v1/events`: the same objects as [`Resource::Events`], with other field names.
    NewEvents,
}

/// Whether objects live in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Objects live in a namespace.
    Namespaced,
    /// Objects belong to the cluster.
    Cluster,
}

/// A row of the table; the field names are those of the `APIResource` type
/// (`k8s.io/apimachinery/pkg/apis/meta/v1`).
#[derive(Debug)]
pub struct Info {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name that kubectl accepts for one.
    pub singular: &'static str,
    /// `kind` of an object.
    pub kind: &'static str,
    /// Names that kubectl accepts as abbreviations.
    pub short_names: &'static [&'static str],
    /// Groups of resources, such as `all`, that it is part of.
    pub categories: &'static [&'static str],
    /// Whether it is namespaced.
    pub scope: Scope,
    /// Paths below an object.
    pub subresources: &'static [&'static str],
}

const fn info(
    group: &'static str,
    names: [&'static str; 3],
    scope: Scope,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [&'static str],
) -> Info {
    let [plural, singular, kind] = names;
    Info { group, plural, singular, kind, short_names, categories, scope, subresources }
}

static NAMESPACES: Info = info(
    "",
    ["namespaces", "namespace", "Namespace"],
    Scope::Cluster,
    &["ns"],
    &[],
    &["finalize", "status"],
);
static NODES: Info = info("", ["nodes", "node", "Node"], Scope::Cluster, &["no"], &[], &["status"]);
static SERVICES: Info = info(
    "",
    ["services", "service", "Service"],
    Scope::Namespaced,
    &["svc"],
    &["all"],
    &["status"],
);
static PODS: Info =
    info("", ["pods", "pod", "Pod"], Scope::Namespaced, &["po"], &["all"], &["status"]);
static EVENTS: Info = info("", ["events", "event", "Event"], Scope::Namespaced, &["ev"], &[], &[]);
static ENDPOINT_SLICES: Info = info(
    "discovery.k8s.io",
    ["endpointslices", "endpointslice", "EndpointSlice"],
    Scope::Namespaced,
    &[],
    &[],
    &[],
);
static SERVICE_CIDRS: Info = info(
    "networking.k8s.io",
    ["servicecidrs", "servicecidr", "ServiceCIDR"],
    Scope::Cluster,
    &[],
    &[],
    &["status"],
);
static DEPLOYMENTS: Info = info(
    "apps",
    ["deployments", "deployment", "Deployment"],
    Scope::Namespaced,
    &["deploy"],
    &["all"],
    &["scale", "status"],
);
static REPLICA_SETS: Info = info(
    "apps",
    ["replicasets", "replicaset", "ReplicaSet"],
    Scope::Namespaced,
    &["rs"],
    &["all"],
    &["scale", "status"],
);
static NEW_EVENTS: Info =
    info("events.k8s.io", ["events", "event", "Event"], Scope::Namespaced, &["ev"], &[], &[]);

impl Resource {
    /// Every resource, in the order in which discovery names them.
    pub const ALL: [Resource; 10] = [
        Resource::Events,
        Resource::Namespaces,
        Resource::Nodes,
        Resource::Pods,
        Resource::Services,
        Resource::Deployments,
        Resource::ReplicaSets,
        Resource::NewEvents,
        Resource::EndpointSlices,
        Resource::ServiceCidrs,
    ];

    /// Its row.
    pub fn info(self) -> &'static Info {
        match self {
            Resource::Namespaces => &NAMESPACES,
            Resource::Nodes => &NODES,
            Resource::Services => &SERVICES,
            Resource::Pods => &PODS,
            Resource::Events => &EVENTS,
            Resource::EndpointSlices => &ENDPOINT_SLICES,
            Resource::ServiceCidrs => &SERVICE_CIDRS,
            Resource::Deployments => &DEPLOYMENTS,
            Resource::ReplicaSets => &REPLICA_SETS,
            Resource::NewEvents => &NEW_EVENTS,
        }
    }

    /// The resource under whose name the objects are kept.
    pub fn stored_as(self) -> Resource {
        match self {
            Resource::NewEvents => Resource::Events,
            other => other,
        }
    }

    /// Its `apiVersion`, `v1` or `group/v1`.
    pub fn api_version(self) -> String {
        match self.info().group {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }

    /// Whether objects live in a namespace.
    pub fn is_namespaced(self) -> bool {
        self.info().scope == Scope::Namespaced
    }

    /// Whether status is written through a path of its own, so that a write to the object itself
    /// leaves it alone.
    pub fn has_status(self) -> bool {
        self.info().subresources.contains(&"status")
    }

    /// The resource at this place in the API.
    pub fn find(group: &str, plural: &str) -> Option<Resource> {
        Resource::ALL.into_iter().find(|r| r.info().group == group && r.info().plural == plural)
    }

    /// The resource of objects with this `apiVersion` and `kind`.
    pub fn of_kind(api_version: &str, kind: &str) -> Option<Resource> {
        Resource::ALL.into_iter().find(|r| r.info().kind == kind && r.api_version() == api_version)
    }

    /// As it is written in error messages: `services`, `endpointslices.discovery.k8s.io`.
    pub fn qualified(self) -> String {
        let info = self.info();
        match info.group {
            "" => info.plural.to_owned(),
            group => format!("{}.{group}", info.plural),
        }
    }

    /// The kind as it is written in error messages: `Service`, `EndpointSlice.discovery.k8s.io`.
    pub fn qualified_kind(self) -> String {
        let info = self.info();
        match info.group {
            "" => info.kind.to_owned(),
            group => format!("{}.{group}", info.kind),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.qualified())
    }
}

/// The verb of a request, as in RBAC rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// One object.
    Get,
    /// A collection.
    List,
    /// A stream of changes.
    Watch,
    /// `POST`.
    Create,
    /// `PUT`.
    Update,
    /// `PATCH`.
    Patch,
    /// `DELETE` of an object.
    Delete,
    /// `DELETE` of a collection.
    DeleteCollection,
}

impl Verb {
    /// Every verb, in the order in which discovery names them.
    pub const ALL: [Verb; 8] = [
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    /// The API's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
