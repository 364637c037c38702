//! A daemon that has written its rules and does not look at them again, and what people type on its node.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use sluice_cluster::api::ApiServer;

use super::support::daemon::{Daemon, config, program};
use super::support::{objects, run};

/// The Services of this node.
pub(crate) struct World {
    pub(crate) daemon: Daemon,
    pub(crate) api: Option<ApiServer>,
    pub(crate) socket: PathBuf,
    pub(crate) folder: tempfile::TempDir,
}

fn service(name: &str, last: u32, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": { "type": "NodePort", "ipFamilyPolicy": "RequireDualStack",
                  "clusterIP": format!("10.96.0.{last}"),
                  "clusterIPs": [format!("10.96.0.{last}"), format!("fd00:10:96::{last}")],
                  "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30000 + last }] },
    });
    let fields = more.as_object().expect("fields of spec");
    object["spec"].as_object_mut().expect("an object").extend(fields.clone());
    object
}

fn slices(service: &str) -> [Value; 2] {
    let of = |kind: &str, ips: [&str; 2]| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
            "metadata": { "name": format!("{service}-{}", kind.to_lowercase()), "namespace": "default",
                          "labels": { "kubernetes.io/service-name": service } },
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": [{ "addresses": [ips[0]], "nodeName": "node-a" },
                          { "addresses": [ips[1]], "nodeName": "node-b" }],
        })
    };
    [of("IPv4", ["10.244.1.2", "10.244.2.2"]), of("IPv6", ["fd00:10:244:1::2", "fd00:10:244:2::2"])]
}

/// `web` works, `empty` has no endpoint, `shut` admits few, `web` in `shop` has the same name.
fn objects_of_the_api() -> Vec<Value> {
    let shut = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                       "loadBalancerSourceRanges": ["203.0.113.0/24", "2001:db8:1::/48"] });
    let mut shut = service("shut", 82, &shut);
    shut["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "198.51.100.1" }, { "ip": "2001:db8::1" }] } });
    let mut shop = service("web", 83, &json!({}));
    shop["metadata"]["namespace"] = json!("shop");
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
    let (web, empty) = (service("web", 80, &json!({})), service("empty", 81, &json!({})));
    let mut all = vec![namespace, web, empty, shut, shop];
    all.extend(slices("web"));
    all.extend(slices("shut"));
    all
}

impl World {
    /// A daemon in a mode; `more` are further lines of its configuration.
    #[track_caller]
    pub(crate) fn new(mode: &str, more: &str) -> World {
        let api = objects::api_server(&["192.0.2.1", "2001:db8:2::1"]);
        for object in objects_of_the_api() {
            api.create(&object).unwrap_or_else(|error| panic!("{error}: {object}"));
            if object["status"].is_object() {
                api.update_status(&object).unwrap_or_else(|error| panic!("{error}: {object}"));
            }
        }
        let folder = tempfile::tempdir().expect("a directory");
        let socket = folder.path().join("sluice/admin.sock");
        let file = folder.path().join("config.conf");
        // What is taken away stays away: the next sync is in an hour.
        let section = if mode == "userspace" { "iptables" } else { mode };
        let pace = format!("{section}: {{minSyncPeriod: 1h, syncPeriod: 1h}}\n");
        let text =
            config(&format!("{pace}{more}")).replace("mode: nftables", &format!("mode: {mode}"));
        std::fs::write(&file, text).expect("it is written");
        let mut command = Command::new(program());
        command.arg("--config").arg(&file).args(["--master", &api.url()]);
        command.arg(format!("--admin-socket={}", socket.display()));
        let daemon = Daemon::start_as(&mut command);
        daemon.wait_for_first_sync("IPv4");
        daemon.wait_for_first_sync("IPv6");
        World { daemon, api: Some(api), socket, folder }
    }

    /// What a command says that asks the daemon.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(arguments).arg("--socket").arg(&self.socket);
        command.output().expect("the program runs")
    }

    /// The explanation of the daemon.
    #[track_caller]
    pub(crate) fn explained(&self, from: &str, to: &str) -> Value {
        answer(&self.ask(&["explain", from, to, "-o", "json"]))
    }

    /// What the daemon knows, in a file.
    #[track_caller]
    pub(crate) fn dump(&self) -> PathBuf {
        let output = self.ask(&["dump"]);
        assert!(output.status.success(), "{output:?}");
        let file = self.folder.path().join("dump.yaml");
        std::fs::write(&file, &output.stdout).expect("it is written");
        file
    }
}

/// The explanation that follows from a file.
#[track_caller]
pub(crate) fn from_file(from: &str, to: &str, file: &Path) -> Value {
    let mut command = Command::new(program());
    command.args(["explain", from, to, "-o", "json", "-f"]).arg(file);
    answer(&command.output().expect("the program runs"))
}

#[track_caller]
fn answer(output: &Output) -> Value {
    let read = serde_json::from_slice(&output.stdout);
    read.unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// One stage of an explanation.
#[track_caller]
pub(crate) fn stage<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let stages = answer["stages"].as_array().expect("a list");
    let found = stages.iter().find(|stage| stage["stage"] == name);
    found.unwrap_or_else(|| panic!("no stage {name}: {answer}"))
}

/// Two links with the node's addresses, and routes to all pods and to the clients.
pub(crate) fn links() {
    for arguments in [
        "link add pods type veth peer name pods-end",
        "link add out type veth peer name out-end",
        "link set pods up",
        "link set pods-end up",
        "link set out up",
        "link set out-end up",
        "addr add 192.0.2.1/24 dev out",
        "addr add 2001:db8:2::1/64 dev out nodad",
        "route add 10.244.0.0/16 dev pods",
        "-6 route add fd00:10:244::/48 dev pods",
        "route add default dev out",
        "-6 route add default dev out",
    ] {
        run("ip", &arguments.split(' ').collect::<Vec<_>>());
    }
    for setting in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        set(setting, "1");
    }
}

/// A setting of the kernel.
#[track_caller]
pub(crate) fn set(setting: &str, value: &str) {
    let file = format!("/proc/sys/{}", setting.replace('.', "/"));
    std::fs::write(&file, value).unwrap_or_else(|error| panic!("{file}: {error}"));
}
