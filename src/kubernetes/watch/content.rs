//! The encodings requested from the API server (`clientConnection.contentType` and `acceptContentTypes`).

use http::HeaderValue;

/// The encoding that every server has.
pub(super) const JSON: &str = "application/json";
/// kube-proxy's default encoding.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The requested encodings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    accept: HeaderValue,
    /// Whether lists by page may come packed.
    pub(super) gzip: bool,
}

impl Default for Content {
    fn default() -> Content {
        Content::new("", "")
    }
}

impl Content {
    /// As in client-go: the encodings of `accept`, and without any, first that of `content_type`, which is
    /// protobuf if empty. Encodings that Sluice cannot decode are left out.
    pub fn new(content_type: &str, accept: &str) -> Content {
        let first = if content_type.trim().is_empty() { PROTOBUF } else { content_type };
        let asked =
            if accept.trim().is_empty() { format!("{first}, */*") } else { accept.to_owned() };
        let (read, unread): (Vec<&str>, Vec<&str>) = asked
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty())
            .partition(|one| is_read(one));
        if !unread.is_empty() {
            let unread = unread.join(", ");
            tracing::warn!(
                "clientConnection names the encodings {unread}, which are not known here; the API server \
                 is asked for the others, or JSON"
            );
        }
        let accept = HeaderValue::from_str(&read.join(", ")).ok().filter(|text| !text.is_empty());
        Content { accept: accept.unwrap_or(HeaderValue::from_static(JSON)), gzip: true }
    }

    /// The same; lists come as they are (`disable-compression` of a kubeconfig's cluster).
    #[must_use]
    pub(super) fn unpacked(self) -> Content {
        Content { gzip: false, ..self }
    }

    /// The header `Accept`.
    pub(super) fn accept(&self) -> HeaderValue {
        self.accept.clone()
    }
}

fn is_read(range: &str) -> bool {
    let mut parts = range.split(';');
    let media = parts.next().unwrap_or_default().trim();
    // `as` and its like ask for something else than the objects.
    let changed = parts.any(|part| matches!(part.trim().split_once('='), Some(("as", _))));
    !changed && [JSON, PROTOBUF, "application/*", "*/*"].contains(&media)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_asked_as_client_go_asks() {
        let table = [
            ("", "", "application/vnd.kubernetes.protobuf, */*"),
            (PROTOBUF, "", "application/vnd.kubernetes.protobuf, */*"),
            (JSON, "", "application/json, */*"),
            (PROTOBUF, "application/json", "application/json"),
            (
                JSON,
                "application/vnd.kubernetes.protobuf,application/json;q=0.9",
                "application/vnd.kubernetes.protobuf, application/json;q=0.9",
            ),
            (PROTOBUF, PROTOBUF, PROTOBUF),
            // Not decoded here.
            ("application/yaml", "", "*/*"),
            ("", "application/cbor, application/yaml", "application/json"),
            (
                "",
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                "application/json",
            ),
            ("", "application/json\n", "application/json"),
        ];
        for (content_type, accept, expected) in table {
            assert_eq!(
                Content::new(content_type, accept).accept(),
                expected,
                "{content_type} {accept}"
            );
        }
    }
}
