//! Credentials: a token, trusted CAs, a client certificate. Each may be in files that are renewed at run
//! time.
//!
//! The files are read again every minute, before a connection is made, and when the server answers 401. As in
//! client-go (`transport/cert_rotation.go`), connections with an old client certificate are closed: the
//! server checks it with every request, and refuses it once it has expired. New CAs are used for new
//! connections.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use rustls::sign::CertifiedKey;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client_error::ClientError;
use super::kubeconfig::{Access, Text};
use super::reread::Reread;
use super::tls::{self, Roots};
use super::token;

/// How often files are read again.
const PERIOD: Duration = Duration::from_secs(60);
/// The same for as long as they cannot be used.
const FAULTY_PERIOD: Duration = Duration::from_secs(5);
/// Not more often than this.
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);
/// How long a connection waits for the files. A file system may stand still.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// What client and server know each other by, now.
pub(super) struct Credentials {
    pub(super) token: Option<Reread<HeaderValue>>,
    /// None if the server's certificate is not to be checked.
    pub(super) roots: Option<Arc<Reread<Roots>>>,
    pub(super) pair: Option<Arc<Reread<CertifiedKey>>>,
    /// Ends the connections that are open.
    open: Mutex<CancellationToken>,
    /// When the files were last read.
    read: Arc<tokio::sync::Mutex<Instant>>,
}

impl Credentials {
    /// Reads them for the first time, and from now on again and again.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(super) fn read(access: &Access) -> Result<Arc<Credentials>, ClientError> {
        let credentials = Arc::new(Credentials {
            token: token_of(access)?,
            roots: roots_of(access)
                .map_err(|reason| access.wrong("certificate-authority", reason))?,
            pair: pair_of(access).map_err(|reason| access.wrong("client-certificate", reason))?,
            open: Mutex::default(),
            read: Arc::new(tokio::sync::Mutex::new(Instant::now())),
        });
        if credentials.are_in_files() {
            let credentials = Arc::downgrade(&credentials);
            tokio::spawn(async move {
                while let Some(pause) = credentials.upgrade().map(|one| one.pause()) {
                    sleep(pause).await;
                    if let Some(credentials) = credentials.upgrade() {
                        credentials.refresh().await;
                    }
                }
            });
        }
        Ok(credentials)
    }

    /// Reads the files again if that was not just done. Waits for them, but not for long.
    pub(super) async fn refresh(self: &Arc<Credentials>) {
        if !self.are_in_files() {
            return;
        }
        let look = async {
            let mut last = Arc::clone(&self.read).lock_owned().await;
            if last.elapsed() >= SHORTEST_PERIOD {
                let credentials = Arc::clone(self);
                let look = move || {
                    credentials.look();
                    // Until here nobody else looks, even if nobody waits any more.
                    *last = Instant::now();
                };
                if let Err(error) = tokio::task::spawn_blocking(look).await {
                    tracing::debug!(%error, "credentials were not read again");
                }
            }
        };
        if timeout(LOOK_WITHIN, look).await.is_err() {
            tracing::debug!(
                "reading the credential files takes long; the known ones are used meanwhile"
            );
        }
    }

    /// Is cancelled when connections made from now on must end.
    pub(super) fn closing(&self) -> CancellationToken {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files; blocks.
    fn look(&self) {
        if let Some(token) = &self.token {
            token.look();
        }
        if self.roots.as_ref().is_some_and(|roots| roots.look()) {
            tracing::info!("certificate-authority has changed; new connections use it");
        }
        if self.pair.as_ref().is_some_and(|pair| pair.look()) {
            tracing::info!(
                "the client certificate was renewed; connections made with the old one are closed"
            );
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *open).cancel();
        }
    }

    fn are_in_files(&self) -> bool {
        self.files().any(|(has_files, _)| has_files)
    }

    fn pause(&self) -> Duration {
        if self.files().any(|(_, is_faulty)| is_faulty) { FAULTY_PERIOD } else { PERIOD }
    }

    /// Of each credential whether it has files, and whether they cannot be used now.
    fn files(&self) -> impl Iterator<Item = (bool, bool)> {
        fn of<T>(one: &Reread<T>) -> (bool, bool) {
            (one.has_files(), one.is_faulty())
        }
        let (token, roots) = (self.token.as_ref().map(of), self.roots.as_deref().map(of));
        [token, roots, self.pair.as_deref().map(of)].into_iter().flatten()
    }
}

/// The token, if it is in a file. As in client-go, an inline one counts until the file can be read.
fn token_of(access: &Access) -> Result<Option<Reread<HeaderValue>>, ClientError> {
    let Some(path) = &access.token_file else { return Ok(None) };
    let parse = |texts: &[Vec<u8>]| token::authorization(&texts.concat());
    let files = || vec![path.clone()];
    let token = Reread::open("the token", files(), parse);
    let inline =
        access.token.as_ref().and_then(|token| token::authorization(token.as_bytes()).ok());
    match (token, inline) {
        (Ok(token), _) => Ok(Some(token)),
        (Err(_), Some(inline)) => Ok(Some(Reread::from(inline, "the token", files(), parse))),
        (Err(reason), None) => Err(ClientError::ReadToken(reason)),
    }
}

fn roots_of(access: &Access) -> Result<Option<Arc<Reread<Roots>>>, String> {
    if access.insecure {
        return Ok(None);
    }
    let provider = tls::provider();
    let roots = match &access.authority {
        None => Reread::fixed(Roots::of_the_web(&provider)?),
        Some(Text::Inline(text)) => Reread::fixed(roots(text, &provider)?),
        Some(Text::File(path)) => {
            let parse = move |texts: &[Vec<u8>]| roots(&texts.concat(), &provider);
            Reread::open("certificate-authority", vec![path.clone()], parse)?
        }
    };
    Ok(Some(Arc::new(roots)))
}

fn roots(text: &[u8], provider: &Arc<rustls::crypto::CryptoProvider>) -> Result<Roots, String> {
    let (roots, unusable) = Roots::of_pem(text, provider)?;
    for one in unusable {
        tracing::warn!("certificate-authority: {one}; the others are used");
    }
    Ok(roots)
}

/// The client certificate. It is renewed if both it and its key are in files.
fn pair_of(access: &Access) -> Result<Option<Arc<Reread<CertifiedKey>>>, String> {
    let Some((certificate, key)) = &access.pair else { return Ok(None) };
    let provider = tls::provider();
    let pair = if let (Text::File(certificate), Text::File(key)) = (certificate, key) {
        let files: Vec<PathBuf> = vec![certificate.clone(), key.clone()];
        let parse = move |texts: &[Vec<u8>]| match texts {
            [certificate, key] => tls::pair(certificate, key, &provider),
            _ => Err("two files are needed".to_owned()),
        };
        Reread::open("the client certificate", files, parse)?
    } else {
        Reread::fixed(tls::pair(&certificate.read()?, &key.read()?, &provider)?)
    };
    Ok(Some(Arc::new(pair)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        folder.join("integration/fixtures/tls").join(name)
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_read_again_every_minute_and_old_connections_end() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = |name: &str| folder.path().join(name);
        let copy = |from: &str, to: &str| {
            std::fs::copy(fixture(from), path(to)).expect("a file");
        };
        copy("client.crt", "cert");
        copy("client.key", "key");
        std::fs::write(path("token"), "one").expect("a file");
        let mut access = Access::new(http::Uri::from_static("https://server"));
        access.pair = Some((Text::File(path("cert")), Text::File(path("key"))));
        access.token_file = Some(path("token"));
        let credentials = Credentials::read(&access).expect("they are good");
        let token = || credentials.token.as_ref().map(|token| token.current().as_ref().clone());
        let open = credentials.closing();

        std::fs::write(path("token"), "two").expect("a file");
        sleep(PERIOD - SHORTEST_PERIOD).await;
        assert_eq!(token().as_ref().map(HeaderValue::as_bytes), Some(&b"Bearer one"[..]));
        sleep(SHORTEST_PERIOD * 2).await;
        assert_eq!(token().as_ref().map(HeaderValue::as_bytes), Some(&b"Bearer two"[..]));
        assert!(!open.is_cancelled(), "the certificate is the same");

        copy("rsa.crt", "cert");
        sleep(PERIOD + LOOK_WITHIN).await;
        assert!(!open.is_cancelled(), "the key is not renewed yet");
        copy("rsa.key", "key");
        open.cancelled().await;
        assert!(!credentials.closing().is_cancelled(), "new connections stay");
    }

    #[tokio::test(start_paused = true)]
    async fn the_content_of_a_token_file_counts_for_more_than_an_inline_token() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("token");
        let mut access = Access::new(http::Uri::from_static("https://server"));
        access.token_file = Some(path.clone());
        assert!(Credentials::read(&access).is_err(), "there is none at all");
        access.token = Some("inline".to_owned());
        let credentials = Credentials::read(&access).expect("the inline token is good");
        let token = || credentials.token.as_ref().map(|token| token.current().as_ref().clone());
        assert_eq!(token().as_ref().map(HeaderValue::as_bytes), Some(&b"Bearer inline"[..]));
        std::fs::write(&path, "file").expect("a file");
        sleep(PERIOD + LOOK_WITHIN).await;
        assert_eq!(token().as_ref().map(HeaderValue::as_bytes), Some(&b"Bearer file"[..]));
    }
}
