//! The kubeconfig or the Pod's service account. As in client-go: inline data takes precedence over files,
//! file names are relative to the kubeconfig, and of several YAML documents the first is used.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;

use super::client_error::ClientError;
use super::proxy::Proxy;

/// Where the kubelet mounts the service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A text that is inline or in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    Inline(Vec<u8>),
    File(PathBuf),
}

impl Text {
    /// Of two fields, one of which has Base64, the one that counts.
    fn of(data: Option<&str>, file: Option<&str>) -> Result<Option<Text>, String> {
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            // Go takes line ends within the text.
            let dense: String = data.split_ascii_whitespace().collect();
            let text = STANDARD.decode(dense);
            let text = text.map_err(|error| format!("its inline data is no Base64: {error}"))?;
            return Ok(Some(Text::Inline(text)));
        }
        Ok(file.filter(|file| !file.is_empty()).map(|file| Text::File(file.into())))
    }

    /// The text as it is now.
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Text::Inline(text) => Ok(text.clone()),
            Text::File(path) => {
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
            }
        }
    }
}

/// How to get to the API server.
pub(super) struct Access {
    /// The URL and the headers. Its TLS settings are not used.
    pub(super) config: kube::Config,
    /// The kubeconfig, for messages.
    path: Option<PathBuf>,
    /// Its current context, for messages.
    context: String,
    pub(super) proxy: Option<Proxy>,
    pub(super) authority: Option<Text>,
    pub(super) insecure: bool,
    /// The name that the server's certificate has, if not that of its URL.
    pub(super) server_name: Option<ServerName<'static>>,
    /// A client certificate and its key.
    pub(super) pair: Option<(Text, Text)>,
    pub(super) token_file: Option<PathBuf>,
    /// An inline token in addition to the file.
    pub(super) token: Option<String>,
}

impl Access {
    /// To a server of which only the URL is known.
    pub(super) fn new(url: http::Uri) -> Access {
        Access {
            config: kube::Config::new(url),
            path: None,
            context: String::new(),
            proxy: None,
            authority: None,
            insecure: false,
            server_name: None,
            pair: None,
            token_file: None,
            token: None,
        }
    }

    /// By the Pod's service account.
    pub(super) fn of_the_pod() -> Result<Access, ClientError> {
        let variable = |name: &str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.ok_or_else(|| ClientError::InCluster(format!("the variable {name} is not set")))
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let host = match host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => host,
        };
        let url = format!("https://{host}:{port}");
        let url = url.parse().map_err(|error| ClientError::InCluster(format!("{url}: {error}")))?;
        let mut access = Access::new(url);
        access.authority = Some(Text::File(Path::new(SERVICE_ACCOUNT).join("ca.crt")));
        access.token_file = Some(Path::new(SERVICE_ACCOUNT).join("token"));
        Ok(access)
    }

    /// By a kubeconfig.
    pub(super) async fn of_kubeconfig(path: &Path) -> Result<Access, ClientError> {
        let mut kubeconfig = read(path).await?;
        let context = kubeconfig.current_context.clone().unwrap_or_default();
        let (name, cluster) = take_tls(&mut kubeconfig, &context);
        let proxy = cluster.proxy_url.as_deref().filter(|url| !url.is_empty());
        let proxy = proxy.map(|url| Proxy::of_kubeconfig(path, &name, url)).transpose()?;
        let loaded =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let config = loaded.map_err(|error| ClientError::UseKubeconfig {
            path: path.to_owned(),
            reason: explain(&error, &context),
        })?;
        let path = Some(path.to_owned());
        let url = config.cluster_url.clone();
        let mut access = Access { config, path, context, proxy, ..Access::new(url) };
        access.take_server(&cluster)?;
        access.take_user()?;
        Ok(access)
    }

    /// An error about one of the kubeconfig's fields, or of the service account's files.
    pub(super) fn wrong(&self, field: &str, reason: String) -> ClientError {
        let Some(path) = self.path.clone() else { return ClientError::InCluster(reason) };
        let of = if field.starts_with("client-") { "user" } else { "cluster" };
        let context = &self.context;
        let reason = format!("{field} of the {of} of context {context:?}: {reason}");
        ClientError::UseKubeconfig { path, reason }
    }

    fn take_server(&mut self, cluster: &Cluster) -> Result<(), ClientError> {
        let data = cluster.certificate_authority_data.as_deref();
        let authority = Text::of(data, cluster.certificate_authority.as_deref());
        self.authority = authority.map_err(|reason| self.wrong("certificate-authority", reason))?;
        self.insecure = cluster.insecure_skip_tls_verify.unwrap_or_default();
        if self.insecure {
            if self.authority.is_some() {
                let reason = "it excludes certificate-authority; remove one of them".to_owned();
                return Err(self.wrong("insecure-skip-tls-verify", reason));
            }
            tracing::warn!("insecure-skip-tls-verify: the API server's certificate is not checked");
        }
        if let Some(name) = cluster.tls_server_name.clone().filter(|name| !name.is_empty()) {
            let name = ServerName::try_from(name.clone())
                .map_err(|error| self.wrong("tls-server-name", format!("{name:?}: {error}")))?;
            self.server_name = Some(name);
        }
        // For a login program that wants to know the cluster.
        if let Some(told) =
            self.config.auth_info.exec.as_mut().and_then(|exec| exec.cluster.as_mut())
        {
            told.certificate_authority_data =
                self.authority.as_ref().and_then(|authority| authority.read().ok());
        }
        Ok(())
    }

    fn take_user(&mut self) -> Result<(), ClientError> {
        let user: &mut AuthInfo = &mut self.config.auth_info;
        let key_data = user.client_key_data.take();
        let key_data = key_data.as_ref().map(ExposeSecret::expose_secret);
        let key = Text::of(key_data, user.client_key.take().as_deref());
        let data = user.client_certificate_data.take();
        let certificate = Text::of(data.as_deref(), user.client_certificate.take().as_deref());
        let token_file = user.token_file.take().filter(|path| !path.is_empty());
        if token_file.is_some() {
            self.token = user.token.take().map(|token| token.expose_secret().to_owned());
        }
        self.token_file = token_file.map(PathBuf::from);
        let certificate = certificate.map_err(|reason| self.wrong("client-certificate", reason))?;
        let key = key.map_err(|reason| self.wrong("client-key", reason))?;
        self.pair = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => {
                let reason = "it has no key; set client-key".to_owned();
                return Err(self.wrong("client-certificate", reason));
            }
            // As in Go, a key alone means nothing.
            (None, _) => None,
        };
        Ok(())
    }
}

async fn read(path: &Path) -> Result<Kubeconfig, ClientError> {
    let failed = |reason: String| ClientError::ReadKubeconfig { path: path.to_owned(), reason };
    let text = tokio::fs::read(path).await.map_err(|error| failed(error.to_string()))?;
    let mut text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let options = serde_saphyr::options! { with_snippet: false };
    let mut documents = serde_saphyr::read_with_options::<_, Kubeconfig>(&mut text, options);
    let first = documents.next().transpose().map_err(|error| {
        // Further lines could quote the file, which holds secrets.
        let reason = error.to_string();
        failed(reason.lines().next().unwrap_or_default().to_owned())
    })?;
    if documents.next().is_some() {
        tracing::warn!(
            "only the first YAML document of the kubeconfig {} counts; remove what follows it",
            path.display()
        );
    }
    let mut kubeconfig = first.unwrap_or_default();
    if let Some(folder) = path.parent() {
        make_absolute(&mut kubeconfig, folder);
    }
    Ok(kubeconfig)
}

/// Names of files are relative to the kubeconfig.
fn make_absolute(kubeconfig: &mut Kubeconfig, folder: &Path) {
    let absolute = |name: &mut Option<String>| {
        if let Some(name) = name.as_mut().filter(|name| !name.is_empty()) {
            *name = folder.join(&*name).to_string_lossy().into_owned();
        }
    };
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        absolute(&mut cluster.certificate_authority);
    }
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        absolute(&mut user.client_certificate);
        absolute(&mut user.client_key);
        absolute(&mut user.token_file);
        // A program without a slash is searched in PATH.
        if let Some(exec) = user
            .exec
            .as_mut()
            .filter(|exec| exec.command.as_ref().is_some_and(|command| command.contains('/')))
        {
            absolute(&mut exec.command);
        }
    }
}

/// The cluster of a context, with its name. Its CAs are taken out: kube would read them, and refuse more
/// than client-go does.
fn take_tls(kubeconfig: &mut Kubeconfig, context: &str) -> (String, Cluster) {
    let context = kubeconfig.contexts.iter().find(|entry| entry.name == context);
    let name = context.and_then(|entry| Some(entry.context.as_ref()?.cluster.clone()));
    let name = name.unwrap_or_default();
    let named = kubeconfig.clusters.iter_mut().find(|entry| entry.name == name);
    let Some(cluster) = named.and_then(|entry| entry.cluster.as_mut()) else {
        return (name, Cluster::default());
    };
    let whole = cluster.clone();
    cluster.certificate_authority = None;
    cluster.certificate_authority_data = None;
    (name, whole)
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
        // Without a proxy-url, kube uses the environment, too.
        KubeconfigError::ParseProxyUrl(_) => {
            "the variable HTTPS_PROXY or https_proxy names no URL; write it like http://host:3128"
                .to_owned()
        }
        other => other.to_string(),
    }
}
