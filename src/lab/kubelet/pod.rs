//! One Pod that runs: its network, its files, its programs.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use sluice_cluster::api::Key;
use sluice_cluster::{Node, Pod, Sandbox};
use sluice_controllers::fields::{list, name, namespace, text, uid};
use sluice_controllers::run::now;
use sluice_core::net::{Family, Protocol};

use super::probe::Probe;
use super::responder::Responder;
use super::status::{self, Container, Running};
use super::{DNS_IMAGE, Surroundings};

/// How long a responder goes on when its Pod is being ended, so that proxies hear of it first.
const DRAIN: Duration = Duration::from_secs(1);
/// The pause before a program that ended is started again, and the longest one.
const BACKOFF: (u64, u64) = (1, 300);

/// What tasks of a Pod tell the kubelet.
pub(super) enum Said {
    Ready { key: Key, uid: String, container: usize, ready: bool },
    Ended { key: Key, uid: String, container: usize, code: i32 },
    Again { key: Key, uid: String, container: usize },
    GraceOver { key: Key, uid: String },
}

/// A Pod that runs.
pub(super) struct Started {
    pub(super) uid: String,
    pub(super) host: Pod,
    sandbox: Sandbox,
    containers: Vec<(Container, Program)>,
    restarts: bool,
    restart_after_success: bool,
    stop: CancellationToken,
    ending: bool,
}

/// What runs for a container.
enum Program {
    /// Something of the lab's, which ends with the Pod.
    Own,
    /// A program of this machine.
    Process {
        words: Vec<String>,
        variables: Vec<(String, String)>,
        log: PathBuf,
        group: Option<Pid>,
    },
}

/// The name of a Pod in the lab's network.
pub(crate) fn lab_name(pod: &Value) -> String {
    match namespace(pod) {
        "default" => name(pod).to_owned(),
        other => format!("{}.{other}", name(pod)),
    }
}

impl Started {
    /// Lays the Pod's network and starts its containers; gives what is to be told in Events.
    pub(super) async fn begin(
        pod: &Value,
        node: &Node,
        around: &Surroundings,
        say: &UnboundedSender<Said>,
    ) -> io::Result<(Started, Vec<(&'static str, String)>)> {
        let host = around.lab.add_pod(&lab_name(pod), node, &[]).map_err(io::Error::other)?;
        let begun = Started::within(pod, host.clone(), node, around, say).await;
        if begun.is_err() {
            around.lab.remove_pod(&host).map_err(io::Error::other)?;
        }
        begun
    }

    async fn within(
        pod: &Value,
        host: Pod,
        node: &Node,
        around: &Surroundings,
        say: &UnboundedSender<Said>,
    ) -> io::Result<(Started, Vec<(&'static str, String)>)> {
        let files = write_files(pod, &host, &around.dir)?;
        let sandbox = Sandbox::new(&host.namespace().path(), &files, name(pod))?;
        let policy = text(&pod["spec"]["restartPolicy"]);
        let mut started = Started {
            uid: uid(pod).to_owned(),
            host,
            sandbox,
            containers: Vec::new(),
            restarts: policy != "Never",
            restart_after_success: policy == "Always",
            stop: CancellationToken::new(),
            ending: false,
        };
        let key = Key::new(namespace(pod), name(pod));
        let mut events = Vec::new();
        for (index, container) in list(&pod["spec"]["containers"]).iter().enumerate() {
            let log = around.dir.join(format!(
                "{}_{}_{}.log",
                key.namespace,
                key.name,
                text(&container["name"])
            ));
            let (program, message) = started.program(container, node, around, log).await?;
            events.push(("Started", message));
            started.containers.push((
                Container {
                    name: text(&container["name"]).to_owned(),
                    image: text(&container["image"]).to_owned(),
                    state: Running::Since(now()),
                    ready: !container["readinessProbe"].is_object(),
                    restarts: 0,
                },
                program,
            ));
            started.launch(&key, index, say);
            if let Some(probe) = Probe::of(container) {
                started.watch(&key, index, probe, node.clone(), say.clone());
            }
        }
        Ok((started, events))
    }

    /// What stands in for a container's image, and how that is told.
    async fn program(
        &self,
        container: &Value,
        node: &Node,
        around: &Surroundings,
        log: PathBuf,
    ) -> io::Result<(Program, String)> {
        let image = text(&container["image"]);
        let words = list(&container["command"]).iter().chain(list(&container["args"]));
        let words: Vec<String> = words.map(|word| text(word).to_owned()).collect();
        if !list(&container["command"]).is_empty() {
            let message =
                format!("Image {image:?} is not pulled: {:?} of this machine runs", words[0]);
            let variables = list(&container["env"]).iter();
            let variables = variables
                .map(|entry| (text(&entry["name"]).to_owned(), text(&entry["value"]).to_owned()));
            let variables = variables.collect();
            return Ok((Program::Process { words, variables, log, group: None }, message));
        }
        if image == DNS_IMAGE {
            self.serve_dns(around).await?;
            return Ok((Program::Own, "Cluster DNS of the lab runs".to_owned()));
        }
        let responder = Responder {
            name: name_of(&self.host),
            node: node.name().to_owned(),
            log: Mutex::new(append(&log)?),
            healthy: AtomicBool::new(true),
        };
        let listening =
            Arc::new(responder).listen((*self.host).clone(), ports(container), self.stop.clone());
        let done = self.host.namespace().spawn(listening).map_err(io::Error::other)?;
        done.await.map_err(io::Error::other)??;
        let message = format!("Image {image:?} is not pulled: the lab's responder runs");
        Ok((Program::Own, message))
    }

    async fn serve_dns(&self, around: &Surroundings) -> io::Result<()> {
        let at: Vec<SocketAddr> =
            Family::BOTH.iter().map(|family| self.host.socket_addr(*family, 53)).collect();
        let (zone, stop) = (Arc::clone(&around.dns), self.stop.clone());
        let bound = self.host.namespace().spawn(async move {
            let (mut sockets, mut listeners) = (Vec::new(), Vec::new());
            for at in at {
                sockets.push(UdpSocket::bind(at).await?);
                listeners.push(TcpListener::bind(at).await?);
            }
            tokio::spawn(
                stop.run_until_cancelled_owned(sluice_dns::serve(zone, sockets, listeners)),
            );
            Ok::<_, io::Error>(())
        });
        bound.map_err(io::Error::other)?.await.map_err(io::Error::other)?
    }

    /// Starts a container's program, if it is one of this machine's.
    fn launch(&mut self, key: &Key, index: usize, say: &UnboundedSender<Said>) {
        let Some((container, Program::Process { words, variables, log, group })) =
            self.containers.get_mut(index)
        else {
            return;
        };
        let (key, uid, say) = (key.clone(), self.uid.clone(), say.clone());
        let ended = move |code| Said::Ended { key, uid, container: index, code };
        match spawn(&self.sandbox, words, variables, log) {
            Ok(mut child) => {
                let id = child.id().and_then(|id| i32::try_from(id).ok());
                *group = id.map(Pid::from_raw);
                container.state = Running::Since(now());
                tokio::spawn(async move {
                    let code = child.wait().await.ok().and_then(|status| status.code());
                    // If nobody listens, the kubelet has ended.
                    let _ = say.send(ended(code.unwrap_or(137)));
                });
            }
            Err(error) => {
                tracing::warn!(program = %words[0], %error, "a container's program does not start");
                let _ = say.send(ended(127));
            }
        }
    }

    fn watch(
        &self,
        key: &Key,
        container: usize,
        probe: Probe,
        node: Node,
        say: UnboundedSender<Said>,
    ) {
        let (key, uid, stop) = (key.clone(), self.uid.clone(), self.stop.clone());
        let (ip, sandbox) = (self.host.ip(Family::V4), self.sandbox.clone());
        let probing = async move {
            tokio::time::sleep(probe.delay).await;
            let (mut ready, mut streak) = (false, 0);
            loop {
                let good = probe.send(&node, ip, &sandbox).await;
                streak = if good == ready { 0 } else { streak + 1 };
                let needed = if good { probe.successes } else { probe.failures };
                if streak >= needed.max(1) {
                    (ready, streak) = (good, 0);
                    let (key, uid) = (key.clone(), uid.clone());
                    if say.send(Said::Ready { key, uid, container, ready }).is_err() {
                        return;
                    }
                }
                tokio::time::sleep(probe.period).await;
            }
        };
        tokio::spawn(stop.run_until_cancelled_owned(probing));
    }

    pub(super) fn set_ready(&mut self, container: usize, ready: bool) {
        if let Some((container, _)) = self.containers.get_mut(container) {
            container.ready = ready && matches!(container.state, Running::Since(_));
        }
    }

    pub(super) fn ended(
        &mut self,
        key: &Key,
        index: usize,
        code: i32,
        say: &UnboundedSender<Said>,
    ) {
        let again = self.restarts && (code != 0 || self.restart_after_success) && !self.ending;
        let Some((container, Program::Process { group, .. })) = self.containers.get_mut(index)
        else {
            return;
        };
        *group = None;
        container.ready = false;
        container.state = if again { Running::Backoff } else { Running::Ended(code) };
        if again {
            let doubled = BACKOFF.0 << container.restarts.min(8);
            let pause = Duration::from_secs(doubled.min(BACKOFF.1));
            let (key, uid, say) = (key.clone(), self.uid.clone(), say.clone());
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let _ = say.send(Said::Again { key, uid, container: index });
            });
        }
    }

    pub(super) fn again(&mut self, key: &Key, index: usize, say: &UnboundedSender<Said>) {
        if self.ending {
            return;
        }
        if let Some((container, _)) = self.containers.get_mut(index) {
            container.restarts += 1;
            container.ready = true;
        }
        self.launch(key, index, say);
    }

    /// Asks the programs to end, and gives whether that is new.
    pub(super) fn end(&mut self, key: &Key, grace: u64, say: &UnboundedSender<Said>) -> bool {
        if std::mem::replace(&mut self.ending, true) {
            return false;
        }
        self.signal(Signal::SIGTERM);
        let whole = Duration::from_secs(grace);
        let own = self.containers.iter().all(|(_, program)| matches!(program, Program::Own));
        let wait = if own { whole.min(DRAIN) } else { whole };
        let (key, uid, say) = (key.clone(), self.uid.clone(), say.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = say.send(Said::GraceOver { key, uid });
        });
        true
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// Whether no program of this machine runs any more.
    pub(super) fn is_over(&self) -> bool {
        let runs = |program: &Program| match program {
            Program::Own => true,
            Program::Process { group, .. } => group.is_some(),
        };
        !self.containers.iter().any(|(_, program)| runs(program))
    }

    /// Ends everything at once.
    pub(super) fn kill(&self) {
        self.stop.cancel();
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        for (_, program) in &self.containers {
            if let Program::Process { group: Some(group), .. } = program {
                // It may have ended just now.
                let _ = killpg(*group, signal);
            }
        }
    }

    pub(super) fn status(&self, pod: &Value, node: &Node, now: &str) -> Value {
        let ips = Family::BOTH.map(|family| self.host.ip(family).to_string());
        let containers: Vec<Container> = self.containers.iter().map(|(c, _)| c.clone()).collect();
        status::status(pod, (&node.ip(Family::V4).to_string(), &ips), &containers, now)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.kill();
    }
}

fn name_of(host: &Pod) -> String {
    host.name().split('.').next().unwrap_or_default().to_owned()
}

fn spawn(
    sandbox: &Sandbox,
    words: &[String],
    variables: &[(String, String)],
    log: &Path,
) -> io::Result<tokio::process::Child> {
    let mut command = tokio::process::Command::from(sandbox.command(&words[0]));
    command.args(&words[1..]).envs(variables.iter().cloned()).stdin(Stdio::null());
    command.stdout(append(log)?).stderr(append(log)?).kill_on_drop(true);
    command.spawn()
}

fn append(log: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(log)
}

/// The ports of a responder: the container's, or 80.
fn ports(container: &Value) -> Vec<(Protocol, u16)> {
    let ports: Vec<(Protocol, u16)> = list(&container["ports"])
        .iter()
        .filter_map(|port| {
            let protocol = match port["protocol"].as_str() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            Some((protocol, u16::try_from(port["containerPort"].as_u64()?).ok()?))
        })
        .collect();
    if ports.is_empty() { vec![(Protocol::Tcp, 80)] } else { ports }
}

/// The path of a Pod's `resolv.conf`.
pub(crate) fn resolver_file(dir: &Path, lab_name: &str) -> PathBuf {
    dir.join(format!("{lab_name}.resolv.conf"))
}

/// Writes the files that hide the machine's in the Pod (`pkg/kubelet/network/dns`).
fn write_files(pod: &Value, host: &Pod, dir: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let hidden = Path::new("/etc/resolv.conf");
    let within = namespace(pod);
    let file = resolver_file(dir, host.name());
    std::fs::write(
        &file,
        format!(
            "search {within}.svc.cluster.local svc.cluster.local cluster.local\n\
             nameserver 10.96.0.10\noptions ndots:5\n"
        ),
    )?;
    let there = text(&pod["spec"]["dnsPolicy"]) != "Default" && hidden.exists();
    Ok(if there { vec![(file, hidden.to_owned())] } else { Vec::new() })
}
