//! A whole cluster on one machine: the network, the API server, pods that become endpoints, and the
//! real daemon on each node.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api::{ApiError, ApiServer, Object, Options, Resource, StartError};
use super::host::{Node, Pod};
use super::proxy::{self, Place, Proxy};
use super::topology::{self, Lab, LabSpec};
use super::{endpoints, netns};
use sluice_core::net::{Family, Protocol};

/// How long a daemon may take for its first sync.
const FIRST_SYNC: Duration = Duration::from_secs(300);

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network.
    #[error(transparent)]
    Network(#[from] topology::Error),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The API server has no address.
    #[error("listen for the API server: {0}")]
    Listen(#[source] std::io::Error),
    /// The API server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The API server refused an object.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A daemon.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
}

/// What cluster to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// How many nodes it has.
    pub nodes: u8,
    /// The daemon's program.
    pub program: PathBuf,
    /// Further lines of YAML for the daemons' configuration.
    pub configuration: String,
}

/// A cluster. Dropping it ends the daemons and removes everything.
#[derive(Debug)]
pub struct Cluster {
    // Fields drop in order: daemons before the network that they live in.
    proxies: Mutex<BTreeMap<String, Proxy>>,
    api: ApiServer,
    lab: Lab,
    spec: ClusterSpec,
}

impl Cluster {
    /// Builds the network and starts the API server, with a Node object for each node. Daemons are
    /// started by [`Cluster::start_proxy`].
    pub fn new(spec: ClusterSpec) -> Result<Cluster, Error> {
        let lab = Lab::new(LabSpec { nodes: spec.nodes })?;
        let fabric = lab.fabric();
        let address = fabric.socket_addr(Family::V4, 6443);
        let listener = fabric.namespace().run(move || TcpListener::bind(address))?;
        let api = ApiServer::start(listener.map_err(Error::Listen)?, Options::default())?;
        let cluster = Cluster { proxies: Mutex::default(), api, lab, spec };
        for node in cluster.lab.nodes() {
            cluster.api.create(&node_object(&node))?;
        }
        Ok(cluster)
    }

    /// The network.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The API server.
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// Starts the daemon on a node and waits until its rules are in place.
    pub fn start_proxy(&self, node: &str) -> Result<(), Error> {
        self.start_proxy_with(node, "")
    }

    /// The same with further lines of YAML for its configuration.
    pub fn start_proxy_with(&self, node: &str, configuration: &str) -> Result<(), Error> {
        let host = self.lab.node(node)?;
        let further = format!("{}\n{configuration}\n", self.spec.configuration);
        let mode = if further.lines().any(|line| line.starts_with("mode:")) {
            ""
        } else {
            "mode: nftables\n"
        };
        let configuration = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
             kind: KubeProxyConfiguration\n\
             hostnameOverride: {node}\n\
             {mode}{further}"
        );
        let url = self.api.url();
        let proxy = Proxy::start(&self.spec.program, Place::On(&host), &url, &configuration)?;
        for family in Family::BOTH {
            proxy.wait_for(&format!("first sync done family={family}"), 0, FIRST_SYNC)?;
        }
        self.proxies().insert(node.to_owned(), proxy);
        Ok(())
    }

    /// Does something with the daemon of a node, if it is running.
    pub fn with_proxy<T>(&self, node: &str, f: impl FnOnce(&mut Proxy) -> T) -> Option<T> {
        self.proxies().get_mut(node).map(f)
    }

    /// Ends the daemon of a node with SIGTERM; its rules stay.
    pub fn stop_proxy(&self, node: &str) -> Result<(), Error> {
        let proxy = self.proxies().remove(node);
        if let Some(mut proxy) = proxy {
            proxy.terminate(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// Starts a pod with the label `app`, and adds it to the Services that select it. Returns when it
    /// could be known first: the instant of the last write.
    pub fn add_pod(
        &self,
        name: &str,
        app: &str,
        node: &str,
        ports: &[(Protocol, u16)],
    ) -> Result<(Pod, Instant), Error> {
        let pod = self.lab.add_pod(name, &self.lab.node(node)?, ports)?;
        self.api.create(&pod_object(&pod, app))?;
        self.api.update_status(&pod_object(&pod, app))?;
        Ok((pod, self.publish()?))
    }

    /// Takes a pod out of its Services; it runs on until [`Cluster::remove_pod`]. Returns the instant
    /// of the last write.
    pub fn retire_pod(&self, pod: &Pod) -> Result<Instant, Error> {
        self.api.delete(Resource::Pods, "default", pod.name())?;
        self.publish()
    }

    /// Takes a pod out of its Services and ends it.
    pub fn remove_pod(&self, pod: &Pod) -> Result<(), Error> {
        self.retire_pod(pod)?;
        Ok(self.lab.remove_pod(pod)?)
    }

    /// Creates a Service and its EndpointSlices.
    pub fn create_service(&self, service: &Value) -> Result<Arc<Object>, Error> {
        let created = self.api.create(service)?;
        self.publish()?;
        Ok(created)
    }

    /// Makes the EndpointSlices of every Service follow from the Pods that there are. Returns the
    /// instant of the last write, or now if nothing was to be written.
    pub fn publish(&self) -> Result<Instant, Error> {
        let pods: Vec<Value> =
            self.api.list(Resource::Pods, "default").iter().map(|p| p.value()).collect();
        let mut last = Instant::now();
        for service in self.api.list(Resource::Services, "default") {
            for wanted in endpoints::slices(&service.value(), &pods) {
                let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
                let written = match self.api.get(Resource::EndpointSlices, "default", name) {
                    Ok(existing) if existing.value()["endpoints"] == wanted["endpoints"] => {
                        continue;
                    }
                    Ok(_) => self.api.update(&wanted)?,
                    Err(_) => self.api.create(&wanted)?,
                };
                last = written.written;
            }
        }
        Ok(last)
    }

    fn proxies(&self) -> MutexGuard<'_, BTreeMap<String, Proxy>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The program that is running: the lab starts it again as a daemon.
pub fn daemon_program(given: Option<&Path>) -> std::io::Result<PathBuf> {
    if let Some(given) = given {
        return std::fs::canonicalize(given).map_err(|error| {
            std::io::Error::other(format!("the daemon's program {}: {error}", given.display()))
        });
    }
    let beside = std::env::current_exe()?.parent().map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join("sluice")).find(|file| file.is_file()).ok_or_else(|| {
        std::io::Error::other(
            "there is no program `sluice` beside this one nor on the PATH; build it, or name it with --daemon",
        )
    })
}

fn addresses(ips: impl Iterator<Item = std::net::IpAddr>) -> Vec<Value> {
    ips.map(|ip| json!({"type": "InternalIP", "address": ip})).collect()
}

/// The Node object of a node, with its addresses and pod prefixes.
pub fn node_object(node: &Node) -> Value {
    let ips = Family::BOTH.map(|family| node.ip(family));
    let cidrs = Family::BOTH.map(|family| node.pod_cidr(family).to_string());
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name(), "labels": {"kubernetes.io/hostname": node.name()}},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": addresses(ips.into_iter())},
    })
}

fn pod_object(pod: &Pod, app: &str) -> Value {
    let ips = Family::BOTH.map(|family| json!({"ip": pod.ip(family)}));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name(), "namespace": "default", "labels": {"app": app}},
        "spec": {"nodeName": pod.node(), "containers": [{"name": "main", "image": "lab"}]},
        "status": {
            "phase": "Running",
            "podIP": ips[0]["ip"],
            "podIPs": ips,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}
