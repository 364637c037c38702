//! Kubernetes' protobuf: `k8s\0` and a `runtime.Unknown` message with the object.

mod decode;
mod encode;
mod tables;

pub(super) use decode::decode;
pub use encode::{envelope, frame, has, list, message, status};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of a watch.
pub const STREAM_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

const MAGIC: &[u8] = b"k8s\0";
