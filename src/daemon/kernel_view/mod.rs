//! What a proxy mode has in the kernel for a connection, in the words of `explain`.
//!
//! - [`computed`]: the path through the kernel's objects as the mode writes them; nothing is read
//! - [`reader`]: the sockets and programs by which this node's kernel is read
//! - [`way`]: routes, and whether packets are forwarded
//! - [`others`]: chains of other programs
//! - [`live`]: the same kernel for one connection
//! - [`difference`]: the same kernel for one Service

mod computed;
pub(crate) mod difference;
mod live;
mod others;
mod reader;
mod way;

pub(crate) use self::computed::Computed;
pub(crate) use self::live::{Live, Settled};
pub(crate) use self::reader::{Kernel, Mechanism, iptables_options, scheduler};
