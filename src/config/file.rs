//! Reading the configuration file.
//!
//! As in kube-proxy (`cmd/kube-proxy/app/options.go`), decoding is lenient, because files of old clusters have fields
//! that no longer exist. Unlike kube-proxy's, the warning names them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use serde_saphyr::DuplicateKeyPolicy;

use super::{Config, KubeProxyConfiguration, Problem};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";
const MORE_DOCUMENTS: &str = "only the first YAML document of the configuration file counts; \
    remove what follows it";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration file {path}: {source}; check --config and the mounted ConfigMap"
    )]
    Read { path: PathBuf, source: std::io::Error },
    /// The text is not YAML, or a field has the wrong type.
    #[error("cannot decode the configuration file {path}: {reason}")]
    Decode { path: PathBuf, reason: String },
    /// The text describes another kind of object.
    #[error(
        "the configuration file {path} says apiVersion {api_version:?} and kind {kind:?}, \
         expected apiVersion {API_VERSION:?} and kind {KIND:?}"
    )]
    Kind { path: PathBuf, api_version: String, kind: String },
    /// Invalid values.
    #[error("the configuration file {path} cannot be used:{}", list(problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Its meaning.
    pub config: Config,
    /// The fields, with defaults.
    pub wire: KubeProxyConfiguration,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// If it cannot be read or used, with all problems.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Checks the text of a configuration file; `path` is for messages only.
///
/// # Errors
/// If it cannot be used, with all problems.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigError> {
    let (wire, warnings) = read(text, path)?;
    let wire = wire.with_defaults().for_linux();
    match Config::new(&wire) {
        Ok(config) => Ok(Loaded { config, wire, warnings }),
        Err(problems) => Err(ConfigError::Invalid { path: path.to_owned(), problems }),
    }
}

/// Decodes the text of a configuration file: the fields without defaults and checks, and warnings. `path` is for
/// messages only.
///
/// # Errors
/// If the text is not YAML, describes another kind, or has fields of the wrong type; all of them are named.
pub fn read(text: &str, path: &Path) -> Result<(KubeProxyConfiguration, Vec<String>), ConfigError> {
    let failed = |reason: String| ConfigError::Decode { path: path.to_owned(), reason };
    let mut warnings = Vec::new();
    let (mut tree, more) = match decode(text, DuplicateKeyPolicy::Error) {
        Ok(decoded) => decoded,
        Err(strict) => {
            let decoded = decode(text, DuplicateKeyPolicy::LastWins)
                .map_err(|reason| failed(reason.to_string()))?;
            warnings.push(format!("{strict}; the last value is used"));
            decoded
        }
    };
    if more {
        warnings.push(MORE_DOCUMENTS.to_owned());
    }
    check_kind(&tree, path)?;
    drop_nulls(&mut tree);
    let known = KubeProxyConfiguration::default().tree();
    find_unknown(&tree, &known, "", &mut warnings);
    match serde_json::from_value(tree.clone()) {
        Ok(wire) => Ok((wire, warnings)),
        Err(error) => {
            let fields = mistyped(&tree);
            Err(failed(if fields.is_empty() { error.to_string() } else { fields.join("; ") }))
        }
    }
}

/// The first document, and whether a non-empty one follows. As in kube-proxy, only the first is decoded.
fn decode(
    text: &str,
    duplicate_keys: DuplicateKeyPolicy,
) -> Result<(Value, bool), serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        // Error messages must fit on one line of the log.
        with_snippet: false,
    };
    let mut rest = text.as_bytes();
    let mut documents = serde_saphyr::read_with_options(&mut rest, options);
    let first = documents.next().transpose()?.unwrap_or_default();
    Ok((first, documents.next().is_some()))
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

/// In Go, null means absent.
fn drop_nulls(tree: &mut Value) {
    if let Value::Object(fields) = tree {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

/// Names the fields in `tree` that `known` does not have, each with a similar one.
fn find_unknown(tree: &Value, known: &Value, prefix: &str, warnings: &mut Vec<String>) {
    let (Value::Object(fields), Value::Object(known)) = (tree, known) else { return };
    for (name, value) in fields {
        let path = join(prefix, name);
        match known.get(name) {
            // Its keys are names of features.
            Some(_) if path == "featureGates" => {}
            Some(known) => find_unknown(value, known, &path, warnings),
            None => {
                let meant = known.keys().find(|known| known.eq_ignore_ascii_case(name));
                let hint = meant.map(|meant| format!("; {} may be meant", join(prefix, meant)));
                warnings
                    .push(format!("unknown field {path} is ignored{}", hint.unwrap_or_default()));
            }
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// The fields of the wrong type: each is decoded separately.
fn mistyped(tree: &Value) -> Vec<String> {
    let mut found = Vec::new();
    each_leaf(tree, &mut Vec::new(), &mut |path, value| {
        let alone = path.iter().rev().fold(value.clone(), |inner, name| json!({ *name: inner }));
        if let Err(error) = serde_json::from_value::<KubeProxyConfiguration>(alone) {
            found.push(format!("field {}: {error}", path.join(".")));
        }
    });
    found
}

fn each_leaf<'a>(
    tree: &'a Value,
    path: &mut Vec<&'a str>,
    visit: &mut impl FnMut(&[&str], &Value),
) {
    match tree {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                path.push(name);
                each_leaf(value, path, visit);
                path.pop();
            }
        }
        leaf => visit(path, leaf),
    }
}
