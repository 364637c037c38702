//! The process in the background that holds a lab: network, API server, controllers, kubelets, DNS, daemons.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use tokio::signal::unix::{SignalKind, signal};

use sluice_cluster::api::{ApiServer, KubernetesService, Options, PodsEnd, Resource};
use sluice_cluster::{Host, Isolation, Lab, LabSpec, prepare};
use sluice_controllers::Controllers;
use sluice_controllers::fields::{is_true, list, number};
use sluice_controllers::run::now;
use sluice_core::net::Family;

use super::control::{Door, Request, Response};
use super::dns::ZoneKeeper;
use super::place::Place;
use super::proxies::Proxies;
use super::{UpFlags, objects};
use crate::kubelet::{Kubelet, Surroundings, resolver_file};

/// How long the first Pods may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lab that is up. Fields drop in order: who writes before what is written to.
struct Running {
    proxies: Mutex<Proxies>,
    _kubelets: Vec<Kubelet>,
    _controllers: Controllers,
    _zone: ZoneKeeper,
    api: Arc<ApiServer>,
    lab: Arc<Lab>,
    place: Place,
    url: String,
    dir: PathBuf,
}

/// Runs a lab until it is told to end. What it prints first is for who started it.
pub(crate) fn run(flags: &UpFlags, program: PathBuf) -> Result<()> {
    let started = Instant::now();
    // It leads its session already if it was started by hand.
    let _ = setsid();
    let place = Place::of(&flags.name)?;
    let _lock = place.claim()?;
    // Before the network namespace is left, if it is.
    let outside = TcpListener::bind("127.0.0.1:0").context("listen for kubectl on 127.0.0.1")?;
    prepare(Isolation::Shared)?;
    // Handled, not blocked: what is started inherits a blocked signal.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminated, mut interrupted) = {
        let _context = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let running = Arc::new(Running::build(flags, place, outside, program)?);
    let control = UnixListener::bind(running.place.file("control"))?;
    // It must not keep the lab from ending.
    let answering = Arc::downgrade(&running);
    std::thread::spawn(move || {
        for stream in control.incoming().flatten() {
            let Some(running) = answering.upgrade() else { return };
            if let Err(error) = answer(&running, stream) {
                tracing::debug!(%error, "somebody who asked is gone");
            }
        }
    });
    announce(&running, started.elapsed())?;
    runtime.block_on(async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    });
    // Whoever is being answered ends first.
    while Arc::strong_count(&running) > 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[allow(clippy::print_stdout)] // the answer to who started it
fn announce(running: &Running, took: Duration) -> Result<()> {
    println!("{}", running.describe(&format!("up in {:.2} s", took.as_secs_f32())));
    println!("\n  export KUBECONFIG={}", running.place.file("kubeconfig").display());
    println!("  sluice-lab exec shell --name {} -- curl -s http://web", running.place.name());
    println!("  sluice-lab down --name {}\n{}", running.place.name(), super::READY);
    std::io::stdout().flush().context("tell that the lab is up")
}

impl Running {
    fn build(
        flags: &UpFlags,
        place: Place,
        outside: TcpListener,
        program: PathBuf,
    ) -> Result<Running> {
        let lab = Arc::new(Lab::new(LabSpec { nodes: flags.nodes })?);
        let at = lab.fabric().socket_addr(Family::V4, 6443);
        let inside = lab.fabric().namespace().run(move || TcpListener::bind(at))??;
        let url = format!("http://{}", outside.local_addr()?);
        let kubernetes_service = KubernetesService::Endpoint { address: at.ip(), port: at.port() };
        let pods_end = PodsEnd::WhenTheirKubeletSays;
        let options = Options { pods_end, kubernetes_service, ..Options::default() };
        let api = Arc::new(ApiServer::start_on(vec![inside, outside], options)?);
        for node in lab.nodes() {
            api.create(&objects::node(&node, &now()))?;
        }
        let zone = ZoneKeeper::start(&api)?;
        let controllers = Controllers::start(Arc::clone(&api))?;
        let dir = place.file("").components().collect::<PathBuf>();
        let around = Surroundings {
            lab: Arc::clone(&lab),
            api: Arc::clone(&api),
            dns: zone.zone(),
            dir: dir.clone(),
        };
        let kubelets = lab.nodes().into_iter().map(|node| Kubelet::start(node, around.clone()));
        let kubelets = kubelets.collect::<std::io::Result<Vec<_>>>()?;
        for object in objects::workloads() {
            api.create(&object)?;
        }
        let mut proxies = Proxies::new(program, format!("http://{at}"));
        proxies.set_mode(&lab.nodes(), &flags.mode)?;
        let kubeconfig = objects::kubeconfig(place.name(), &url);
        std::fs::write(place.file("kubeconfig"), kubeconfig.to_string())?;
        let running = Running {
            proxies: Mutex::new(proxies),
            _kubelets: kubelets,
            _controllers: controllers,
            _zone: zone,
            api,
            lab,
            place,
            url,
            dir,
        };
        running.wait_for_pods()?;
        Ok(running)
    }

    fn wait_for_pods(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pods = self.api.list(Resource::Pods, "");
            let ready = pods.iter().filter(|pod| is_true(&pod.value(), "Ready")).count();
            if ready >= 6 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{ready} of 6 Pods are ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn describe(&self, what: &str) -> String {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = self.lab.nodes();
        let mut text = format!("lab {:?}: {what}", self.place.name());
        for node in &nodes {
            let mode = proxies.mode(node.name()).unwrap_or("no daemon");
            text.push_str(&format!("\n  {:<8} {:<14} {mode}", node.name(), node.ip(Family::V4)));
        }
        text.push_str(&format!("\n  {:<8} {:<14}", "client", self.lab.client().ip(Family::V4)));
        for deployment in self.api.list(Resource::Deployments, "") {
            let value = deployment.value();
            let ready = number(&value["status"]["readyReplicas"]);
            let wanted = number(&value["spec"]["replicas"]);
            let key = &deployment.key;
            text.push_str(&format!("\n  {}/{}  {ready}/{wanted} ready", key.namespace, key.name));
        }
        for service in self.api.list(Resource::Services, "") {
            let ip = service.value()["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
            text.push_str(&format!("\n  {}/{}  {ip}", service.key.namespace, service.key.name));
        }
        text.push_str(&format!("\n  API server  {}", self.url));
        text.push_str(&format!("\n  supervisor  {}", std::process::id()));
        text
    }

    fn answer(&self, request: Request) -> Result<Response> {
        match request {
            Request::Down => {
                kill(Pid::this(), Signal::SIGTERM)?;
                Ok(Response::Text("ending".to_owned()))
            }
            Request::Status => Ok(Response::Text(self.describe("up"))),
            Request::Enter(name) => self.door(&name).map(Response::Door),
            Request::Mode { mode, nodes } => self.set_mode(&mode, &nodes),
            Request::Logs(name) => self.logs(&name).map(Response::Text),
        }
    }

    fn set_mode(&self, mode: &str, names: &[String]) -> Result<Response> {
        let all = self.lab.nodes();
        let named = names.iter().map(|name| Ok(self.lab.node(name)?));
        let named = named.collect::<Result<Vec<_>>>()?;
        let nodes = if named.is_empty() { &all } else { &named };
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        proxies.set_mode(nodes, mode)?;
        let names: Vec<&str> = nodes.iter().map(|node| node.name()).collect();
        Ok(Response::Text(format!("{}: {mode}", names.join(", "))))
    }

    /// A host by the name of a node, of the client, or of a Pod: `POD`, or `POD.NAMESPACE`.
    fn door(&self, name: &str) -> Result<Door> {
        let (host, files): (Host, Vec<(PathBuf, PathBuf)>) = if name == "client" {
            (self.lab.client(), Vec::new())
        } else if let Ok(node) = self.lab.node(name) {
            ((*node).clone(), Vec::new())
        } else {
            let pod = self.lab.pod(name).map_err(|_| self.unknown(name))?;
            let file = resolver_file(&self.dir, pod.name());
            ((*pod).clone(), vec![(file, PathBuf::from("/etc/resolv.conf"))])
        };
        let hostname = name.split('.').next().unwrap_or_default().to_owned();
        Ok(Door { pid: std::process::id(), namespace: host.namespace().path(), files, hostname })
    }

    fn unknown(&self, name: &str) -> anyhow::Error {
        let mut names: Vec<String> =
            self.lab.nodes().iter().map(|node| node.name().to_owned()).collect();
        names.push("client".to_owned());
        names.extend(self.lab.pods().iter().map(|pod| pod.name().to_owned()));
        anyhow!("there is no node or Pod {name:?}; there are {}", names.join(", "))
    }

    fn logs(&self, name: &str) -> Result<String> {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = proxies.log(name) {
            return Ok(log);
        }
        drop(proxies);
        let (pod, namespace) = name.split_once('.').unwrap_or((name, "default"));
        let found = self.api.get(Resource::Pods, namespace, pod).map_err(|_| self.unknown(name))?;
        let containers = list(&found.value()["spec"]["containers"]).to_vec();
        let mut text = String::new();
        for container in containers {
            let container = container["name"].as_str().unwrap_or_default();
            let file = self.dir.join(format!("{namespace}_{pod}_{container}.log"));
            text.push_str(&read(&file)?);
        }
        Ok(text)
    }
}

/// A file, empty if it is not there.
fn read(file: &Path) -> Result<String> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

fn answer(running: &Running, stream: UnixStream) -> Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let request = serde_json::from_str(&line)?;
    let response = running.answer(request);
    let response = response.unwrap_or_else(|error| Response::Failed(format!("{error:#}")));
    writeln!(&stream, "{}", serde_json::to_string(&response)?)?;
    Ok(())
}
