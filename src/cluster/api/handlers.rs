//! From a request to its response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::access::{authorize, denied};
use super::faults::{FailureCode, Outage, ProtobufSupport};
use super::list::{self, shown_json};
use super::patch::Patch;
use super::query::{Form, ListOptions, Place, Query, WatchOptions};
use super::resources::{Resource, Verb};
use super::responses::{Body, json_response, maybe_packed, text_response, warned};
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Key, Object};
use super::table::{self, Header};
use super::watch::Watcher;
use super::write::{self, Outcome, Part, Persist, Target};
use super::{Shared, deletion, discovery, openapi, protobuf, requests, scale, strict};

/// kube-apiserver's limit of a request's body.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Answers a request. Errors become `Status` objects.
pub(super) async fn handle(
    shared: Arc<Shared>,
    stop: CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let delay = shared.faults.delay();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let in_protobuf = shared.faults.protobuf() == ProtobufSupport::Served
        && text_header(&request, "accept").starts_with(protobuf::MEDIA_TYPE);
    let result = respond(&shared, stop, request).await;
    Ok(result.unwrap_or_else(|error| {
        let (code, _) = error.code_and_reason();
        let status = error.to_status();
        let mut response = if in_protobuf {
            text_response(protobuf::MEDIA_TYPE, protobuf::status(&status).into())
        } else {
            json_response(&status)
        };
        *response.status_mut() =
            StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if matches!(error, ApiError::Unavailable(_) | ApiError::TooManyRequests) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }))
}

async fn respond(
    shared: &Arc<Shared>,
    stop: CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if *shared.faults.outage().borrow() == Outage::Unavailable {
        let message = "apiserver is shutting down";
        return Err(ApiError::Unavailable(message.to_owned()));
    }
    let path = request.uri().path();
    if let "healthz" | "livez" | "readyz" = path.split('/').nth(1).unwrap_or_default() {
        return Ok(text_response("text/plain; charset=utf-8", Bytes::from_static(b"ok")));
    }
    let authorization = text_header(&request, header::AUTHORIZATION.as_str());
    let identity = shared.options.access.identify(Some(authorization))?;
    if let Some(response) = about_itself(path, text_header(&request, "accept")) {
        return match request.method().as_str() {
            "GET" => Ok(response),
            _ => Err(ApiError::MethodNotAllowed),
        };
    }
    let place = Place::parse(path).ok_or(ApiError::NoSuchPath)?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let verb = place.verb(request.method().as_str(), &query)?;
    shared.requests.add(requests::Request {
        at: Instant::now(),
        verb,
        resource: place.resource,
        path: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
        user_agent: text_header(&request, "user-agent").to_owned(),
    });
    authorize(identity, verb, place.resource, &place.namespace, &place.subresource)?;
    if let Some(code) = shared.faults.take_failure(verb, place.resource) {
        return Err(injected(code, verb, &place));
    }
    let form = form(shared, &request, (verb, place.resource), &query)?;
    let call = Call { shared: Arc::clone(shared), place, verb, query, form };
    call.run(stop, request).await
}

/// In which form the client is answered.
fn form(
    shared: &Shared,
    request: &Request<Incoming>,
    (verb, resource): (Verb, Resource),
    query: &Query,
) -> Result<Form, ApiError> {
    let accept = text_header(request, "accept");
    let read = matches!(verb, Verb::Get | Verb::List | Verb::Watch);
    let support = shared.faults.protobuf();
    match support {
        ProtobufSupport::NotAcceptable if accept.contains("protobuf") => {
            return Err(ApiError::NotAcceptable);
        }
        ProtobufSupport::Unsupported if accept.contains("protobuf") => {
            return Err(ApiError::UnsupportedMediaType("application/json"));
        }
        _ => {}
    }
    let protobuf = support == ProtobufSupport::Served && read && protobuf::has(resource);
    Form::parse(accept, query, protobuf)
}

fn injected(code: FailureCode, verb: Verb, place: &Place) -> ApiError {
    let why = "injected by a fault switch".to_owned();
    match code {
        FailureCode::Forbidden => denied("nobody", verb, place.resource, &place.namespace),
        FailureCode::TooManyRequests => ApiError::TooManyRequests,
        FailureCode::Internal => ApiError::Internal(why),
        FailureCode::Unavailable => ApiError::Unavailable(why),
    }
}

fn text_header<'a>(request: &'a Request<Incoming>, name: &str) -> &'a str {
    request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Answers requests about the server and its API.
fn about_itself(path: &str, accept: &str) -> Option<Response<Body>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let aggregated = discovery::wants_aggregated(accept);
    let value = match parts.as_slice() {
        [""] => json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2",
            "/openapi/v3", "/readyz", "/version"]}),
        ["version"] => discovery::version(),
        ["api"] if aggregated => {
            let text = discovery::aggregated_core().to_string();
            return Some(text_response(discovery::AGGREGATED, text.into()));
        }
        ["apis"] if aggregated => {
            let text = discovery::aggregated_groups().to_string();
            return Some(text_response(discovery::AGGREGATED, text.into()));
        }
        ["api"] => discovery::core_versions(),
        ["api", "v1"] => discovery::resource_list("")?,
        ["apis"] => discovery::group_list(),
        ["apis", group] => discovery::group(group)?,
        ["apis", group, "v1"] => discovery::resource_list(group)?,
        ["openapi", "v2"] if accept.contains("protobuf") => {
            return Some(text_response(openapi::V2_PROTOBUF, openapi::v2_protobuf()));
        }
        ["openapi", "v2"] => openapi::v2(),
        ["openapi", "v3"] => openapi::index(),
        ["openapi", "v3", place @ ..] => openapi::document(&place.join("/"))?,
        _ => return None,
    };
    Some(json_response(&value))
}

/// A request to a resource.
struct Call {
    shared: Arc<Shared>,
    place: Place,
    verb: Verb,
    query: Query,
    form: Form,
}

impl Call {
    async fn run(
        self,
        stop: CancellationToken,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, ApiError> {
        if self.place.subresource == "scale" {
            return self.scale(request).await;
        }
        match self.verb {
            Verb::Get => {
                let key = self.key();
                let state = self.shared.store.read();
                let object = Arc::clone(state.get(self.place.resource, &key)?);
                drop(state);
                Ok(self.object(&object))
            }
            Verb::List => {
                let options = ListOptions::parse(&self.query)?;
                let selector = self.selector()?;
                let state = self.shared.store.read();
                let page = list::page(&state, self.place.resource, &selector, &options)?;
                drop(state);
                let body = page.render(self.place.resource, self.form);
                Ok(maybe_packed(self.media(), body, text_header(&request, "accept-encoding")))
            }
            Verb::Watch => self.watch(stop),
            Verb::Create => self.create(request).await,
            Verb::Update => self.update(request).await,
            Verb::Patch => self.patch(request).await,
            Verb::Delete | Verb::DeleteCollection => self.delete(request).await,
        }
    }

    fn media(&self) -> &'static str {
        match self.form {
            Form::Protobuf => protobuf::MEDIA_TYPE,
            Form::Plain | Form::Table(_) | Form::Metadata => "application/json",
        }
    }

    fn key(&self) -> Key {
        Key::new(&self.place.namespace, &self.place.name)
    }

    fn target(&self) -> Target {
        let part = match self.place.subresource.as_str() {
            "status" => Part::Status,
            _ => Part::Whole,
        };
        Target { resource: self.place.resource, key: self.key(), part }
    }

    fn persist(&self) -> Persist {
        if self.query.flag("dryRun") { Persist::DryRun } else { Persist::Yes }
    }

    fn selector(&self) -> Result<Selector, ApiError> {
        let (labels, fields) = (self.query.text("labelSelector"), self.query.text("fieldSelector"));
        Selector::parse(self.place.resource, &self.place.namespace, labels, fields)
    }

    /// One object in the requested form.
    fn object(&self, object: &Object) -> Response<Body> {
        let resource = self.place.resource;
        match self.form {
            Form::Plain => text_response("application/json", shown_json(resource, object)),
            Form::Protobuf => {
                let kind = resource.info().kind;
                let body = protobuf::envelope(&resource.api_version(), kind, object.message());
                text_response(protobuf::MEDIA_TYPE, body.into())
            }
            Form::Metadata => json_response(&table::metadata_of(&object.value())),
            Form::Table(row) => {
                let metadata = json!({"resourceVersion": object.version.to_string()});
                let objects = std::iter::once(object.value());
                let header = Header::Shown;
                json_response(&table::table(resource, &metadata, objects, row, header))
            }
        }
    }

    fn watch(self, stop: CancellationToken) -> Result<Response<Body>, ApiError> {
        let options = WatchOptions::parse(&self.query)?;
        let selector = self.selector()?;
        let (resource, media) = (self.place.resource, self.media());
        let watcher = Watcher::begin(&self.shared, resource, selector, self.form, &options, stop)?;
        let body = Body::new(StreamBody::new(watcher.into_stream()));
        let mut response = Response::new(body);
        let media = if media == protobuf::MEDIA_TYPE { protobuf::STREAM_TYPE } else { media };
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        Ok(response)
    }

    async fn create(self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let mut value = read_value(request).await?;
        let mut warnings = Vec::new();
        self.check_fields(&mut value, &mut warnings)?;
        let namespace = Some(self.place.namespace.as_str()).filter(|n| !n.is_empty());
        let resource = self.place.resource;
        let object = self
            .shared
            .store
            .write(|state| write::create(state, resource, namespace, value, self.persist()))?;
        Ok(warned(self.written(&object, Outcome::Created), &warnings))
    }

    async fn update(self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let mut value = read_value(request).await?;
        let mut warnings = Vec::new();
        self.check_fields(&mut value, &mut warnings)?;
        let target = self.target();
        let (object, outcome) = self
            .shared
            .store
            .write(|state| write::update(state, &target, value, self.persist()))?;
        Ok(warned(self.written(&object, outcome), &warnings))
    }

    /// Reads or sets the number of replicas (`…/scale`).
    async fn scale(self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let target = self.target();
        let shown = {
            let state = self.shared.store.read();
            scale::shown(&state.get(target.resource, &target.key)?.value())
        };
        let new = match self.verb {
            Verb::Update => read_value(request).await?,
            Verb::Patch => self.read_patch(request).await?.apply_to(&shown, "Scale", None)?,
            _ => return Ok(json_response(&shown)),
        };
        let scaled = self.shared.store.write(|state| {
            let object = state.get(target.resource, &target.key)?.value();
            let object = scale::scaled(object, &new)?;
            write::update(state, &target, object, self.persist())
        })?;
        Ok(json_response(&scale::shown(&scaled.0.value())))
    }

    /// The patch in a request's body.
    async fn read_patch(&self, request: Request<Incoming>) -> Result<Patch, ApiError> {
        let media = media_type(&request);
        let value = read_value(request).await?;
        Ok(match media.as_str() {
            "application/json-patch+json" => Patch::Json(value),
            "application/merge-patch+json" => Patch::Merge(value),
            "application/strategic-merge-patch+json" => Patch::Strategic(value),
            "application/apply-patch+yaml" => {
                let manager = self.query.text("fieldManager").to_owned();
                if manager.is_empty() {
                    let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
                    return Err(ApiError::BadRequest(message.to_owned()));
                }
                Patch::Apply { fields: value, manager }
            }
            _ => {
                return Err(ApiError::UnsupportedMediaType(
                    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
                ));
            }
        })
    }

    async fn patch(self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let patch = self.read_patch(request).await?;
        let target = self.target();
        let mut warnings = Vec::new();
        let (object, outcome) = self.shared.store.write(|state| {
            let check = |value: &mut Value| self.check_fields(value, &mut warnings);
            write::patch(state, &target, &patch, self.persist(), check)
        })?;
        Ok(warned(self.written(&object, outcome), &warnings))
    }

    fn written(&self, object: &Object, outcome: Outcome) -> Response<Body> {
        let mut response = self.object(object);
        if outcome == Outcome::Created {
            *response.status_mut() = StatusCode::CREATED;
        }
        response
    }

    /// Handles unknown fields according to the `fieldValidation` parameter.
    fn check_fields(&self, value: &mut Value, warnings: &mut Vec<String>) -> Result<(), ApiError> {
        let unknown = strict::drop_unknown(self.place.resource, value)?;
        let unknown: Vec<String> =
            unknown.into_iter().map(|path| format!("unknown field {path:?}")).collect();
        match self.query.text("fieldValidation") {
            "Strict" if !unknown.is_empty() => {
                let kind = self.place.resource.info().kind;
                Err(ApiError::BadRequest(format!(
                    "{kind} in version \"v1\" cannot be handled as a {kind}: strict decoding error: {}",
                    unknown.join(", ")
                )))
            }
            "Ignore" => Ok(()),
            _ => {
                warnings.extend(unknown);
                Ok(())
            }
        }
    }

    async fn delete(self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let options = read_value(request).await?;
        let deletion = deletion::read(&options, &self.query)?;
        let dry = options["dryRun"].as_array().is_some_and(|d| !d.is_empty());
        let persist = if dry { Persist::DryRun } else { self.persist() };
        if self.verb == Verb::Delete {
            let target = self.target();
            let object = self
                .shared
                .store
                .write(|state| write::delete(state, &target, &deletion, persist))?;
            return Ok(self.object(&object));
        }
        let selector = self.selector()?;
        let resource = self.place.resource;
        let deleted = self.shared.store.write(|state| {
            write::delete_collection(state, resource, &selector, &deletion, persist)
        })?;
        let items: Vec<Value> = deleted.iter().map(|o| o.value()).collect();
        Ok(json_response(&json!({
            "kind": format!("{}List", resource.info().kind),
            "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": self.shared.store.read().version().to_string()},
            "items": items,
        })))
    }
}

/// The media type of a request's body, without parameters.
fn media_type(request: &Request<Incoming>) -> String {
    let text = text_header(request, header::CONTENT_TYPE.as_str());
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

/// Reads a body of JSON, YAML or protobuf; an empty one is null.
async fn read_value(request: Request<Incoming>) -> Result<Value, ApiError> {
    let media = media_type(&request);
    let is_yaml = media.ends_with("yaml");
    let is_protobuf = media == protobuf::MEDIA_TYPE;
    let accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    if !is_yaml && !is_protobuf && !media.is_empty() && !media.ends_with("json") {
        return Err(ApiError::UnsupportedMediaType(accepted));
    }
    let body = Limited::new(request.into_body(), BODY_LIMIT).collect().await;
    let body = body
        .map_err(|e| ApiError::BadRequest(format!("cannot read the request's body: {e}")))?
        .to_bytes();
    if body.is_empty() {
        return Ok(Value::Null);
    }
    if is_protobuf {
        return protobuf::decode(&body).ok_or(ApiError::UnsupportedMediaType(accepted));
    }
    let error = match serde_json::from_slice(&body) {
        Ok(value) => return Ok(value),
        Err(error) => error.to_string(),
    };
    if !is_yaml {
        return Err(ApiError::BadRequest(format!("error decoding the body as JSON: {error}")));
    }
    let text = String::from_utf8_lossy(&body);
    serde_saphyr::from_str(&text)
        .map_err(|e| ApiError::BadRequest(format!("error decoding the body as YAML: {e}")))
}
