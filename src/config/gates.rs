//! Feature gates of upstream.

use std::collections::BTreeMap;

use super::problem::Checks;

/// The gate without which upstream refuses `logging.options`.
pub(super) const LOGGING_ALPHA: &str = "LoggingAlphaOptions";

/// Gates of kube-proxy 1.36 that are locked on. Sluice cannot switch off what they enable either.
const LOCKED: &[&str] =
    &["MultiCIDRServiceAllocator", "NFTablesProxyMode", "PreferSameTrafficDistribution"];

/// Gates of kube-proxy 1.36 that may have either value. In Sluice they have no effect, except [`LOGGING_ALPHA`], which
/// allows fields.
const FREE: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "AllowServiceExternalIPs",
    "ClientsAllowCARotation",
    "ClientsAllowCBOR",
    "ClientsAllowTLSCacheGC",
    "ClientsPreferCBOR",
    "ComponentFlagz",
    "ComponentStatusz",
    "ContextualLogging",
    LOGGING_ALPHA,
    "LoggingBetaOptions",
    "NativeHistograms",
    "WatchList",
    "WatchListClient",
];

/// As upstream, a locked gate with the other value is an error.
pub(super) fn check(gates: &BTreeMap<String, bool>, checks: &mut Checks) {
    let wrong = gates.iter().filter(|(name, on)| LOCKED.contains(&name.as_str()) && !**on);
    for (name, _) in wrong {
        let rule = format!("cannot set feature gate {name} to false, feature is locked to true");
        checks.invalid(("featureGates", "featureGates"), gates, &rule);
    }
}

/// Warnings about gates without effect. A gate unknown to kube-proxy is no error: newer clusters have newer gates.
pub(super) fn warnings(gates: &BTreeMap<String, bool>) -> impl Iterator<Item = String> {
    let known = |name: &str| LOCKED.contains(&name) || FREE.contains(&name);
    gates
        .keys()
        .filter(move |name| !known(name))
        .map(|name| format!("feature gate {name} is ignored: kube-proxy does not have it"))
}
