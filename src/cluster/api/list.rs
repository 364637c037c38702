//! Lists: whole, or in pages that all have the version of the first.

use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Value, json};

use super::events::to_shown;
use super::protobuf;
use super::query::{AskedVersion, Form, ListOptions};
use super::resources::Resource;
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Key, Object, Objects, State};
use super::table;

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    objects: Vec<Arc<Object>>,
    version: u64,
    token: String,
    /// The number of remaining objects; unknown with a selector.
    remaining: Option<usize>,
}

/// The start of a page, as in the continue token.
struct Start {
    /// 0 after the token's version has expired: the rest is shown as it is now.
    version: u64,
    after: Key,
}

impl Start {
    fn parse(token: &str) -> Result<Start, ApiError> {
        let mut parts = token.splitn(3, '/');
        let mut next = || parts.next().unwrap_or_default();
        let (version, namespace, name) = (next(), next(), next());
        match version.parse() {
            Ok(version) => Ok(Start { version, after: Key::new(namespace, name) }),
            Err(_) => {
                let message = "continue key is not valid: it was not made by this server";
                Err(ApiError::BadRequest(message.to_owned()))
            }
        }
    }

    fn token(version: u64, after: &Key) -> String {
        format!("{version}/{}/{}", after.namespace, after.name)
    }
}

/// Answers a list.
pub(super) fn page(
    state: &State,
    resource: Resource,
    selector: &Selector,
    options: &ListOptions,
) -> Result<Page, ApiError> {
    if !options.token.is_empty() {
        let start = Start::parse(&options.token)?;
        if start.version == 0 || start.version == state.version() {
            let objects = state.objects(resource);
            return Ok(cut(objects, state.version(), Some(&start.after), selector, options.limit));
        }
        let Some(objects) = state.at(resource, start.version) else {
            return Err(ApiError::ContinueExpired { inconsistent: Start::token(0, &start.after) });
        };
        return Ok(cut(&objects, start.version, Some(&start.after), selector, options.limit));
    }
    let current = state.version();
    match options.version {
        AskedVersion::NotOlder(asked) | AskedVersion::Exact(asked) if asked > current => {
            Err(ApiError::VersionTooLarge { asked, current })
        }
        AskedVersion::Exact(asked) => match state.at(resource, asked) {
            Some(objects) => Ok(cut(&objects, asked, None, selector, options.limit)),
            None => {
                let message = "The resourceVersion for the provided list is too old.";
                Err(ApiError::Expired(message.to_owned()))
            }
        },
        // A list that may be served from the watch cache is not paged.
        AskedVersion::Any => Ok(cut(state.objects(resource), current, None, selector, 0)),
        AskedVersion::Newest | AskedVersion::NotOlder(_) => {
            Ok(cut(state.objects(resource), current, None, selector, options.limit))
        }
    }
}

fn cut(
    all: &Objects,
    version: u64,
    after: Option<&Key>,
    selector: &Selector,
    limit: usize,
) -> Page {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut matching = all
        .range::<Key, _>((start, Bound::Unbounded))
        .map(|(_, object)| object)
        .filter(|object| selector.matches(object));
    let limit = if limit == 0 { usize::MAX } else { limit };
    let objects: Vec<Arc<Object>> = matching.by_ref().take(limit).map(Arc::clone).collect();
    let mut rest = matching.peekable();
    let token = match (rest.peek().is_some(), objects.last()) {
        (true, Some(last)) => Start::token(version, &last.key),
        _ => String::new(),
    };
    let countable = !token.is_empty() && !selector.is_selective();
    Page { objects, version, token, remaining: countable.then(|| rest.count()) }
}

impl Page {
    /// The body of the answer.
    pub(super) fn render(&self, resource: Resource, form: Form) -> Vec<u8> {
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if !self.token.is_empty() {
            metadata["continue"] = json!(self.token);
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        match form {
            Form::Plain => self.render_objects(resource, &metadata),
            Form::Protobuf => {
                let messages = self.objects.iter().map(|object| object.message());
                protobuf::list(resource, &metadata, messages)
            }
            Form::Table(row) => {
                let objects = self.objects.iter().map(|o| o.value());
                let table = table::table(resource, &metadata, objects, row, table::Header::Shown);
                table.to_string().into_bytes()
            }
            Form::Metadata => {
                let items: Vec<Value> =
                    self.objects.iter().map(|o| table::metadata_of(&o.value())).collect();
                let list = json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": items,
                });
                list.to_string().into_bytes()
            }
        }
    }

    /// Joins the stored texts without parsing them.
    fn render_objects(&self, resource: Resource, metadata: &Value) -> Vec<u8> {
        let length: usize = self.objects.iter().map(|o| o.json().len() + 1).sum();
        let mut text = Vec::with_capacity(length + 256);
        let head = format!(
            r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#,
            resource.info().kind,
            resource.api_version(),
        );
        text.extend_from_slice(head.as_bytes());
        for (index, object) in self.objects.iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            text.extend_from_slice(&shown_json(resource, object));
        }
        text.extend_from_slice(b"]}\n");
        text
    }
}

/// The text of an object as this resource shows it.
pub(super) fn shown_json(resource: Resource, object: &Object) -> bytes::Bytes {
    if resource == object.resource {
        return object.json().clone();
    }
    to_shown(resource, &object.value()).to_string().into()
}
