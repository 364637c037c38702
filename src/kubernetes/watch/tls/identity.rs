//! The client certificate and its key.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::super::reread::Reread;
use super::pem::{self, Block};
use super::x509::{Certificate, GOOD_KEYS, KeyKind};

/// A certificate with its chain, and its key, from two texts of PEM. As in Go (`tls.X509KeyPair`), other blocks in
/// them mean nothing, the first key counts, and what a key calls itself does not.
///
/// # Errors
/// What is wrong with them, and what to change.
pub(in crate::watch) fn pair(
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let blocks = pem::blocks(certificate).into_iter();
    let chain = blocks.filter(|block| block.label == "CERTIFICATE").map(|block| match block.der {
        Some(der) => Ok(CertificateDer::from(der)),
        None => Err(format!("the certificate in line {} is broken", block.line)),
    });
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let first = chain.first().ok_or("client-certificate has no certificate")?;
    let first = Certificate::parse(first)
        .ok_or("client-certificate is no X.509 certificate: check that it was copied as a whole")?;
    let kind = first.key();
    let key = signing_key(key, kind, provider)?;
    // Not by rustls, which does not parse certificates of version 1.
    if key.public_key().is_some_and(|public| public.as_ref() != first.key_info) {
        return Err("client-certificate and client-key do not belong together".to_owned());
    }
    Ok(CertifiedKey::new(chain, key))
}

fn signing_key(
    text: &[u8],
    kind: KeyKind,
    provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, String> {
    let is_key = |block: &Block| block.label.ends_with("PRIVATE KEY");
    let block = pem::blocks(text).into_iter().find(is_key);
    let Block { label, line, headers, der } = block.ok_or("client-key has no private key")?;
    if headers || label == "ENCRYPTED PRIVATE KEY" {
        return Err("client-key is encrypted; write it without a passphrase, as \
             `openssl pkey -in KEY -out NEW` does"
            .to_owned());
    }
    let der = der.ok_or_else(|| format!("the key in line {line} of client-key is broken"))?;
    let forms = [
        PrivateKeyDer::Pkcs8(der.clone().into()),
        PrivateKeyDer::Pkcs1(der.clone().into()),
        PrivateKeyDer::Sec1(der.into()),
    ];
    let mut loaded = forms.into_iter().map(|form| provider.key_provider.load_private_key(form));
    loaded.find_map(Result::ok).ok_or_else(|| {
        format!(
            "client-key is broken or not supported, and that of client-certificate is {kind}; use a key of \
             {GOOD_KEYS}, and a certificate for it"
        )
    })
}

/// Shows the certificate that is there now, whichever CAs the server prefers.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Arc<Reread<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
