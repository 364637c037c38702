//! The part of SCTP that sets up an association (RFC 9260), for kernels without SCTP
//! sockets. Conntrack and NAT see real SCTP: checksum, verification tags and the four chunks of the handshake are
//! valid.
//!
//! ```text
//! probe ── INIT ──────────▶ pod        the probe chooses its tag
//!       ◀─ INIT ACK ──────             the pod's tag, and a cookie with the pod's state
//!       ── COOKIE ECHO ───▶            the cookie
//!       ◀─ COOKIE ACK ────             the association is set up
//!       ── ABORT ─────────▶            and ends
//! ```

/// Why a packet cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// It is truncated.
    #[error("the packet is cut off")]
    CutOff,
    /// The checksum is wrong.
    #[error("the checksum is {found:#010x}, and {expected:#010x} would be right")]
    Checksum { found: u32, expected: u32 },
    /// The first chunk is not part of the handshake.
    #[error("the packet starts with a chunk of type {0}")]
    OtherChunk(u8),
    /// An INIT ACK without a cookie.
    #[error("the INIT ACK has no state cookie")]
    NoCookie,
}

/// A packet with one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Verification tag: the one that the receiver chose, or 0 in an INIT.
    pub tag: u32,
    /// What the packet carries.
    pub chunk: Chunk,
}

/// The chunks of the handshake (RFC 9260, section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// INIT: requests an association.
    Init {
        /// The tag of packets to the sender.
        tag: u32,
    },
    /// INIT ACK: accepts.
    InitAck {
        /// The tag of packets to the sender.
        tag: u32,
        /// The cookie to return.
        cookie: Vec<u8>,
    },
    /// COOKIE ECHO: returns the cookie.
    CookieEcho(Vec<u8>),
    /// COOKIE ACK: the association is set up.
    CookieAck,
    /// ABORT: there is no association (any more).
    Abort,
}

/// The state that the lab's pods put into a cookie, because they keep none themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// The tag that the pod chose.
    pub tag: u32,
    /// The tag that the probe chose.
    pub peer_tag: u32,
    /// The pod's answer.
    pub text: String,
}

impl Cookie {
    /// The cookie's bytes.
    pub fn encode(&self) -> Vec<u8> {
        [&self.tag.to_be_bytes(), &self.peer_tag.to_be_bytes(), self.text.as_bytes()].concat()
    }

    /// Decodes the bytes; `None` if they are not from a pod.
    pub fn parse(bytes: &[u8]) -> Option<Cookie> {
        let (tag, rest) = bytes.split_first_chunk()?;
        let (peer_tag, text) = rest.split_first_chunk()?;
        Some(Cookie {
            tag: u32::from_be_bytes(*tag),
            peer_tag: u32::from_be_bytes(*peer_tag),
            text: String::from_utf8(text.to_vec()).ok()?,
        })
    }
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// The parameter of an INIT ACK that holds the cookie.
const STATE_COOKIE: u16 = 7;

/// Length of the common header.
const HEADER: usize = 12;

/// Length of the fixed part of INIT and INIT ACK: tag, window, streams in and out, first TSN.
const INIT_FIXED: usize = 16;

impl Packet {
    /// The packet as it is sent, with its checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend(self.source.to_be_bytes());
        out.extend(self.destination.to_be_bytes());
        out.extend(self.tag.to_be_bytes());
        out.extend([0; 4]);
        match &self.chunk {
            Chunk::Init { tag } => tagged(&mut out, INIT, &init_fixed(*tag)),
            Chunk::InitAck { tag, cookie } => {
                let mut value = init_fixed(*tag);
                value.extend(STATE_COOKIE.to_be_bytes());
                value.extend(length(4 + cookie.len()).to_be_bytes());
                value.extend(cookie);
                tagged(&mut out, INIT_ACK, &value);
            }
            Chunk::CookieEcho(cookie) => tagged(&mut out, COOKIE_ECHO, cookie),
            Chunk::CookieAck => tagged(&mut out, COOKIE_ACK, &[]),
            Chunk::Abort => tagged(&mut out, ABORT, &[]),
        }
        // Unlike other fields, the checksum is little-endian (appendix A).
        let checksum = crc32c(&out).to_le_bytes();
        out[8..HEADER].copy_from_slice(&checksum);
        out
    }

    /// Reads a packet, from the common header on, and checks its checksum.
    pub fn parse(bytes: &[u8]) -> Result<Packet, Error> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Error::CutOff)?;
        let found = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let mut zeroed = bytes.to_vec();
        zeroed[8..HEADER].fill(0);
        let expected = crc32c(&zeroed);
        if found != expected {
            return Err(Error::Checksum { found, expected });
        }
        Ok(Packet {
            source: u16::from_be_bytes([header[0], header[1]]),
            destination: u16::from_be_bytes([header[2], header[3]]),
            tag: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            chunk: parse_chunk(&bytes[HEADER..])?,
        })
    }
}

/// The ports at the start of a packet that may be cut off after them, as in an ICMP error: source
/// and destination.
pub fn ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *bytes.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn parse_chunk(bytes: &[u8]) -> Result<Chunk, Error> {
    let [kind, _flags, high, low] = *bytes.first_chunk().ok_or(Error::CutOff)?;
    let end = usize::from(u16::from_be_bytes([high, low]));
    let value = bytes.get(4..end).ok_or(Error::CutOff)?;
    match kind {
        INIT => Ok(Chunk::Init { tag: init_tag(value)? }),
        INIT_ACK => {
            let parameters = value.get(INIT_FIXED..).ok_or(Error::CutOff)?;
            Ok(Chunk::InitAck { tag: init_tag(value)?, cookie: find_cookie(parameters)? })
        }
        COOKIE_ECHO => Ok(Chunk::CookieEcho(value.to_vec())),
        COOKIE_ACK => Ok(Chunk::CookieAck),
        ABORT => Ok(Chunk::Abort),
        other => Err(Error::OtherChunk(other)),
    }
}

fn init_tag(value: &[u8]) -> Result<u32, Error> {
    value.first_chunk().map(|tag| u32::from_be_bytes(*tag)).ok_or(Error::CutOff)
}

fn find_cookie(mut parameters: &[u8]) -> Result<Vec<u8>, Error> {
    while let Some(&[a, b, c, d]) = parameters.first_chunk() {
        let end = usize::from(u16::from_be_bytes([c, d]));
        let value = parameters.get(4..end).ok_or(Error::CutOff)?;
        if u16::from_be_bytes([a, b]) == STATE_COOKIE {
            return Ok(value.to_vec());
        }
        parameters = parameters.get(end.next_multiple_of(4)..).unwrap_or_default();
    }
    Err(Error::NoCookie)
}

/// The fixed part of INIT and INIT ACK, with a window of 64 KiB and one stream each way.
fn init_fixed(tag: u32) -> Vec<u8> {
    let mut value = Vec::with_capacity(INIT_FIXED);
    value.extend(tag.to_be_bytes());
    value.extend(65_536_u32.to_be_bytes());
    value.extend(1_u16.to_be_bytes());
    value.extend(1_u16.to_be_bytes());
    value.extend(1_u32.to_be_bytes());
    value
}

/// Appends a chunk, padded to a multiple of four bytes as all chunks are.
fn tagged(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.extend([kind, 0]);
    out.extend(length(4 + value.len()).to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("cookies are short texts")
}

/// CRC32c (Castagnoli), reflected, as in appendix A of RFC 9260. With packets of about 60
/// bytes, a table would not pay.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // Test vectors of RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn packets_survive_being_sent() {
        let chunks = [
            Chunk::Init { tag: 7 },
            Chunk::InitAck { tag: 8, cookie: b"five!".to_vec() },
            Chunk::CookieEcho(b"five!".to_vec()),
            Chunk::CookieAck,
            Chunk::Abort,
        ];
        for chunk in chunks {
            let packet = Packet { source: 40_000, destination: 80, tag: 0xdead_beef, chunk };
            let bytes = packet.encode();
            assert_eq!(bytes.len() % 4, 0, "{packet:?} is padded");
            assert_eq!(ports(&bytes), Some((40_000, 80)));
            assert_eq!(Packet::parse(&bytes), Ok(packet));
        }
    }

    #[test]
    fn a_changed_packet_is_not_accepted() {
        let packet = Packet { source: 1, destination: 2, tag: 3, chunk: Chunk::CookieAck };
        let mut bytes = packet.encode();
        bytes[3] = 9;
        assert!(matches!(Packet::parse(&bytes), Err(Error::Checksum { .. })));
        assert_eq!(Packet::parse(&bytes[..8]), Err(Error::CutOff));
    }

    #[test]
    fn no_length_field_makes_the_parser_read_outside() {
        let packet = Packet {
            source: 1,
            destination: 2,
            tag: 3,
            chunk: Chunk::InitAck { tag: 4, cookie: vec![5; 9] },
        };
        let bytes = packet.encode();
        for at in HEADER..bytes.len() {
            for value in [0, 1, 3, 4, 5, 0x7f, 0xff] {
                let mut broken = bytes.clone();
                broken[at] = value;
                // Any input terminates without a panic.
                let _ = parse_chunk(&broken[HEADER..]);
            }
        }
    }
}
