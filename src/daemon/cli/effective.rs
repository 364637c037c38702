//! From the command line to a configuration: precedence of file and flags.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use super::RunFlags;
use crate::run::{ConfigFile, EffectiveConfig};
use sluice_config::{self as config, Config, ConfigError, KubeProxyConfiguration, Problem};

/// The command line, and the file that it names.
pub(super) fn effective(flags: &RunFlags) -> Result<EffectiveConfig> {
    match &flags.config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let mut effective = from_file(flags, &text, path)?;
            effective.warnings.extend(flags.fields.warnings(true));
            Ok(effective)
        }
        None => {
            let written = with_node_name(flags, flags.fields.configuration())?;
            let warnings = flags.fields.warnings(false);
            let config = checked(flags, &written).map_err(|problems| {
                let lines: Vec<String> = problems.iter().map(|p| format!("\n  {p}")).collect();
                anyhow!("the flags cannot be used:{}", lines.concat())
            })?;
            Ok(EffectiveConfig { written, config, warnings })
        }
    }
}

/// The file, if the command line names one, for a daemon that reads it again.
pub(super) fn file(flags: &RunFlags) -> Option<ConfigFile> {
    let path = flags.config.clone()?;
    let (flags, place) = (flags.clone(), path.clone());
    let interpret = Arc::new(move |text: &str| from_file(&flags, text, &place));
    Some(ConfigFile { path, interpret })
}

/// The configuration from the file's text and the flags that apply in addition.
fn from_file(flags: &RunFlags, text: &str, path: &Path) -> Result<EffectiveConfig> {
    let (written, warnings) = config::read(text, path)?;
    let written = flags.fields.override_logging(written.with_defaults()).for_linux();
    let written = with_node_name(flags, written)?;
    match checked(flags, &written) {
        Ok(config) => Ok(EffectiveConfig { written, config, warnings }),
        Err(problems) => Err(ConfigError::Invalid { path: path.to_owned(), problems }.into()),
    }
}

/// The meaning of the configuration, with the flags that have no field.
fn checked(flags: &RunFlags, written: &KubeProxyConfiguration) -> Result<Config, Vec<Problem>> {
    Ok(Config { strict_cluster_ips: flags.strict_cluster_ips, ..Config::new(written)? })
}

/// `--hostname-override` applies in addition to a file, because it differs on every node.
fn with_node_name(
    flags: &RunFlags,
    mut written: KubeProxyConfiguration,
) -> Result<KubeProxyConfiguration> {
    if let Some(name) = flags.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        let name = name.trim();
        anyhow::ensure!(
            !name.is_empty(),
            "--hostname-override is only blanks; leave it out or name the Node"
        );
        written.hostname_override = name.to_lowercase();
    }
    Ok(written)
}

/// Writes the effective configuration, as upstream does.
pub(super) fn write(effective: &EffectiveConfig, path: &Path) -> Result<()> {
    let yaml = effective.written.clone().of_its_mode().to_yaml();
    std::fs::write(path, yaml)
        .with_context(|| format!("write the configuration to {}", path.display()))
}
