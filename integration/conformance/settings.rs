//! The daemon's configuration, from a case's settings.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use sluice_core::net::Family;

use super::case::Settings;
use super::mode::Mode;
use super::plan::twin_net;

/// What all cases have in common.
const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
                      kind: KubeProxyConfiguration\nhostnameOverride: node-a\n";

impl Settings {
    /// Lines of YAML, without what the lab adds itself.
    pub(crate) fn yaml(&self, by: Mode) -> Result<String, String> {
        let get = |key: &str| self.0.get(key).map(String::as_str);
        let known = [
            "detectLocalMode",
            "clusterCIDR",
            "bridgeInterface",
            "interfaceNamePrefix",
            "nodePortAddresses",
            "masqueradeAll",
            "masqueradeBit",
            "strictClusterIPs",
        ];
        if let Some(unknown) = self.0.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("there is no setting {unknown:?}"));
        }
        let cidrs = match get("clusterCIDR").unwrap_or("10.244.0.0/16") {
            "none" => String::new(),
            prefix => both(prefix)?.join(","),
        };
        let name = by.setting();
        let mode = get("detectLocalMode").unwrap_or("ClusterCIDR");
        let mut yaml = format!("mode: {name}\ndetectLocalMode: {mode}\nclusterCIDR: {cidrs:?}\n");
        for key in ["bridgeInterface", "interfaceNamePrefix"] {
            if let Some(value) = get(key) {
                let _ = writeln!(yaml, "detectLocal: {{{key}: {value}}}");
            }
        }
        // The default of the nftables mode.
        let list = get("nodePortAddresses").or_else(|| (by != Mode::Nftables).then_some("primary"));
        if let Some(list) = list {
            let mut entries = Vec::new();
            for entry in list.split(',') {
                match entry {
                    "primary" => entries.push(entry.to_owned()),
                    entry => match entry.strip_prefix("v4:") {
                        Some(prefix) => entries.push(prefix.to_owned()),
                        None => entries.extend(both(entry)?),
                    },
                }
            }
            let _ = writeln!(yaml, "nodePortAddresses: {entries:?}");
        }
        let all = get("masqueradeAll").unwrap_or("false");
        let bit = get("masqueradeBit").unwrap_or("14");
        let masquerade = format!("masqueradeAll: {all}, masqueradeBit: {bit}");
        let _ = match by {
            Mode::Nftables => writeln!(yaml, "nftables: {{minSyncPeriod: 1ms, {masquerade}}}"),
            // The file has no section for the userspace mode; it reads that of iptables.
            Mode::Iptables
            | Mode::IptablesLegacy
            | Mode::Userspace
            | Mode::UserspaceTransparent => writeln!(
                yaml,
                "iptables: {{minSyncPeriod: 1ms, {masquerade}, localhostNodePorts: false}}"
            ),
            Mode::Ipvs => writeln!(
                yaml,
                "iptables: {{{masquerade}}}\n\
                 ipvs: {{minSyncPeriod: 1ms, tcpTimeout: 60s, tcpFinTimeout: 2s, udpTimeout: {}s}}",
                memory().as_secs()
            ),
        };
        Ok(yaml)
    }

    /// A complete configuration file.
    pub(crate) fn file(&self, by: Mode) -> Result<String, String> {
        Ok(format!("{HEADER}{}", self.yaml(by)?))
    }

    /// Whether the daemon is started with `--strict-cluster-ips`.
    pub(crate) fn strict_cluster_ips(&self) -> bool {
        self.0.get("strictClusterIPs").is_some_and(|value| value == "true")
    }

    /// Flags of the daemon in addition to its configuration.
    pub(crate) fn flags(&self) -> Option<&'static str> {
        self.strict_cluster_ips().then_some("--strict-cluster-ips")
    }
}

/// How long the kernel remembers a datagram's flow. Source ports come back after 20,000 probes: it must be
/// forgotten by then, and not before the answer comes. In the guest both take longer.
pub(crate) fn memory() -> Duration {
    Duration::from_secs(if Path::new("/run/guest").exists() { 30 } else { 2 })
}

fn both(prefix: &str) -> Result<Vec<String>, String> {
    Family::BOTH.iter().map(|family| Ok(twin_net(prefix, *family)?.to_string())).collect()
}
