//! Verification of the API server's certificate.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::super::reread::Reread;
use super::pem;
use super::x509::{Certificate, GOOD_KEYS, KeyKind};

/// The certificates that are trusted.
#[derive(Debug)]
pub(in crate::watch) struct Roots {
    /// Those that were named, byte by byte. Mozilla's are not here.
    named: Vec<CertificateDer<'static>>,
    /// For what comes from a CA; none if no certificate may vouch for others.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Roots {
    /// The CAs in a text of PEM, and what is wrong with others that stand there. One that is good is enough.
    ///
    /// # Errors
    /// If there is none that can be used: why not.
    pub(in crate::watch) fn of_pem(
        text: &[u8],
        provider: &Arc<CryptoProvider>,
    ) -> Result<(Roots, Vec<String>), String> {
        let (mut named, mut unusable) = (Vec::new(), Vec::new());
        for block in pem::blocks(text) {
            if block.label != "CERTIFICATE" || block.headers {
                continue;
            }
            let line = block.line;
            match usable(block.der) {
                Ok(certificate) => named.push(certificate),
                Err(reason) => unusable.push(format!("the certificate in line {line} {reason}")),
            }
        }
        if named.is_empty() {
            unusable.insert(0, "it has no certificate that can be used".to_owned());
            return Err(unusable.join("; "));
        }
        let verifier = verifier(vouching(&named, |_| true), provider)?;
        Ok((Roots { named, verifier, provider: Arc::clone(provider) }, unusable))
    }

    /// The CAs that browsers trust.
    pub(in crate::watch) fn of_the_web(provider: &Arc<CryptoProvider>) -> Result<Roots, String> {
        let store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let (named, verifier) = (Vec::new(), verifier(store, provider)?);
        Ok(Roots { named, verifier, provider: Arc::clone(provider) })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let facts = Certificate::parse(certificate).ok_or(CertificateError::BadEncoding)?;
        let key = facts.key();
        if !key.can_be_checked() {
            return Err(refused(Refused::Key(key)));
        }
        if self.named.contains(certificate) {
            return itself(certificate, &facts, name, now);
        }
        let Some(verifier) = &self.verifier else { return Err(refused(Refused::Unknown)) };
        let by = |verifier: &WebPkiServerVerifier| {
            verifier.verify_server_cert(certificate, intermediates, name, &[], now)
        };
        let checked = by(verifier).map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => refused(Refused::Unknown),
            Error::InvalidCertificate(CertificateError::Other(_)) if facts.is_ca => {
                refused(Refused::Ca)
            }
            other => other,
        })?;
        // webpki does not ask whether the CA is valid now. Go does.
        let time = seconds(now);
        let all = self.named.iter().all(|named| is_valid_at(named, time));
        let some = || self.verifier_at(time).is_some_and(|verifier| by(&verifier).is_ok());
        if all || some() { Ok(checked) } else { Err(refused(Refused::CaNotValid)) }
    }

    /// For what comes from a CA that is valid at this time.
    fn verifier_at(&self, time: i64) -> Option<Arc<WebPkiServerVerifier>> {
        let store = vouching(&self.named, |named| is_valid_at(named, time));
        verifier(store, &self.provider).ok().flatten()
    }
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn is_valid_at(certificate: &CertificateDer<'_>, time: i64) -> bool {
    Certificate::parse(certificate).is_some_and(|facts| facts.is_valid_at(time))
}

/// Those certificates that may vouch for others. The others are trusted themselves, and nothing more.
fn vouching(
    named: &[CertificateDer<'static>],
    which: impl Fn(&CertificateDer<'_>) -> bool,
) -> RootCertStore {
    let vouches =
        |one: &&CertificateDer<'_>| Certificate::parse(one).is_some_and(|facts| facts.vouches());
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(named.iter().filter(vouches).filter(|one| which(one)).cloned());
    store
}

/// A certificate that can be trusted.
fn usable(der: Option<Vec<u8>>) -> Result<CertificateDer<'static>, String> {
    let broken = "is broken: check that it was copied as a whole";
    let der = der.ok_or(broken)?;
    let parsed = Certificate::parse(&der).ok_or(broken)?;
    let key = parsed.key();
    if !key.can_be_checked() {
        return Err(format!(
            "has a key {key}, which is not supported: make the CA with {GOOD_KEYS}"
        ));
    }
    let vouches = parsed.vouches();
    let certificate = CertificateDer::from(der);
    if vouches {
        let added = RootCertStore::empty().add(certificate.clone());
        added.map_err(|error| format!("cannot be used: {error}"))?;
    }
    Ok(certificate)
}

fn verifier(
    store: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>, String> {
    if store.is_empty() {
        return Ok(None);
    }
    let builder = WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider));
    builder.build().map(Some).map_err(|error| error.to_string())
}

/// Checks a certificate that is trusted itself, as `openssl req -x509` makes one for a server. As in
/// Go (`crypto/x509`, `Certificate.Verify`), it needs no issuer then and may be a CA's, but must count
/// now, be for servers, and have the name. webpki refuses the certificate of a CA.
fn itself(
    certificate: &CertificateDer<'_>,
    facts: &Certificate<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    // This also refuses critical extensions that are not understood.
    let parsed = ParsedCertificate::try_from(certificate)?;
    let time = seconds(now);
    if time < facts.not_before {
        return Err(refused(Refused::NotYet));
    }
    if time > facts.not_after {
        return Err(refused(Refused::Expired));
    }
    if !facts.for_servers {
        return Err(refused(Refused::Usage));
    }
    verify_server_name(&parsed, name)?;
    Ok(ServerCertVerified::assertion())
}

/// Why a server's certificate is refused, where rustls' words leave an operator without a way out.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "the server's certificate is not signed by a trusted CA; certificate-authority must contain that \
         CA, or this very certificate"
    )]
    Unknown,
    #[error(
        "the server's certificate is one of a CA (basicConstraints CA:TRUE), signed by another; make the \
         server one with basicConstraints CA:FALSE, or put this one into certificate-authority"
    )]
    Ca,
    #[error(
        "the CA that signed the server's certificate has expired or is not valid yet; renew it in \
         certificate-authority, and check the node's clock"
    )]
    CaNotValid,
    #[error("the server's certificate is not valid yet; check the clocks of node and server")]
    NotYet,
    #[error("the server's certificate has expired; make a new one, also in certificate-authority")]
    Expired,
    #[error(
        "the server's certificate is not for servers; make one with serverAuth in its extended key usage"
    )]
    Usage,
    #[error(
        "the server's certificate has a key {0}, which is not supported; make one with {GOOD_KEYS}"
    )]
    Key(KeyKind),
}

fn refused(why: Refused) -> Error {
    Error::Other(OtherError(Arc::new(why)))
}

/// Checks the server's certificate against the CAs that are trusted now.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) roots: Arc<Reread<Roots>>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.roots.current().check(certificate, intermediates, name, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts any certificate: `insecure-skip-tls-verify`.
#[derive(Debug)]
pub(super) struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    // An attacker could use a key of their own, so checking its signature protects nothing, and unsupported
    // keys are accepted, too.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme as Scheme;
        vec![
            Scheme::ECDSA_NISTP256_SHA256,
            Scheme::ECDSA_NISTP384_SHA384,
            Scheme::ECDSA_NISTP521_SHA512,
            Scheme::ED25519,
            Scheme::RSA_PSS_SHA256,
            Scheme::RSA_PSS_SHA384,
            Scheme::RSA_PSS_SHA512,
            Scheme::RSA_PKCS1_SHA256,
            Scheme::RSA_PKCS1_SHA384,
            Scheme::RSA_PKCS1_SHA512,
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::text;
    use super::*;

    /// In the year 2030.
    const NOW: u64 = 1_900_000_000;

    #[test]
    fn a_certificate_that_is_named_itself_is_checked_all_the_same() {
        let check = |certificate: &str, name: &str, seconds: u64| {
            let text = text(certificate);
            let provider = super::super::provider();
            let (roots, _) = Roots::of_pem(&text, &provider).expect("it is a certificate");
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            roots.check(&roots.named[0], &[], &name, now).map_err(|error| error.to_string())
        };
        for name in ["self.crt", "server.crt", "server_ca.crt"] {
            assert!(check(name, "127.0.0.1", NOW).is_ok(), "{name}");
            assert!(check(name, "api.internal", NOW).is_ok(), "{name}");
        }
        let table = [
            ("self.crt", "127.0.0.1", 1_000_000_000, "is not valid yet"),
            ("self.crt", "127.0.0.1", 5_000_000_000, "has expired"),
            ("self.crt", "127.0.0.2", NOW, "not valid for name"),
            ("self.crt", "other.internal", NOW, "not valid for name"),
            ("self_expired.crt", "127.0.0.1", NOW, "has expired"),
            ("self_client.crt", "127.0.0.1", NOW, "is not for servers"),
        ];
        for (certificate, name, seconds, expected) in table {
            let why = check(certificate, name, seconds).expect_err(certificate);
            assert!(why.contains(expected), "{certificate} {name} {seconds}: {why}");
        }
    }

    #[test]
    fn a_certificate_that_is_named_vouches_for_others_only_if_it_may() {
        let provider = super::super::provider();
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let check = |of: &str, trusted: &[&str], seconds: u64| {
            let text = trusted.iter().flat_map(|one| text(one)).collect::<Vec<_>>();
            let (roots, _) = Roots::of_pem(&text, &provider).expect("they are certificates");
            let der = CertificateDer::from(super::super::tests::der(of));
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            roots.check(&der, &[], &name, now).map_err(|error| error.to_string())
        };
        // All that are named here have the name and the key of the issuer.
        let table: [(&str, &[&str], &str); 8] = [
            ("of_self.crt", &["self.crt"], ""),
            ("of_self.crt", &["self_no_signing.crt"], "not signed by a trusted CA"),
            ("of_self.crt", &["self_client.crt"], "not signed by a trusted CA"),
            ("of_self.crt", &["self_expired.crt"], "has expired"),
            ("of_self.crt", &["self_expired.crt", "self.crt"], ""),
            ("of_self.crt", &["self_expired.crt", "ca.crt"], "has expired"),
            ("of_server.crt", &["server_ca.crt"], ""),
            ("of_server.crt", &["server.crt"], "not signed by a trusted CA"),
        ];
        for (of, trusted, expected) in table {
            match check(of, trusted, NOW) {
                Ok(_) => assert_eq!(expected, "", "{of} {trusted:?}"),
                Err(why) => {
                    assert!(
                        !expected.is_empty() && why.contains(expected),
                        "{of} {trusted:?}: {why}"
                    );
                }
            }
        }
    }

    #[test]
    fn keys_that_are_not_supported_are_named() {
        let provider = super::super::provider();
        let (roots, _) = Roots::of_pem(&text("ca.crt"), &provider).expect("it is a CA");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let name = ServerName::try_from("server").expect("a name");
        for (certificate, key) in [("p521.crt", "EC P-521"), ("rsa1024.crt", "RSA with 1024 bits")]
        {
            let der = CertificateDer::from(super::super::tests::der(certificate));
            let why = roots.check(&der, &[], &name, now).expect_err(certificate).to_string();
            assert!(why.contains(key) && why.contains("EC P-256"), "{why}");
        }
    }
}
