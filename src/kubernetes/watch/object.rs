//! One API object, in its received encoding.

use serde::Deserialize;

use super::failure::{self, Failure};
use super::lenient::Lenient;
use super::protobuf::{self, Message};
use super::wire;

/// How the objects of an answer are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Protobuf,
}

/// The bytes of an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Object<'a> {
    Json(&'a str),
    /// The message, without its envelope.
    Protobuf(&'a [u8]),
}

impl<'a> Object<'a> {
    /// Its fields, or what is wrong with all of it.
    pub(super) fn decode<T: Deserialize<'a> + Message<'a>>(self) -> Result<T, String> {
        match self {
            Object::Json(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
            Object::Protobuf(bytes) => protobuf::decode(bytes).map_err(|error| error.to_string()),
        }
    }

    /// Its resource version, and whether it is the bookmark that ends a streamed list. An object that is
    /// malformed has no version, and is no reason to end the watch.
    pub(super) fn version(self) -> Result<(Option<String>, bool), Failure> {
        let versioned: wire::Versioned<'_> = match self {
            Object::Json(text) => {
                serde_json::from_str(text).map_err(|error| Failure::malformed(error, text))?
            }
            Object::Protobuf(bytes) => protobuf::decode_start(bytes),
        };
        let Lenient::Is(meta) = versioned.metadata else { return Ok((None, false)) };
        let ends = match meta.annotations {
            Lenient::Is(annotations) => {
                annotations.initial_events_end.into_text().is_some_and(|text| text == "true")
            }
            Lenient::Absent | Lenient::Wrong(_) => false,
        };
        Ok((meta.resource_version.into_text(), ends))
    }

    /// What the object of an ERROR event means.
    pub(super) fn failure(self) -> Failure {
        match self.decode::<wire::Status<'_>>() {
            Ok(status) => failure::failure_of(&status),
            Err(error) => Failure::Malformed(error),
        }
    }
}
