//! Why there is no client of the API server.

use std::path::PathBuf;

use super::proxy::Wrong;

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
    InCluster(String),
    /// The token cannot be read.
    #[error(
        "cannot read the token file {0}; check tokenFile of the kubeconfig's user, or the Pod's \
         mounted service account"
    )]
    ReadToken(String),
    /// What names a proxy is not a proxy's URL.
    #[error(
        "cannot use the proxy that {field} names: {reason}; write it like http://host:3128, or remove it"
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

impl From<Wrong> for ClientError {
    fn from(Wrong { field, reason }: Wrong) -> ClientError {
        ClientError::Proxy { field, reason }
    }
}
