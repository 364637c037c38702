//! TLS to the API server, with rustls. Not through kube, which refuses much that client-go accepts (a bundle
//! of CAs with one broken block, a server certificate that is its own CA, client certificates of version 1),
//! and reads client certificates once.

mod identity;
mod pem;
mod roots;
mod x509;

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;

pub(super) use identity::pair;
pub(super) use roots::Roots;
pub(super) use x509::GOOD_KEYS;

use super::reread::Reread;

/// The algorithms.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// By what a client shows who it is.
pub(super) enum Identity {
    /// Not by a certificate.
    None,
    /// A certificate that can be renewed.
    Pair(Arc<Reread<CertifiedKey>>),
    /// What a login program gave.
    Program(Arc<dyn ResolvesClientCert>),
}

/// How connections are made. Without `roots`, every server is believed.
pub(super) fn config(
    roots: Option<Arc<Reread<Roots>>>,
    identity: Identity,
) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = match roots {
        Some(roots) => Arc::new(roots::Checked { roots, provider: Arc::clone(&provider) }),
        None => Arc::new(roots::Unchecked),
    };
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Identity::None => builder.with_no_client_auth(),
        Identity::Pair(pair) => builder.with_client_cert_resolver(Arc::new(identity::Shown(pair))),
        Identity::Program(resolver) => builder.with_client_cert_resolver(resolver),
    };
    // A resumed session keeps the old client certificate, and the server's is not checked again.
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests {
    /// One of the tests' files.
    pub(super) fn text(name: &str) -> Vec<u8> {
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        std::fs::read(folder.join("integration/fixtures/tls").join(name))
            .expect("the file is there")
    }

    /// The first certificate in it.
    pub(super) fn der(name: &str) -> Vec<u8> {
        let first = super::pem::blocks(&text(name)).into_iter().next().expect("it has a block");
        first.der.expect("the block is whole")
    }
}
