//! Which program this is, as metrics and `/statusz` tell it.

use prometheus::Registry;

use super::families::{Families, Stability};
use crate::config::Mode;

/// The release of Kubernetes whose kube-proxy this program stands in for.
pub const KUBERNETES_VERSION: &str = "1.36.2";

/// Its minor release.
pub const KUBERNETES_MINOR: &str = "1.36";

/// The version in Kubernetes' form, with our own behind it.
pub const GIT_VERSION: &str = concat!("v1.36.2-sluice.", env!("CARGO_PKG_VERSION"));

/// Registers `kubernetes_build_info` and `sluice_info`.
pub(super) fn register(registry: &Registry, mode: Mode) {
    let make = Families { registry, stability: Stability::Beta };
    let info = make.gauges(
        "kubernetes_build_info",
        "A metric with a constant '1' value labeled by major, minor, git version, git commit, git \
         tree state, build date, Go version, and compiler from which Kubernetes was built, and \
         platform on which it is running.",
        &[
            "build_date",
            "compiler",
            "git_commit",
            "git_tree_state",
            "git_version",
            "go_version",
            "major",
            "minor",
            "platform",
        ],
    );
    let minor = KUBERNETES_MINOR.rsplit('.').next().unwrap_or_default();
    let platform = format!("{}/{}", std::env::consts::OS, architecture());
    // Where Go's toolchain would be named there is nothing to say.
    let values = ["", "rustc", "", "", GIT_VERSION, "", "1", minor, &platform];
    info.with_label_values(&values).set(1);
    let make = Families { registry, stability: Stability::None };
    let info = make.gauges(
        "sluice_info",
        "A metric with a constant '1' value labeled by version and proxy mode",
        &["version", "mode"],
    );
    info.with_label_values(&[env!("CARGO_PKG_VERSION"), &mode.to_string()]).set(1);
}

/// The machine's architecture by its name in Go.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
