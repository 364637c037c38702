//! The client through proxies: one that is spoken to by HTTP's CONNECT, with and without TLS, and one by
//! SOCKS 5. The server's name means something to the proxy only.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sluice_kubernetes::watch::{ApiServer, ClientOptions, ConnectionState, Resource};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::tcp::{in_namespace, lab_server, put};
use super::{service, watch_server};

const CERTIFICATE: &str = include_str!("../fixtures/proxy.crt");
const KEY: &str = include_str!("../fixtures/proxy.key");

/// The requests to a proxy: heads of CONNECT requests, or names from SOCKS clients.
type Asked = Arc<Mutex<Vec<String>>>;

#[derive(Clone, Copy, PartialEq)]
enum Speaks {
    Http,
    HttpInTls,
    Socks,
    /// It refuses everything.
    HttpRefusing,
}

/// Starts a proxy from which every way leads to `server`.
async fn proxy(speaks: Speaks, server: SocketAddr) -> (u16, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                let _ = match speaks {
                    Speaks::HttpInTls => match acceptor().accept(stream).await {
                        Ok(stream) => serve(speaks, stream, server, &heard).await,
                        Err(error) => Err(error),
                    },
                    _ => serve(speaks, stream, server, &heard).await,
                };
            });
        }
    });
    (port, asked)
}

fn acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("it is PEM");
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("it is PEM");
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate], key).expect("they belong together");
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(
    speaks: Speaks,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    server: SocketAddr,
    heard: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let asked = if speaks == Speaks::Socks {
        socks(&mut client).await?
    } else {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let answer: &[u8] = if speaks == Speaks::HttpRefusing {
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\n\r\n"
        };
        client.write_all(answer).await?;
        String::from_utf8_lossy(&head).into_owned()
    };
    heard.lock().expect("nobody panicked").push(asked);
    if speaks != Speaks::HttpRefusing {
        let mut server = TcpStream::connect(server).await?;
        copy_bidirectional(&mut client, &mut server).await?;
    }
    Ok(())
}

/// RFC 1928, and RFC 1929 for the password: gives `user:password name:port`.
async fn socks(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<String> {
    async fn text(client: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
        let mut bytes = vec![0; usize::from(client.read_u8().await?)];
        client.read_exact(&mut bytes).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
    assert_eq!(client.read_u8().await?, 5);
    let _methods = text(client).await?;
    client.write_all(&[5, 2]).await?;
    assert_eq!(client.read_u8().await?, 1);
    let (user, password) = (text(client).await?, text(client).await?);
    client.write_all(&[1, 0]).await?;
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    assert_eq!(head, [5, 1, 0, 3], "to connect to a name");
    let name = text(client).await?;
    let port = client.read_u16().await?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    Ok(format!("{user}:{password} {name}:{port}"))
}

async fn server_through(url: &str) -> ApiServer {
    let folder = tempfile::tempdir().expect("a directory");
    let [path, authority] = ["kubeconfig", "ca.crt"].map(|name| folder.path().join(name));
    std::fs::write(&authority, CERTIFICATE).expect("a file");
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
         clusters: [{{name: k, cluster: {{server: 'http://api.internal:6443', proxy-url: '{url}', \
         certificate-authority: '{}'}}}}]\n\
         users: [{{name: u, user: {{token: secret}}}}]\n",
        authority.display()
    );
    std::fs::write(&path, kubeconfig).expect("a file");
    let options =
        ClientOptions { kubeconfig: Some(path), master: None, ..ClientOptions::default() };
    ApiServer::new(&options).await.expect("it is a kubeconfig")
}

/// Lists and watches through a proxy, and returns the requests to it.
async fn watch_through(speaks: Speaks, scheme: &str) -> Vec<String> {
    let lab = lab_server();
    put(&lab, "Service", service("web", "10.96.0.1"));
    let (port, asked) = proxy(speaks, lab.address()).await;
    let server = server_through(&format!("{scheme}://me:se%3Acret@127.0.0.1:{port}")).await;
    let mut watching = watch_server(&server);
    assert_eq!(watching.services().await, ["web"]);
    put(&lab, "Service", service("more", "10.96.0.2"));
    watching.service_change().await;
    watching.stop.cancel();
    asked.lock().expect("nobody panicked").clone()
}

#[test]
fn proxies_of_every_kind_lead_to_the_server() {
    in_namespace(async {
        for (speaks, scheme) in [(Speaks::Http, "http"), (Speaks::HttpInTls, "https")] {
            let asked = watch_through(speaks, scheme).await;
            assert!(!asked.is_empty());
            for head in asked {
                assert!(head.starts_with("CONNECT api.internal:6443 HTTP/1.1\r\n"), "{head}");
                let credentials = "proxy-authorization: basic bwu6c2u6y3jlda==\r\n";
                assert!(head.to_lowercase().contains(credentials), "{head}");
            }
        }
        let asked = watch_through(Speaks::Socks, "socks5").await;
        assert!(!asked.is_empty());
        assert!(asked.iter().all(|one| one == "me:se:cret api.internal:6443"), "{asked:?}");
    });
}

#[test]
fn a_proxy_that_refuses_is_named_as_the_reason() {
    in_namespace(async {
        let lab = lab_server();
        let (port, _) = proxy(Speaks::HttpRefusing, lab.address()).await;
        let server = server_through(&format!("http://127.0.0.1:{port}")).await;
        let mut watching = watch_server(&server);
        let lost = loop {
            if let ConnectionState::Lost(reason) = watching.connection(Resource::Services).await {
                break reason.to_string();
            }
        };
        assert!(lost.contains("proxy authorization required"), "{lost}");
    });
}
