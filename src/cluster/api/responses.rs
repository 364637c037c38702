//! Responses, and their bodies.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::header::{self, HeaderValue};
use serde_json::Value;

/// Whole or streamed; an error breaks the connection.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// kube-apiserver packs larger answers to lists, and at its lowest level (`responsewriters/writers.go`).
const PACKED_ABOVE: usize = 128 * 1024;

/// Adds a `Warning` header for each message; clients print them.
pub(super) fn warned(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

pub(super) fn json_response(value: &Value) -> Response<Body> {
    text_response("application/json", format!("{value}\n").into())
}

/// A list, packed if it is large and the client takes that, as by kube-apiserver.
pub(super) fn maybe_packed(media: &'static str, body: Vec<u8>, accepted: &str) -> Response<Body> {
    let taken = accepted.split(',').any(|encoding| encoding.trim() == "gzip");
    if !taken || body.len() <= PACKED_ABOVE {
        return text_response(media, body.into());
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    // A vector takes everything.
    let packed = packer.write_all(&body).and_then(|()| packer.finish()).unwrap_or_default();
    let mut response = text_response(media, packed.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

pub(super) fn text_response(media: &'static str, text: Bytes) -> Response<Body> {
    let body = Full::new(text).map_err(|never| match never {});
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
