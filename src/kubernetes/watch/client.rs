//! Connecting to the API server.
//!
//! kube gives login programs, headers and requests. The connector is ours, because kube's own sets no TCP
//! keepalive and so would not notice within a minute that a connection died silently. We also drop kube's
//! request log, which logs an error for every failed attempt. Where kube and client-go differ, we do what
//! client-go does: proxy selection is in [`super::proxy`], kubeconfigs are read in [`super::kubeconfig`],
//! credentials in [`super::credentials`], and TLS is set up in [`super::tls`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper_rustls::{
    DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, ResolveServerName,
};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use rustls::ClientConfig;
use tower::util::{MapRequestLayer, MapResponseLayer};
use tower::{Service, ServiceBuilder};

use super::client_error::ClientError;
use super::connection::Connector;
use super::content::Content;
use super::credentials::Credentials;
use super::kubeconfig::Access;
use super::proxy::{Kind, Proxy};
use super::tls;

/// Where the API server is.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// A kubeconfig file (`--kubeconfig`, `clientConnection.kubeconfig`). Without one, `master` is
    /// reached without credentials, and without either the Pod's service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// The URL of the API server (`--master`); it overrides the kubeconfig's.
    pub master: Option<String>,
    /// The requested encoding (`clientConnection.contentType`); empty for protobuf.
    pub content_type: String,
    /// The encodings requested instead of it (`clientConnection.acceptContentTypes`).
    pub accept_content_types: String,
}

/// A client, and the URL that it talks to.
#[derive(Clone)]
pub struct ApiServer {
    /// The client. No request has been sent yet.
    pub client: kube::Client,
    /// For messages.
    pub url: String,
    /// The requested encodings.
    pub content: Content,
}

impl ApiServer {
    /// Reads the credentials and prepares a client. Nothing is sent yet, so this succeeds while the
    /// server is down. Must be called within a Tokio runtime.
    pub async fn new(options: &ClientOptions) -> Result<ApiServer, ClientError> {
        let mut access = match (&options.kubeconfig, &options.master) {
            (Some(path), _) => Access::of_kubeconfig(path).await?,
            (None, Some(url)) => Access::new(parse_url(url)?),
            (None, None) => Access::of_the_pod()?,
        };
        if let Some(url) = &options.master {
            access.config.cluster_url = parse_url(url)?;
        }
        let agent = concat!("sluice/", env!("CARGO_PKG_VERSION"));
        access.config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
        let server = &access.config.cluster_url;
        let url = server.to_string().trim_end_matches('/').to_owned();
        let content = Content::new(&options.content_type, &options.accept_content_types);
        let content = if access.config.disable_compression { content.unpacked() } else { content };
        let accept = content.accept();
        tracing::info!(server = url, ?accept, "the API server is asked without limits of its rate");
        if access.proxy.is_none() {
            access.proxy = Proxy::of_environment(server, |name| std::env::var(name).ok())?;
        }
        if let Some(Proxy { url, named_by, .. }) = &access.proxy {
            tracing::info!(%url, named_by, "the API server is reached through a proxy");
        }
        let credentials = Credentials::read(&access)?;
        let setup = |error: &dyn std::fmt::Display| ClientError::Setup {
            url: url.clone(),
            reason: error.to_string(),
        };
        let tls = tls_config(&access, &credentials).map_err(|error| setup(&error))?;
        let client = build(&access, &credentials, tls).map_err(|error| setup(&error))?;
        Ok(ApiServer { client, url, content })
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

fn tls_config(
    access: &Access,
    credentials: &Credentials,
) -> Result<Arc<ClientConfig>, Box<dyn std::error::Error>> {
    let identity = match &credentials.pair {
        Some(pair) => tls::Identity::Pair(Arc::clone(pair)),
        // The program may give a certificate; kube runs it.
        None if access.config.auth_info.exec.is_some() => {
            let config = access.config.rustls_client_config()?;
            tls::Identity::Program(config.client_auth_cert_resolver)
        }
        None => tls::Identity::None,
    };
    Ok(Arc::new(tls::config(credentials.roots.clone(), identity)?))
}

fn build(
    access: &Access,
    credentials: &Arc<Credentials>,
    tls: Arc<ClientConfig>,
) -> kube::Result<kube::Client> {
    let over = Over { access, credentials, tls };
    let Some(proxy) = &access.proxy else { return over.client(tcp()) };
    match proxy.kind {
        Kind::Http => over.client(proxy.tunnel(tcp())),
        Kind::Https => {
            // The name that the server's certificate has is not the proxy's.
            let name = Arc::new(DefaultServerNameResolver::default());
            let to_proxy = HttpsConnector::new(tcp(), Arc::clone(&over.tls), false, name);
            over.client(proxy.tunnel(to_proxy))
        }
        Kind::Socks => over.client(proxy.socks(tcp())),
    }
}

/// What a client is made of, whatever its connections go through.
struct Over<'a> {
    access: &'a Access,
    credentials: &'a Arc<Credentials>,
    tls: Arc<ClientConfig>,
}

impl Over<'_> {
    /// A client with connections from `connector`, with TLS if the server's URL is `https`.
    fn client<C>(&self, connector: C) -> kube::Result<kube::Client>
    where
        C: Service<http::Uri> + Clone + Send + Sync + 'static,
        C::Response: Connection + Read + Write + Send + Unpin + 'static,
        C::Future: Send + 'static,
        C::Error: Into<tower::BoxError>,
    {
        let config = &self.access.config;
        let name: Arc<dyn ResolveServerName + Send + Sync> = match &self.access.server_name {
            Some(name) => Arc::new(FixedServerNameResolver::new(name.clone())),
            None => Arc::new(DefaultServerNameResolver::default()),
        };
        let over = HttpsConnector::new(connector, Arc::clone(&self.tls), false, name);
        let connector = Connector { over, credentials: Arc::clone(self.credentials) };
        let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector);
        let (asking, asked) = (Arc::clone(self.credentials), Arc::clone(self.credentials));
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .layer(MapRequestLayer::new(move |request| with_token(request, &asking)))
            .layer(MapResponseLayer::new(move |answer| noted(answer, &asked)))
            .layer(config.extra_headers_layer()?)
            .map_err(tower::BoxError::from)
            .service(http);
        Ok(kube::Client::new(service, config.default_namespace.clone()))
    }
}

fn with_token(mut request: http::Request<Body>, credentials: &Credentials) -> http::Request<Body> {
    if let Some(token) = &credentials.token {
        request.headers_mut().insert(AUTHORIZATION, token.current().as_ref().clone());
    }
    request
}

/// A server that does not know us any more may know what the files hold now.
fn noted(
    answer: http::Response<Incoming>,
    credentials: &Arc<Credentials>,
) -> http::Response<Incoming> {
    if answer.status() == StatusCode::UNAUTHORIZED {
        let credentials = Arc::clone(credentials);
        tokio::spawn(async move { credentials.refresh().await });
    }
    answer
}
