//! Destinations through a socket option (`IP_VS_SO_GET_DESTS`). Generic netlink has them in a dump for each virtual
//! service, which costs the kernel about ten times as much. The option is older than IPv6 in IPVS, and has IPv4 only.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::object::{Destination, Forward, Key, ObservedDestination};

/// `IP_VS_SO_GET_DESTS`: the fifth of those from 64 + 1024 + 64 on.
const GET_DESTS: libc::c_int = 1156;

/// The sizes of `struct ip_vs_get_dests` and `struct ip_vs_dest_entry`, where 64-bit numbers are aligned to eight
/// bytes; elsewhere the kernel refuses the length.
const HEADER: usize = 24;
const ENTRY: usize = 96;

/// How many destinations are asked for first.
const ROOM: usize = 16;

/// The destinations of a virtual service.
///
/// # Errors
/// `ESRCH` if it is not there, `EAFNOSUPPORT` if it is not one at an IPv4 address.
pub(super) fn destinations(
    socket: &impl AsRawFd,
    key: &Key,
) -> Result<Vec<ObservedDestination>, Errno> {
    let mut room = ROOM;
    loop {
        let mut buffer = question(key, room).ok_or(Errno::EAFNOSUPPORT)?;
        get(socket, &mut buffer)?;
        // The kernel does not say how many there are, but leaves the rest as it was.
        if entries(&buffer).count() < room {
            return Ok(entries(&buffer).filter_map(read).collect());
        }
        room *= 8;
    }
}

#[allow(unsafe_code)]
fn get(socket: &impl AsRawFd, buffer: &mut [u8]) -> Result<(), Errno> {
    let mut len = libc::socklen_t::try_from(buffer.len()).map_err(|_| Errno::E2BIG)?;
    // SAFETY: the kernel writes at most `len` bytes, the buffer's length.
    let result = unsafe {
        let place = buffer.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, GET_DESTS, place, &raw mut len)
    };
    Errno::result(result).map(drop)
}

/// `struct ip_vs_get_dests` with room for so many entries.
pub(super) fn question(key: &Key, room: usize) -> Option<Vec<u8>> {
    let Key::Address { ip: IpAddr::V4(ip), protocol, port } = *key else { return None };
    let mut buffer = vec![0; HEADER + room * ENTRY];
    buffer[..2].copy_from_slice(&u16::from(protocol.number()).to_ne_bytes());
    buffer[4..8].copy_from_slice(&ip.octets());
    buffer[8..10].copy_from_slice(&port.to_be_bytes());
    buffer[16..20].copy_from_slice(&u32::try_from(room).ok()?.to_ne_bytes());
    Some(buffer)
}

/// The entries that were written: no destination has the address 0.0.0.0.
pub(super) fn entries(buffer: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = buffer.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY);
    all.take_while(|entry| entry[..4] != [0; 4])
}

/// `struct ip_vs_dest_entry`, without what it has counted.
pub(super) fn read(entry: &[u8]) -> Option<ObservedDestination> {
    let bytes = |at: usize| entry.get(at..)?.first_chunk::<4>().copied();
    let number = |at: usize| bytes(at).map(u32::from_ne_bytes);
    let [high, low, ..] = bytes(4)?;
    Some(ObservedDestination {
        destination: Destination {
            ip: Ipv4Addr::from(bytes(0)?).into(),
            port: u16::from_be_bytes([high, low]),
            forward: Forward::from_number(number(8)?)?,
            weight: number(12)?,
            upper_threshold: number(16)?,
            lower_threshold: number(20)?,
        },
        active: number(24)?,
        inactive: number(28)?,
        persistent: number(32)?,
    })
}
