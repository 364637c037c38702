//! Which changes of the configuration take effect at run time.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{KubeProxyConfiguration, Mode};

/// When a changed field takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    Live,
    /// After a restart.
    Restart,
    /// Never: Sluice does not use the field.
    Never,
}

/// Every field of the file, and when a change of it takes effect. `docs/configuration.md` shows the
/// same table, with reasons.
pub const FIELDS: &[(&str, Effect)] = &[
    ("bindAddress", Effect::Live),
    ("bindAddressHardFail", Effect::Restart),
    ("clientConnection.acceptContentTypes", Effect::Restart),
    ("clientConnection.burst", Effect::Never),
    ("clientConnection.contentType", Effect::Restart),
    ("clientConnection.kubeconfig", Effect::Restart),
    ("clientConnection.qps", Effect::Never),
    ("clusterCIDR", Effect::Live),
    ("configSyncPeriod", Effect::Never),
    ("conntrack.maxPerCore", Effect::Live),
    ("conntrack.min", Effect::Live),
    ("conntrack.tcpBeLiberal", Effect::Restart),
    ("conntrack.tcpCloseWaitTimeout", Effect::Live),
    ("conntrack.tcpEstablishedTimeout", Effect::Live),
    ("conntrack.udpStreamTimeout", Effect::Live),
    ("conntrack.udpTimeout", Effect::Live),
    ("detectLocal.bridgeInterface", Effect::Live),
    ("detectLocal.interfaceNamePrefix", Effect::Live),
    ("detectLocalMode", Effect::Live),
    ("enableProfiling", Effect::Restart),
    ("featureGates", Effect::Restart),
    ("healthzBindAddress", Effect::Restart),
    ("hostnameOverride", Effect::Restart),
    ("iptables.localhostNodePorts", Effect::Restart),
    ("iptables.masqueradeAll", Effect::Live),
    ("iptables.masqueradeBit", Effect::Live),
    ("iptables.minSyncPeriod", Effect::Live),
    ("iptables.syncPeriod", Effect::Live),
    ("ipvs.excludeCIDRs", Effect::Restart),
    ("ipvs.minSyncPeriod", Effect::Live),
    ("ipvs.scheduler", Effect::Restart),
    ("ipvs.strictARP", Effect::Restart),
    ("ipvs.syncPeriod", Effect::Live),
    ("ipvs.tcpFinTimeout", Effect::Restart),
    ("ipvs.tcpTimeout", Effect::Restart),
    ("ipvs.udpTimeout", Effect::Restart),
    ("logging.flushFrequency", Effect::Never),
    ("logging.format", Effect::Restart),
    ("logging.options.json.infoBufferSize", Effect::Never),
    ("logging.options.json.splitStream", Effect::Never),
    ("logging.options.text.infoBufferSize", Effect::Never),
    ("logging.options.text.splitStream", Effect::Never),
    ("logging.verbosity", Effect::Live),
    ("logging.vmodule", Effect::Never),
    ("metricsBindAddress", Effect::Restart),
    ("mode", Effect::Restart),
    ("nftables.masqueradeAll", Effect::Live),
    ("nftables.masqueradeBit", Effect::Live),
    ("nftables.minSyncPeriod", Effect::Live),
    ("nftables.syncPeriod", Effect::Live),
    ("nodePortAddresses", Effect::Live),
    ("oomScoreAdj", Effect::Live),
    ("portRange", Effect::Never),
    ("showHiddenMetricsForVersion", Effect::Never),
    ("windowsRunAsService", Effect::Never),
    ("winkernel.enableDSR", Effect::Never),
    ("winkernel.forwardHealthCheckVip", Effect::Never),
    ("winkernel.networkName", Effect::Never),
    ("winkernel.rootHnsEndpointName", Effect::Never),
    ("winkernel.sourceVip", Effect::Never),
];

/// The fields that differ between two configurations, by when they take effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Fields that take effect at once.
    pub live: Vec<String>,
    /// Fields that need a restart.
    pub restart: Vec<String>,
    /// Fields without effect, in this mode or at all.
    pub never: Vec<String>,
}

impl Change {
    /// Compares two configurations that have their defaults.
    pub fn between(old: &KubeProxyConfiguration, new: &KubeProxyConfiguration) -> Change {
        let (before, after) = (fields(old), fields(new));
        let mode = Mode::from_name(&old.mode);
        let mut change = Change::default();
        let differing = FIELDS.iter().filter(|(name, _)| before.get(*name) != after.get(*name));
        for (name, effect) in differing {
            let list = match effect {
                Effect::Never => &mut change.never,
                _ if !counts(name, mode) => &mut change.never,
                Effect::Live => &mut change.live,
                Effect::Restart => &mut change.restart,
            };
            list.push((*name).to_owned());
        }
        change
    }
}

/// Whether a mode reads a field; the IPVS mode and the userspace mode share the iptables section.
fn counts(field: &str, mode: Option<Mode>) -> bool {
    match field.split_once('.') {
        Some(("iptables", "localhostNodePorts")) => mode == Some(Mode::Iptables),
        Some(("iptables", "syncPeriod" | "minSyncPeriod")) => {
            matches!(mode, Some(Mode::Iptables | Mode::Userspace))
        }
        Some(("iptables", _)) => mode != Some(Mode::Nftables),
        Some(("nftables", _)) => mode == Some(Mode::Nftables),
        Some(("ipvs", _)) => mode == Some(Mode::Ipvs),
        _ => true,
    }
}

/// All fields by their full name.
fn fields(wire: &KubeProxyConfiguration) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut rest = vec![(String::new(), wire.tree())];
    while let Some((path, value)) = rest.pop() {
        match value {
            Value::Object(inner) if path != "featureGates" => {
                let dot = if path.is_empty() { "" } else { "." };
                rest.extend(inner.into_iter().map(|(name, v)| (format!("{path}{dot}{name}"), v)));
            }
            leaf => {
                found.insert(path, leaf);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_field_of_the_file() {
        let all = fields(&KubeProxyConfiguration::default());
        let known: Vec<&str> = all
            .keys()
            .map(String::as_str)
            .filter(|n| !["apiVersion", "kind"].contains(n))
            .collect();
        let named: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(named, known);
    }

    /// The first row of the page that has the field.
    #[test]
    fn the_page_says_the_same_as_the_table() {
        let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join("docs/configuration.md");
        let page = std::fs::read_to_string(path).expect("the page is there");
        for (name, effect) in FIELDS {
            let row = page
                .lines()
                .find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
            let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for {name}"));
            let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
            let expected = match effect {
                Effect::Live => "at once",
                Effect::Restart => "restart",
                Effect::Never => "–",
            };
            assert_eq!(last, expected, "{row}");
        }
    }

    #[test]
    fn changes_are_sorted_by_when_they_take_effect() {
        let config = |mode: &str| {
            KubeProxyConfiguration { mode: mode.to_owned(), ..Default::default() }.with_defaults()
        };
        let old = config("nftables");
        assert_eq!(Change::between(&old, &old), Change::default());
        let mut new = old.clone();
        new.nftables.masquerade_all = true;
        new.iptables.masquerade_all = true;
        new.ipvs.scheduler = "lc".to_owned();
        new.port_range = "1-2".to_owned();
        new.feature_gates.insert("A".to_owned(), true);
        let expected = Change {
            live: vec!["nftables.masqueradeAll".to_owned()],
            restart: vec!["featureGates".to_owned()],
            never: vec![
                "iptables.masqueradeAll".to_owned(),
                "ipvs.scheduler".to_owned(),
                "portRange".to_owned(),
            ],
        };
        assert_eq!(Change::between(&old, &new), expected);
        let mut new = config("ipvs");
        new.ipvs.scheduler = "lc".to_owned();
        let change = Change::between(&config("ipvs"), &new);
        assert_eq!(change.restart, ["ipvs.scheduler"]);
        assert_eq!(Change::between(&old, &config("iptables")).restart, ["mode"]);
    }
}
