//! A token that is kept in a file, read as client-go reads it
//! (`staging/src/k8s.io/client-go/transport/token_source.go`): white space around it is no part of it,
//! it is read anew every minute, and a file that is gone or empty leaves the last token in use.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

/// How long a token is used before the file is looked at again.
const REREAD_AFTER: Duration = Duration::from_secs(60);

/// The file, and what it said last.
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<(HeaderValue, Instant)>,
}

impl TokenFile {
    /// Reads the token for the first time; it must be there.
    pub(super) fn open(path: PathBuf) -> io::Result<TokenFile> {
        let last = Mutex::new((read(&path)?, Instant::now()));
        Ok(TokenFile { path, last })
    }

    /// The value of the header `Authorization`.
    pub(super) fn authorization(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.1.elapsed() >= REREAD_AFTER {
            match read(&self.path) {
                Ok(header) => last.0 = header,
                Err(error) => tracing::debug!(path = %self.path.display(), %error, "no new token"),
            }
            last.1 = Instant::now();
        }
        last.0.clone()
    }
}

fn read(path: &PathBuf) -> io::Result<HeaderValue> {
    let text = std::fs::read_to_string(path)?;
    let wrong = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
    let token = text.trim();
    if token.is_empty() {
        return Err(wrong("the file is empty"));
    }
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| wrong("what it holds is no token"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_trimmed_and_read_anew_every_minute() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        std::fs::write(&path, " one\n").expect("a file");
        let token = TokenFile::open(path.clone()).expect("it is there");
        assert_eq!(token.authorization(), "Bearer one");
        std::fs::write(&path, "two").expect("a file");
        assert_eq!(token.authorization(), "Bearer one");
        tokio::time::advance(REREAD_AFTER).await;
        assert_eq!(token.authorization(), "Bearer two");
        assert!(token.authorization().is_sensitive(), "it is not printed");
        for unusable in ["", "\n", "a\nb"] {
            std::fs::write(&path, unusable).expect("a file");
            tokio::time::advance(REREAD_AFTER).await;
            assert_eq!(token.authorization(), "Bearer two", "{unusable:?} is no new token");
            assert!(TokenFile::open(path.clone()).is_err(), "{unusable:?} is no first token");
        }
    }
}
