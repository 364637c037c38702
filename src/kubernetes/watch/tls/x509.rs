//! The properties of a certificate (X.509, RFC 5280) that rustls does not expose: validity, usage, and key,
//! also for version 1, which rustls does not parse.
//!
//! Nothing here proves anything. Signatures are checked by rustls.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Tags of DER (X.690).
mod tag {
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const BITS: u8 = 0x03;
    pub(super) const OCTETS: u8 = 0x04;
    pub(super) const OID: u8 = 0x06;
    pub(super) const UTC_TIME: u8 = 0x17;
    pub(super) const GENERALIZED_TIME: u8 = 0x18;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const VERSION: u8 = 0xa0;
    pub(super) const ISSUER_ID: u8 = 0x81;
    pub(super) const SUBJECT_ID: u8 = 0x82;
    pub(super) const EXTENSIONS: u8 = 0xa3;
}

/// Object identifiers in DER, without tag and length.
mod oid {
    pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    pub(super) const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    pub(super) const P224: &[u8] = &[0x2b, 0x81, 4, 0, 0x21];
    pub(super) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    pub(super) const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
    pub(super) const P521: &[u8] = &[0x2b, 0x81, 4, 0, 0x23];
    pub(super) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
    pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
    pub(super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
    pub(super) const ANY_USAGE: &[u8] = &[0x55, 0x1d, 37, 0];
    pub(super) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
}

/// The bit keyCertSign in the first byte of keyUsage.
const KEY_CERT_SIGN: u8 = 0b0000_0100;

/// What counts of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Certificate<'a> {
    /// The first second in which it counts, since 1970.
    pub(super) not_before: i64,
    /// The last one.
    pub(super) not_after: i64,
    /// Its SubjectPublicKeyInfo, with tag and length.
    pub(super) key_info: &'a [u8],
    /// Whether it calls itself a CA's (basicConstraints).
    pub(super) is_ca: bool,
    /// Whether a server may use it: extendedKeyUsage has serverAuth, or is absent.
    pub(super) for_servers: bool,
    /// Whether its key may sign certificates: keyUsage has keyCertSign, or is absent.
    signs: bool,
    /// From version 3 on, only a certificate that calls itself a CA's is one.
    version: u8,
}

impl<'a> Certificate<'a> {
    /// Parses DER.
    pub(super) fn parse(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut outside = Der(der);
        let mut signed = Der(outside.take(tag::SEQUENCE)?);
        let mut fields = Der(signed.take(tag::SEQUENCE)?);
        let version = match fields.optional(tag::VERSION)? {
            None => 1,
            Some(version) => Der(version).take(tag::INTEGER)?.last()?.saturating_add(1),
        };
        fields.take(tag::INTEGER)?; // serial number
        fields.take(tag::SEQUENCE)?; // signature algorithm
        fields.take(tag::SEQUENCE)?; // issuer
        let mut validity = Der(fields.take(tag::SEQUENCE)?);
        fields.take(tag::SEQUENCE)?; // subject
        let (_, _, key_info) = fields.next()?;
        fields.optional(tag::ISSUER_ID)?;
        fields.optional(tag::SUBJECT_ID)?;
        let mut certificate = Certificate {
            not_before: validity.time()?,
            not_after: validity.time()?,
            key_info,
            is_ca: false,
            for_servers: true,
            signs: true,
            version,
        };
        if !fields.is_empty() {
            let mut extensions = Der(Der(fields.take(tag::EXTENSIONS)?).take(tag::SEQUENCE)?);
            while !extensions.is_empty() {
                certificate.extension(Der(extensions.take(tag::SEQUENCE)?))?;
            }
        }
        (outside.is_empty() && fields.is_empty()).then_some(certificate)
    }

    fn extension(&mut self, mut extension: Der<'_>) -> Option<()> {
        let name = extension.take(tag::OID)?;
        extension.optional(tag::BOOLEAN)?; // critical
        let mut value = Der(extension.take(tag::OCTETS)?);
        match name {
            oid::BASIC_CONSTRAINTS => {
                let mut constraints = Der(value.take(tag::SEQUENCE)?);
                let ca = constraints.optional(tag::BOOLEAN)?;
                self.is_ca = ca.is_some_and(|ca| ca.iter().any(|byte| *byte != 0));
            }
            oid::KEY_USAGE => {
                let (_unused_bits, usages) = value.take(tag::BITS)?.split_first()?;
                self.signs = usages.first().is_some_and(|usages| usages & KEY_CERT_SIGN != 0);
            }
            oid::EXTENDED_KEY_USAGE => {
                let mut usages = Der(value.take(tag::SEQUENCE)?);
                self.for_servers = false;
                while !usages.is_empty() {
                    let usage = usages.take(tag::OID)?;
                    self.for_servers |= usage == oid::SERVER_AUTH || usage == oid::ANY_USAGE;
                }
            }
            _ => {}
        }
        Some(())
    }

    /// Whether it may vouch for the certificates of servers (Go: `crypto/x509`, CheckSignatureFrom and
    /// checkChainForKeyUsage). webpki takes whatever is named for a CA that may.
    pub(super) fn vouches(&self) -> bool {
        (self.is_ca || self.version < 3) && self.signs && self.for_servers
    }

    /// Whether it is valid at this time, in seconds since 1970.
    pub(super) fn is_valid_at(&self, time: i64) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }

    /// Of what kind its key is.
    pub(super) fn key(&self) -> KeyKind {
        KeyKind::of(self.key_info).unwrap_or(KeyKind::Unknown)
    }
}

/// Algorithm and size of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// RSA with so many bits.
    Rsa(usize),
    /// An elliptic curve.
    Ec(&'static str),
    /// Ed25519.
    Ed25519,
    /// Anything else.
    Unknown,
}

impl KeyKind {
    fn of(key_info: &[u8]) -> Option<KeyKind> {
        let mut info = Der(Der(key_info).take(tag::SEQUENCE)?);
        let mut algorithm = Der(info.take(tag::SEQUENCE)?);
        Some(match algorithm.take(tag::OID)? {
            oid::RSA => {
                let (_unused_bits, key) = info.take(tag::BITS)?.split_first()?;
                let modulus = Der(Der(key).take(tag::SEQUENCE)?).take(tag::INTEGER)?;
                let start = modulus.iter().position(|byte| *byte != 0)?;
                let bits = modulus[start..].len() * 8 - modulus[start].leading_zeros() as usize;
                KeyKind::Rsa(bits)
            }
            oid::EC => KeyKind::Ec(match algorithm.take(tag::OID)? {
                oid::P224 => "P-224",
                oid::P256 => "P-256",
                oid::P384 => "P-384",
                oid::P521 => "P-521",
                _ => "of another curve",
            }),
            oid::ED25519 => KeyKind::Ed25519,
            _ => KeyKind::Unknown,
        })
    }

    /// Whether its signatures can be checked here. Not those of every key that Go knows can: ring
    /// has neither EC P-224 and P-521 nor short RSA keys.
    pub(super) fn can_be_checked(self) -> bool {
        match self {
            KeyKind::Rsa(bits) => (2048..=8192).contains(&bits),
            KeyKind::Ec(curve) => matches!(curve, "P-256" | "P-384"),
            KeyKind::Ed25519 => true,
            KeyKind::Unknown => false,
        }
    }
}

/// What all messages about keys recommend.
pub(in crate::watch) const GOOD_KEYS: &str =
    "EC P-256 or P-384, RSA with 2048, 3072 or 4096 bits, or Ed25519";

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::Rsa(bits) => write!(f, "RSA with {bits} bits"),
            KeyKind::Ec(curve) => write!(f, "EC {curve}"),
            KeyKind::Ed25519 => f.write_str("Ed25519"),
            KeyKind::Unknown => f.write_str("of an unknown algorithm"),
        }
    }
}

/// What is left of a sequence of DER elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element: its tag, its content, and all of it.
    fn next(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some((*tag, content, whole))
    }

    /// The content of the next element, which must have this tag.
    fn take(&mut self, expected: u8) -> Option<&'a [u8]> {
        let (tag, content, _) = self.next()?;
        (tag == expected).then_some(content)
    }

    /// The content of the next element if it has this tag; else that is left for what comes next.
    fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        if self.0.first() == Some(&tag) { self.take(tag).map(Some) } else { Some(None) }
    }

    /// A point in time, in seconds since 1970.
    fn time(&mut self) -> Option<i64> {
        let (tag, content, _) = self.next()?;
        let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            // RFC 5280, 4.1.2.5.1.
            tag::UTC_TIME => {
                let (year, rest) = text.split_at_checked(2)?;
                let year: i16 = year.parse().ok()?;
                (year + if year < 50 { 2000 } else { 1900 }, rest)
            }
            tag::GENERALIZED_TIME => {
                let (year, rest) = text.split_at_checked(4)?;
                (year.parse().ok()?, rest)
            }
            _ => return None,
        };
        if rest.len() != 10 || !rest.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let two = |at: usize| rest[at..at + 2].parse::<i8>().ok();
        let time = DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
        Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::der;
    use super::*;

    #[test]
    fn certificates_say_how_long_they_count_and_for_what() {
        let year_2100 = 4_102_444_800;
        let table = [
            // name, expired, CA, for servers, vouches, key
            ("server.crt", false, false, true, false, KeyKind::Ec("P-256")),
            ("self.crt", false, true, true, true, KeyKind::Ec("P-256")),
            ("self_client.crt", false, true, false, false, KeyKind::Ec("P-256")),
            ("self_no_signing.crt", false, true, true, false, KeyKind::Ec("P-256")),
            ("self_expired.crt", true, true, true, true, KeyKind::Ec("P-256")),
            ("expired_ca.crt", true, true, true, true, KeyKind::Ec("P-256")),
            ("version1.crt", false, false, true, true, KeyKind::Ec("P-256")),
            ("rsa.crt", false, false, false, false, KeyKind::Rsa(2048)),
            ("rsa1024.crt", false, false, false, false, KeyKind::Rsa(1024)),
            ("p521.crt", false, false, false, false, KeyKind::Ec("P-521")),
            ("ed25519.crt", false, false, false, false, KeyKind::Ed25519),
        ];
        for (name, expired, is_ca, for_servers, vouches, key) in table {
            let der = der(name);
            let found = Certificate::parse(&der).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(
                (found.is_ca, found.for_servers, found.vouches(), found.key()),
                (is_ca, for_servers, vouches, key),
                "{name}"
            );
            if expired {
                let (start, end) = (946_684_800, 978_307_200);
                assert_eq!((found.not_before, found.not_after), (start, end), "{name}");
            } else {
                // In 2050 the form changes in which times are written.
                assert!(found.not_after > year_2100 && found.not_before < year_2100, "{name}");
            }
        }
    }

    #[test]
    fn what_is_cut_or_goes_on_is_no_certificate() {
        let mut der = der("server.crt");
        for length in 0..der.len() {
            assert_eq!(Certificate::parse(&der[..length]), None, "{length}");
        }
        der.push(0);
        assert_eq!(Certificate::parse(&der), None);
    }
}
