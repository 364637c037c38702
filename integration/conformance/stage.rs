//! The one cluster that all cases are played on: real namespaces, the real daemon on node-a.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Resource};
use sluice_cluster::{Answer, Cluster, ClusterSpec, Host, Probe, Proxy};
use sluice_core::net::{Family, Protocol};

use super::case::{NodeState, Settings, World};
use super::mode::Mode;
use super::oracle::local_addresses;
use super::packets::{self, Check, Scene};
use super::settings::memory;
use super::wait::Wait;
use super::{flows, kernel, objects, plan};

/// How long the daemon may take to follow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// More than an answer takes, on an emulated processor too: a shorter question is lost in any case.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// The first address that sentinels use; cases stay below.
const SENTINELS: [u8; 2] = [10, 96];

type Failed = Box<dyn std::error::Error>;

/// The cluster and its current objects.
pub(crate) struct Stage {
    /// The mode that the daemon runs in.
    pub(crate) mode: Mode,
    cluster: Cluster,
    settings: Option<Settings>,
    /// Objects by kind and name.
    objects: BTreeMap<(String, String), Value>,
    node: NodeState,
    sentinel: u32,
    /// Where its program is.
    folder: tempfile::TempDir,
}

impl Stage {
    /// Builds it. Nothing runs on node-a yet.
    pub(crate) fn build(mode: Mode) -> Result<Stage, Failed> {
        let folder = tempfile::TempDir::new()?;
        let cluster = Cluster::new(ClusterSpec {
            nodes: 3,
            program: program(folder.path()),
            configuration: String::new(),
        })?;
        for (name, number) in plan::PODS {
            let node = cluster.lab().node(&sluice_cluster::address::node_name(number))?;
            let pod = cluster.lab().add_pod(name, &node, &plan::pod_ports())?;
            for family in Family::BOTH {
                assert_eq!(Some(pod.ip(family)), plan::address_of(name, family), "{name}");
            }
        }
        let (objects, node) = (BTreeMap::new(), NodeState::default());
        let stage = Stage { mode, cluster, settings: None, objects, node, sentinel: 0, folder };
        stage.lay_ways()?;
        if mode == Mode::IptablesLegacy {
            let node = stage.host("node").ok_or("no node")?;
            run(&node, "iptables-legacy", &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"])?;
        }
        stage.api().write_unchecked(&objects::node(&NodeState::default()))?;
        Ok(stage)
    }

    fn api(&self) -> &ApiServer {
        self.cluster.api()
    }

    /// A host by the name that cases call it.
    pub(crate) fn host(&self, name: &str) -> Option<Host> {
        let lab = self.cluster.lab();
        let node = |name: &str| lab.node(name).ok().map(|node| (*node).clone());
        match name {
            "client" => Some(lab.client()),
            "node" => node("node-a"),
            "node-b" => node("node-b"),
            "remote-node" => node("node-c"),
            pod => lab.pod(pod).ok().map(|pod| (*pod).clone()),
        }
    }

    /// Makes node-a the way of all traffic that cases look at, in both directions, so that what it
    /// translates comes back through it; and lets the gateway behind it say that it got a packet.
    fn lay_ways(&self) -> Result<(), Failed> {
        for family in Family::BOTH {
            let ip = |host: &str| plan::address_of(host, family).ok_or("nobody");
            let (node, client, remote) = (ip("node")?, ip("client")?, ip("remote-node")?);
            let range = plan::twin_net(plan::CLIENT_RANGE, family)?;
            let remote_pods = self.cluster.lab().node("node-c")?.pod_cidr(family);
            let fabric = self.cluster.lab().fabric();
            let host = |name: &str| self.host(name).ok_or("nobody");
            let range = range.to_string();
            // The gateway's word must find its way back.
            for host in self.cluster.lab().nodes() {
                let (pods, at) = (host.pod_cidr(family).to_string(), host.ip(family).to_string());
                routes(&fabric, family, &["replace", &pods, "via", &at])?;
            }
            routes(&fabric, family, &["replace", &range, "via", &client.to_string()])?;
            let via = |to: &str, via: IpAddr| -> Vec<String> {
                ["replace", to, "via", &via.to_string()].map(str::to_owned).to_vec()
            };
            routes(&host("client")?, family, &["add", "local", &range, "dev", "lo"])?;
            for (name, to, by) in [
                ("node", range.clone(), client),
                ("node-b", "default".to_owned(), node),
                ("node-b", client.to_string(), node),
                ("node-b", remote.to_string(), node),
                ("node-b", remote_pods.to_string(), node),
                ("remote-node", "default".to_owned(), node),
            ] {
                routes(&host(name)?, family, &via(&to, by))?;
            }
        }
        // Not a prohibiting route: IPv4 limits how often one speaks.
        let fabric = self.cluster.lab().fabric();
        run(
            &fabric,
            "nft",
            &["add table inet gateway; add chain inet gateway arrived \
               { type filter hook prerouting priority 0; }; add rule inet gateway arrived \
               fib daddr type != local meta l4proto { tcp, udp, sctp } \
               reject with icmpx type admin-prohibited"],
        )?;
        let client = self.cluster.lab().client();
        sysctl(&client, &["ipv4.ip_nonlocal_bind=1", "ipv6.ip_nonlocal_bind=1"])?;
        let seconds = memory().as_secs();
        let node = self.host("node").ok_or("no node")?;
        let timeouts =
            ["udp_timeout", "udp_timeout_stream", "tcp_timeout_close", "sctp_timeout_closed"]
                .map(|name| format!("netfilter.nf_conntrack_{name}={seconds}"));
        sysctl(&node, &timeouts.each_ref().map(String::as_str))
    }

    /// Makes node-a forget all flows. Where nothing was translated the kernel remembers that for two
    /// minutes, and a connection of a later case that happens to come from the same port would not be
    /// translated either.
    fn forget_flows(&self) -> Result<(), Failed> {
        let node = self.host("node").ok_or("no node")?;
        Ok(node.namespace().run(flows::delete_all)??)
    }

    /// Starts the daemon with other settings, unless it has them.
    pub(crate) fn configure(&mut self, settings: &Settings) -> Result<(), Failed> {
        self.forget_flows()?;
        if self.settings.as_ref() != Some(settings) {
            // After a crash there is no process to stop.
            if self.settings.take().is_some() {
                self.cluster.stop_proxy("node-a")?;
            }
            write_program(self.mode, settings, &self.folder)?;
            self.cluster.start_proxy_with("node-a", &settings.yaml(self.mode)?)?;
            self.settings = Some(settings.clone());
        }
        Ok(())
    }

    /// Ends the daemon as a crash does.
    pub(crate) fn crash(&mut self) -> Result<(), Failed> {
        self.settings = None;
        match self.cluster.with_proxy("node-a", |proxy| proxy.crash().map(drop)) {
            Some(ended) => Ok(ended?),
            None => Ok(()),
        }
    }

    /// Writes the objects of a case to the API server, without waiting for the daemon.
    pub(crate) fn write(&mut self, world: &World, family: Family) -> Result<(), Failed> {
        let mut wanted = BTreeMap::new();
        for object in objects::objects(world, family)? {
            wanted.insert(key(&object), object);
        }
        let gone: Vec<_> =
            self.objects.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            self.delete(&key)?;
        }
        for (key, object) in wanted {
            if self.objects.get(&key) != Some(&object) {
                self.api().write_unchecked(&object)?;
                self.objects.insert(key, object);
            }
        }
        self.write_node(&world.node())
    }

    fn delete(&mut self, key: &(String, String)) -> Result<(), Failed> {
        let (kind, name) = key;
        let resource = match kind.as_str() {
            "Service" => Resource::Services,
            "EndpointSlice" => Resource::EndpointSlices,
            "ServiceCIDR" => Resource::ServiceCidrs,
            other => return Err(format!("cases have no {other}").into()),
        };
        let namespace = if kind == "ServiceCIDR" { "" } else { "default" };
        self.api().delete(resource, namespace, name)?;
        self.objects.remove(key);
        Ok(())
    }

    fn write_node(&mut self, state: &NodeState) -> Result<(), Failed> {
        if self.node == *state {
            return Ok(());
        }
        let node = self.host("node").ok_or("no node")?;
        let change = |verb: &str, list: &[Ipv4Addr]| -> Result<(), Failed> {
            for family in Family::BOTH {
                for ip in list {
                    let address = plan::twin(*ip, family).to_string();
                    run(&node, "ip", &["address", verb, &address, "dev", "eth0"])?;
                }
            }
            Ok(())
        };
        change("del", &self.node.addresses)?;
        change("add", &state.addresses)?;
        if self.node.zone != state.zone {
            self.api().write_unchecked(&objects::node(state))?;
        }
        self.node = state.clone();
        Ok(())
    }

    /// Waits until the daemon has caught up with all writes of Services and EndpointSlices: a new
    /// Service, written after them, answers in both families. It is there until the next one comes.
    pub(crate) fn settle(&mut self) -> Result<(), Failed> {
        self.sentinel += 1;
        let (new, old) = (self.sentinel, self.sentinel - 1);
        for object in sentinel(new)? {
            self.api().write_unchecked(&object)?;
        }
        if old > 0 {
            for object in sentinel(old)? {
                let (kind, name) = key(&object);
                let resource = match kind.as_str() {
                    "Service" => Resource::Services,
                    _ => Resource::EndpointSlices,
                };
                self.api().delete(resource, "default", &name)?;
            }
        }
        let from = self.host("pod").ok_or("no pod")?;
        let wait = Wait::new(PATIENCE);
        for family in Family::BOTH {
            let to = SocketAddr::new(plan::twin(sentinel_ip(new), family), 9);
            loop {
                let probe = Probe::new(Protocol::Udp, to).timeout(wait.pause().max(ROUND_TRIP));
                match from.probe(&probe)? {
                    Answer::Answered { .. } => break,
                    Answer::Silent => {}
                    _ => std::thread::sleep(wait.pause()),
                }
                if wait.is_over() {
                    let log = self.log();
                    return Err(format!("the daemon does not follow; its log:\n{log}").into());
                }
            }
        }
        Ok(())
    }

    /// Whether the daemon that was started is still running.
    pub(crate) fn is_sound(&self) -> bool {
        let waited = |proxy: &mut Proxy| proxy.wait_for_exit(Duration::ZERO);
        matches!(self.cluster.with_proxy("node-a", waited), Some(Err(_)))
    }

    /// The daemon's log.
    pub(crate) fn log(&self) -> String {
        self.cluster.with_proxy("node-a", |proxy| proxy.log()).unwrap_or_default()
    }

    /// Sends packets and gives a line for each that went otherwise.
    pub(crate) fn shoot(
        &self,
        world: &World,
        mut checks: Vec<Check>,
        patience: Duration,
    ) -> Vec<String> {
        for Check { shot, outcome, .. } in &mut checks {
            *outcome = self.mode.outcome(shot.protocol, outcome.clone());
        }
        let host = |name: &str| self.host(name);
        let node: BTreeSet<IpAddr> = local_addresses(world);
        let scene = Scene { host: &host, node, affinity: std::sync::Mutex::default() };
        let failures = packets::run_until(&scene, checks, patience);
        failures.into_iter().map(|(check, why)| format!("{}: {why}", check.label)).collect()
    }

    /// The daemon's answer at a path of its admin socket: whether it is one, and what it says. Packets go where rules
    /// lead them before the daemon knows that its change has been written; until it does, it is asked again.
    pub(crate) fn ask(&self, path: &str) -> Result<(bool, Value), Failed> {
        let wait = Wait::new(PATIENCE);
        loop {
            let (known, answer) = self.answer(path)?;
            let is_early = answer.to_string().contains("is being written");
            if !is_early || !wait.again() {
                return Ok((known, answer));
            }
        }
    }

    fn answer(&self, path: &str) -> Result<(bool, Value), Failed> {
        let mut stream = UnixStream::connect(socket(&self.folder))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: sluice\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        Ok((head.starts_with("HTTP/1.1 200 "), serde_json::from_str(body)?))
    }

    /// The names of the Services that were written.
    pub(crate) fn services(&self) -> Vec<&str> {
        let services = self.objects.keys().filter(|(kind, _)| kind == "Service");
        services.map(|(_, name)| name.as_str()).collect()
    }

    /// What the kernel of node-a has of our rules, in a form that can be compared.
    pub(crate) fn rules(&self, family: Family) -> Result<String, Failed> {
        let node = self.host("node").ok_or("no node")?;
        let v4 = family == Family::V4;
        Ok(match self.mode {
            Mode::Nftables => {
                let table = if v4 { "ip" } else { "ip6" };
                let list = run(&node, "nft", &["list", "table", table, "kube-proxy"])?;
                kernel::normalized(&list)?
            }
            Mode::Userspace | Mode::UserspaceTransparent => {
                let table = if v4 { "ip" } else { "ip6" };
                let list = run(&node, "nft", &["list", "table", table, "kube-proxy"])?;
                kernel::normalized(&kernel::without_relay_ports(&list)?)?
            }
            Mode::Iptables | Mode::IptablesLegacy => {
                let program = if v4 { "iptables" } else { "ip6tables" };
                let infix = if self.mode == Mode::Iptables { "nft" } else { "legacy" };
                kernel::normalized_chains(&run(&node, &format!("{program}-{infix}-save"), &[])?)
            }
            Mode::Ipvs => {
                let (table, flag) = if v4 { ("ip", "-4") } else { ("ip6", "-6") };
                let list = run(&node, "nft", &["list", "table", table, "kube-proxy"])?;
                let services = kernel::normalized_services(&run(&node, "ipvsadm", &["-Sn"])?, v4);
                let ips = run(&node, "ip", &["-o", flag, "address", "show", "dev", "kube-ipvs0"])?;
                let ips = kernel::normalized_addresses(&ips);
                format!("{}\n{services}\n{ips}", kernel::normalized(&list)?)
            }
        })
    }

    /// Removes every rule of node-a, as a reboot does.
    pub(crate) fn forget_rules(&self) -> Result<(), Failed> {
        let node = self.host("node").ok_or("no node")?;
        run(&node, "nft", &["flush", "ruleset"])?;
        if self.mode == Mode::Ipvs {
            run(&node, "ipvsadm", &["-C"])?;
            // It is not there before the daemon has started.
            if run(&node, "ip", &["link", "show", "kube-ipvs0"]).is_ok() {
                run(&node, "ip", &["link", "delete", "kube-ipvs0"])?;
            }
        }
        Ok(())
    }
}

/// Where the daemon of node-a answers.
fn socket(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("asked/admin.sock")
}

/// Where [`write_program`] writes.
fn program(folder: &Path) -> PathBuf {
    folder.join("sluice")
}

/// Writes a program that starts the daemon with the flags of a mode and of a case. The lab's own are
/// its configuration.
fn write_program(
    mode: Mode,
    settings: &Settings,
    folder: &tempfile::TempDir,
) -> Result<(), Failed> {
    let daemon = env!("CARGO_BIN_EXE_sluice-under-test");
    let mut flags: Vec<&str> = mode.flags().into_iter().chain(settings.flags()).collect();
    let socket = format!("--admin-socket={}", socket(folder).display());
    flags.push(&socket);
    let script = program(folder.path());
    std::fs::write(&script, format!("#!/bin/sh\nexec '{daemon}' {} \"$@\"\n", flags.join(" ")))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn key(object: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// An address of its own for each sentinel, in the upper part of the service prefix.
pub(crate) fn sentinel_ip(number: u32) -> Ipv4Addr {
    let [a, b] = SENTINELS;
    let (c, d) = (200 + number / 250 % 50, 1 + number % 250);
    let octet = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
    Ipv4Addr::new(a, b, octet(c), octet(d))
}

/// A Service with one endpoint, and its slices.
fn sentinel(number: u32) -> Result<Vec<Value>, Failed> {
    let name = format!("sentinel-{number}");
    let ips = Family::BOTH.map(|family| plan::twin(sentinel_ip(number), family));
    let port = json!([{"name": "", "port": 9090, "protocol": "UDP"}]);
    let mut all = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips,
                 "ports": [{"port": 9, "protocol": "UDP"}]},
    })];
    for family in Family::BOTH {
        let endpoint = plan::address_of("b1", family).ok_or("no b1")?;
        all.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-{family}"), "namespace": "default",
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": family.to_string(), "ports": port,
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}],
        }));
    }
    Ok(all)
}

fn routes<S: AsRef<str>>(host: &Host, family: Family, words: &[S]) -> Result<(), Failed> {
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    let mut all = vec![flag, "route"];
    all.extend(words.iter().map(AsRef::as_ref));
    run(host, "ip", &all).map(drop)
}

fn sysctl(host: &Host, settings: &[&str]) -> Result<(), Failed> {
    let settings: Vec<(String, String)> = settings
        .iter()
        .filter_map(|setting| setting.split_once('='))
        .map(|(name, value)| {
            (format!("/proc/sys/net/{}", name.replace('.', "/")), value.to_owned())
        })
        .collect();
    let write = move || {
        settings.iter().try_for_each(|(path, value)| {
            std::fs::write(path, value).map_err(|error| format!("{path}: {error}"))
        })
    };
    Ok(host.namespace().run(write)??)
}

fn run(host: &Host, program: &str, words: &[&str]) -> Result<String, Failed> {
    let output = host.command(program)?.args(words).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let error = text(&output.stderr);
    Err(format!("{program} {} on {}: {error}", words.join(" "), host.name()).into())
}
