//! Feature gates: what becomes of upstream's switches.

use std::collections::BTreeMap;

use super::problem::Checks;

/// The gate without which upstream refuses `logging.options`.
pub(super) const LOGGING_ALPHA: &str = "LoggingAlphaOptions";

/// Gates of kube-proxy 1.36 that can no longer be switched off, and what they are for, which Sluice
/// cannot switch off either.
const LOCKED: &[&str] =
    &["MultiCIDRServiceAllocator", "NFTablesProxyMode", "PreferSameTrafficDistribution"];

/// Gates of kube-proxy 1.36 that may have either value. In Sluice none of them changes anything but
/// [`LOGGING_ALPHA`], which allows fields to be there.
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

/// Refuses what upstream refuses: a locked gate with the other value.
pub(super) fn check(gates: &BTreeMap<String, bool>, checks: &mut Checks) {
    let wrong = gates.iter().filter(|(name, on)| LOCKED.contains(&name.as_str()) && !**on);
    for (name, _) in wrong {
        let rule = format!("cannot set feature gate {name} to false, feature is locked to true");
        checks.invalid(("featureGates", "featureGates"), gates, &rule);
    }
}

/// What to say of gates that mean nothing here. One that kube-proxy does not know is no error: newer
/// clusters have newer gates.
pub(super) fn warnings(gates: &BTreeMap<String, bool>) -> impl Iterator<Item = String> {
    let known = |name: &str| LOCKED.contains(&name) || FREE.contains(&name);
    gates
        .keys()
        .filter(move |name| !known(name))
        .map(|name| format!("feature gate {name} is ignored: it is none of kube-proxy's"))
}
