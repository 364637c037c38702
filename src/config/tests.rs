use std::path::Path;

use super::*;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn parse_body(body: &str) -> Result<Loaded, ConfigError> {
    parse(&format!("{HEAD}{body}"), Path::new("config.conf"))
}

fn loaded(body: &str) -> Loaded {
    parse_body(body).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

fn config(body: &str) -> Config {
    let loaded = loaded(body);
    assert_eq!(loaded.warnings, [""; 0], "{body}");
    loaded.config
}

/// The fields of all problems.
fn problems(body: &str) -> Vec<String> {
    match parse_body(body) {
        Err(ConfigError::Invalid { problems, .. }) => {
            problems.into_iter().map(|problem| problem.field).collect()
        }
        other => panic!("{other:?}\n{body}"),
    }
}

fn fixture(name: &str) -> Loaded {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("integration/fixtures/config")
        .join(name);
    load(&path).unwrap_or_else(|error| panic!("{error}"))
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("tests write prefixes")).collect()
}

#[test]
fn an_empty_file_has_the_defaults_of_kube_proxy() {
    let config = config("");
    let expected = Config {
        mode: Mode::Iptables,
        kubeconfig: None,
        content_type: "application/vnd.kubernetes.protobuf".to_owned(),
        accept_content_types: String::new(),
        hostname_override: None,
        bind_address: "0.0.0.0".parse().expect("an address"),
        healthz_bind_address: "0.0.0.0:10256".parse().ok(),
        metrics_bind_address: "127.0.0.1:10249".parse().ok(),
        bind_address_hard_fail: false,
        enable_profiling: false,
        feature_gates: Default::default(),
        detect_local: DetectLocal::ClusterCidr(vec![]),
        looks_dual_stack: false,
        node_port_addresses: NodePortAddresses::All,
        localhost_node_ports: true,
        strict_cluster_ips: false,
        masquerade_all: false,
        masquerade_bit: 14,
        sync: SyncPeriods { min: None, period: Duration::from_secs(30) },
        oom_score_adj: -999,
        conntrack: Conntrack {
            max_per_core: Some(32_768),
            min: 131_072,
            tcp_established: Some(Duration::from_secs(86_400)),
            tcp_close_wait: Some(Duration::from_secs(3600)),
            tcp_be_liberal: false,
            udp: None,
            udp_stream: None,
        },
        ipvs: Ipvs {
            scheduler: String::new(),
            exclude_cidrs: vec![],
            strict_arp: false,
            tcp_timeout: None,
            tcp_fin_timeout: None,
            udp_timeout: None,
        },
        logging: Logging { format: LogFormat::Text, verbosity: 0 },
    };
    assert_eq!(config, expected);
}

#[test]
fn the_file_of_kubeadm_is_the_defaults() {
    let Loaded { config, warnings, .. } = fixture("kubeadm.yaml");
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.kubeconfig, Some("/var/lib/kube-proxy/kubeconfig.conf".into()));
    let expected = Config {
        kubeconfig: config.kubeconfig.clone(),
        detect_local: DetectLocal::ClusterCidr(nets(&["10.244.0.0/16"])),
        ..self::config("")
    };
    assert_eq!(config, expected);
}

#[test]
fn the_file_of_kind_loads() {
    let Loaded { config, warnings, .. } = fixture("kind-dual-stack.yaml");
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.mode, Mode::Nftables);
    assert_eq!(config.node_port_addresses, NodePortAddresses::Primary);
    let cidrs = nets(&["10.244.0.0/16", "fd00:10:244::/56"]);
    assert_eq!(config.detect_local, DetectLocal::ClusterCidr(cidrs));
    assert!(config.looks_dual_stack);
    assert_eq!(config.conntrack.max_per_core, None);
    assert!(config.conntrack.tcp_be_liberal);
}

#[test]
fn the_old_file_of_eks_loads_and_names_what_it_ignores() {
    let Loaded { config, warnings, .. } = fixture("eks.yaml");
    let unknown =
        ["unknown field conntrack.max is ignored", "unknown field udpIdleTimeout is ignored"];
    assert_eq!(warnings, unknown);
    assert_eq!(config.detect_local, DetectLocal::ClusterCidr(vec![]));
    assert_eq!(config.metrics_bind_address, "0.0.0.0:10249".parse().ok());
    assert_eq!(config.oom_score_adj, -998);
    // A zero means the default, which is to go by the cost.
    assert_eq!(config.sync.min, None);
}

#[test]
fn the_mode_picks_its_own_section() {
    let sections = "iptables: {masqueradeBit: 1, masqueradeAll: true, syncPeriod: 10s, minSyncPeriod: 2s}\n\
                    nftables: {masqueradeBit: 2, syncPeriod: 20s, minSyncPeriod: 3s}\n\
                    ipvs: {syncPeriod: 40s, minSyncPeriod: 0s}\n";
    let table = [
        ("", Mode::Iptables, 1, true, 10, 2),
        ("iptables", Mode::Iptables, 1, true, 10, 2),
        ("nftables", Mode::Nftables, 2, false, 20, 3),
        ("ipvs", Mode::Ipvs, 1, true, 40, 0),
        ("userspace", Mode::Userspace, 1, true, 10, 2),
    ];
    for (name, mode, bit, all, period, min) in table {
        let config = config(&format!("mode: '{name}'\n{sections}"));
        assert_eq!(config.mode, mode, "{name}");
        assert_eq!((config.masquerade_bit, config.masquerade_all), (bit, all), "{name}");
        let min = Some(Duration::from_secs(min)).filter(|min| !min.is_zero());
        let sync = SyncPeriods { min, period: Duration::from_secs(period) };
        assert_eq!(config.sync, sync, "{name}");
    }
}

#[test]
fn local_traffic_is_detected_as_configured() {
    let table = [
        ("clusterCIDR: 10.0.0.0/8", DetectLocal::ClusterCidr(nets(&["10.0.0.0/8"]))),
        (
            "detectLocalMode: ClusterCIDR\nclusterCIDR: 'fd00::/8,10.1.2.3/8'",
            DetectLocal::ClusterCidr(nets(&["fd00::/8", "10.0.0.0/8"])),
        ),
        ("detectLocalMode: NodeCIDR\nclusterCIDR: nonsense", DetectLocal::NodeCidr),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            DetectLocal::BridgeInterface("cni0".to_owned()),
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}",
            DetectLocal::InterfaceNamePrefix("veth".to_owned()),
        ),
    ];
    for (body, expected) in table {
        assert_eq!(config(body).detect_local, expected, "{body}");
    }
}

#[test]
fn node_port_addresses_are_primary_prefixes_or_all() {
    let table = [
        ("mode: nftables", NodePortAddresses::Primary),
        ("mode: iptables", NodePortAddresses::All),
        ("mode: iptables\nnodePortAddresses: [primary]", NodePortAddresses::Primary),
        ("nodePortAddresses: []", NodePortAddresses::All),
        (
            "mode: nftables\nnodePortAddresses: [192.0.2.0/24, 'fd00::/8']",
            NodePortAddresses::Cidrs(nets(&["192.0.2.0/24", "fd00::/8"])),
        ),
    ];
    for (body, expected) in table {
        assert_eq!(config(body).node_port_addresses, expected, "{body}");
    }
}

#[test]
fn addresses_may_lack_their_port_and_follow_the_bind_address() {
    let sockets = |body| {
        let config = config(body);
        let text = |address: Option<SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        (text(config.healthz_bind_address), text(config.metrics_bind_address))
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(sockets("bindAddress: '::'"), pair("[::]:10256", "[::1]:10249"));
    assert_eq!(
        sockets("healthzBindAddress: 192.0.2.1\nmetricsBindAddress: '[fd00::1]:9'"),
        pair("192.0.2.1:10256", "[fd00::1]:9")
    );
    assert_eq!(
        sockets("healthzBindAddress: 'fd00::1'\nmetricsBindAddress: '127.0.0.1:1'"),
        pair("[fd00::1]:10256", "127.0.0.1:1")
    );
}

#[test]
fn every_bad_value_is_a_problem_of_its_field() {
    let table = [
        ("mode: kernelspace", vec!["mode"]),
        ("bindAddress: host", vec!["bindAddress"]),
        ("healthzBindAddress: '0.0.0.0:0'", vec!["healthzBindAddress"]),
        ("metricsBindAddress: ':10249'", vec!["metricsBindAddress"]),
        ("metricsBindAddress: '127.0.0.1:70000'", vec!["metricsBindAddress"]),
        ("metricsBindAddress: 'x:y'", vec!["metricsBindAddress", "metricsBindAddress"]),
        ("metricsBindAddress: 'x'", vec!["metricsBindAddress"]),
        ("clusterCIDR: 10.0.0.0", vec!["clusterCIDR[0]"]),
        ("clusterCIDR: '10.0.0.0/8,11.0.0.0/8'", vec!["clusterCIDR"]),
        ("clusterCIDR: '10.0.0.0/8,fd00::/8,11.0.0.0/8'", vec!["clusterCIDR"]),
        ("detectLocalMode: Magic", vec!["detectLocalMode"]),
        ("detectLocalMode: BridgeInterface", vec!["detectLocal.bridgeInterface"]),
        ("detectLocalMode: InterfaceNamePrefix", vec!["detectLocal.interfaceNamePrefix"]),
        ("nodePortAddresses: [primary, 10.0.0.0/8]", vec!["nodePortAddresses[0]"]),
        ("nodePortAddresses: [10.0.0.0/8, x]", vec!["nodePortAddresses[1]"]),
        ("nodePortAddresses: [x, primary]", vec!["nodePortAddresses[0]", "nodePortAddresses[1]"]),
        ("iptables: {masqueradeBit: 32}", vec!["iptables.masqueradeBit"]),
        ("mode: nftables\nnftables: {masqueradeBit: -1}", vec!["nftables.masqueradeBit"]),
        (
            "iptables: {syncPeriod: -1s}",
            vec!["iptables.syncPeriod", "iptables.syncPeriod"], // also below minSyncPeriod
        ),
        ("iptables: {minSyncPeriod: -1s}", vec!["iptables.minSyncPeriod"]),
        ("iptables: {syncPeriod: 1s, minSyncPeriod: 2s}", vec!["iptables.syncPeriod"]),
        ("configSyncPeriod: -1m", vec!["configSyncPeriod"]),
        ("oomScoreAdj: 1001", vec!["oomScoreAdj"]),
        ("conntrack: {maxPerCore: -1, min: -1}", vec!["conntrack.maxPerCore", "conntrack.min"]),
        ("conntrack: {udpTimeout: -1s}", vec!["conntrack.udpTimeout"]),
        ("clientConnection: {burst: -1}", vec!["clientConnection.burst"]),
        ("mode: ipvs\nipvs: {excludeCIDRs: [x]}", vec!["ipvs.excludeCIDRs[0]"]),
        ("mode: ipvs\nipvs: {udpTimeout: -1s}", vec!["ipvs.udpTimeout"]),
        ("logging: {format: xml}", vec!["logging.format"]),
        ("logging: {flushFrequency: -1s}", vec!["logging.flushFrequency"]),
        ("logging: {verbosity: 4000000000}", vec!["logging.verbosity"]),
        ("logging: {vmodule: [{filePattern: ''}]}", vec!["logging.vmodule[0]"]),
        ("logging: {format: json, vmodule: [{filePattern: x}]}", vec!["logging.vmodule"]),
        (
            "logging: {options: {text: {splitStream: true}}}",
            vec!["logging.options.text.splitStream"],
        ),
        (
            "logging: {options: {json: {infoBufferSize: 1Ki}}}",
            vec!["logging.options.json.infoBufferSize"],
        ),
        ("showHiddenMetricsForVersion: '1.16'", vec!["showHiddenMetricsForVersion"]),
        ("featureGates: {NFTablesProxyMode: false}", vec!["featureGates"]),
    ];
    for (body, expected) in table {
        assert_eq!(problems(body), expected, "{body}");
    }
}

#[test]
fn sections_of_other_modes_are_not_checked() {
    config("mode: iptables\nnftables: {masqueradeBit: 99}\nipvs: {excludeCIDRs: [x]}");
}

#[test]
fn what_may_not_be_meant_is_remarked_on() {
    let table = [
        ("nodePortAddresses: [primary]", ""),
        ("mode: nftables", ""),
        ("mode: iptables", "nodePortAddresses is unset"),
        ("nodePortAddresses: [10.0.0.0/8]", ""),
        (
            "nodePortAddresses: [10.0.0.0/8]\nclusterCIDR: '10.0.0.0/8,fd00::/8'",
            "all local IPv6 IPs",
        ),
        ("nodePortAddresses: [fd00::/8]\nclusterCIDR: '10.0.0.0/8,fd00::/8'", "all local IPv4 IPs"),
        ("mode: nftables\nfeatureGates: {NodeSwap: true, AllAlpha: true}", "gate NodeSwap"),
    ];
    for (body, expected) in table {
        let remarks = config(body).remarks();
        assert_eq!(remarks.len(), usize::from(!expected.is_empty()), "{body}: {remarks:?}");
        assert!(remarks.concat().contains(expected), "{body}: {remarks:?}");
    }
    config(
        "featureGates: {LoggingAlphaOptions: true}\nlogging: {options: {text: {splitStream: true}}}",
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let body = "mode: magic\nclusterCIDR: x\noomScoreAdj: 5000\niptables: {masqueradeBit: 40}\n\
                configSyncPeriod: -1m\ndetectLocalMode: ''";
    let error = parse_body(body).expect_err("five fields are wrong").to_string();
    let expected = "the configuration file config.conf cannot be used:\n  \
        KubeProxyConfiguration.KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 40: \
        must be within the range [0, 31] (iptables.masqueradeBit)\n  \
        KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: 5000: \
        must be within the range [-1000, 1000] (oomScoreAdj)\n  \
        KubeProxyConfiguration.Mode.ProxyMode: Invalid value: \"magic\": must be iptables, ipvs, \
        nftables, userspace or blank (blank means iptables) (mode)\n  \
        KubeProxyConfiguration.ConfigSyncPeriod: Invalid value: \"-1m0s\": must be greater than 0 \
        (configSyncPeriod)\n  \
        KubeProxyConfiguration.DetectLocalConfiguration.ClusterCIDRs[0]: Invalid value: \"x\": must \
        be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48) (clusterCIDR[0])";
    assert_eq!(error, expected);
}

#[test]
fn what_is_no_configuration_is_one_clear_error() {
    let text = |text: &str| match parse(text, Path::new("config.conf")) {
        Ok(_) => panic!("{text} is no configuration"),
        Err(error) => error.to_string(),
    };
    let table = [
        ("a: [", "cannot decode the configuration file config.conf"),
        ("", "says apiVersion \"\" and kind \"\""),
        ("- a\n- b\n", "says apiVersion \"\" and kind \"\""),
        ("apiVersion: v1\nkind: Config\n", "says apiVersion \"v1\" and kind \"Config\""),
        (&format!("{HEAD}oomScoreAdj: [1]\n"), "field oomScoreAdj: "),
        (&format!("{HEAD}oomScoreAdj: 5000000000\n"), "field oomScoreAdj: "),
        (&format!("{HEAD}iptables:\n  syncPeriod: fast\n"), "\"fast\" is not a duration"),
        (&format!("{HEAD}iptables: 5\n"), "field iptables: "),
        (
            &format!("{HEAD}mode: [x]\niptables: {{masqueradeBit: x, syncPeriod: 1d}}\n"),
            "field iptables.masqueradeBit: invalid type: string \"x\", expected i32; \
             field iptables.syncPeriod: \"1d\" is not a duration; write it like 30s, 5m or 1h30m; \
             field mode: ",
        ),
    ];
    for (yaml, expected) in table {
        let error = text(yaml);
        assert!(error.contains(expected), "{error}\n{yaml}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = load(Path::new("/nonexistent/config.conf")).expect_err("there is no such file");
    let error = error.to_string();
    assert!(error.contains("/nonexistent/config.conf") && error.contains("--config"), "{error}");
}

#[test]
fn repeated_and_unknown_fields_are_tolerated_and_named() {
    let loaded = loaded(
        "mode: ipvs\nmode: nftables\nMode: x\niptables: {masqueradebit: 1}\n\
         featureGates: {Anything: true}\nnodePortAddresses: null\nlogging: {options: {xml: {}}}\n",
    );
    assert_eq!(loaded.config.mode, Mode::Nftables);
    let [repeated, unknown @ ..] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    assert!(repeated.contains("mode") && repeated.contains("last value"), "{repeated}");
    assert_eq!(
        unknown,
        [
            "unknown field Mode is ignored; mode may be meant",
            "unknown field iptables.masqueradebit is ignored; iptables.masqueradeBit may be meant",
            "unknown field logging.options.xml is ignored",
        ]
    );
}

#[test]
fn quantities_are_those_of_kubernetes() {
    for (text, zero) in [
        ("0", true),
        ("0Ki", true),
        ("512", false),
        ("1.5Gi", false),
        ("1e3", false),
        ("0e9", true),
    ] {
        let quantity: Quantity = text.parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(quantity.is_zero(), zero, "{text}");
    }
    for text in ["", "Ki", "1Zi", "one", "1.2.3"] {
        assert!(text.parse::<Quantity>().is_err(), "{text}");
    }
}

#[test]
fn durations_are_read_and_written_as_go_does() {
    let table = [
        ("0", Some(0), "0s"),
        ("30s", Some(30_000_000_000), "30s"),
        ("1h0m0s", Some(3_600_000_000_000), "1h0m0s"),
        ("1.5h", Some(5_400_000_000_000), "1h30m0s"),
        ("90s", Some(90_000_000_000), "1m30s"),
        ("250ms", Some(250_000_000), "250ms"),
        ("1s500ms", Some(1_500_000_000), "1.5s"),
        ("1.5us", Some(1_500), "1.5µs"),
        ("7ns", Some(7), "7ns"),
        ("+1m", Some(60_000_000_000), "1m0s"),
        ("-5s", None, "-5s"),
    ];
    for (text, nanoseconds, written) in table {
        let duration: GoDuration = text.parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(duration.to_duration(), nanoseconds.map(Duration::from_nanos), "{text}");
        assert_eq!(duration.to_string(), written, "{text}");
    }
    for text in ["", "s", "5", "1d", "1h5", "fast", "1..5s", ".s", "--1s", "999999999h"] {
        assert!(text.parse::<GoDuration>().is_err(), "{text}");
    }
}

#[test]
fn localhost_is_one_of_the_node_port_addresses_or_not() {
    let table = [
        ("", true),
        ("nodePortAddresses: [primary]", false),
        ("nodePortAddresses: [127.0.0.0/8]", true),
        ("nodePortAddresses: [127.0.0.1/32, 10.0.0.0/8]", true),
        ("nodePortAddresses: [126.0.0.0/7]", true),
        ("nodePortAddresses: [0.0.0.0/0]", true),
        ("nodePortAddresses: [10.0.0.0/8]", false),
        ("nodePortAddresses: ['fd00::/8']", true),
        ("mode: nftables\nnodePortAddresses: [127.0.0.0/8]", false),
        ("mode: ipvs", false),
        ("mode: userspace", true),
        ("nodePortAddresses: [127.0.0.0/8]\niptables: {localhostNodePorts: false}", false),
    ];
    let config = |more: &str| {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{more}\n"
        );
        parse(&text, Path::new("file")).expect("it can be used").config
    };
    let opens = |more: &str| {
        let config = config(more);
        config.can_open_localhost(Family::V4) && config.node_port_addresses.include_localhost()
    };
    for (more, expected) in table {
        assert_eq!(opens(more), expected, "{more}");
    }
    let remarks = |more: &str| {
        let all = config(more).remarks();
        all.into_iter().filter(|remark| remark.contains("do not answer on localhost")).count()
    };
    assert_eq!(remarks("nodePortAddresses: [127.0.0.0/8]"), 0);
    assert_eq!(remarks("nodePortAddresses: ['::1/128']"), 1);
    assert_eq!(remarks("mode: nftables\nnodePortAddresses: [10.0.0.0/8, 127.0.0.1/32]"), 1);
    assert_eq!(remarks("mode: nftables"), 0);
}

#[test]
fn the_first_document_of_a_file_counts() {
    let table = [
        ("mode: nftables\n---\n", None),
        ("mode: nftables\n---\n# nothing but a comment\n", None),
        ("mode: nftables\n...\n", None),
        ("mode: nftables\n---\n---\n", None),
        ("mode: nftables\n---\nmode: ipvs\n", Some(())),
        ("mode: nftables\n---\nkind: [\n", Some(())),
        ("mode: nftables\nmode: nftables\n---\n", None),
    ];
    for (body, more) in table {
        let loaded = loaded(body);
        assert_eq!(loaded.config.mode, Mode::Nftables, "{body}");
        let said = loaded.warnings.iter().filter(|warning| warning.contains("document")).count();
        assert_eq!(said, usize::from(more.is_some()), "{body} {:?}", loaded.warnings);
    }
    let text = format!("---\n{HEAD}mode: ipvs\n---\n{HEAD}mode: nftables\n");
    let loaded = parse(&text, Path::new("config.conf")).expect("the first one is good");
    assert_eq!(loaded.config.mode, Mode::Ipvs);
    assert_eq!(
        loaded.warnings,
        ["only the first YAML document of the configuration file counts; remove what follows it"]
    );
}
