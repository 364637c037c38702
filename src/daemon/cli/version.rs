//! `--version`, in the form that Kubernetes' tools read (upstream:
//! `staging/src/k8s.io/component-base/version/verflag/verflag.go`).

use std::str::FromStr;

use super::flag_table;
use sluice_config::{KUBERNETES, version};

/// The argument of `--version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Query {
    /// Nothing; also with `--version=v1.36.2…`, by which upstream reports another version.
    Nothing,
    /// The version.
    Short,
    /// All that is known of it.
    Raw,
}

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Query, String> {
        let (major, minor, patch) = KUBERNETES;
        let ours = format!("v{major}.{minor}.{patch}");
        match text {
            "raw" => Ok(Query::Raw),
            other if other.starts_with('v') && other.starts_with(&ours) => Ok(Query::Nothing),
            other if other.starts_with('v') => Err(format!("it does not begin with {ours}")),
            other => {
                flag_table::switch(other).map(|on| if on { Query::Short } else { Query::Nothing })
            }
        }
    }
}

/// The answer, if requested.
pub(super) fn answer(query: Query) -> Option<String> {
    let version = version();
    match query {
        Query::Nothing => None,
        Query::Short => Some(format!("Kubernetes {version}")),
        Query::Raw => {
            let (major, minor, _) = KUBERNETES;
            let arch = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            Some(format!(
                "version.Info{{Major:\"{major}\", Minor:\"{minor}\", GitVersion:\"{version}\", \
                 Compiler:\"rustc\", Platform:\"{}/{arch}\"}}",
                std::env::consts::OS
            ))
        }
    }
}
