//! What a proxy mode has in the kernel for a connection, in the words of `explain`.
//!
//! - [`computed`]: the path through the kernel's objects as the mode writes them; nothing is read

mod computed;

pub(crate) use self::computed::Computed;
