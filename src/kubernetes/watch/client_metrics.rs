//! Metrics of requests to the API server, as in client-go, and the time of the last contact.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::future::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use kube::client::Body;
use tower::{BoxError, Service};

use super::ApiServer;
use sluice_telemetry::metrics::{self, Metrics};

impl ApiServer {
    /// The same server; from now on, requests to it are counted.
    #[must_use]
    pub fn measured(self, metrics: &Metrics) -> ApiServer {
        let host = self.url.parse::<http::Uri>().ok();
        let host = host.and_then(|uri| uri.authority().map(ToString::to_string));
        let measured = Measured {
            client: self.client.clone(),
            metrics: metrics.clone(),
            host: host.unwrap_or_default().into(),
        };
        let namespace = self.client.default_namespace().to_owned();
        ApiServer { client: kube::Client::new(measured, namespace), ..self }
    }
}

/// A client that counts.
#[derive(Clone)]
struct Measured {
    client: kube::Client,
    metrics: Metrics,
    host: Arc<str>,
}

type Answer = Result<Response<CountedBody>, BoxError>;
type CountedBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

impl Service<Request<Body>> for Measured {
    type Response = Response<CountedBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The client waits for its turn when it sends.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = Asked {
            watch: watched(request.uri()),
            method: request.method().clone(),
            sent: request.body().size_hint().exact().filter(|bytes| *bytes > 0),
            at: Instant::now(),
        };
        let Measured { client, metrics, host } = self.clone();
        async move {
            let answer = client.send(request).await;
            asked.note(&metrics, &host, answer.as_ref().ok());
            Ok(answer?.map(|body| counted(body, metrics)))
        }
        .boxed()
    }
}

/// A request in progress.
struct Asked {
    /// The resource, if it is a watch.
    watch: Option<String>,
    method: http::Method,
    sent: Option<u64>,
    at: Instant,
}

impl Asked {
    fn note(&self, metrics: &Metrics, host: &str, answer: Option<&Response<Body>>) {
        let is_watch = self.watch.is_some();
        if let (Some(resource), Some(true)) =
            (&self.watch, answer.map(|answer| answer.status().is_success()))
        {
            metrics.watching(resource);
        }
        if answer.is_some() {
            metrics.received(0);
        }
        // client-go measures requests that end, not watches.
        let whole = answer.filter(|_| !is_watch);
        metrics.requested(metrics::Request {
            method: self.method.as_str(),
            host,
            code: answer.map(|answer| answer.status().as_u16()),
            elapsed: whole.map(|_| self.at.elapsed()),
            sent: whole.and(self.sent),
            answered: whole.and_then(|answer| answer.body().size_hint().exact()),
        });
    }
}

/// The resource that a request watches.
fn watched(uri: &http::Uri) -> Option<String> {
    let mut parameters = uri.query()?.split('&');
    parameters.any(|parameter| parameter == "watch=true").then_some(())?;
    uri.path().rsplit('/').next().map(str::to_owned)
}

/// The body, with its bytes counted as they come.
fn counted(body: Body, metrics: Metrics) -> CountedBody {
    let counted = body.map_frame(move |frame| {
        metrics.received(frame.data_ref().map_or(0, Bytes::len));
        frame
    });
    counted.map_err(BoxError::from).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_told_by_its_query() {
        let table = [
            ("/api/v1/services?labelSelector=x&watch=true&resourceVersion=7", Some("services")),
            ("/apis/discovery.k8s.io/v1/endpointslices?watch=true", Some("endpointslices")),
            ("/api/v1/services?limit=500", None),
            ("/api/v1/namespaces/default/events", None),
        ];
        for (uri, resource) in table {
            let uri = uri.parse().expect("a URI");
            assert_eq!(watched(&uri).as_deref(), resource, "{uri}");
        }
    }
}
