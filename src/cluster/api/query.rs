//! What a request's path, query and `Accept` header say.

use std::collections::HashMap;
use std::time::Duration;

use super::resources::{Resource, Verb};
use super::status::{ApiError, Cause};

/// The place that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) resource: Resource,
    /// Empty for all namespaces, and for objects of the cluster.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(super) name: String,
    /// `status` and the like; empty for the object itself.
    pub(super) subresource: String,
}

impl Place {
    /// Reads `/api/v1/…` and `/apis/<group>/v1/…`.
    pub(super) fn parse(path: &str) -> Option<Place> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] if !group.is_empty() => (*group, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..]
                if Resource::find(group, plural).is_some_and(Resource::is_namespaced) =>
            {
                (*namespace, [&[*plural], rest].concat())
            }
            _ => ("", rest.to_vec()),
        };
        let (plural, name, subresource) = match rest.as_slice() {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, subresource] => (*plural, *name, *subresource),
            _ => return None,
        };
        let resource = Resource::find(group, plural)?;
        let homeless = resource.is_namespaced() && namespace.is_empty() && !name.is_empty();
        let known = subresource.is_empty() || resource.info().subresources.contains(&subresource);
        (known && !homeless).then(|| Place {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }

    /// The verb of a method.
    pub(super) fn verb(&self, method: &str, query: &Query) -> Result<Verb, ApiError> {
        let collection = self.name.is_empty();
        let main = self.subresource.is_empty();
        match method {
            "GET" if collection && query.flag("watch") => Ok(Verb::Watch),
            "GET" if collection => Ok(Verb::List),
            "GET" => Ok(Verb::Get),
            "POST" if collection && self.resource.is_namespaced() != self.namespace.is_empty() => {
                Ok(Verb::Create)
            }
            "PUT" if !collection => Ok(Verb::Update),
            "PATCH" if !collection => Ok(Verb::Patch),
            "DELETE" if !collection && main => Ok(Verb::Delete),
            "DELETE" if collection && self.resource != Resource::Namespaces => {
                Ok(Verb::DeleteCollection)
            }
            _ => Err(ApiError::MethodNotAllowed),
        }
    }
}

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    values: HashMap<String, String>,
}

impl Query {
    pub(super) fn parse(text: &str) -> Query {
        let pairs = form_urlencoded::parse(text.as_bytes());
        Query { values: pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect() }
    }

    /// A parameter, empty if it is absent.
    pub(super) fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// A boolean parameter; as in Kubernetes everything but `0` and `false` is true.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }

    /// A number, nothing if it is absent or empty.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::BadRequest(format!(
                    "Invalid value: {text:?}: {name}: must be a non-negative integer"
                ))
            }),
        }
    }
}

/// The requested resource version of a list or watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedVersion {
    /// None: the newest.
    Newest,
    /// `0`: any.
    Any,
    /// At least this one.
    NotOlder(u64),
    /// This one.
    Exact(u64),
}

/// The parameters of a list.
#[derive(Debug, Clone)]
pub(super) struct ListOptions {
    pub(super) version: AskedVersion,
    /// 0 for no limit.
    pub(super) limit: usize,
    /// Empty on the first page.
    pub(super) token: String,
}

fn invalid_options(cause: Cause) -> ApiError {
    ApiError::InvalidOptions { causes: vec![cause] }
}

impl ListOptions {
    pub(super) fn parse(query: &Query) -> Result<ListOptions, ApiError> {
        let limit = query.number("limit")?.unwrap_or_default();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let asked = query.number("resourceVersion")?;
        let token = query.text("continue").to_owned();
        let field = "resourceVersionMatch";
        let how = query.text(field);
        let version = match (asked, how) {
            (None, "") => AskedVersion::Newest,
            (None, _) => {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                return Err(invalid_options(Cause::forbidden(field, why)));
            }
            (Some(0), "Exact") => {
                let why = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
                return Err(invalid_options(Cause::forbidden(field, why)));
            }
            (Some(0), "" | "NotOlderThan") => AskedVersion::Any,
            (Some(version), "Exact") => AskedVersion::Exact(version),
            (Some(version), "") if limit > 0 => AskedVersion::Exact(version),
            (Some(version), "" | "NotOlderThan") => AskedVersion::NotOlder(version),
            (Some(_), other) => {
                let known = ["Exact", "NotOlderThan"];
                let cause = Cause::not_supported(field, &other.into(), &known);
                return Err(invalid_options(cause));
            }
        };
        if !token.is_empty() && !matches!(version, AskedVersion::Newest | AskedVersion::Any) {
            let message = "specifying resource version is not allowed when using continue";
            return Err(ApiError::BadRequest(message.to_owned()));
        }
        Ok(ListOptions { version, limit, token })
    }
}

/// With what a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchStart {
    /// The objects there are, without a mark where they end: the form from before streaming lists.
    Objects,
    /// The objects there are, of at least this version, then a bookmark that marks their end.
    StreamingList(u64),
    /// What happened after this version.
    After(u64),
}

/// The parameters of a watch.
#[derive(Debug, Clone)]
pub(super) struct WatchOptions {
    pub(super) start: WatchStart,
    pub(super) bookmarks: bool,
    pub(super) timeout: Option<Duration>,
}

impl WatchOptions {
    pub(super) fn parse(query: &Query) -> Result<WatchOptions, ApiError> {
        let asked = query.number("resourceVersion")?.unwrap_or_default();
        let initial = query.text("sendInitialEvents");
        let field = "resourceVersionMatch";
        let how = query.text(field);
        if !initial.is_empty() && how != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(invalid_options(Cause::forbidden(field, why)));
        }
        if initial.is_empty() && !how.is_empty() {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(invalid_options(Cause::forbidden(field, why)));
        }
        let start = match (query.flag("sendInitialEvents"), asked) {
            (true, version) => WatchStart::StreamingList(version),
            (false, 0) => WatchStart::Objects,
            (false, version) => WatchStart::After(version),
        };
        let timeout = query.number("timeoutSeconds")?.filter(|t| *t > 0);
        Ok(WatchOptions {
            start,
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout: timeout.map(Duration::from_secs),
        })
    }
}

/// The form in which a client wants objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are, in JSON.
    Plain,
    /// As they are, in protobuf.
    Protobuf,
    /// As rows for people (`as=Table`).
    Table(RowObject),
    /// Their metadata (`as=PartialObjectMetadata`).
    Metadata,
}

/// What a row of a table includes of its object (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowObject {
    None,
    Metadata,
    Whole,
}

impl Form {
    /// The first form of an `Accept` header that the server has. Protobuf is for what can be written so.
    pub(super) fn parse(accept: &str, query: &Query, protobuf: bool) -> Result<Form, ApiError> {
        if accept.trim().is_empty() {
            return Ok(Form::Plain);
        }
        let row = match query.text("includeObject") {
            "None" => RowObject::None,
            "Object" => RowObject::Whole,
            _ => RowObject::Metadata,
        };
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            if kind == super::protobuf::MEDIA_TYPE
                && protobuf
                && !parts.clone().any(|p| p.starts_with("as="))
            {
                return Ok(Form::Protobuf);
            }
            if !matches!(kind, "application/json" | "application/*" | "*/*") {
                continue;
            }
            let parameters: HashMap<&str, &str> = parts.filter_map(|p| p.split_once('=')).collect();
            match (parameters.get("as").copied(), parameters.get("v").copied()) {
                (None, _) => return Ok(Form::Plain),
                (Some("Table"), Some("v1")) => return Ok(Form::Table(row)),
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) => {
                    return Ok(Form::Metadata);
                }
                _ => {}
            }
        }
        Err(ApiError::NotAcceptable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Option<(String, String, String, String)> {
        Place::parse(path).map(|p| (p.resource.to_string(), p.namespace, p.name, p.subresource))
    }

    #[test]
    fn paths_name_resources() {
        let table = [
            ("/api/v1/namespaces", "namespaces", "", "", ""),
            ("/api/v1/namespaces/web", "namespaces", "", "web", ""),
            ("/api/v1/namespaces/web/status", "namespaces", "", "web", "status"),
            ("/api/v1/namespaces/web/services", "services", "web", "", ""),
            ("/api/v1/namespaces/web/services/a/status", "services", "web", "a", "status"),
            ("/api/v1/services", "services", "", "", ""),
            ("/api/v1/nodes/n1", "nodes", "", "n1", ""),
            (
                "/apis/discovery.k8s.io/v1/namespaces/web/endpointslices/x",
                "endpointslices.discovery.k8s.io",
                "web",
                "x",
                "",
            ),
        ];
        for (path, resource, namespace, name, subresource) in table {
            let expected = [resource, namespace, name, subresource].map(str::to_owned);
            assert_eq!(place(path), Some(expected.into()), "{path}");
        }
        for path in ["/", "/api/v1", "/api/v1/secrets", "/api/v1/services/a", "/api/v1/pods/a/b/c"]
        {
            assert_eq!(place(path), None, "{path}");
        }
    }

    #[test]
    fn the_first_known_form_is_chosen() {
        let none = Query::default();
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(Form::parse(table, &none, true), Ok(Form::Table(RowObject::Metadata)));
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(Form::parse(protobuf, &none, true), Ok(Form::Protobuf));
        assert_eq!(Form::parse(protobuf, &none, false), Ok(Form::Plain));
        assert_eq!(Form::parse("*/*", &none, true), Ok(Form::Plain));
        assert_eq!(Form::parse("text/html", &none, true), Err(ApiError::NotAcceptable));
        let only = "application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(Form::parse(only, &none, true), Ok(Form::Protobuf));
        assert_eq!(Form::parse(only, &none, false), Err(ApiError::NotAcceptable));
    }
}
