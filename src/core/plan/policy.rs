//! What happens to traffic at a frontend, by its source. The only place where this is decided.
//!
//! | frontend | condition | routes |
//! |---|---|---|
//! | any | no usable endpoint anywhere | anyone: reject |
//! | cluster IP | policy Cluster | to the cluster pool |
//! | cluster IP | policy Local | to the local pool, or drop if it is empty |
//! | external IP, load balancer, node port | policy Cluster | to the cluster pool, masqueraded |
//! | external IP, load balancer, node port | policy Local | a pod: cluster pool; this node: cluster pool, masqueraded; outside: local pool, or drop if it is empty |
//!
//! Traffic to a cluster IP is masqueraded unless it comes from a pod, or always with `masqueradeAll`; without a pod
//! detector, never. Hairpin connections are always masqueraded; this applies to every pool and is not a route.

use super::endpoints::Categories;
use super::table::{
    FrontendKind, Host, Masquerade, PodDetector, PoolKind, Routes, SourceClass, Verdict,
};
use crate::model::{Service, ServicePort, TrafficPolicy};

/// Whether any route of a port can use a pool. With external policy Local, the cluster pool is used for traffic from
/// pods and this node, so every port with an external address needs it (upstream: `pkg/proxy/serviceport.go`,
/// UsesClusterEndpoints).
pub(super) fn uses(service: &Service, port: &ServicePort, pool: PoolKind) -> bool {
    let external = port.node_port.is_some()
        || !service.load_balancer_ips.is_empty()
        || !service.external_ips.is_empty();
    match pool {
        PoolKind::Cluster => service.internal_policy == TrafficPolicy::Cluster || external,
        PoolKind::Local => {
            service.internal_policy == TrafficPolicy::Local
                || (external && service.external_policy == TrafficPolicy::Local)
        }
    }
}

/// The routes of one frontend.
pub(super) fn routes(
    kind: FrontendKind,
    service: &Service,
    endpoints: &Categories,
    host: &Host,
) -> Routes {
    if !endpoints.any {
        return Routes::anyone(Verdict::Reject, Masquerade::No);
    }
    match kind {
        FrontendKind::ClusterIp => internal(service.internal_policy, endpoints, host),
        FrontendKind::ExternalIp | FrontendKind::LoadBalancer | FrontendKind::NodePort => {
            external(service.external_policy, endpoints, host)
        }
    }
}

fn internal(policy: TrafficPolicy, endpoints: &Categories, host: &Host) -> Routes {
    let pool = match policy {
        TrafficPolicy::Cluster => Verdict::Forward(PoolKind::Cluster),
        TrafficPolicy::Local => local_or_drop(endpoints),
    };
    if pool == Verdict::Drop {
        Routes::anyone(Verdict::Drop, Masquerade::No)
    } else if host.masquerade_all {
        Routes::anyone(pool, Masquerade::Yes)
    } else if host.pods == PodDetector::None {
        Routes::anyone(pool, Masquerade::No)
    } else {
        Routes::EMPTY.then(SourceClass::Pod, pool, Masquerade::No).then(
            SourceClass::Anyone,
            pool,
            Masquerade::Yes,
        )
    }
}

fn external(policy: TrafficPolicy, endpoints: &Categories, host: &Host) -> Routes {
    let cluster = Verdict::Forward(PoolKind::Cluster);
    if policy == TrafficPolicy::Cluster {
        return Routes::anyone(cluster, Masquerade::Yes);
    }
    let mut routes = Routes::EMPTY;
    if host.pods != PodDetector::None {
        routes = routes.then(SourceClass::Pod, cluster, Masquerade::No);
    }
    routes.then(SourceClass::ThisNode, cluster, Masquerade::Yes).then(
        SourceClass::Anyone,
        local_or_drop(endpoints),
        Masquerade::No,
    )
}

fn local_or_drop(endpoints: &Categories) -> Verdict {
    if endpoints.local.is_empty() { Verdict::Drop } else { Verdict::Forward(PoolKind::Local) }
}
