//! All flags and their values, for `/flagz`.

use std::collections::BTreeMap;

use super::RunFlags;

/// Every flag of kube-proxy 1.36 with its value where nothing is given, as its own `/flagz` says it; but the
/// least times between syncs, which have no default here.
const DEFAULTS: [(&str, &str); 59] = [
    ("bind-address", "0.0.0.0"),
    ("bind-address-hard-fail", "false"),
    ("boot-id-file", "/proc/sys/kernel/random/boot_id"),
    ("cleanup", "false"),
    ("cluster-cidr", ""),
    ("config", ""),
    ("config-sync-period", "15m0s"),
    ("conntrack-max-per-core", "32768"),
    ("conntrack-min", "131072"),
    ("conntrack-tcp-be-liberal", "false"),
    ("conntrack-tcp-timeout-close-wait", "1h0m0s"),
    ("conntrack-tcp-timeout-established", "24h0m0s"),
    ("conntrack-udp-timeout", "0s"),
    ("conntrack-udp-timeout-stream", "0s"),
    ("detect-local-mode", ""),
    ("feature-gates", ""),
    ("healthz-bind-address", "0.0.0.0:10256"),
    ("healthz-port", "10256"),
    ("help", "false"),
    ("hostname-override", ""),
    ("init-only", "false"),
    ("iptables-localhost-nodeports", "true"),
    ("iptables-masquerade-bit", "14"),
    ("iptables-min-sync-period", "0s"),
    ("iptables-sync-period", "30s"),
    ("ipvs-exclude-cidrs", "[]"),
    ("ipvs-min-sync-period", "0s"),
    ("ipvs-scheduler", ""),
    ("ipvs-strict-arp", "false"),
    ("ipvs-sync-period", "30s"),
    ("ipvs-tcp-timeout", "0s"),
    ("ipvs-tcpfin-timeout", "0s"),
    ("ipvs-udp-timeout", "0s"),
    ("kube-api-burst", "10"),
    ("kube-api-content-type", "application/vnd.kubernetes.protobuf"),
    ("kube-api-qps", "5"),
    ("kubeconfig", ""),
    ("log-flush-frequency", "5s"),
    ("log-json-info-buffer-size", "0"),
    ("log-json-split-stream", "false"),
    ("log-text-info-buffer-size", "0"),
    ("log-text-split-stream", "false"),
    ("logging-format", "text"),
    ("machine-id-file", "/etc/machine-id,/var/lib/dbus/machine-id"),
    ("masquerade-all", "false"),
    ("master", ""),
    ("metrics-bind-address", "127.0.0.1:10249"),
    ("metrics-port", "10249"),
    ("nodeport-addresses", "[]"),
    ("oom-score-adj", "-999"),
    ("pod-bridge-interface", ""),
    ("pod-interface-name-prefix", ""),
    ("profiling", "false"),
    ("proxy-mode", ""),
    ("show-hidden-metrics-for-version", ""),
    ("v", "0"),
    ("version", "false"),
    ("vmodule", ""),
    ("write-config-to", ""),
];

/// All flags: those of the command line, and the defaults of others.
pub(super) fn all(flags: &RunFlags) -> BTreeMap<String, String> {
    let own = |text: String| (!text.is_empty()).then_some(text);
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string());
    let iptables_layout = match flags.iptables_layout {
        super::IptablesLayout::Compact => "compact",
        super::IptablesLayout::Classic => "classic",
    };
    let single = [
        ("config", path(&flags.config)),
        ("write-config-to", path(&flags.write_config_to)),
        ("admin-socket", Some(flags.admin_socket.clone())),
        ("init-only", own(flags.init_only.to_string())),
        ("master", flags.master.clone()),
        ("hostname-override", flags.hostname_override.clone()),
        ("iptables-layout", own(iptables_layout.to_owned())),
        ("service-counters", own(flags.service_counters.to_string())),
        ("sync-cpu-percent", own(flags.sync_cpu_percent.to_string())),
        ("strict-cluster-ips", own(flags.strict_cluster_ips.to_string())),
        ("reset-removed-tcp-endpoints", own(flags.reset_removed_tcp_endpoints.to_string())),
        ("userspace-drain", own(flags.userspace_drain.to_string())),
        ("userspace-transparent", own(flags.userspace_transparent.to_string())),
    ];
    let single = single.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let fields = flags.fields.given().map(|(name, value)| (name, value.to_owned()));
    let defaults = DEFAULTS.into_iter().map(|(name, value)| (name, value.to_owned()));
    let all = defaults.chain(single).chain(fields);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Arguments;
    use crate::cli::flag_table::FLAGS;

    #[test]
    fn every_flag_has_a_value_and_what_is_given_counts() {
        let given = ["sluice", "--v=4", "--config=/c.yaml", "--cluster-cidr", "10.0.0.0/8"];
        let arguments = Arguments::try_parse_from(given).expect("they are flags");
        let all = all(&arguments.run);
        for flag in FLAGS {
            assert!(all.contains_key(flag.name), "--{}", flag.name);
        }
        let table = [
            ("v", "4"),
            ("config", "/c.yaml"),
            ("cluster-cidr", "10.0.0.0/8"),
            ("metrics-bind-address", "127.0.0.1:10249"),
            ("iptables-layout", "compact"),
        ];
        for (name, value) in table {
            assert_eq!(all[name], value, "--{name}");
        }
    }
}
