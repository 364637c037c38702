//! The client's TLS against servers and with credentials of every kind: what Go takes is taken, what
//! is not says why. The certificates are those of `integration/fixtures/tls/make`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_cluster::api::{ApiServer as LabServer, Resource as LabResource, WatchEnd};
use sluice_kubernetes::watch::{ApiServer, ClientOptions, ConnectionState, Resource};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    self, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};

use super::tcp::{in_namespace, lab_server, put};
use super::{Watching, service, watch_server};

fn fixture(name: &str) -> String {
    let folder =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("integration/fixtures/tls");
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn chain(name: &str) -> Vec<CertificateDer<'static>> {
    let text = fixture(name);
    let all = CertificateDer::pem_slice_iter(text.as_bytes());
    all.map(|certificate| certificate.expect("it is PEM")).collect()
}

/// Accepts any client certificate, or none; the test checks it.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme as S;
        vec![S::ECDSA_NISTP256_SHA256, S::RSA_PSS_SHA256, S::RSA_PKCS1_SHA256, S::ED25519]
    }
}

/// The chains that clients showed on the connections that are open now.
type Shown = Arc<Mutex<BTreeMap<usize, Vec<CertificateDer<'static>>>>>;

/// TLS in front of the lab's API server.
struct Front {
    port: u16,
    shown: Shown,
}

impl Front {
    async fn start(lab: &LabServer, certificate: &str) -> Front {
        let key = PrivateKeyDer::from_pem_slice(fixture("server.key").as_bytes()).expect("PEM");
        let config = ServerConfig::builder().with_client_cert_verifier(Arc::new(AnyClient));
        let config = config.with_single_cert(chain(certificate), key).expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (shown, server) = (Shown::default(), lab.address());
        let open = Arc::clone(&shown);
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                number += 1;
                let (acceptor, open) = (acceptor.clone(), Arc::clone(&open));
                tokio::spawn(async move {
                    let Ok(mut client) = acceptor.accept(stream).await else { return };
                    let shown = client.get_ref().1.peer_certificates().unwrap_or_default();
                    let shown = shown.iter().map(|one| one.clone().into_owned()).collect();
                    open.lock().expect("nobody panicked").insert(number, shown);
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                    open.lock().expect("nobody panicked").remove(&number);
                });
            }
        });
        Front { port, shown }
    }

    /// The number of the newest connection.
    fn newest(&self) -> Option<usize> {
        self.shown.lock().expect("nobody panicked").keys().next_back().copied()
    }

    fn shown(&self) -> Vec<Vec<CertificateDer<'static>>> {
        self.shown.lock().expect("nobody panicked").values().cloned().collect()
    }
}

/// A directory with a kubeconfig and its files.
struct Given {
    folder: TempDir,
}

impl Given {
    /// `cluster` and `user` are more fields in YAML's flow style, each with a comma before it.
    fn new(port: u16, cluster: &str, user: &str) -> Given {
        let given = Given { folder: tempfile::tempdir().expect("a directory") };
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://127.0.0.1:{port}'{cluster}}}}}]\n\
             users: [{{name: u, user: {{token: secret{user}}}}}]\n"
        );
        given.write("kubeconfig", &kubeconfig);
        given
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).expect("it was there");
    }

    async fn server(&self) -> Result<ApiServer, String> {
        let options = ClientOptions {
            kubeconfig: Some(self.path("kubeconfig")),
            master: None,
            ..ClientOptions::default()
        };
        ApiServer::new(&options).await.map_err(|error| error.to_string())
    }
}

const CA: &str = ", certificate-authority: ca";

/// Whether a client that trusts `ca` lists from a server with this certificate, or why not.
async fn reached(certificate: &str, ca: &str, cluster: &str) -> Result<(), String> {
    let lab = lab_server();
    put(&lab, "Service", service("web", "10.96.0.1"));
    let front = Front::start(&lab, certificate).await;
    let given = Given::new(front.port, cluster, "");
    given.write("ca", ca);
    let mut watching = watch_server(&given.server().await?);
    match watching.connection(Resource::Services).await {
        ConnectionState::Connected => Ok(()),
        ConnectionState::Lost(reason) => Err(reason),
    }
}

#[test]
fn servers_that_go_accepts_are_reached() {
    in_namespace(async {
        let ca = fixture("ca.crt");
        let pem = |inner: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{inner}\n-----END CERTIFICATE-----\n")
        };
        let [no_base64, no_certificate] = ["b@d", "YmFk"].map(pem);
        let unfinished = ca.lines().take(3).collect::<Vec<_>>().join("\n") + "\n";
        let expired = fixture("expired_ca.crt");
        let skip = ", insecure-skip-tls-verify: true";
        let by_name = ", certificate-authority: ca, tls-server-name: elsewhere.internal";
        let (itself, elsewhere) = (fixture("self.crt"), fixture("self_elsewhere.crt"));
        let rows = [
            ("of a CA", "server.crt", ca.clone(), CA),
            ("with an intermediate", "server_chain.crt", ca.clone(), CA),
            ("its own CA", "self.crt", itself.clone(), CA),
            ("its own CA, in a bundle", "self.crt", format!("{ca}{itself}"), CA),
            ("named itself, not its CA", "server.crt", fixture("server.crt"), CA),
            ("broken base64 before", "server.crt", format!("{no_base64}{ca}"), CA),
            ("broken base64 behind", "server.crt", format!("{ca}{no_base64}"), CA),
            ("no certificate before", "server.crt", format!("{no_certificate}{ca}"), CA),
            ("a block without its end before", "server.crt", format!("{unfinished}{ca}"), CA),
            ("a block without its end behind", "server.crt", format!("{ca}{unfinished}"), CA),
            (
                "words and keys beside",
                "server.crt",
                format!("# CA\n{}{ca}", fixture("p521.key")),
                CA,
            ),
            ("lines of Windows", "server.crt", ca.replace('\n', "\r\n"), CA),
            ("an expired one beside", "server.crt", format!("{expired}{ca}"), CA),
            ("one of a curve we lack beside", "server.crt", fixture("p521_ca.crt") + &ca, CA),
            ("another name", "self_elsewhere.crt", elsewhere, by_name),
            ("unchecked", "self_expired.crt", String::new(), skip),
        ];
        for (what, certificate, ca, cluster) in rows {
            assert_eq!(reached(certificate, &ca, cluster).await, Ok(()), "{what}");
        }
    });
}

#[test]
fn servers_that_are_refused_are_told_apart() {
    in_namespace(async {
        let ca = fixture("ca.crt");
        let rows = [
            ("self_expired.crt", fixture("self_expired.crt"), "expired"),
            ("self_elsewhere.crt", fixture("self_elsewhere.crt"), "elsewhere.internal"),
            ("self_client.crt", fixture("self_client.crt"), "extended key usage"),
            ("self.crt", ca.clone(), "certificate-authority"),
            ("self.crt", fixture("expired_ca.crt"), "certificate-authority"),
            ("server.crt", fixture("self.crt"), "certificate-authority"),
            ("server_cn_only.crt", ca.clone(), "subjectAltName"),
            ("server_ca.crt", ca.clone(), "basicConstraints CA:FALSE"),
        ];
        for (certificate, ca, expected) in rows {
            let why = reached(certificate, &ca, CA).await.expect_err(certificate);
            assert!(why.contains(expected), "{certificate}: {why}");
        }
    });
}

#[test]
fn what_is_written_inline_counts_for_more_than_files() {
    in_namespace(async {
        let lab = lab_server();
        put(&lab, "Service", service("web", "10.96.0.1"));
        let front = Front::start(&lab, "server.crt").await;
        // Go takes line ends within the text.
        let data = |name: &str| {
            let bare = fixture(name).replace('\n', "\\n");
            let text = base64(bare.replace("\\n", "\n").as_bytes());
            format!("\"{}\\n{}\"", &text[..64], &text[64..])
        };
        let cluster = format!(
            ", certificate-authority: missing, certificate-authority-data: {}",
            data("ca.crt")
        );
        let user = format!(
            ", client-certificate: missing, client-certificate-data: {}, client-key: key",
            data("client.crt")
        );
        let given = Given::new(front.port, &cluster, &user);
        given.write("key", &fixture("client.key"));
        let mut watching = watch_server(&given.server().await.expect("it is usable"));
        assert_eq!(watching.services().await, ["web"]);
        assert!(front.shown().contains(&chain("client.crt")), "{:?}", front.shown());
    });
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut block = [0; 4];
        block[1..=three.len()].copy_from_slice(three);
        let number = u32::from_be_bytes(block);
        for digit in 0..4 {
            let index = (number >> (18 - 6 * digit)) & 63;
            let known = digit <= three.len();
            text.push(if known { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

const PAIR: &str = ", client-certificate: cert, client-key: key";

#[test]
fn client_certificates_of_every_form_are_shown() {
    in_namespace(async {
        let lab = lab_server();
        put(&lab, "Service", service("web", "10.96.0.1"));
        let rows = [
            ("SEC1, with an intermediate", "client.crt", fixture("client.key")),
            ("PKCS 8", "rsa.crt", fixture("rsa.key")),
            ("PKCS 1", "rsa.crt", fixture("rsa_pkcs1.key")),
            (
                "PKCS 8 under the name of PKCS 1",
                "rsa.crt",
                fixture("rsa.key").replace(" PRIVATE", " RSA PRIVATE"),
            ),
            ("Ed25519", "ed25519.crt", fixture("ed25519.key")),
            ("X.509 version 1", "version1.crt", fixture("client.key")),
            ("key and certificate in one", "rsa.crt", fixture("rsa.crt") + &fixture("rsa.key")),
        ];
        for (what, certificate, key) in rows {
            let front = Front::start(&lab, "server.crt").await;
            let given = Given::new(front.port, CA, PAIR);
            given.write("ca", &fixture("ca.crt"));
            let both = what.contains("in one");
            given.write("cert", &if both { key.clone() } else { fixture(certificate) });
            given.write("key", &key);
            let server = given.server().await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let mut watching = watch_server(&server);
            assert_eq!(watching.services().await, ["web"], "{what}");
            assert!(front.shown().contains(&chain(certificate)), "{what}: {:?}", front.shown());
        }
    });
}

#[tokio::test]
async fn client_certificates_that_cannot_be_used_say_what_to_change() {
    let rows = [
        ("p521.crt", fixture("p521.key"), PAIR, "P-521; use a key of EC P-256"),
        ("rsa1024.crt", fixture("rsa1024.key"), PAIR, "RSA with 1024 bits; use a key of EC P-256"),
        ("client.crt", fixture("client_encrypted.key"), PAIR, "encrypted; write it without"),
        ("client.crt", fixture("client_encrypted_sec1.key"), PAIR, "encrypted; write it without"),
        ("client.crt", fixture("ed25519.key"), PAIR, "do not belong together"),
        ("client.crt", fixture("client.crt"), PAIR, "has no private key"),
        ("client.key", fixture("client.key"), PAIR, "has no certificate"),
        ("client.crt", fixture("client.key"), ", client-certificate: cert", "client-key"),
        ("client.crt", fixture("client.key"), ", client-certificate: cert, client-key: no", "no"),
    ];
    for (certificate, key, user, expected) in rows {
        let given = Given::new(1, CA, user);
        given.write("ca", &fixture("ca.crt"));
        given.write("cert", &fixture(certificate));
        given.write("key", &key);
        let why = match given.server().await {
            Ok(_) => panic!("{certificate} cannot be used"),
            Err(why) => why,
        };
        assert!(why.contains(expected), "{certificate}: {why}");
        assert!(why.contains("client-certificate"), "it names the field: {why}");
    }
}

#[tokio::test]
async fn authorities_that_cannot_be_used_say_what_to_change() {
    let rows = [
        (String::new(), CA, "has no certificate"),
        ("garbage".to_owned(), CA, "has no certificate"),
        (fixture("p521_ca.crt"), CA, "P-521"),
        (
            fixture("ca.crt"),
            ", certificate-authority: ca, insecure-skip-tls-verify: true",
            "insecure",
        ),
        (
            fixture("ca.crt"),
            ", certificate-authority: ca, tls-server-name: 'a b'",
            "tls-server-name",
        ),
    ];
    for (ca, cluster, expected) in rows {
        let given = Given::new(1, cluster, "");
        given.write("ca", &ca);
        let why = match given.server().await {
            Ok(_) => panic!("{expected}: it cannot be used"),
            Err(why) => why,
        };
        assert!(why.contains(expected), "{expected}: {why}");
    }
}

#[tokio::test]
async fn the_first_document_of_a_kubeconfig_counts() {
    for more in ["---\n", "---\nkind: ConfigMap\napiVersion: v2\n", "---\n: [\n"] {
        let given = Given::new(1, ", insecure-skip-tls-verify: true", "");
        let first = std::fs::read_to_string(given.path("kubeconfig")).expect("it was written");
        given.write("kubeconfig", &(first + more));
        let server = given.server().await.unwrap_or_else(|error| panic!("{more}: {error}"));
        assert_eq!(server.url, "https://127.0.0.1:1");
    }
}

/// Breaks one watch, once the files may be read again, until there is a new connection and all show what
/// is wanted. Those of other resources must be closed because of the new certificate.
async fn until_shown(lab: &LabServer, front: &Front, wanted: &[CertificateDer<'static>]) {
    loop {
        // Files are not read more often than once a second, and a watch that lives for longer has no back-off.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let known = front.newest();
        lab.faults().end_watches(Some(LabResource::Services), WatchEnd::Broken);
        for _ in 0..100 {
            let shown = front.shown();
            let all = shown.len() >= Resource::ALL.len() && shown.iter().all(|one| one == wanted);
            if all && front.newest() > known {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn changes_arrive(lab: &LabServer, watching: &mut Watching, ip: &str) {
    put(lab, "Service", service("more", ip));
    watching.service_change().await;
}

#[test]
fn a_renewed_client_certificate_is_shown_on_all_connections() {
    in_namespace(async {
        let lab = lab_server();
        put(&lab, "Service", service("web", "10.96.0.1"));
        let front = Front::start(&lab, "server.crt").await;
        let given = Given::new(front.port, CA, PAIR);
        given.write("ca", &fixture("ca.crt"));
        let pair = |certificate: &str, key: &str| {
            given.write("cert", &fixture(certificate));
            given.write("key", &fixture(key));
        };
        pair("client.crt", "client.key");
        let mut watching = watch_server(&given.server().await.expect("it is usable"));
        assert_eq!(watching.services().await, ["web"]);
        until_shown(&lab, &front, &chain("client.crt")).await;

        pair("rsa.crt", "rsa.key");
        until_shown(&lab, &front, &chain("rsa.crt")).await;
        changes_arrive(&lab, &mut watching, "10.96.0.2").await;

        // Half-written, then gone: the old pair stays.
        given.write("key", &fixture("ed25519.key"));
        until_shown(&lab, &front, &chain("rsa.crt")).await;
        given.remove("cert");
        until_shown(&lab, &front, &chain("rsa.crt")).await;
        changes_arrive(&lab, &mut watching, "10.96.0.3").await;

        pair("ed25519.crt", "ed25519.key");
        until_shown(&lab, &front, &chain("ed25519.crt")).await;
        changes_arrive(&lab, &mut watching, "10.96.0.4").await;
    });
}

#[test]
fn a_renewed_authority_counts_for_new_connections() {
    in_namespace(async {
        let lab = lab_server();
        put(&lab, "Service", service("web", "10.96.0.1"));
        let front = Front::start(&lab, "server.crt").await;
        let given = Given::new(front.port, CA, "");
        given.write("ca", &fixture("self.crt"));
        let mut watching = watch_server(&given.server().await.expect("it is usable"));
        let first = watching.connection(Resource::Services).await;
        assert!(matches!(first, ConnectionState::Lost(_)), "{first:?}");
        given.write("ca", "");
        given.write("ca", &fixture("ca.crt"));
        assert_eq!(watching.connection(Resource::Services).await, ConnectionState::Connected);
    });
}

#[test]
fn a_file_system_that_stands_still_holds_up_no_connection() {
    in_namespace(async {
        let lab = lab_server();
        put(&lab, "Service", service("web", "10.96.0.1"));
        let front = Front::start(&lab, "server.crt").await;
        let given = Given::new(front.port, CA, PAIR);
        given.write("ca", &fixture("ca.crt"));
        given.write("cert", &fixture("client.crt"));
        given.write("key", &fixture("client.key"));
        let mut watching = watch_server(&given.server().await.expect("it is usable"));
        assert_eq!(watching.services().await, ["web"]);
        // Reading a pipe without a writer blocks, like a file of an unreachable server.
        given.remove("cert");
        nix::unistd::mkfifo(&given.path("cert"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        until_shown(&lab, &front, &chain("client.crt")).await;
        changes_arrive(&lab, &mut watching, "10.96.0.2").await;
        // Who still reads it gets to an end.
        let both = std::fs::OpenOptions::new().read(true).write(true).open(given.path("cert"));
        given.remove("cert");
        drop(both.expect("it is there"));
    });
}
