//! Reading the configuration file.
//!
//! Like kube-proxy (`cmd/kube-proxy/app/options.go`), what a strict decoder would refuse is tolerated
//! with a warning: files of old clusters carry fields that are long gone. Unlike kube-proxy, the
//! warning names them.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use super::{Config, KubeProxyConfiguration, Problem};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration file {path}: {source}; check --config and the mounted ConfigMap"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The text is not YAML, or a field has the wrong type.
    #[error("cannot decode the configuration file {path}: {reason}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// The text describes something else.
    #[error(
        "the configuration file {path} says apiVersion {api_version:?} and kind {kind:?}, \
         expected apiVersion {API_VERSION:?} and kind {KIND:?}"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it says.
        api_version: String,
        /// What it says.
        kind: String,
    },
    /// Values that cannot be used.
    #[error("the configuration file {path} cannot be used:{}", list(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What was written.
    pub wire: KubeProxyConfiguration,
    /// What was tolerated, one sentence each.
    pub warnings: Vec<String>,
}

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Checks the text of a configuration file; `path` is for messages only.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigError> {
    let path = path.to_owned();
    let decode_error = |path: &Path, reason: serde_saphyr::Error| ConfigError::Decode {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let mut warnings = Vec::new();
    let tree: Value = match decode(text, DuplicateKeyPolicy::Error) {
        Ok(tree) => tree,
        Err(strict) => {
            let tree = decode(text, DuplicateKeyPolicy::LastWins)
                .map_err(|reason| decode_error(&path, reason))?;
            warnings.push(format!("{strict}; the last value is used"));
            tree
        }
    };
    check_kind(&tree, &path)?;
    let wire: KubeProxyConfiguration =
        decode(text, DuplicateKeyPolicy::LastWins).map_err(|reason| decode_error(&path, reason))?;
    let known =
        serde_json::to_value(KubeProxyConfiguration::with_every_section()).unwrap_or_default();
    let mut unknown = Vec::new();
    find_unknown(&tree, &known, "", &mut unknown);
    warnings.extend(unknown.into_iter().map(|field| format!("unknown field {field} is ignored")));
    match Config::new(&wire) {
        Ok(config) => Ok(Loaded { config, wire, warnings }),
        Err(problems) => Err(ConfigError::Invalid { path, problems }),
    }
}

fn decode<T: DeserializeOwned>(
    text: &str,
    duplicate_keys: DuplicateKeyPolicy,
) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        // Error messages go into one line of the log.
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

fn check_kind(tree: &Value, path: &Path) -> Result<(), ConfigError> {
    let text = |field: &str| tree.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version == API_VERSION && kind == KIND {
        return Ok(());
    }
    Err(ConfigError::Kind {
        path: path.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    })
}

/// Adds the paths in `tree` that `known` does not have. A known null stands for any value.
fn find_unknown(tree: &Value, known: &Value, prefix: &str, unknown: &mut Vec<String>) {
    let (Value::Object(fields), Value::Object(known)) = (tree, known) else { return };
    for (name, value) in fields {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match known.get(name) {
            Some(known) => find_unknown(value, known, &path, unknown),
            None => unknown.push(path),
        }
    }
}
