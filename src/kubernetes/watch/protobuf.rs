//! The part of the protobuf wire format that Kubernetes' messages need, read in place.
//!
//! Generated decoders (prost) own every string they find and refuse a whole message for one bad byte. Here a
//! field is a slice of what arrived, and a mistake stays where it was made ([`Lenient::Wrong`]), so that both
//! encodings fill the same structures ([`super::wire`]) and share one conversion. Measured beside prost in
//! docs/benchmarks.md.

use std::borrow::Cow;

use super::lenient::{First, Lenient, Text};
use super::wire::Time;

/// What every body and every object in a watch event begins with.
pub(super) const MAGIC: &[u8; 4] = b"k8s\0";
/// The field of `runtime.Unknown` that holds the object.
pub(super) const RAW: u64 = 2;

/// A message that ends too early, or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its protobuf message is cut off or malformed")]
pub(super) struct Malformed;

/// What is on the wire for a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes; no field that is read here is one.
    Fixed,
}

/// A message of which some fields are read.
pub(super) trait Message<'a>: Default {
    /// Decodes a field. Unknown ones are skipped.
    fn set(&mut self, number: u64, value: Value<'a>);
}

/// A `map<string, string>` of which some keys are read.
pub(super) trait Entries<'a>: Default {
    /// Decodes an entry.
    fn insert(&mut self, key: &str, value: Lenient<Text<'a>>);
}

/// A message, if all of it is well formed.
pub(super) fn decode<'a, T: Message<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    let mut message = T::default();
    for field in Fields(bytes) {
        let (number, value) = field?;
        message.set(number, value);
    }
    Ok(message)
}

/// As much of a message as is well formed.
pub(super) fn decode_start<'a, T: Message<'a>>(bytes: &'a [u8]) -> T {
    let mut message = T::default();
    for (number, value) in Fields(bytes).map_while(Result::ok) {
        message.set(number, value);
    }
    message
}

/// The object in an envelope: the magic, and a `runtime.Unknown`.
pub(super) fn open(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let unknown = bytes.strip_prefix(MAGIC).ok_or(Malformed)?;
    let mut object: &[u8] = &[];
    for field in Fields(unknown) {
        if let (RAW, Value::Bytes(raw)) = field? {
            object = raw;
        }
    }
    Ok(object)
}

/// Takes a varint from the front. `None` if it is truncated or too long.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}

/// The fields of a message in order, up to the first mistake.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let Fields(rest) = self;
        let tag = varint(rest)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(rest)?),
            1 => {
                *rest = rest.get(8..)?;
                Value::Fixed
            }
            2 => {
                let length = usize::try_from(varint(rest)?).ok()?;
                let (content, after) = rest.split_at_checked(length)?;
                *rest = after;
                Value::Bytes(content)
            }
            5 => {
                *rest = rest.get(4..)?;
                Value::Fixed
            }
            // Groups, which no message of Kubernetes has.
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

/// How a field is decoded, by its Go type.
impl<'a> Value<'a> {
    /// `[]byte`.
    pub(super) fn bytes(self, into: &mut &'a [u8]) {
        if let Value::Bytes(bytes) = self {
            *into = bytes;
        }
    }

    /// `string`: always written, and as good as absent where it is empty.
    pub(super) fn text(self, into: &mut Lenient<Text<'a>>) {
        *into = match self.any_text() {
            Lenient::Is(text) if text.0.is_empty() => Lenient::Absent,
            text => text,
        };
    }

    /// `*string`: written only where there is one.
    pub(super) fn text_pointer(self, into: &mut Lenient<Text<'a>>) {
        *into = self.any_text();
    }

    /// `[]string`.
    pub(super) fn texts(self, into: &mut Lenient<Vec<Lenient<Text<'a>>>>) {
        push(into, self.any_text());
    }

    /// `[]string` of which the first counts.
    pub(super) fn first_text(self, into: &mut Lenient<First<Lenient<Text<'a>>>>) {
        if *into == Lenient::Absent {
            *into = Lenient::Is(First(Some(self.any_text())));
        }
    }

    /// Any integer.
    pub(super) fn number(self, into: &mut Lenient<i64>) {
        *into = match self {
            // Negative numbers of all sizes have 64 bits.
            Value::Number(number) => Lenient::Is(number.cast_signed()),
            Value::Bytes(_) | Value::Fixed => self.wrong(),
        };
    }

    /// `*bool`.
    pub(super) fn flag(self, into: &mut Lenient<bool>) {
        *into = match self {
            Value::Number(number) => Lenient::Is(number != 0),
            Value::Bytes(_) | Value::Fixed => self.wrong(),
        };
    }

    /// A struct, or a pointer to one.
    pub(super) fn message<T: Message<'a>>(self, into: &mut Lenient<T>) {
        *into = self.any_message();
    }

    /// A list of structs.
    pub(super) fn messages<T: Message<'a>>(self, into: &mut Lenient<Vec<Lenient<T>>>) {
        push(into, self.any_message());
    }

    /// `metav1.Time`, or a pointer to one. The zero time is an empty message, and null in JSON.
    pub(super) fn time(self, into: &mut Lenient<Time<'a>>) {
        *into = match self {
            Value::Bytes([]) => Lenient::Absent,
            _ => self.any_message::<Timestamp>().map(|time| Time::Unix(time.seconds)),
        };
    }

    /// `map[string]string`, of which this is one entry.
    pub(super) fn entry<T: Entries<'a>>(self, into: &mut Lenient<T>) {
        let entry = match self.any_message::<Entry<'a>>() {
            Lenient::Is(entry) => entry,
            wrong => {
                *into = wrong.map(|_| T::default());
                return;
            }
        };
        if matches!(into, Lenient::Absent) {
            *into = Lenient::Is(T::default());
        }
        if let (Lenient::Is(map), Lenient::Is(key)) = (into, entry.key) {
            // An absent value is an empty one.
            let value = match entry.value {
                Lenient::Absent => Lenient::Is(Text::default()),
                value => value,
            };
            map.insert(&key.0, value);
        }
    }

    fn any_text(self) -> Lenient<Text<'a>> {
        match self {
            Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Lenient::Is(Text(Cow::Borrowed(text))),
                Err(_) => Lenient::Wrong("no UTF-8"),
            },
            Value::Number(_) | Value::Fixed => self.wrong(),
        }
    }

    fn any_message<T: Message<'a>>(self) -> Lenient<T> {
        match self {
            Value::Bytes(bytes) => decode(bytes).map_or(Lenient::Wrong("malformed"), Lenient::Is),
            Value::Number(_) | Value::Fixed => self.wrong(),
        }
    }

    fn wrong<T>(self) -> Lenient<T> {
        Lenient::Wrong(match self {
            Value::Number(_) | Value::Fixed => "a number",
            Value::Bytes(_) => "a string",
        })
    }
}

fn push<T>(list: &mut Lenient<Vec<Lenient<T>>>, entry: Lenient<T>) {
    match list {
        Lenient::Is(list) => list.push(entry),
        Lenient::Absent | Lenient::Wrong(_) => *list = Lenient::Is(vec![entry]),
    }
}

/// An entry of a map.
#[derive(Default)]
struct Entry<'a> {
    key: Lenient<Text<'a>>,
    value: Lenient<Text<'a>>,
}

impl<'a> Message<'a> for Entry<'a> {
    fn set(&mut self, number: u64, value: Value<'a>) {
        match number {
            1 => value.text_pointer(&mut self.key),
            2 => value.text_pointer(&mut self.value),
            _ => {}
        }
    }
}

/// `metav1.Timestamp`. Its nanoseconds are never written.
#[derive(Default)]
struct Timestamp {
    seconds: i64,
}

impl<'a> Message<'a> for Timestamp {
    fn set(&mut self, number: u64, value: Value<'a>) {
        if let (1, Value::Number(seconds)) = (number, value) {
            self.seconds = seconds.cast_signed();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field with this content.
    pub(crate) fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            field.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
            length >>= 7;
        }
        field.push(u8::try_from(length).expect("seven bits"));
        field.extend_from_slice(content);
        field
    }

    /// The envelope of an object.
    pub(crate) fn envelope(object: &[u8]) -> Vec<u8> {
        let about = [field(1, b"v1"), field(2, b"Service")].concat();
        [&MAGIC[..], &field(1, &about), &field(2, object), &field(3, b""), &field(4, b"")].concat()
    }

    #[derive(Debug, Default, PartialEq)]
    struct Inner<'a> {
        name: Lenient<Text<'a>>,
        port: Lenient<i64>,
    }

    impl<'a> Message<'a> for Inner<'a> {
        fn set(&mut self, number: u64, value: Value<'a>) {
            match number {
                1 => value.text(&mut self.name),
                2 => value.number(&mut self.port),
                _ => {}
            }
        }
    }

    #[test]
    fn a_mistake_stays_in_its_field() {
        let name = |text| Lenient::Is(Text(Cow::Borrowed(text)));
        let inner = |name, port| Ok(Inner { name, port });
        let minus = [0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let table: [(&[u8], _); 10] = [
            (b"", inner(Lenient::Absent, Lenient::Absent)),
            (b"\x0a\x01a\x10\x50", inner(name("a"), Lenient::Is(80))),
            (b"\x0a\x00\x10\x00", inner(Lenient::Absent, Lenient::Is(0))),
            (&minus, inner(Lenient::Absent, Lenient::Is(-1))),
            // Unknown fields of every wire type.
            (
                b"\x18\x07\x21........\x2a\x02xy\x35....\xf8\x7f\x01\x0a\x01a",
                inner(name("a"), Lenient::Absent),
            ),
            (b"\x08\x07\x12\x01a", inner(Lenient::Wrong("a number"), Lenient::Wrong("a string"))),
            (b"\x0a\x01\xff\x10\x01", inner(Lenient::Wrong("no UTF-8"), Lenient::Is(1))),
            // Cut off in a tag, a length and a content.
            (b"\x0a\x01a\x80", Err(Malformed)),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(Malformed)),
            (b"\x0a\x05a", Err(Malformed)),
        ];
        for (bytes, expected) in table {
            assert_eq!(decode(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn an_envelope_is_known_by_its_magic() {
        assert_eq!(open(b"k8s\0\x0a\x02\x0a\x00\x12\x03abc\x1a\x00\x22\x00"), Ok(&b"abc"[..]));
        assert_eq!(open(b"k8s\0"), Ok(&b""[..]));
        for wrong in [&b"k8s\x01\x12\x00"[..], b"k8", b"{\"kind\":1}", b"k8s\0\x12\x04abc"] {
            assert_eq!(open(wrong), Err(Malformed), "{wrong:?}");
        }
    }
}
