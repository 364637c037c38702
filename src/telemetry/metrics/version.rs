//! Version metrics.

use prometheus::Registry;

use super::families::{Families, Stability};
use sluice_config::{self as config, KUBERNETES, Mode};

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
    let (major, minor, _) = KUBERNETES;
    let (major, minor) = (major.to_string(), minor.to_string());
    let platform = format!("{}/{}", std::env::consts::OS, architecture());
    // The labels about Go's toolchain are empty.
    let values = ["", "rustc", "", "", &config::version(), "", &major, &minor, &platform];
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
