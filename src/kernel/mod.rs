//! The system calls: everything that reads or changes the kernel.
//!
//! [`nft`] speaks nf_tables over netlink; the other modules speak of links, addresses and
//! connections. Nothing here knows of Services.

pub mod nft;
