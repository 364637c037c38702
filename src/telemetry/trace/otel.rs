//! Traces with OpenTelemetry, sent as protobuf over HTTP.

use std::fmt::Display;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::{Link, Span as _, SpanBuilder, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, ContextGuard, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;

use super::{TraceError, asked_for};

/// Set by [`Traces::start`]; without it nothing is recorded.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Timeout of one export to the collector.
const DELIVER_WITHIN: Duration = Duration::from_secs(10);

/// Limit for the collector's response.
const LONGEST_ANSWER: usize = 64 << 10;

/// A time of arrival.
#[derive(Debug, Clone, Copy)]
pub struct Arrival(SystemTime);

impl Arrival {
    /// Now.
    pub fn now() -> Arrival {
        Arrival(SystemTime::now())
    }

    /// Starts the trace of a change from a watch, if traces are recorded.
    pub fn watch_event(self, resource: &dyn Display) -> Option<Origin> {
        let tracer = TRACER.get()?;
        let attribute = KeyValue::new("k8s.resource", resource.to_string());
        let builder = SpanBuilder::from_name("watch event").with_start_time(self.0);
        let builder = builder.with_attributes([attribute]);
        let mut span = tracer.build_with_context(builder, &Context::new());
        // Child spans need only its id.
        span.end();
        Some(Origin(Context::new().with_remote_span_context(span.span_context().clone())))
    }
}

/// The root span of a trace.
#[derive(Debug, Clone)]
pub struct Origin(Context);

impl Origin {
    /// Starts a child span.
    pub fn step(&self, name: &'static str) -> Span {
        begin(SpanBuilder::from_name(name), &self.0)
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Origin) -> bool {
        self.0.span().span_context() == other.0.span().span_context()
    }
}

impl Eq for Origin {}

/// A span, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Span(Option<ContextGuard>);

impl Drop for Span {
    fn drop(&mut self) {
        if self.0.is_some() {
            Context::current().span().end();
        }
    }
}

/// The sync that applies these changes.
pub fn sync(origins: &[Origin]) -> Span {
    let Some((first, others)) = origins.split_first() else { return Span(None) };
    let link = |origin: &Origin| Link::with_context(origin.0.span().span_context().clone());
    let links = others.iter().map(link).collect();
    begin(SpanBuilder::from_name("sync").with_links(links), &first.0)
}

/// A child of this thread's current span, if there is one.
pub fn step(name: &'static str) -> Span {
    let current = Context::current();
    if !current.has_active_span() {
        return Span(None);
    }
    begin(SpanBuilder::from_name(name), &current)
}

fn begin(builder: SpanBuilder, parent: &Context) -> Span {
    let Some(tracer) = TRACER.get() else { return Span(None) };
    let span = tracer.build_with_context(builder, parent);
    Span(Some(parent.with_span(span).attach()))
}

/// Sets an attribute of this thread's current span.
pub fn note(key: &'static str, value: impl FnOnce() -> String) {
    let current = Context::current();
    if current.has_active_span() {
        current.span().set_attribute(KeyValue::new(key, value()));
    }
}

/// The connection to the collector.
#[derive(Debug)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts recording if a variable has the collector's address. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn start() -> Result<Traces, TraceError> {
        let disabled = std::env::var("OTEL_SDK_DISABLED");
        let Some(variable) = asked_for() else { return Ok(Traces(None)) };
        if disabled.is_ok_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(Traces(None));
        }
        if std::env::var(variable).is_ok_and(|url| url.starts_with("https:")) {
            let reason = format!("{variable} asks for TLS, which is not there for traces");
            return Err(TraceError { reason });
        }
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(DELIVER_WITHIN));
        let http = Client::builder(TokioExecutor::new()).build(tcp);
        let delivery = Delivery { http, runtime: Handle::current() };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(delivery)
            .build()
            .map_err(|error| TraceError { reason: error.to_string() })?;
        let named = ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"];
        let resource = if named.iter().any(|name| std::env::var_os(name).is_some()) {
            Resource::builder()
        } else {
            Resource::builder().with_service_name("kube-proxy")
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let _ = TRACER.set(provider.tracer("sluice"));
        Ok(Traces(Some(provider)))
    }

    /// Sends the remaining spans, which may take seconds.
    pub fn end(self) {
        let Some(provider) = self.0 else { return };
        let ended = tokio::task::block_in_place(|| provider.shutdown_with_timeout(DELIVER_WITHIN));
        if let Err(error) = ended {
            tracing::warn!(%error, "the last traces may be lost");
        }
    }
}

/// Exports to the collector from the batch thread, which is not a thread of the runtime.
#[derive(Debug)]
struct Delivery {
    http: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Delivery {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.http.request(request.map(Full::new));
        let delivery = async move {
            let (head, body) = answer.await?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let bounded = async move { tokio::time::timeout(DELIVER_WITHIN, delivery).await };
        self.runtime.spawn(bounded).await??
    }
}
