//! What the kubelet makes of a DaemonSet: files at their places, a host name, and the program with
//! its arguments, as a process in namespaces of its own.
//!
//! Two things differ from a cluster: the lab's API server speaks plain HTTP, so `https` becomes
//! `http` in the kubeconfig, and the rights of the container are not taken away.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sluice_cluster::api::{Access, ApiServer, Identity, Options, Token};
use tempfile::TempDir;

use crate::fixture;
use crate::support::daemon::program;
use crate::support::{eventually, in_own_network};

/// ConfigMaps: their files, by name.
pub(crate) type Files = BTreeMap<String, BTreeMap<String, String>>;

const NODE: &str = "node-a";
const SECRET: &str = "the-token-of-the-service-account";
const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// Hides the machine's directories behind the Pod's; everything ends with the process.
const ENTER: &str = r#"
set -e
mount -t tmpfs none /var/lib
mount -t tmpfs none /run
mount -t tmpfs none /usr/local/bin
cp -r "$TREE/var/lib/." /var/lib/
mkdir -p /run/secrets
cp -r "$TREE/var/run/secrets/." /run/secrets/
mount --bind "$TREE/etc/hosts" /etc/hosts
for setting in $SETTINGS; do
    if [ -e "$setting" ]; then mount --bind "$TREE/settings/${setting##*/}" "$setting"; fi
done
ln -s "$PROGRAM" /usr/local/bin/kube-proxy
export PATH="/usr/local/bin:$PATH"
unset TREE PROGRAM SETTINGS
exec "$@"
"#;

/// Settings of the whole machine, which a test may not change.
const SETTINGS: [&str; 2] =
    ["/proc/sys/net/netfilter/nf_conntrack_max", "/sys/module/nf_conntrack/parameters/hashsize"];

/// A Pod of a DaemonSet.
pub(crate) struct Pod {
    /// Commands that run first, one after the other.
    init: Vec<Vec<String>>,
    arguments: Vec<String>,
    tree: TempDir,
}

impl Pod {
    /// Lays out the files of the Pod. `host` is the name by which the kubeconfig calls the API server.
    pub(crate) fn new(
        daemon_set: &Value,
        config_maps: impl Fn(&str) -> Option<BTreeMap<String, String>>,
        host: &str,
    ) -> Pod {
        let spec = &daemon_set["spec"]["template"]["spec"];
        let container = spec["containers"].as_array().unwrap().iter();
        let container = container.clone().find(|c| c["name"] == "kube-proxy").expect("the proxy");
        let tree = TempDir::new().expect("a directory");
        for mount in container["volumeMounts"].as_array().unwrap() {
            let volume = spec["volumes"].as_array().unwrap().iter();
            let volume = volume.clone().find(|v| v["name"] == mount["name"]).expect("a volume");
            let Some(name) = volume["configMap"]["name"].as_str() else { continue };
            let files = config_maps(name).unwrap_or_else(|| panic!("no ConfigMap {name}"));
            for (file, text) in files {
                let folder = mount["mountPath"].as_str().unwrap().trim_matches('/');
                write(&tree, &format!("{folder}/{file}"), &text.replace("https://", "http://"));
            }
        }
        write(&tree, &format!("{ACCOUNT}/token"), SECRET);
        write(&tree, &format!("{ACCOUNT}/ca.crt"), &fixture("ca.crt"));
        write(&tree, "etc/hosts", &format!("127.0.0.1 localhost {host}\n"));
        for setting in SETTINGS {
            let name = setting.rsplit('/').next().unwrap();
            write(&tree, &format!("settings/{name}"), "1024");
        }
        let init = spec["initContainers"].as_array().into_iter().flatten().map(arguments);
        Pod { init: init.collect(), arguments: arguments(container), tree }
    }

    /// Starts the proxy, with the API server where its kubeconfig says, and waits until its rules are
    /// in force.
    pub(crate) fn run_until_synced(&self) {
        in_own_network(|| {
            let _api = self.api_server();
            for arguments in &self.init {
                let output = self.command(arguments).output().expect("unshare starts");
                let log = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{arguments:?}: {}\n{log}", output.status);
                assert!(log.contains("this node is set up"), "{arguments:?}:\n{log}");
            }
            let log = self.tree.path().join("log");
            let mut command = self.command(&self.arguments);
            command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
            let mut proxy = Running(command.spawn().expect("unshare starts"));
            eventually("a first sync, or the end of the proxy", || {
                let text = fs::read_to_string(&log).unwrap();
                let ended = proxy.0.try_wait().unwrap();
                assert!(ended.is_none(), "{:?} ended: {ended:?}\n{text}", self.arguments);
                text.contains("first sync done family=IPv4").then_some(())
            });
        });
    }

    /// A command of the Pod's, in its view of the machine.
    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]);
        command.args(arguments).env("TREE", self.tree.path()).env("PROGRAM", program());
        command.env("SETTINGS", SETTINGS.join(" "));
        command
    }

    /// What a setting of the machine is after the Pod.
    pub(crate) fn setting(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.tree.path().join("settings").join(name)).unwrap();
        text.trim().parse().unwrap()
    }

    /// Lets in only who has the account's token, and only to what the ClusterRole allows.
    fn api_server(&self) -> ApiServer {
        let kubeconfig = find(self.tree.path(), "server: http://").expect("a kubeconfig");
        let address = kubeconfig.split("server: http://").nth(1).unwrap();
        let address = address.lines().next().unwrap().trim();
        // Without a port it is the one of the scheme that was taken away.
        let port = address.rsplit_once(':').map_or(80, |(_, port)| port.parse().unwrap());
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the network is new");
        let token = Token { secret: SECRET.to_owned(), identity: Identity::NodeProxier };
        let options = Options { access: Access::Tokens(vec![token]), ..Options::default() };
        let api = ApiServer::start(listener, options).expect("the API server starts");
        api.create(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]},
        }))
        .expect("a node");
        api
    }
}

/// The command with what the kubelet puts in place of `$(NODE_NAME)`.
fn arguments(container: &Value) -> Vec<String> {
    let named = container["env"].as_array().unwrap().iter().any(|variable| {
        variable["name"] == "NODE_NAME"
            && variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    });
    assert!(named, "NODE_NAME is not the node's name: {container:#}");
    let command = container["command"].as_array().unwrap();
    command.iter().map(|word| word.as_str().unwrap().replace("$(NODE_NAME)", NODE)).collect()
}

fn write(tree: &TempDir, file: &str, text: &str) {
    let path = tree.path().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The text of a file below `folder` that contains `words`.
fn find(folder: &Path, words: &str) -> Option<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| {
        if path.is_dir() {
            return find(&path, words);
        }
        fs::read_to_string(path).ok().filter(|text| text.contains(words))
    })
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
