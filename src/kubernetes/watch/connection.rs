//! Connections to the API server that are closed when their client certificate is renewed (upstream:
//! `client-go/util/connrotation`).

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection};
use rustls::{AlertDescription, OtherError};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tower::{BoxError, Service, ServiceExt};

use super::credentials::Credentials;

/// Makes connections with the credentials that are good now.
#[derive(Clone)]
pub(super) struct Connector<C> {
    pub(super) over: HttpsConnector<C>,
    pub(super) credentials: Arc<Credentials>,
}

type Connecting<S> = Pin<Box<dyn Future<Output = Result<S, BoxError>> + Send>>;

impl<C> Service<Uri> for Connector<C>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    type Response = Closable<MaybeHttpsStream<C::Response>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let Connector { over, credentials } = self.clone();
        Box::pin(async move {
            credentials.refresh().await;
            // Before the handshake, so that a certificate that is renewed meanwhile ends this one, too.
            let closing = Box::pin(credentials.closing().cancelled_owned());
            let stream = over.oneshot(server).await.map_err(explain)?;
            Ok(Closable { stream, closing })
        })
    }
}

/// A connection that can be ended from outside.
pub(super) struct Closable<S> {
    stream: S,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Closable<S> {
    /// The stream, unless the connection is to end.
    fn open(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        match self.closing.as_mut().poll(context) {
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the client certificate of this connection was renewed",
            )),
        }
    }
}

impl<S: Connection> Connection for Closable<S> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl<S: Read + Unpin> Read for Closable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.open(context) {
            Ok(stream) => stream.poll_read(context, buffer),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<S: Write + Unpin> Write for Closable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.open(context) {
            Ok(stream) => stream.poll_write(context, bytes),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.open(context) {
            Ok(stream) => stream.poll_write_vectored(context, slices),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// Says more about a handshake that failed than rustls does.
fn explain(error: BoxError) -> BoxError {
    match tls_error(&*error) {
        // Ours, from the check of the server's certificate.
        Some(rustls::Error::Other(OtherError(ours))) => ours.to_string().into(),
        Some(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)) => format!(
            "the server refuses the TLS handshake (handshake_failure); its certificate must have a key of \
             {}, and it must offer TLS 1.3, or ECDHE with AES-GCM or ChaCha20",
            super::tls::GOOD_KEYS
        )
        .into(),
        _ => error,
    }
}

/// The error of rustls, unwrapped.
fn tls_error<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    while let Some(outer) = error.downcast_ref::<io::Error>() {
        error = outer.get_ref()?;
    }
    error.downcast_ref::<rustls::Error>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_says_what_to_change() {
        let ours = OtherError(Arc::new(io::Error::other("make another certificate")));
        let table = [
            (rustls::Error::Other(ours), "make another certificate"),
            (
                rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
                "the server refuses the TLS handshake (handshake_failure); its certificate must have a \
                 key of EC P-256 or P-384, RSA with 2048, 3072 or 4096 bits, or Ed25519, and it must \
                 offer TLS 1.3, or ECDHE with AES-GCM or ChaCha20",
            ),
            (rustls::Error::DecryptError, "cannot decrypt peer's message"),
        ];
        for (error, expected) in table {
            let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
            assert_eq!(explain(wrapped.into()).to_string(), expected);
        }
    }
}
