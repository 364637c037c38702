//! Questions to a daemon through its admin socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::admin_socket::wire::Failure;

/// The daemon answers within ten seconds, or not at all.
const PATIENCE: Duration = Duration::from_secs(15);

/// The body of the answer to `GET path`.
pub(super) fn get(socket: &Path, path: &str) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        let asking = tokio::time::timeout(PATIENCE, ask(socket, path));
        asking.await.unwrap_or_else(|_| {
            Err(anyhow!("the daemon at {} does not answer; look at its log", socket.display()))
        })
    })
}

async fn ask(socket: &Path, path: &str) -> Result<String> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no daemon answers at {}; ask where one runs (kubectl exec -n kube-system ds/kube-proxy -- sluice \
             status), as root, or name its socket with --socket; explain and rules also take objects, with -f",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "sluice").body(Full::<Bytes>::default())?;
    let answer = sender.send_request(request).await;
    let answer =
        answer.context("the daemon closed the connection; only root and its user are answered")?;
    let status = answer.status();
    let body = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
    connection.abort();
    let body = String::from_utf8_lossy(&body).into_owned();
    if status == StatusCode::OK {
        return Ok(body);
    }
    match serde_json::from_str::<Failure>(&body) {
        Ok(failure) if is_older(&failure) => bail!(
            "the daemon at {} is older than this program and does not know {}: update it, or take what it knows \
             with this program's -f: sluice dump > dump.yaml",
            socket.display(),
            path.split('?').next().unwrap_or(path)
        ),
        Ok(failure) => bail!("{}", failure.error),
        Err(_) => bail!("the daemon answers {status}; is it another version?"),
    }
}

/// Whether a daemon does not have the path that it is asked for.
fn is_older(failure: &Failure) -> bool {
    failure.error.starts_with("there is no /v1/")
}

/// A value as a part of a query.
pub(super) fn encoded(value: &str) -> String {
    form_urlencoded::byte_serialize(value.as_bytes()).collect()
}
