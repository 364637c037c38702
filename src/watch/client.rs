//! Connecting to the API server.
//!
//! kube does the hard parts (kubeconfig, TLS, login programs, certificates that rotate). The connector
//! is ours, because a connection that died without a word must be noticed within a minute: kube's
//! own sets no TCP keepalive. Its request log is left out as well: it writes an error for every
//! failed try. Which proxy is asked is decided in [`super::proxy`]: kube's own choice differs from client-go's. Tokens in files are read in [`super::token`]: kube does not take a line's end off them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::{AUTHORIZATION, USER_AGENT};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{Cluster, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::util::MapRequestLayer;
use tower::{Service, ServiceBuilder};

use super::proxy::{Kind, Proxy, Wrong};
use super::token::TokenFile;

/// Where the API server is.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// A kubeconfig file (`--kubeconfig`, `clientConnection.kubeconfig`). Without one, `master` is
    /// reached without credentials, and without either the Pod's service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// The URL of the API server (`--master`); it overrides the kubeconfig's.
    pub master: Option<String>,
}

/// A client, and the URL that it talks to.
#[derive(Clone)]
pub struct ApiServer {
    /// The client. No request has been sent yet.
    pub client: kube::Client,
    /// For messages.
    pub url: String,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig file cannot be read or is not one.
    #[error(
        "cannot read the kubeconfig {path}: {reason}; name an existing file with --kubeconfig or \
         clientConnection.kubeconfig, or neither to use the Pod's service account"
    )]
    ReadKubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The kubeconfig does not lead to a server and credentials.
    #[error("cannot use the kubeconfig {path}: {reason}")]
    UseKubeconfig {
        /// The file.
        path: PathBuf,
        /// Which field is wrong and what would be right.
        reason: String,
    },
    /// `--master` is not a URL.
    #[error("cannot use the API server address {url:?}: {reason}; write it like https://host:6443")]
    MasterUrl {
        /// The text.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Neither a kubeconfig nor an address is given, and this is no Pod.
    #[error(
        "no kubeconfig is given and the Pod's service account cannot be used: {0}; outside of a \
         Pod, name a kubeconfig with --kubeconfig"
    )]
    InCluster(InClusterError),
    /// The token cannot be read.
    #[error(
        "cannot read the token file {path}: {reason}; check tokenFile of the kubeconfig's user, or \
         the Pod's mounted service account"
    )]
    ReadToken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: std::io::Error,
    },
    /// What names a proxy is not a proxy's URL.
    #[error(
        "cannot use the proxy that {field} names: {reason}; write it like http://host:3128, or take it away"
    )]
    Proxy {
        /// The kubeconfig's field or the environment's variable.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The credentials or certificates cannot be used.
    #[error("cannot set up the connection to the API server at {url}: {reason}")]
    Setup {
        /// The server.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

impl ApiServer {
    /// Reads the credentials and prepares a client. Nothing is sent yet, so this succeeds while the
    /// server is down. Must be called within a Tokio runtime.
    pub async fn new(options: &ClientOptions) -> Result<ApiServer, ClientError> {
        let (mut config, own_proxy) = match (&options.kubeconfig, &options.master) {
            (Some(path), _) => from_kubeconfig(path).await?,
            (None, Some(url)) => (kube::Config::new(parse_url(url)?), None),
            (None, None) => (kube::Config::incluster().map_err(ClientError::InCluster)?, None),
        };
        if let Some(url) = &options.master {
            config.cluster_url = parse_url(url)?;
        }
        let agent = concat!("sluice/", env!("CARGO_PKG_VERSION"));
        config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        tracing::info!(
            server = url,
            "the API server is asked for JSON; contentType settings and rate limits have no effect"
        );
        let proxy = match own_proxy {
            Some(proxy) => Some(proxy),
            None => Proxy::of_environment(&config.cluster_url, |name| std::env::var(name).ok())?,
        };
        if let Some(Proxy { url, named_by, .. }) = &proxy {
            tracing::info!(%url, named_by, "the API server is asked through a proxy");
        }
        let token = token_file(&mut config)?;
        match build(&config, token, proxy.as_ref()) {
            Ok(client) => Ok(ApiServer { client, url }),
            Err(error) => Err(ClientError::Setup { url, reason: error.to_string() }),
        }
    }
}

fn parse_url(url: &str) -> Result<http::Uri, ClientError> {
    let bad = |reason: String| ClientError::MasterUrl { url: url.to_owned(), reason };
    let uri: http::Uri = url.parse().map_err(|e: http::uri::InvalidUri| bad(e.to_string()))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err(bad("it has no scheme".to_owned())),
    }
}

/// The file that the token is in, unless the kubeconfig has it inline, which counts for more.
fn token_file(config: &mut kube::Config) -> Result<Option<TokenFile>, ClientError> {
    if config.auth_info.token.is_some() {
        return Ok(None);
    }
    let path = config.auth_info.token_file.take().filter(|path| !path.is_empty());
    let open = |path: String| {
        let path = PathBuf::from(path);
        TokenFile::open(path.clone()).map_err(|reason| ClientError::ReadToken { path, reason })
    };
    path.map(open).transpose()
}

impl From<Wrong> for ClientError {
    fn from(Wrong { field, reason }: Wrong) -> ClientError {
        ClientError::Proxy { field, reason }
    }
}

/// What a kubeconfig says, and the proxy that it names.
async fn from_kubeconfig(path: &Path) -> Result<(kube::Config, Option<Proxy>), ClientError> {
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| ClientError::ReadKubeconfig {
        path: path.to_owned(),
        reason: match error {
            KubeconfigError::ReadConfig(error, _) => error.to_string(),
            // The lines after the first one quote the file, which holds secrets.
            other => other.to_string().lines().next().unwrap_or_default().to_owned(),
        },
    })?;
    let current = kubeconfig.current_context.clone().unwrap_or_default();
    let (ca_file, proxy) = match cluster(&kubeconfig, &current) {
        Some((name, cluster)) => {
            let proxy = cluster.proxy_url.as_deref().filter(|url| !url.is_empty());
            let proxy = proxy.map(|url| Proxy::of_kubeconfig(path, name, url)).transpose()?;
            (ca_file(cluster), proxy)
        }
        None => (None, None),
    };
    let loaded =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = loaded.map_err(|error| ClientError::UseKubeconfig {
        path: path.to_owned(),
        reason: explain(&error, &current),
    })?;
    // Read again when it changes, as the token is: the Pod's CA rotates while the proxy runs.
    config.root_cert_file = ca_file;
    Ok((config, proxy))
}

/// The cluster of a context, with its name.
fn cluster<'a>(kubeconfig: &'a Kubeconfig, context: &str) -> Option<(&'a str, &'a Cluster)> {
    let context = kubeconfig.contexts.iter().find(|entry| entry.name == context)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = kubeconfig.clusters.iter().find(|entry| &entry.name == name)?.cluster.as_ref()?;
    Some((name, cluster))
}

/// A cluster's `certificate-authority`, unless its data is given inline.
fn ca_file(cluster: &Cluster) -> Option<PathBuf> {
    match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (None, Some(path)) if !path.is_empty() => Some(path.into()),
        _ => None,
    }
}

/// Names the field that is wrong; kube's messages name the value only.
fn explain(error: &KubeconfigError, context: &str) -> String {
    use std::error::Error as _;

    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    match error {
        KubeconfigError::CurrentContextNotSet => {
            "current-context is not set; set it to a name from contexts".to_owned()
        }
        KubeconfigError::LoadContext(name) => {
            format!("current-context names {name:?}, which contexts does not have")
        }
        KubeconfigError::LoadClusterOfContext(name) => {
            format!("context {context:?} names cluster {name:?}, which clusters does not have")
        }
        KubeconfigError::MissingClusterUrl => {
            format!(
                "the cluster of context {context:?} has no server; write server: https://host:6443"
            )
        }
        KubeconfigError::ParseClusterUrl(_) => {
            format!("server of the cluster of context {context:?} is no URL: {cause}")
        }
        KubeconfigError::LoadCertificateAuthority(_) => {
            format!("certificate-authority of the cluster of context {context:?}: {cause}")
        }
        KubeconfigError::ParseCertificates(_) => format!(
            "certificate-authority of the cluster of context {context:?} is no PEM text: {cause}"
        ),
        // Without a proxy-url of its own, kube looks at the environment, too.
        KubeconfigError::ParseProxyUrl(_) => {
            "the variable HTTPS_PROXY or https_proxy names no URL; write it like http://host:3128"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Connects by TCP: to the server, or to the proxy on the way to it.
fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
    tcp.set_nodelay(true);
    // A silent peer is given up after 20 + 3 × 10 s; unacknowledged data after 30 s.
    tcp.set_keepalive(Some(Duration::from_secs(20)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(10)));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_tcp_user_timeout(Some(Duration::from_secs(30)));
    tcp
}

fn build(
    config: &kube::Config,
    token: Option<TokenFile>,
    proxy: Option<&Proxy>,
) -> kube::Result<kube::Client> {
    let Some(proxy) = proxy else { return client_over(config, token, tcp()) };
    match proxy.kind {
        Kind::Http => client_over(config, token, proxy.tunnel(tcp())),
        Kind::Https => {
            // The name that the server's certificate has is not the proxy's.
            let mut of_proxy = config.clone();
            of_proxy.tls_server_name = None;
            let tls = of_proxy.rustls_https_connector_with_connector(tcp())?;
            client_over(config, token, proxy.tunnel(tls))
        }
        Kind::Socks => client_over(config, token, proxy.socks(tcp())),
    }
}

/// A client whose connections are made by `connector`, with TLS over them if the server's URL says so.
fn client_over<C>(
    config: &kube::Config,
    token: Option<TokenFile>,
    connector: C,
) -> kube::Result<kube::Client>
where
    C: Service<http::Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<tower::BoxError>,
{
    let tls = config.rustls_https_connector_with_connector(connector)?;
    let token = token.map(Arc::new).map(|token| {
        MapRequestLayer::new(move |mut request: http::Request<Body>| {
            request.headers_mut().insert(AUTHORIZATION, token.authorization());
            request
        })
    });
    let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .option_layer(token)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}
