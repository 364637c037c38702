//! From the command line to a configuration: which of file and flags counts.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

use super::RunFlags;
use sluice_config::{
    self as config, Config, ConfigError, DetectLocal, KubeProxyConfiguration, Problem,
};
use sluice_core::net::Family;

/// A configuration that counts.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    /// As upstream's type says it, with defaults.
    pub(super) wire: KubeProxyConfiguration,
    /// What it means.
    pub(super) config: Config,
    /// What is to be said about it once there is a log.
    pub(super) warnings: Vec<String>,
}

impl Settled {
    /// The configuration in force, as `/configz` shows it.
    pub(super) fn shown(&self) -> String {
        self.wire.clone().of_its_mode().to_json()
    }
}

/// What the command line asks for, and the file that it names.
pub(super) fn settle(flags: &RunFlags) -> Result<Settled> {
    match &flags.config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let mut settled = from_file(flags, &text, path)?;
            settled.warnings.extend(flags.fields.warnings(true));
            Ok(settled)
        }
        None => {
            let wire = with_node_name(flags, flags.fields.configuration())?;
            let warnings = flags.fields.warnings(false);
            let config = checked(flags, &wire).map_err(|problems| {
                let lines: Vec<String> = problems.iter().map(|p| format!("\n  {p}")).collect();
                anyhow!("the flags cannot be used:{}", lines.concat())
            })?;
            Ok(Settled { wire, config, warnings })
        }
    }
}

/// What the text of the file and those flags say that count beside it.
pub(super) fn from_file(flags: &RunFlags, text: &str, path: &Path) -> Result<Settled> {
    let (wire, warnings) = config::read(text, path)?;
    let wire = flags.fields.override_logging(wire.with_defaults()).for_linux();
    let wire = with_node_name(flags, wire)?;
    match checked(flags, &wire) {
        Ok(config) => Ok(Settled { wire, config, warnings }),
        Err(problems) => Err(ConfigError::Invalid { path: path.to_owned(), problems }.into()),
    }
}

/// What the configuration means, with the flags that no field stands for.
fn checked(flags: &RunFlags, wire: &KubeProxyConfiguration) -> Result<Config, Vec<Problem>> {
    Ok(Config { strict_cluster_ips: flags.strict_cluster_ips, ..Config::new(wire)? })
}

/// `--hostname-override` counts beside a file: it differs on every node.
fn with_node_name(
    flags: &RunFlags,
    mut wire: KubeProxyConfiguration,
) -> Result<KubeProxyConfiguration> {
    if let Some(name) = flags.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        let name = name.trim();
        anyhow::ensure!(
            !name.is_empty(),
            "--hostname-override is only blanks; leave it out or name the Node"
        );
        wire.hostname_override = name.to_lowercase();
    }
    Ok(wire)
}

/// Writes the configuration that counts, as upstream writes it.
pub(super) fn write(settled: &Settled, path: &Path) -> Result<()> {
    let yaml = settled.wire.clone().of_its_mode().to_yaml();
    std::fs::write(path, yaml)
        .with_context(|| format!("write the configuration to {}", path.display()))
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
            let wire =
                KubeProxyConfiguration { cluster_cidr: cidr.to_owned(), ..Default::default() };
            let config = Config::new(&wire.with_defaults().for_linux());
            check_families(&config.unwrap_or_else(|p| panic!("{p:?}")), served).is_ok()
        };
        assert!(check("", &[Family::V4]));
        assert!(check("fd00::/8", &Family::BOTH));
        assert!(check("fd00::/8,10.0.0.0/8", &[Family::V4]));
        assert!(!check("fd00::/8", &[Family::V4]));
    }
}
