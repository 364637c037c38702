//! Objects from an API server, read once.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use sluice_kubernetes::watch::{ApiServer, ClientOptions, manifests};

/// Lists that the plan needs, and that people want to know; those that may be missing or forbidden last.
const LISTS: [(&str, Need); 6] = [
    ("/api/v1/services", Need::Must),
    ("/apis/discovery.k8s.io/v1/endpointslices", Need::Must),
    ("/api/v1/nodes", Need::Must),
    ("/api/v1/pods", Need::May),
    ("/apis/networking.k8s.io/v1/servicecidrs", Need::May),
    ("/api/v1/namespaces/kube-system/configmaps/kube-proxy", Need::May),
];

/// Whether a list has to be readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    May,
}

/// What an API server has.
pub(crate) struct Listed {
    pub(crate) objects: Vec<Value>,
    /// The server.
    pub(crate) url: String,
    /// Why pods are not known, if they are not.
    pub(crate) without_pods: Option<String>,
}

/// Reads all lists.
pub(crate) fn objects(kubeconfig: &Path) -> Result<Listed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start a runtime")?;
    runtime.block_on(read(kubeconfig))
}

async fn read(kubeconfig: &Path) -> Result<Listed> {
    let options =
        ClientOptions { kubeconfig: Some(kubeconfig.to_owned()), ..ClientOptions::default() };
    let server = ApiServer::new(&options).await?;
    let (mut objects, mut without_pods) = (Vec::new(), None);
    for (path, need) in LISTS {
        let request = http::Request::get(path).body(Vec::new()).context("make a request")?;
        match server.client.request_text(request).await {
            Ok(text) => objects.append(&mut manifests::read(&text, path).or_else(empty)?),
            Err(error) if need == Need::May => {
                if path.ends_with("/pods") {
                    without_pods = Some(refusal(&error.to_string()));
                }
            }
            Err(error) => {
                return Err(error).with_context(|| format!("list {path} of {}", server.url));
            }
        }
    }
    Ok(Listed { objects, url: server.url, without_pods })
}

/// A list without items is no error here.
fn empty(error: manifests::ManifestError) -> Result<Vec<Value>, manifests::ManifestError> {
    match error {
        manifests::ManifestError::Empty { .. } => Ok(Vec::new()),
        other => Err(other),
    }
}

fn refusal(error: &str) -> String {
    if error.contains("forbidden") || error.contains("Forbidden") {
        "pods are forbidden to you".to_owned()
    } else {
        format!("pods cannot be listed: {error}")
    }
}
