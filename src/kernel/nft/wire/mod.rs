//! The same as bytes of netlink messages, both ways. Nothing here knows a socket.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod expr_decode;
pub(crate) mod expr_encode;
mod expr_uapi;
pub(crate) mod message;
pub(crate) mod uapi;
pub(crate) mod userdata;
