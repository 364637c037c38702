//! The same fields by their numbers in protobuf: `generated.proto` in `k8s.io/api/{core,discovery,networking}/v1`
//! and `k8s.io/apimachinery/pkg/{apis/meta/v1,runtime}`.

use super::{
    AffinityConfig, Annotations, ClientIp, Conditions, Endpoint, EndpointPort, EndpointSlice,
    Hints, Ingress, Labels, LoadBalancer, Meta, Named, Node, NodeAddress, NodeSpec, NodeStatus,
    PageMeta, RawObject, Service, ServiceCidr, ServiceCidrSpec, ServicePort, ServiceSpec,
    ServiceStatus, Status, StatusDetails, Taint, Versioned, VersionedAnnotations, VersionedMeta,
    WatchEvent,
};
use crate::watch::lenient::{Lenient, Text};
use crate::watch::protobuf::{Entries, Message, Value};

/// Says where each field is, and how it is read.
macro_rules! message {
    ($name:ident $(<$life:lifetime>)? { $($number:literal => $field:ident: $kind:ident,)* }) => {
        impl<'a> Message<'a> for $name $(<$life>)? {
            fn set(&mut self, number: u64, value: Value<'a>) {
                match number {
                    $($number => value.$kind(&mut self.$field),)*
                    _ => {}
                }
            }
        }
    };
}

message!(WatchEvent<'a> { 1 => kind: text, 2 => object: message, });
message!(RawObject<'a> { 1 => raw: bytes, });
message!(PageMeta<'a> { 2 => resource_version: text, 3 => next: text, });
message!(Status<'a> { 3 => message: text, 4 => reason: text, 5 => details: message, 6 => code: number, });
message!(StatusDetails { 5 => retry_after_seconds: number, });
message!(Versioned<'a> { 1 => metadata: message, });
message!(VersionedMeta<'a> { 6 => resource_version: text, 12 => annotations: entry, });
message!(Meta<'a> {
    1 => name: text,
    3 => namespace: text,
    5 => uid: text,
    8 => creation_timestamp: time,
    9 => deletion_timestamp: time,
    11 => labels: entry,
    12 => annotations: entry,
});

message!(Service<'a> { 1 => metadata: message, 2 => spec: message, 3 => status: message, });
message!(ServiceSpec<'a> {
    1 => ports: messages,
    3 => cluster_ip: text,
    4 => kind: text,
    5 => external_ips: texts,
    7 => session_affinity: text,
    9 => load_balancer_source_ranges: texts,
    11 => external_traffic_policy: text,
    12 => health_check_node_port: number,
    14 => session_affinity_config: message,
    18 => cluster_ips: texts,
    22 => internal_traffic_policy: text_pointer,
});
message!(AffinityConfig { 1 => client_ip: message, });
message!(ClientIp { 1 => timeout_seconds: number, });
message!(ServicePort<'a> { 1 => name: text, 2 => protocol: text, 3 => port: number, 5 => node_port: number, });
message!(ServiceStatus<'a> { 1 => load_balancer: message, });
message!(LoadBalancer<'a> { 1 => ingress: messages, });
message!(Ingress<'a> { 1 => ip: text, 3 => ip_mode: text_pointer, });

message!(EndpointSlice<'a> {
    1 => metadata: message,
    2 => endpoints: messages,
    3 => ports: messages,
    4 => address_type: text,
});
message!(Endpoint<'a> {
    1 => addresses: first_text,
    2 => conditions: message,
    6 => node_name: text_pointer,
    8 => hints: message,
});
message!(Conditions { 1 => ready: flag, 2 => serving: flag, 3 => terminating: flag, });
message!(Hints<'a> { 1 => for_zones: messages, 2 => for_nodes: messages, });
message!(Named<'a> { 1 => name: text_pointer, });
message!(EndpointPort<'a> { 1 => name: text_pointer, 2 => protocol: text_pointer, 3 => port: number, });

message!(Node<'a> { 1 => metadata: message, 2 => spec: message, 3 => status: message, });
message!(NodeSpec<'a> { 1 => pod_cidr: text, 5 => taints: messages, 7 => pod_cidrs: texts, });
message!(Taint<'a> { 1 => key: text_pointer, });
message!(NodeStatus<'a> { 5 => addresses: messages, });
message!(NodeAddress<'a> { 1 => kind: text_pointer, 2 => address: text_pointer, });

message!(ServiceCidr<'a> { 1 => metadata: message, 2 => spec: message, });
message!(ServiceCidrSpec<'a> { 1 => cidrs: texts, });

impl<'a> Entries<'a> for Labels<'a> {
    fn insert(&mut self, key: &str, value: Lenient<Text<'a>>) {
        match key {
            "kubernetes.io/service-name" => self.service_name = value,
            "service.kubernetes.io/service-proxy-name" => self.service_proxy_name = value,
            "service.kubernetes.io/headless" => self.headless = value,
            "topology.kubernetes.io/zone" => self.zone = value,
            _ => {}
        }
    }
}

impl<'a> Entries<'a> for Annotations<'a> {
    fn insert(&mut self, key: &str, value: Lenient<Text<'a>>) {
        if key == "endpoints.kubernetes.io/last-change-trigger-time" {
            self.trigger_time = value;
        }
    }
}

impl<'a> Entries<'a> for VersionedAnnotations<'a> {
    fn insert(&mut self, key: &str, value: Lenient<Text<'a>>) {
        if key == "k8s.io/initial-events-end" {
            self.initial_events_end = value;
        }
    }
}
