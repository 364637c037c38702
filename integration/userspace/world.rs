//! A node in userspace mode, a Service, and servers that a test writes itself.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_cluster::{Cluster, ClusterSpec, Host, Node, Pod};
use sluice_core::net::Family;

use super::support::daemon::program;
use super::support::eventually;

/// The port that pods serve.
pub(crate) const PORT: u16 = 8080;

/// How long anything may take that happens at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Open files of the daemon that has few.
pub(crate) const FEW_FILES: usize = 512;

type Failed = libtest_mimic::Failed;

/// Programs that are the daemon in other circumstances.
pub(crate) struct Programs {
    pub(crate) resetting: PathBuf,
    pub(crate) few_files: PathBuf,
    pub(crate) draining: PathBuf,
    pub(crate) transparent: PathBuf,
}

static PROGRAMS: OnceLock<Programs> = OnceLock::new();

impl Programs {
    /// Before any thread is there: a program that another thread has open for writing cannot be run.
    pub(crate) fn write(folder: &Path) {
        let write = |name: &str, before: &str, flags: &str| {
            let (path, program) = (folder.join(name), program().display());
            let script = format!("#!/bin/sh\n{before}\nexec '{program}' {flags} \"$@\"\n");
            fs::write(&path, script).expect("the folder is writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
            path
        };
        let programs = Programs {
            resetting: write("resetting", "", "--reset-removed-tcp-endpoints"),
            few_files: write("few-files", &format!("ulimit -n {FEW_FILES}"), ""),
            draining: write("draining", "", "--userspace-drain 20"),
            transparent: write("transparent", "", "--userspace-transparent"),
        };
        assert!(PROGRAMS.set(programs).is_ok(), "once");
    }

    pub(crate) fn get() -> &'static Programs {
        PROGRAMS.get().expect("they were written")
    }
}

/// One node, its daemon, and a Service `web` without pods.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) node: Node,
    /// A pod that is no endpoint.
    pub(crate) client: Pod,
}

/// How daemons of these tests are configured.
pub(crate) const CONFIGURATION: &str = "mode: userspace\n\
    clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
    detectLocalMode: ClusterCIDR\n\
    iptables: {minSyncPeriod: 1ms}";

impl World {
    pub(crate) fn new(program: &Path) -> Result<World, Failed> {
        let cluster = Cluster::new(ClusterSpec {
            nodes: 1,
            program: program.to_owned(),
            configuration: CONFIGURATION.to_owned(),
        })?;
        let node = cluster.lab().node("node-a")?;
        let client = cluster.lab().add_pod("client-pod", &node, &[])?;
        cluster.create_service(&web())?;
        cluster.start_proxy("node-a")?;
        Ok(World { cluster, node, client })
    }

    /// A pod of the Service, which listens nowhere yet.
    pub(crate) fn pod(&self, name: &str) -> Result<Pod, Failed> {
        Ok(self.cluster.add_pod(name, "web", "node-a", &[])?.0)
    }

    /// The process of the daemon.
    pub(crate) fn pid(&self) -> i32 {
        self.cluster.with_proxy("node-a", |proxy| proxy.pid().as_raw()).expect("it runs")
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }

    /// Lines of its log with these words.
    pub(crate) fn said(&self, words: &str) -> usize {
        let count = |proxy: &mut sluice_cluster::Proxy| proxy.lines_with(words).len();
        self.cluster.with_proxy("node-a", count).expect("it runs")
    }

    /// Connects from the client to the Service, once it is there.
    #[track_caller]
    pub(crate) fn connect(&self, family: Family) -> TcpStream {
        eventually("the Service accepts", || connect(&self.client, vip(family)).ok())
    }
}

/// A dual-stack Service of TCP and UDP.
fn web() -> Value {
    let port = |(name, protocol): (&str, &str)| json!({"name": name, "protocol": protocol, "port": 80, "targetPort": PORT});
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "selector": {"app": "web"}, "ports": [port(("t", "TCP")), port(("u", "UDP"))],
            "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80", "fd00:10:96::80"],
        },
    })
}

pub(crate) fn vip(family: Family) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => [10, 96, 0, 80].into(),
        Family::V6 => [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80].into(),
    };
    SocketAddr::new(ip, 80)
}

/// A connection of a host; what it waits for must come within [`PATIENCE`].
pub(crate) fn connect(from: &Host, to: SocketAddr) -> io::Result<TcpStream> {
    let connect = move || TcpStream::connect_timeout(&to, PATIENCE);
    let stream = from.namespace().run(connect).map_err(io::Error::other)??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Serves the pod's port in both families, each connection on a thread of its own.
pub(crate) fn serve(pod: &Pod, handle: impl Fn(TcpStream) + Send + Sync + 'static) {
    let handle = Arc::new(handle);
    for family in Family::BOTH {
        let at = pod.socket_addr(family, PORT);
        let listener =
            pod.namespace().run(move || TcpListener::bind(at)).expect("the pod is there");
        let (listener, handle) = (listener.expect("the port is free"), Arc::clone(&handle));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let handle = Arc::clone(&handle);
                let serve = move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let _ = stream.set_write_timeout(Some(PATIENCE));
                    handle(stream);
                };
                // Thousands of them are to find room.
                let thread = std::thread::Builder::new().stack_size(128 * 1024);
                thread.spawn(serve).expect("a thread");
            }
        });
    }
}

/// Answers what it reads, until its end.
pub(crate) fn echo(mut stream: TcpStream) {
    // Its client may wait before it sends.
    let _ = stream.set_read_timeout(None);
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Sends bytes and waits for the same ones.
#[track_caller]
pub(crate) fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("it takes them");
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, bytes);
}

/// Answers datagrams on the pod's port in both families.
pub(crate) fn serve_udp(pod: &Pod) {
    for family in Family::BOTH {
        let at = pod.socket_addr(family, PORT);
        let socket = pod.namespace().run(move || UdpSocket::bind(at)).expect("the pod is there");
        let socket = socket.expect("the port is free");
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
}

/// A socket of a host that is connected to the Service.
pub(crate) fn udp_client(from: &Host, to: SocketAddr) -> UdpSocket {
    let open = move || {
        let any: IpAddr = match Family::of(to.ip()) {
            Family::V4 => [0; 4].into(),
            Family::V6 => [0_u16; 8].into(),
        };
        let socket = UdpSocket::bind((any, 0)).expect("a port");
        socket.connect(to).expect("a way");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
        socket
    };
    from.namespace().run(open).expect("the host is there")
}

/// Sends a datagram, and again if need be, until it comes back.
#[track_caller]
pub(crate) fn exchange_udp(socket: &UdpSocket, bytes: &[u8]) {
    let mut buffer = vec![0; 64 * 1024];
    let length = eventually("a datagram comes back", || {
        socket.send(bytes).ok()?;
        socket.recv(&mut buffer).ok()
    });
    assert!(buffer[..length] == *bytes, "{length} bytes came back of {}", bytes.len());
}
