//! `--version`, in the form that Kubernetes' tools read (upstream:
//! `staging/src/k8s.io/component-base/version/verflag/verflag.go`).

use std::str::FromStr;

use super::flag_table;
use sluice_config::{KUBERNETES, version};

/// What `--version` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing; also with `--version=v1.36.2…`, by which upstream reports another version.
    Nothing,
    /// The version.
    Short,
    /// All that is known of it.
    Raw,
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Asked, String> {
        let (major, minor, patch) = KUBERNETES;
        let ours = format!("v{major}.{minor}.{patch}");
        match text {
            "raw" => Ok(Asked::Raw),
            other if other.starts_with('v') && other.starts_with(&ours) => Ok(Asked::Nothing),
            other if other.starts_with('v') => Err(format!("it does not begin with {ours}")),
            other => {
                flag_table::switch(other).map(|on| if on { Asked::Short } else { Asked::Nothing })
            }
        }
    }
}

/// The answer, if something is asked for.
pub(super) fn answer(asked: Asked) -> Option<String> {
    let version = version();
    match asked {
        Asked::Nothing => None,
        Asked::Short => Some(format!("Kubernetes {version}")),
        Asked::Raw => {
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
