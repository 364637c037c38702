//! What the Node object must have before the first sync, and the log lines when it has less later.

use std::time::Duration;

use sluice_config::{Config, DetectLocal};
use sluice_core::model::{Kept, Node};

/// Whether the Node object suffices for writing rules. A daemon that starts while a cloud controller has
/// cleared the addresses must not remove its predecessor's rules.
pub(super) fn suffices(config: &Config, node: Option<&Node>) -> bool {
    let addresses = node.is_some_and(|node| !node.addresses.is_empty());
    let pod_cidrs = node.is_some_and(|node| !node.pod_cidrs.is_empty());
    (addresses || !config.bind_address.is_unspecified())
        && (pod_cidrs || config.detect_local != DetectLocal::NodeCidr)
}

/// Says that the first sync waits for the Node's object.
pub(super) fn wait_for(longest: Duration) {
    tracing::info!(
        "there is no Node object with addresses (and pod CIDRs, with detectLocalMode: NodeCIDR); \
         waiting for it for at most {longest:?}, and what is in force stays meanwhile"
    );
}

/// Says once what the Node's object does not say any more.
pub(super) fn tell(before: &[Kept], now: &[Kept]) {
    if before == now {
        return;
    }
    if now.is_empty() {
        tracing::info!("the Node object is complete again");
        return;
    }
    let kept: Vec<String> = now.iter().map(ToString::to_string).collect();
    tracing::warn!(
        "the Node object is gone or incomplete; its last known values stay in use: {}",
        kept.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sync_waits_for_what_its_rules_depend_on() {
        let config = |more: &str| {
            let text = format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{more}"
            );
            let parsed = sluice_config::parse(&text, std::path::Path::new("file"));
            parsed.expect("it can be used").config
        };
        let node = |addresses: &[&str], pod_cidrs: &[&str]| Node {
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            pod_cidrs: pod_cidrs.iter().map(|text| text.parse().expect("a prefix")).collect(),
            ..Node::default()
        };
        let (bare, known) = (node(&[], &[]), node(&["192.0.2.1"], &[]));
        let whole = node(&["192.0.2.1"], &["10.1.0.0/24"]);
        let table = [
            ("", None, false),
            ("", Some(&bare), false),
            ("", Some(&known), true),
            ("bindAddress: 192.0.2.1", None, true),
            ("detectLocalMode: NodeCIDR", Some(&known), false),
            ("detectLocalMode: NodeCIDR", Some(&whole), true),
            ("detectLocalMode: NodeCIDR\nbindAddress: 192.0.2.1", None, false),
        ];
        for (more, node, expected) in table {
            assert_eq!(suffices(&config(more), node), expected, "{more} {node:?}");
        }
    }
}
