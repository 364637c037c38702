//! The effective configuration, from file and flags.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use sluice_config::{Config, DetectLocal, KubeProxyConfiguration};
use sluice_core::net::Family;

/// The effective configuration.
#[derive(Debug, Clone)]
pub(crate) struct EffectiveConfig {
    /// In upstream's type, with defaults.
    pub(crate) written: KubeProxyConfiguration,
    /// What it means.
    pub(crate) config: Config,
    /// Warnings, to be logged later.
    pub(crate) warnings: Vec<String>,
}

impl EffectiveConfig {
    /// As `/configz` shows it.
    pub(super) fn configz(&self) -> String {
        self.written.clone().of_its_mode().to_json()
    }
}

type Interpret = dyn Fn(&str) -> Result<EffectiveConfig> + Send + Sync;

/// The file that the configuration is from.
#[derive(Clone)]
pub(crate) struct ConfigFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The configuration from a text, with the flags that apply in addition.
    pub(crate) interpret: Arc<Interpret>,
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Refuses pod addresses of families only that this node does not have: every connection would be
/// masqueraded (upstream: `cmd/kube-proxy/app/server.go`, checkBadIPConfig).
pub(super) fn check_families(config: &Config, served: &[Family]) -> Result<()> {
    let DetectLocal::ClusterCidr(cidrs) = &config.detect_local else { return Ok(()) };
    let usable = cidrs.iter().any(|cidr| served.contains(&Family::of_net(cidr)));
    let names: Vec<String> = served.iter().map(ToString::to_string).collect();
    anyhow::ensure!(
        cidrs.is_empty() || usable,
        "this node has {} only, and clusterCIDR has no prefix of it; correct clusterCIDR, or switch \
         the other family on",
        names.join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_addresses_must_be_of_a_family_that_the_node_has() {
        let check = |cidr: &str, served: &[Family]| {
            let written =
                KubeProxyConfiguration { cluster_cidr: cidr.to_owned(), ..Default::default() };
            let config = Config::new(&written.with_defaults().for_linux());
            check_families(&config.unwrap_or_else(|p| panic!("{p:?}")), served).is_ok()
        };
        assert!(check("", &[Family::V4]));
        assert!(check("fd00::/8", &Family::BOTH));
        assert!(check("fd00::/8,10.0.0.0/8", &[Family::V4]));
        assert!(!check("fd00::/8", &[Family::V4]));
    }
}
