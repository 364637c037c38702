//! The real program and its configuration: flags, files, changes of the file, and how it
//! sets a node up. See docs/configuration.md.

mod support;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use serde_json::json;
use sluice_cluster::api::ApiServer;
use sluice_cluster::{Isolation, prepare};
use sluice_kernel::ipvs::Ipvs;
use tempfile::TempDir;

use support::daemon::{Daemon, config, program};
use support::objects::api_server;
use support::{Outcome, eventually, in_own_network, run, trial};

/// The flags that `kube-proxy --help` of release 1.36 shows, and two hidden ones; `--cleanup` is apart.
const FLAGS: &str = "bind-address bind-address-hard-fail boot-id-file cluster-cidr config config-sync-period \
    conntrack-max-per-core conntrack-min conntrack-tcp-be-liberal conntrack-tcp-timeout-close-wait \
    conntrack-tcp-timeout-established conntrack-udp-timeout conntrack-udp-timeout-stream \
    detect-local-mode feature-gates healthz-bind-address healthz-port help hostname-override init-only \
    iptables-localhost-nodeports iptables-masquerade-bit iptables-min-sync-period iptables-sync-period \
    ipvs-exclude-cidrs ipvs-min-sync-period ipvs-scheduler ipvs-strict-arp ipvs-sync-period \
    ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout kube-api-burst kube-api-content-type \
    kube-api-qps kubeconfig log-flush-frequency log-json-info-buffer-size log-json-split-stream \
    log-text-info-buffer-size log-text-split-stream logging-format machine-id-file masquerade-all \
    master metrics-bind-address metrics-port nodeport-addresses oom-score-adj pod-bridge-interface \
    pod-interface-name-prefix profiling proxy-mode show-hidden-metrics-for-version v version vmodule \
    write-config-to";

fn main() -> ExitCode {
    // Before any thread exists: without root, everything happens in a user namespace.
    prepare(Isolation::Private).expect("namespaces of our own");
    let ipvs = in_own_network(|| Ipvs::open().is_ok());
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = vec![
        trial("every_flag_of_kube_proxy_is_known", every_flag),
        trial("the_version_is_one_that_kubernetes_tools_read", version),
        trial("flags_become_the_effective_configuration", flags),
        trial("beside_a_file_only_some_flags_count", precedence),
        trial("all_problems_are_reported_at_once_and_the_exit_code_is_one", problems),
        trial("a_changed_file_is_taken_over_live", live),
        trial("in_iptables_mode_a_changed_file_is_taken_over_live", live_iptables),
        trial("in_userspace_mode_a_changed_file_is_taken_over_live", || live_in("userspace")),
        trial("in_ipvs_mode_a_changed_file_is_taken_over_live", || live_in("ipvs"))
            .with_ignored_flag(!ipvs),
        trial("init_only_sets_ipvs_up", init_ipvs).with_ignored_flag(!ipvs),
        trial("a_swapped_config_map_is_noticed", config_map),
        trial("an_invalid_file_is_refused_and_the_old_one_stays", refused),
        trial("a_file_system_that_stands_still_holds_up_nothing", standstill),
        trial("what_cannot_change_live_ends_the_daemon_and_the_rules_stay", restart),
        trial("a_node_is_set_up_as_configured", set_up),
        trial("a_node_that_cannot_be_set_up_is_served", read_only),
        trial("a_higher_limit_of_connections_stays", higher_limit),
        trial("settings_are_made_when_connection_tracking_is_loaded", loaded_later),
        trial("with_net_admin_alone_it_serves", net_admin_alone),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs the program to its end.
fn sluice(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn every_flag() -> Outcome {
    for flag in FLAGS.split_whitespace() {
        let output = sluice(&[&format!("--{flag}={}", "\u{1}"), "--version"]);
        let complaint = text(&output.stderr);
        assert!(!complaint.contains("unexpected argument"), "--{flag}: {complaint}");
    }
    let output = sluice(&["--no-such-flag"]);
    assert_eq!(output.status.code(), Some(1), "as kube-proxy does");
    assert!(text(&output.stderr).contains("--no-such-flag"));
    assert_eq!(sluice(&["--help"]).status.code(), Some(0));
    let output = sluice(&["word"]);
    assert_eq!(output.status.code(), Some(1));
    Ok(())
}

fn version() -> Outcome {
    for arguments in [&["--version"][..], &["--version=true", "-v=4"], &["", "--version", ""]] {
        let output = sluice(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let ours = env!("CARGO_PKG_VERSION");
        assert_eq!(text(&output.stdout), format!("Kubernetes v1.36.2-sluice.{ours}\n"));
    }
    let raw = text(&sluice(&["--version=raw"]).stdout);
    assert!(raw.starts_with("version.Info{Major:\"1\", Minor:\"36\""), "{raw}");
    assert_eq!(sluice(&["--version=v9.9.9"]).status.code(), Some(1));
    Ok(())
}

/// The effective configuration of a command line.
#[track_caller]
fn effective(arguments: &[&str]) -> (String, String) {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("effective.yaml");
    let file = file.to_str().expect("a path in UTF-8");
    let output = sluice(&[arguments, &["--write-config-to", file]].concat());
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    (fs::read_to_string(file).expect("it is written"), log)
}

#[track_caller]
fn assert_lines(yaml: &str, lines: &[&str]) {
    for line in lines {
        assert!(yaml.lines().any(|l| l.trim() == *line), "{line} is missing:\n{yaml}");
    }
}

fn flags() -> Outcome {
    let (yaml, _) = effective(&[
        "--proxy-mode=nftables",
        "--cluster_cidr",
        "10.0.0.0/8,fd00::/8",
        "--masquerade-all",
        "--iptables-min-sync-period=0",
        "--iptables-sync-period=10s",
        "--ipvs-sync-period=7s",
        "--oom-score-adj",
        "-5",
        "--nodeport-addresses=10.0.0.0/8",
        "--nodeport-addresses=192.0.2.0/24",
        "--feature-gates=A=true,B=false",
        "--hostname-override= Node-A ",
        "--iptables-localhost-nodeports=f",
        "--healthz-port=0",
        "--metrics-bind-address=::1",
        "-v4",
        "-v",
        "5",
        "",
    ]);
    let lines = [
        "mode: nftables",
        "clusterCIDR: 10.0.0.0/8,fd00::/8",
        "masqueradeAll: true",
        "minSyncPeriod: 0s",
        "syncPeriod: 10s",
        "oomScoreAdj: -5",
        "- 10.0.0.0/8",
        "- 192.0.2.0/24",
        "A: true",
        "B: false",
        "hostnameOverride: node-a",
        "localhostNodePorts: false",
        "healthzBindAddress: \"\"",
        "metricsBindAddress: \"[::1]:10249\"",
        "verbosity: 5",
    ];
    assert_lines(&yaml, &lines);
    assert!(!yaml.contains("7s"), "that is for another mode:\n{yaml}");
    let (_, log) = effective(&["--healthz-port=1", "--kube-api-qps=5", "--boot-id-file=/x"]);
    for warning in
        ["--healthz-port is deprecated", "--kube-api-qps has no effect", "--boot-id-file"]
    {
        assert!(log.contains(warning), "{log}");
    }
    Ok(())
}

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .join("integration/fixtures/config")
        .join(name)
}

fn precedence() -> Outcome {
    let file = fixture("eks.yaml");
    let file = file.to_str().expect("a path in UTF-8");
    let (yaml, log) = effective(&[
        "--config",
        file,
        "--hostname-override=NODE-B",
        "--v=4",
        "--logging-format=json",
        "--proxy-mode=nftables",
        "--oom-score-adj=1",
    ]);
    let lines = [
        "mode: iptables",
        "hostnameOverride: node-b",
        "verbosity: 4",
        "format: json",
        "oomScoreAdj: -998",
        "metricsBindAddress: 0.0.0.0:10249",
    ];
    assert_lines(&yaml, &lines);
    for warning in [
        "unknown field conntrack.max is ignored",
        "unknown field udpIdleTimeout is ignored",
        "--proxy-mode is ignored because --config is given",
        "--oom-score-adj is ignored",
    ] {
        assert!(log.contains(warning), "{warning}:\n{log}");
    }
    for name in ["kubeadm.yaml", "kind-dual-stack.yaml"] {
        let file = fixture(name);
        let (_, log) = effective(&["--config", file.to_str().expect("a path in UTF-8")]);
        assert!(!log.contains("WARN"), "{name}: {log}");
    }
    Ok(())
}

fn problems() -> Outcome {
    let folder = TempDir::new()?;
    let file = folder.path().join("config.yaml");
    fs::write(&file, config("oomScoreAdj: 5000\niptables: {masqueradeBit: 40}\nbindAddress: x"))?;
    let output = sluice(&["--config", file.to_str().expect("a path in UTF-8")]);
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    let path = "KubeProxyConfiguration.";
    for problem in [
        "KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 40: must be within the range [0, 31]",
        "KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: 5000: must be within the range [-1000, 1000]",
        "BindAddress: Invalid value: \"x\": not a valid textual representation of an IP address",
    ] {
        assert!(log.contains(&format!("  {path}{problem} (")), "{problem}:\n{log}");
    }
    let output = sluice(&["--oom-score-adj=5000", "--proxy-mode=magic"]);
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    assert!(log.contains("OOMScoreAdj") && log.contains("Mode.ProxyMode"), "{log}");
    Ok(())
}

/// A daemon with a file that a test can change.
struct Configured {
    _api: ApiServer,
    folder: TempDir,
    daemon: Daemon,
}

const FILE: &str = "config.conf";

impl Configured {
    /// Serves two Services in nftables mode; `more` are lines of the file.
    fn start(more: &str) -> Configured {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join(FILE), config(more)).expect("the file is written");
        Configured::start_in(folder)
    }

    fn start_in(folder: TempDir) -> Configured {
        let api = api();
        let mut command = Command::new(program());
        command.arg("--config").arg(folder.path().join(FILE)).args(["--master", &api.url()]);
        let daemon = Daemon::start_as(&mut command);
        daemon.wait_for_first_sync("IPv4");
        Configured { _api: api, folder, daemon }
    }

    fn write(&self, text: &str) {
        fs::write(self.folder.path().join(FILE), text).expect("the file is written");
    }
}

/// An API server with a node and a Service with a NodePort.
fn api() -> ApiServer {
    let api = api_server(&["192.168.0.2"]);
    let objects = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "clusterIP": "10.96.0.10",
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
            "endpoints": [{"addresses": ["10.244.1.1"], "conditions": {"ready": true}}]}),
    ];
    for object in objects {
        api.create(&object).expect("the object is stored");
    }
    api
}

fn table() -> String {
    run("nft", &["list", "table", "ip", "kube-proxy"])
}

#[track_caller]
fn wait_for_table(what: &str, holds: impl Fn(&str) -> bool) -> String {
    eventually(what, || Some(table()).filter(|text| holds(text)))
}

fn live() -> Outcome {
    let one = Configured::start("");
    let daemon = &one.daemon;
    let before = table();
    assert!(before.contains("192.168.0.2"), "NodePorts answer on the Node's address:\n{before}");
    assert!(before.contains("10.244.0.0/16"), "pods are known by their addresses:\n{before}");

    one.write(&config("nodePortAddresses: [0.0.0.0/0]"));
    let line = daemon.wait_for("the new values are in effect");
    assert!(line.contains("nodePortAddresses"), "{line}");
    wait_for_table("NodePorts answer on all addresses", |text| !text.contains("192.168.0.2"));

    let text = config("nftables: {masqueradeBit: 20, masqueradeAll: true, syncPeriod: 5s}");
    one.write(&text.replace("clusterCIDR: 10.244.0.0/16,", "clusterCIDR: 10.245.0.0/16,"));
    let line = daemon.wait_for_nth("the new values are in effect", 1);
    let fields = "clusterCIDR nftables.masqueradeAll nftables.masqueradeBit nftables.syncPeriod nodePortAddresses";
    assert!(line.contains(fields), "{line}");
    let after = wait_for_table("the other bit is used", |text| text.contains("0x00100000"));
    assert!(!after.contains("0x00004000"), "and the old one is not:\n{after}");
    assert!(!after.contains("10.244.0.0/16"), "the old pod addresses are forgotten:\n{after}");

    assert!(daemon.lines_with("DEBUG").is_empty());
    one.write(&config("logging: {verbosity: 5}"));
    daemon.wait_for("DEBUG");
    wait_for_table("all is as before", |text| text.contains("0x00004000"));
    one.write(&config("logging: {verbosity: 5}\nportRange: 1-2\nipvs: {scheduler: lc}"));
    let line = daemon.wait_for("without effect");
    assert!(line.contains("ipvs.scheduler portRange"), "{line}");
    Ok(())
}

fn live_iptables() -> Outcome {
    let iptables = |more: &str| config(more).replace("mode: nftables", "mode: iptables");
    let folder = TempDir::new()?;
    fs::write(folder.path().join(FILE), iptables("nodePortAddresses: [primary]"))?;
    let one = Configured::start_in(folder);
    let nat = || run("iptables-save", &["-t", "nat"]);
    let before = nat();
    assert!(before.contains("0x4000/0x4000") && before.contains("192.168.0.2"), "{before}");
    one.write(&iptables("iptables: {masqueradeBit: 20}\nnodePortAddresses: [0.0.0.0/0]"));
    one.daemon.wait_for("the new values are in effect");
    eventually("the other bit is used", || {
        Some(nat()).filter(|text| text.contains("0x100000/0x100000") && !text.contains("0x4000"))
    });
    eventually("NodePorts answer on all addresses", || {
        (!nat().contains("192.168.0.2")).then_some(())
    });
    Ok(())
}

/// Modes that have an nftables table.
fn live_in(mode: &str) -> Outcome {
    let text = |more: &str| config(more).replace("mode: nftables", &format!("mode: {mode}"));
    let folder = TempDir::new()?;
    fs::write(folder.path().join(FILE), text("nodePortAddresses: [primary]"))?;
    let one = Configured::start_in(folder);
    wait_for_table("NodePorts answer on the Node's address", |table| {
        table.contains("0x00004000") && table.contains("192.168.0.2")
    });
    one.write(&text("iptables: {masqueradeBit: 20}\nnodePortAddresses: [0.0.0.0/0]"));
    let line = one.daemon.wait_for("the new values are in effect");
    assert!(line.contains("masqueradeBit") && line.contains("nodePortAddresses"), "{line}");
    wait_for_table("the other bit is used, and all addresses", |table| {
        table.contains("0x00100000")
            && !table.contains("0x00004000")
            && !table.contains("192.168.0.2")
    });
    Ok(())
}

fn init_ipvs() -> Outcome {
    let folder = TempDir::new()?;
    let file = folder.path().join(FILE);
    fs::write(
        &file,
        config("conntrack: {maxPerCore: 0}\nipvs: {strictARP: true}")
            .replace("mode: nftables", "mode: ipvs"),
    )?;
    let output = sluice(&["--config", file.to_str().expect("a path"), "--init-only"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for (name, value) in [("vs/conntrack", "1"), ("conf/all/arp_ignore", "1"), ("ip_forward", "1")]
    {
        let found = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"))?;
        assert_eq!(found.trim(), value, "{name}");
    }
    Ok(())
}

/// As the kubelet mounts it: `config.conf` leads to `..data/config.conf`, and `..data` to a folder with
/// a date for a name. A change is a new folder and a new `..data`, renamed into its place.
fn config_map() -> Outcome {
    let folder = TempDir::new()?;
    let publish = |root: &Path, version: &str, text: &str| -> std::io::Result<()> {
        fs::create_dir(root.join(version))?;
        fs::write(root.join(version).join(FILE), text)?;
        symlink(version, root.join("..data_tmp"))?;
        fs::rename(root.join("..data_tmp"), root.join("..data"))
    };
    publish(folder.path(), "..2026_01_01", &config(""))?;
    symlink(format!("..data/{FILE}"), folder.path().join(FILE))?;
    let one = Configured::start_in(folder);
    publish(one.folder.path(), "..2026_01_02", &config("nftables: {masqueradeBit: 21}"))?;
    fs::remove_dir_all(one.folder.path().join("..2026_01_01"))?;
    one.daemon.wait_for("the new values are in effect");
    wait_for_table("the other bit is used", |text| text.contains("0x00200000"));
    Ok(())
}

fn refused() -> Outcome {
    let mut one = Configured::start("");
    let before = table();
    one.write(&config("nftables: {masqueradeBit: 77}\noomScoreAdj: 9999"));
    one.daemon.wait_for("the current configuration stays");
    for problem in ["MasqueradeBit: Invalid value: 77", "OOMScoreAdj: Invalid value: 9999"] {
        assert_eq!(one.daemon.lines_with(problem).len(), 1, "{}", one.daemon.log());
    }
    one.write("no: [yaml");
    one.daemon.wait_for("cannot decode the configuration file");
    fs::remove_file(one.folder.path().join(FILE))?;
    one.daemon.wait_for("cannot read the changed configuration file");
    assert_eq!(table(), before);
    one.write(&config("nftables: {masqueradeBit: 22}"));
    wait_for_table("a good file is taken", |text| text.contains("0x00400000"));
    one.daemon.stop();
    Ok(())
}

/// Reading a pipe without a writer blocks, like a file of an unreachable server.
fn standstill() -> Outcome {
    let mut one = Configured::start("");
    let (pipe, file) = (one.folder.path().join("pipe"), one.folder.path().join(FILE));
    run("mkfifo", &[&pipe.to_string_lossy()]);
    fs::rename(pipe, &file)?;
    let mut writing = fs::OpenOptions::new();
    writing.write(true).custom_flags(libc::O_NONBLOCK);
    // It can be opened for writing as soon as the daemon reads.
    let _open = eventually("the daemon reads the file", || writing.open(&file).ok());
    one.daemon.stop();
    Ok(())
}

fn restart() -> Outcome {
    let mut one = Configured::start("");
    let before = table();
    one.write(&config("healthzBindAddress: 127.0.0.1:10257\nnftables: {masqueradeBit: 20}"));
    let line = one.daemon.wait_for("needs a restart");
    assert!(line.contains("fields=\"healthzBindAddress\""), "{line}");
    assert_eq!(one.daemon.exit_code(), Some(0));
    assert_eq!(table(), before, "the rules stay in force");
    Ok(())
}

fn conntrack(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    text.expect("the kernel tracks connections").trim().to_owned()
}

/// Values of this network's own, unlike the kernel's.
const TIMEOUTS: &str = "oomScoreAdj: 123\nconntrack: {maxPerCore: 0, tcpEstablishedTimeout: 1h, \
     tcpCloseWaitTimeout: 90s, tcpBeLiberal: true, udpTimeout: 20s, udpStreamTimeout: 3m}";

fn assert_timeouts() {
    for (name, value) in [
        ("tcp_timeout_established", "3600"),
        ("tcp_timeout_close_wait", "90"),
        ("tcp_be_liberal", "1"),
        ("udp_timeout", "20"),
        ("udp_timeout_stream", "180"),
    ] {
        assert_eq!(conntrack(name), value, "{name}");
    }
}

fn set_up() -> Outcome {
    let one = Configured::start(TIMEOUTS);
    assert_timeouts();
    let score = format!("/proc/{}/oom_score_adj", one.daemon.pid());
    assert_eq!(fs::read_to_string(&score)?.trim(), "123");
    assert_eq!(one.daemon.lines_with("WARN").len(), 0, "{}", one.daemon.log());
    one.write(&config(
        &TIMEOUTS.replace("udpTimeout: 20s", "udpTimeout: 25s").replace("123", "124"),
    ));
    one.daemon.wait_for("the new values are in effect");
    assert_eq!(conntrack("udp_timeout"), "25");
    assert_eq!(fs::read_to_string(&score)?.trim(), "124");
    Ok(())
}

/// The program behind a /proc/sys that cannot be written, as in a container.
fn read_only_command() -> Command {
    let mut command = Command::new("unshare");
    let script =
        "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(program());
    command
}

fn read_only() -> Outcome {
    let folder = TempDir::new()?;
    let file = folder.path().join(FILE);
    fs::write(&file, config(TIMEOUTS))?;
    let output = read_only_command().arg("--config").arg(&file).arg("--init-only").output()?;
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("nf_conntrack_udp_timeout to 20") && log.contains("Read-only"), "{log}");

    let api = api();
    let mut command = read_only_command();
    let daemon =
        Daemon::start_as(command.arg("--config").arg(&file).args(["--master", &api.url()]));
    daemon.wait_for_first_sync("IPv4");
    let warnings = daemon.lines_with("some settings of this node stay as they are");
    assert_eq!(warnings.len(), 1, "{}", daemon.log());
    assert!(warnings[0].contains("--init-only"), "{}", warnings[0]);

    // What has its value already is no problem.
    let output = Command::new(program()).arg("--config").arg(&file).arg("--init-only").output()?;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_timeouts();
    let output = read_only_command().arg("--config").arg(&file).arg("--init-only").output()?;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    Ok(())
}

/// The program after a command that changes what it sees below /proc/sys.
fn with_mounts(mounts: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{mounts} && exec \"$@\"");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(program());
    command
}

fn higher_limit() -> Outcome {
    let folder = TempDir::new()?;
    let (file, limit) = (folder.path().join(FILE), folder.path().join("limit"));
    for (there, expected) in [("3000000\n", "3000000\n"), ("200\n", "1048576")] {
        fs::write(&limit, there)?;
        // More than any machine's default, and not above the cap.
        fs::write(&file, config("conntrack: {maxPerCore: 2000000}"))?;
        let place = "/proc/sys/net/netfilter/nf_conntrack_max";
        let mut command = with_mounts(&format!("mount --bind {} {place}", limit.display()));
        // The size of the hash table is not this network's to change.
        command.arg("--config").arg(&file).arg("--init-only").output()?;
        assert_eq!(fs::read_to_string(&limit)?, expected);
    }
    Ok(())
}

fn loaded_later() -> Outcome {
    let folder = TempDir::new()?;
    let file = folder.path().join(FILE);
    fs::write(&file, config(TIMEOUTS))?;
    let api = api();
    let mut command = with_mounts("mount -t tmpfs none /proc/sys/net/netfilter");
    let daemon =
        Daemon::start_as(command.arg("--config").arg(&file).args(["--master", &api.url()]));
    daemon.wait_for_first_sync("IPv4");
    daemon.wait_for("still lacks these settings of nf_conntrack");
    assert_ne!(conntrack("udp_timeout"), "20", "this test sees the true files");
    let pid = daemon.pid().to_string();
    run("nsenter", &["-t", &pid, "--mount", "umount", "/proc/sys/net/netfilter"]);
    daemon.wait_for("that were missing are there now");
    assert_timeouts();
    assert_eq!(daemon.lines_with("WARN").len(), 1, "{}", daemon.log());
    Ok(())
}

fn net_admin_alone() -> Outcome {
    let folder = TempDir::new()?;
    let file = folder.path().join(FILE);
    let settings = TIMEOUTS.replace("oomScoreAdj: 123\n", "oomScoreAdj: -999\n");
    fs::write(&file, config(&settings))?;
    run("chmod", &["-R", "a+rX", folder.path().to_str().expect("a path in UTF-8")]);
    let init = Command::new(program()).arg("--config").arg(&file).arg("--init-only").output()?;
    assert_eq!(init.status.code(), Some(0), "{}", text(&init.stderr));
    let api = api();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    command.args(["--inh-caps=-all,+net_admin", "--ambient-caps=+net_admin"]);
    command.args(["--bounding-set=-all,+net_admin"]).arg(program());
    let daemon =
        Daemon::start_as(command.arg("--config").arg(&file).args(["--master", &api.url()]));
    daemon.wait_for_first_sync("IPv4");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    for line in ["CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "Uid:\t65534"] {
        assert!(status.contains(line), "{status}");
    }
    assert!(table().contains("10.244.1.1 . 8080"));
    assert_eq!(daemon.lines_with("WARN").len(), 0, "{}", daemon.log());
    assert_timeouts();
    Ok(())
}
