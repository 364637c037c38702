//! Which kube-proxy this stands for.

/// The Kubernetes release whose kube-proxy this program replaces: flags, file format, defaults.
pub const KUBERNETES: (u32, u32, u32) = (1, 36, 2);

/// The version in Kubernetes' form, which tools parse: `v1.36.2-sluice.0.1.0`.
pub fn version() -> String {
    let (major, minor, patch) = KUBERNETES;
    format!("v{major}.{minor}.{patch}-sluice.{}", env!("CARGO_PKG_VERSION"))
}

/// The minor version before: the only value that `showHiddenMetricsForVersion` may have.
pub(super) fn previous_minor() -> String {
    let (major, minor, _) = KUBERNETES;
    format!("{major}.{}", minor - 1)
}
