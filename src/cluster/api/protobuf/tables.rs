//! The messages, from the `generated.proto` files of `k8s.io/api` and `k8s.io/apimachinery`, in the order of their
//! numbers. Which of their fields are pointers stands in the Go types: a field that is none is always
//! written, however empty.

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    OptionalText,
    Number,
    OptionalNumber,
    Flag,
    OptionalFlag,
    Message(&'static [Field]),
    OptionalMessage(&'static [Field]),
    /// `map<string, string>`.
    TextMap,
    /// `map<string, Quantity>`.
    QuantityMap,
    /// `intstr.IntOrString`.
    NumberOrText,
    /// `metav1.Time` and `metav1.MicroTime`.
    Time,
    OptionalTime,
    /// `metav1.FieldsV1`: JSON, as text.
    JsonText,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    One,
    Many,
}

/// Number, name, content, and whether it is a list.
pub(super) type Field = (u64, &'static str, Kind, Count);

use Count::{Many, One};
use Kind::{
    Flag, JsonText, Message, Number, NumberOrText, OptionalFlag, OptionalMessage, OptionalNumber,
    OptionalText, OptionalTime, QuantityMap, Text, TextMap, Time,
};

const OWNER: &[Field] = &[
    (1, "kind", Text, One),
    (3, "name", Text, One),
    (4, "uid", Text, One),
    (5, "apiVersion", Text, One),
    (6, "controller", OptionalFlag, One),
    (7, "blockOwnerDeletion", OptionalFlag, One),
];

const MANAGED_FIELDS: &[Field] = &[
    (1, "manager", Text, One),
    (2, "operation", Text, One),
    (3, "apiVersion", Text, One),
    (4, "time", OptionalTime, One),
    (6, "fieldsType", Text, One),
    (7, "fieldsV1", JsonText, One),
    (8, "subresource", Text, One),
];

const METADATA: &[Field] = &[
    (1, "name", Text, One),
    (2, "generateName", Text, One),
    (3, "namespace", Text, One),
    (4, "selfLink", Text, One),
    (5, "uid", Text, One),
    (6, "resourceVersion", Text, One),
    (7, "generation", Number, One),
    (8, "creationTimestamp", Time, One),
    (9, "deletionTimestamp", OptionalTime, One),
    (10, "deletionGracePeriodSeconds", OptionalNumber, One),
    (11, "labels", TextMap, One),
    (12, "annotations", TextMap, One),
    (13, "ownerReferences", Message(OWNER), Many),
    (14, "finalizers", Text, Many),
    (17, "managedFields", Message(MANAGED_FIELDS), Many),
];

const CONDITION: &[Field] = &[
    (1, "type", Text, One),
    (2, "status", Text, One),
    (3, "observedGeneration", Number, One),
    (4, "lastTransitionTime", Time, One),
    (5, "reason", Text, One),
    (6, "message", Text, One),
];

pub(super) const NAMESPACE: &[Field] = &[
    (1, "metadata", Message(METADATA), One),
    (2, "spec", Message(&[(1, "finalizers", Text, Many)]), One),
];

const SERVICE_PORT: &[Field] = &[
    (1, "name", Text, One),
    (2, "protocol", Text, One),
    (3, "port", Number, One),
    (4, "targetPort", NumberOrText, One),
    (5, "nodePort", Number, One),
    (6, "appProtocol", OptionalText, One),
];

const AFFINITY: &[Field] =
    &[(1, "clientIP", OptionalMessage(&[(1, "timeoutSeconds", OptionalNumber, One)]), One)];

const SERVICE_SPEC: &[Field] = &[
    (1, "ports", Message(SERVICE_PORT), Many),
    (2, "selector", TextMap, One),
    (3, "clusterIP", Text, One),
    (4, "type", Text, One),
    (5, "externalIPs", Text, Many),
    (7, "sessionAffinity", Text, One),
    (8, "loadBalancerIP", Text, One),
    (9, "loadBalancerSourceRanges", Text, Many),
    (10, "externalName", Text, One),
    (11, "externalTrafficPolicy", Text, One),
    (12, "healthCheckNodePort", Number, One),
    (13, "publishNotReadyAddresses", Flag, One),
    (14, "sessionAffinityConfig", OptionalMessage(AFFINITY), One),
    (17, "ipFamilyPolicy", OptionalText, One),
    (18, "clusterIPs", Text, Many),
    (19, "ipFamilies", Text, Many),
    (20, "allocateLoadBalancerNodePorts", OptionalFlag, One),
    (21, "loadBalancerClass", OptionalText, One),
    (22, "internalTrafficPolicy", OptionalText, One),
    (23, "trafficDistribution", OptionalText, One),
];

const INGRESS: &[Field] = &[
    (1, "ip", Text, One),
    (2, "hostname", Text, One),
    (3, "ipMode", OptionalText, One),
    (
        4,
        "ports",
        Message(&[
            (1, "port", Number, One),
            (2, "protocol", Text, One),
            (3, "error", OptionalText, One),
        ]),
        Many,
    ),
];

const SERVICE_STATUS: &[Field] = &[
    (1, "loadBalancer", Message(&[(1, "ingress", Message(INGRESS), Many)]), One),
    (2, "conditions", Message(CONDITION), Many),
];

pub(super) const SERVICE: &[Field] = &[
    (1, "metadata", Message(METADATA), One),
    (2, "spec", Message(SERVICE_SPEC), One),
    (3, "status", Message(SERVICE_STATUS), One),
];

const CONDITIONS: &[Field] = &[
    (1, "ready", OptionalFlag, One),
    (2, "serving", OptionalFlag, One),
    (3, "terminating", OptionalFlag, One),
];

const NAMED: &[Field] = &[(1, "name", Text, One)];
const HINTS: &[Field] =
    &[(1, "forZones", Message(NAMED), Many), (2, "forNodes", Message(NAMED), Many)];

const ENDPOINT: &[Field] = &[
    (1, "addresses", Text, Many),
    (2, "conditions", Message(CONDITIONS), One),
    (3, "hostname", OptionalText, One),
    (4, "targetRef", OptionalMessage(REFERENCE), One),
    (5, "deprecatedTopology", TextMap, One),
    (6, "nodeName", OptionalText, One),
    (7, "zone", OptionalText, One),
    (8, "hints", OptionalMessage(HINTS), One),
];

const ENDPOINT_PORT: &[Field] = &[
    (1, "name", OptionalText, One),
    (2, "protocol", OptionalText, One),
    (3, "port", OptionalNumber, One),
    (4, "appProtocol", OptionalText, One),
];

pub(super) const ENDPOINT_SLICE: &[Field] = &[
    (1, "metadata", Message(METADATA), One),
    (2, "endpoints", Message(ENDPOINT), Many),
    (3, "ports", Message(ENDPOINT_PORT), Many),
    (4, "addressType", Text, One),
];

const TAINT: &[Field] = &[
    (1, "key", Text, One),
    (2, "value", Text, One),
    (3, "effect", Text, One),
    (4, "timeAdded", OptionalTime, One),
];

const NODE_SPEC: &[Field] = &[
    (1, "podCIDR", Text, One),
    (2, "externalID", Text, One),
    (3, "providerID", Text, One),
    (4, "unschedulable", Flag, One),
    (5, "taints", Message(TAINT), Many),
    (7, "podCIDRs", Text, Many),
];

const NODE_CONDITION: &[Field] = &[
    (1, "type", Text, One),
    (2, "status", Text, One),
    (3, "lastHeartbeatTime", Time, One),
    (4, "lastTransitionTime", Time, One),
    (5, "reason", Text, One),
    (6, "message", Text, One),
];

const NODE_INFO: &[Field] = &[
    (1, "machineID", Text, One),
    (2, "systemUUID", Text, One),
    (3, "bootID", Text, One),
    (4, "kernelVersion", Text, One),
    (5, "osImage", Text, One),
    (6, "containerRuntimeVersion", Text, One),
    (7, "kubeletVersion", Text, One),
    (8, "kubeProxyVersion", Text, One),
    (9, "operatingSystem", Text, One),
    (10, "architecture", Text, One),
];

const NODE_STATUS: &[Field] = &[
    (1, "capacity", QuantityMap, One),
    (2, "allocatable", QuantityMap, One),
    (3, "phase", Text, One),
    (4, "conditions", Message(NODE_CONDITION), Many),
    (5, "addresses", Message(&[(1, "type", Text, One), (2, "address", Text, One)]), Many),
    (
        6,
        "daemonEndpoints",
        Message(&[(1, "kubeletEndpoint", Message(&[(1, "Port", Number, One)]), One)]),
        One,
    ),
    (7, "nodeInfo", Message(NODE_INFO), One),
    (8, "images", Message(&[(1, "names", Text, Many), (2, "sizeBytes", Number, One)]), Many),
];

pub(super) const NODE: &[Field] = &[
    (1, "metadata", Message(METADATA), One),
    (2, "spec", Message(NODE_SPEC), One),
    (3, "status", Message(NODE_STATUS), One),
];

pub(super) const SERVICE_CIDR: &[Field] = &[
    (1, "metadata", Message(METADATA), One),
    (2, "spec", Message(&[(1, "cidrs", Text, Many)]), One),
    (3, "status", Message(&[(1, "conditions", Message(CONDITION), Many)]), One),
];

const REFERENCE: &[Field] = &[
    (1, "kind", Text, One),
    (2, "namespace", Text, One),
    (3, "name", Text, One),
    (4, "uid", Text, One),
    (5, "apiVersion", Text, One),
    (6, "resourceVersion", Text, One),
    (7, "fieldPath", Text, One),
];

const SERIES: &[Field] = &[(1, "count", Number, One), (2, "lastObservedTime", Time, One)];
const SOURCE: &[Field] = &[(1, "component", Text, One), (2, "host", Text, One)];

pub(super) const EVENT: &[Field] = &[
    (1, "metadata", Message(METADATA), One),
    (2, "involvedObject", Message(REFERENCE), One),
    (3, "reason", Text, One),
    (4, "message", Text, One),
    (5, "source", Message(SOURCE), One),
    (6, "firstTimestamp", Time, One),
    (7, "lastTimestamp", Time, One),
    (8, "count", Number, One),
    (9, "type", Text, One),
    (10, "eventTime", Time, One),
    (11, "series", Message(SERIES), One),
    (12, "action", Text, One),
    (13, "related", Message(REFERENCE), One),
    (14, "reportingComponent", Text, One),
    (15, "reportingInstance", Text, One),
];

pub(super) const NEW_EVENT: &[Field] = &[
    (1, "metadata", Message(METADATA), One),
    (2, "eventTime", Time, One),
    (3, "series", Message(SERIES), One),
    (4, "reportingController", Text, One),
    (5, "reportingInstance", Text, One),
    (6, "action", Text, One),
    (7, "reason", Text, One),
    (8, "regarding", Message(REFERENCE), One),
    (9, "related", Message(REFERENCE), One),
    (10, "note", Text, One),
    (11, "type", Text, One),
    (12, "deprecatedSource", Message(SOURCE), One),
    (13, "deprecatedFirstTimestamp", Time, One),
    (14, "deprecatedLastTimestamp", Time, One),
    (15, "deprecatedCount", Number, One),
];

pub(super) const DELETE_OPTIONS: &[Field] = &[
    (1, "gracePeriodSeconds", Number, One),
    (2, "preconditions", Message(&[(1, "uid", Text, One), (2, "resourceVersion", Text, One)]), One),
    (5, "dryRun", Text, Many),
];

pub(super) const LIST_METADATA: &[Field] = &[
    (1, "selfLink", Text, One),
    (2, "resourceVersion", Text, One),
    (3, "continue", Text, One),
    (4, "remainingItemCount", OptionalNumber, One),
];

const CAUSE: &[Field] =
    &[(1, "reason", Text, One), (2, "message", Text, One), (3, "field", Text, One)];

const STATUS_DETAILS: &[Field] = &[
    (1, "name", Text, One),
    (2, "group", Text, One),
    (3, "kind", Text, One),
    (4, "causes", Message(CAUSE), Many),
    (5, "retryAfterSeconds", Number, One),
    (6, "uid", Text, One),
];

pub(super) const STATUS: &[Field] = &[
    (1, "metadata", Message(LIST_METADATA), One),
    (2, "status", Text, One),
    (3, "message", Text, One),
    (4, "reason", Text, One),
    (5, "details", OptionalMessage(STATUS_DETAILS), One),
    (6, "code", Number, One),
];

pub(super) const UNKNOWN: &[Field] =
    &[(1, "type", Message(&[(1, "apiVersion", Text, One), (2, "kind", Text, One)]), One)];
/// The field of `runtime.Unknown` that holds the object.
pub(super) const RAW: u64 = 2;
