//! `KubeProxyConfiguration` v1alpha1 as it is written
//! (`staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go`).
//!
//! As in Go, an absent field and a null one have the zero value of their type; an [`Option`] is a field
//! whose zero differs from its absence. `defaults.rs` fills in what upstream fills in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{GoDuration, Quantity};

/// The file. What the fields mean: [`Config`](super::Config).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct KubeProxyConfiguration {
    pub api_version: String,
    pub kind: String,
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: LoggingSection,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: IptablesSection,
    pub ipvs: IpvsSection,
    pub nftables: NftablesSection,
    pub winkernel: WinkernelSection,
    pub detect_local_mode: String,
    pub detect_local: DetectLocalSection,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Vec<String>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: ConntrackSection,
    pub config_sync_period: GoDuration,
    pub port_range: String,
    pub windows_run_as_service: bool,
}

/// `clientConnection`: how to reach the API server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    /// Path of a kubeconfig file.
    pub kubeconfig: String,
    /// Not used: Sluice speaks JSON.
    pub accept_content_types: String,
    /// Not used: Sluice speaks JSON.
    pub content_type: String,
    /// Not used: four watches need no rate limit.
    pub qps: f32,
    /// Not used: four watches need no rate limit.
    pub burst: i32,
}

/// `logging` (`staging/src/k8s.io/component-base/logs/api/v1/types.go`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct LoggingSection {
    pub format: String,
    pub flush_frequency: GoDuration,
    pub verbosity: u32,
    pub vmodule: Vec<VModule>,
    pub options: LoggingOptions,
}

/// An entry of `logging.vmodule`: another verbosity for some files of Go code.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct VModule {
    pub file_pattern: String,
    pub verbosity: u32,
}

/// `logging.options`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct LoggingOptions {
    pub text: LogRouting,
    pub json: LogRouting,
}

/// `logging.options.text` and `logging.options.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct LogRouting {
    pub split_stream: bool,
    pub info_buffer_size: Quantity,
}

/// `iptables`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct IptablesSection {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

/// `ipvs`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct IpvsSection {
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Vec<String>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    pub tcp_timeout: GoDuration,
    pub tcp_fin_timeout: GoDuration,
    pub udp_timeout: GoDuration,
}

/// `nftables`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct NftablesSection {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

/// `winkernel`, which has no meaning on Linux.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct WinkernelSection {
    pub network_name: String,
    pub source_vip: String,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    pub root_hns_endpoint_name: String,
    pub forward_health_check_vip: bool,
}

/// `detectLocal`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct DetectLocalSection {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

/// `conntrack`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are the file's
pub struct ConntrackSection {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: GoDuration,
    pub udp_stream_timeout: GoDuration,
}

impl KubeProxyConfiguration {
    /// As a tree with every field.
    pub(super) fn tree(&self) -> Value {
        // It has only names for keys, so there is nothing that JSON could not express.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The file as upstream writes it: names in the order of the alphabet, what is empty left out
    /// where upstream leaves it out, and null for empty lists.
    pub fn to_yaml(&self) -> String {
        let options = serde_saphyr::ser_options! {
            compact_list_indent: true,
            prefer_block_scalars: false,
        };
        serde_saphyr::to_string_with_options(&self.pruned(), options).unwrap_or_default()
    }

    /// The same as JSON, in one line.
    pub fn to_json(&self) -> String {
        self.pruned().to_string()
    }

    fn pruned(&self) -> Value {
        let mut tree = self.tree();
        let empty = |value: &Value| match value {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            other => *other == Value::Bool(false),
        };
        for (section, field) in [
            ("", "featureGates"),
            ("", "windowsRunAsService"),
            ("/logging", "vmodule"),
            ("/logging/options/text", "splitStream"),
            ("/logging/options/json", "splitStream"),
        ] {
            let section = tree.pointer_mut(section).and_then(Value::as_object_mut);
            if let Some(section) = section.filter(|section| section.get(field).is_some_and(empty)) {
                section.remove(field);
            }
        }
        for list in ["/nodePortAddresses", "/ipvs/excludeCIDRs"] {
            if let Some(list) = tree.pointer_mut(list).filter(|list| empty(list)) {
                *list = Value::Null;
            }
        }
        if self.client_connection.qps.fract() == 0.0 {
            #[allow(clippy::cast_possible_truncation)] // whole, and saturating
            let whole = self.client_connection.qps as i64;
            tree["clientConnection"]["qps"] = whole.into();
        }
        tree
    }
}
