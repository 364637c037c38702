//! The admin socket of a real daemon, and the commands that ask it.

mod support;

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Options};
use sluice_cluster::{Isolation, prepare};

use support::daemon::{Daemon, config, program};
use support::{Outcome, eventually, trial};

fn main() -> ExitCode {
    // Before any thread exists: without root, everything happens in a user namespace.
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = vec![
        trial("a_daemon_tells_what_it_knows", status),
        trial("a_dump_is_a_truth_like_its_daemon", dumped),
        trial("rules_are_in_the_words_of_nft", words_of_nft),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A daemon with a Service, and where it answers.
struct World {
    daemon: Daemon,
    socket: PathBuf,
    _api: ApiServer,
    folder: tempfile::TempDir,
}

fn objects() -> Vec<Value> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "type": "ClusterIP", "clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80"],
                  "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "namespace": "default",
                      "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": [{ "addresses": ["10.244.1.2"], "nodeName": "node-a" },
                      { "addresses": ["10.244.2.2"], "nodeName": "node-b" }],
    });
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-a" },
        "spec": { "podCIDRs": ["10.244.1.0/24"] },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] },
    });
    vec![service, slice, node]
}

impl World {
    fn new() -> World {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
        let api = ApiServer::start(listener, Options::default()).expect("an API server");
        for object in objects() {
            api.create(&object).unwrap_or_else(|error| panic!("{error}: {object}"));
        }
        let folder = tempfile::tempdir().expect("a directory");
        let socket = folder.path().join("sluice/admin.sock");
        let file = folder.path().join("config.conf");
        std::fs::write(&file, config("")).expect("it is written");
        let mut command = Command::new(program());
        command.arg("--config").arg(&file).args(["--master", &api.url()]);
        command.arg(format!("--admin-socket={}", socket.display()));
        let daemon = Daemon::start_as(&mut command);
        daemon.wait_for_first_sync("IPv4");
        World { daemon, socket, _api: api, folder }
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(arguments).arg("--socket").arg(&self.socket);
        command.output().expect("the program runs")
    }

    #[track_caller]
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("it prints UTF-8")
    }
}

/// What a program prints that reads files in place of a daemon.
fn from_file(arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program()).args(arguments).arg("-f").arg(file).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

fn status() -> Outcome {
    let mut world = World::new();
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").mode() & 0o777;
    let folder = world.socket.parent().expect("a directory");
    assert_eq!((mode(folder), mode(&world.socket)), (0o700, 0o600));
    let status = world.told(&["status", "web"]);
    assert!(status.starts_with("default/web IPv4: programmed since "), "{status}");
    assert!(status.contains("  http: 10.96.0.80:80/tcp; 2 endpoints, "), "{status}");
    let all = eventually("a node at rest", || {
        let output = world.ask(&["status"]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    assert!(all.contains("IPv4: 1 Services, 0 pending, 0 refused; last sync 2"), "{all}");
    let unknown = world.ask(&["status", "wbe"]);
    let error = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(error.contains("there is no Service default/wbe; there is default/web"), "{error}");
    world.daemon.stop();
    assert!(!world.socket.exists(), "it is gone with the daemon");
    let nobody = world.ask(&["status"]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no daemon answers at"));
    Ok(())
}

fn dumped() -> Outcome {
    let world = World::new();
    let dump = world.told(&["dump"]);
    let file = world.folder.path().join("dump.yaml");
    std::fs::write(&file, &dump).expect("it is written");
    for mode in ["nftables", "iptables", "ipvs", "userspace"] {
        let arguments = ["rules", "web", "--mode", mode];
        let told = world.told(&arguments);
        let read = from_file(&arguments, &file);
        let rules = |text: &str| text.split_once('\n').expect("a first line").1.to_owned();
        assert!(told.contains("10.244.1.2"), "{told}");
        assert_eq!(rules(&told), rules(&read), "{mode}");
    }
    let explained = from_file(&["explain", "10.244.1.2", "svc/web"], &file);
    for words in ["dump of node-a of", "✓ 10.244.2.2:8080", "reachable:"] {
        assert!(explained.contains(words), "{words}: {explained}");
    }
    let redacted = world.told(&["dump", "--redact"]);
    for secret in ["web", "node-a", "10.96.0.80", "10.244.1.2", "192.0.2.1"] {
        assert!(dump.contains(secret) && !redacted.contains(secret), "{secret}: {redacted}");
    }
    std::fs::write(&file, &redacted).expect("it is written");
    let (_, service) = redacted.split_once("kind: Service\n").expect("a Service");
    let name = service.lines().find_map(|line| line.trim().strip_prefix("name: "));
    let name = format!("namespace-000001/{}", name.expect("it has a name"));
    let rules = from_file(&["rules", &name, "--mode", "ipvs"], &file);
    assert_eq!(rules.matches(" -m -w 1").count(), 2, "{rules}");
    Ok(())
}

/// The text is what `nft` loads, and lists again; words may stand on other lines.
fn words_of_nft() -> Outcome {
    let world = World::new();
    let words = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let text = world.told(&["rules", "web", "--mode", "nftables"]);
    let listed = Command::new("nft").args(["list", "table", "ip", "kube-proxy"]).output();
    let listed = String::from_utf8(listed.expect("nft runs").stdout).expect("text");
    let ours: Vec<String> = words(&text);
    let end = ours.iter().position(|word| word == "ip6").map_or(ours.len(), |at| at - 1);
    assert_eq!(ours[..end], words(&listed)[..], "{text}\n{listed}");
    Ok(())
}
