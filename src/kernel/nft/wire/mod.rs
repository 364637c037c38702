//! Encoding and decoding of netlink messages. Nothing here depends on sockets.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod expr_decode;
pub(crate) mod expr_encode;
mod expr_uapi;
pub(crate) mod message;
pub(crate) mod uapi;
pub(crate) mod userdata;
