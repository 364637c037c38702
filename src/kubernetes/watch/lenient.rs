//! Decoding that tolerates a wrong type in a field: the types, and their JSON decoding.
//!
//! An API server checks types, so a wrong type is rare, but in one object it must not invalidate the whole
//! list. [`Lenient`] keeps the error in its field; `convert` reports it under the field's name and uses
//! everything else.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor};

/// A field that may be absent (or null, which means the same in the Kubernetes API) or of a wrong type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Lenient<T> {
    #[default]
    Absent,
    Is(T),
    /// What was found instead.
    Wrong(&'static str),
}

impl<T> Lenient<T> {
    /// The same about something that is made of it.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Lenient<U> {
        match self {
            Lenient::Absent => Lenient::Absent,
            Lenient::Is(value) => Lenient::Is(change(value)),
            Lenient::Wrong(found) => Lenient::Wrong(found),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor(PhantomData))
    }
}

struct LenientVisitor<T>(PhantomData<T>);

impl<T> LenientVisitor<T> {
    fn keep<E>(decoded: Result<T, E>, found: &'static str) -> Lenient<T> {
        decoded.map_or(Lenient::Wrong(found), Lenient::Is)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for LenientVisitor<T> {
    type Value = Lenient<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Lenient::Absent)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Self::keep(T::deserialize(IntoDeserializer::<E>::into_deserializer(value)), "a boolean"))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Self::keep(T::deserialize(IntoDeserializer::<E>::into_deserializer(value)), "a number"))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Self::keep(T::deserialize(IntoDeserializer::<E>::into_deserializer(value)), "a number"))
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<Self::Value, E> {
        Ok(Lenient::Wrong("a fraction"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Self::keep(T::deserialize(IntoDeserializer::<E>::into_deserializer(value)), "a string"))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
        let borrowed = serde::de::value::BorrowedStrDeserializer::<E>::new(value);
        Ok(Self::keep(T::deserialize(borrowed), "a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let decoded = T::deserialize(SeqAccessDeserializer::new(&mut seq));
        // The rest must be consumed, or the parser would stop in the middle of the list.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::keep(decoded, "a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let decoded = T::deserialize(MapAccessDeserializer::new(&mut map));
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::keep(decoded, "an object"))
    }
}

/// A string that is borrowed from the JSON text unless that escapes a character.
/// (`Cow<str>` itself is always decoded into an owned string.)
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl Lenient<Text<'_>> {
    /// The text, unless it is empty.
    pub(super) fn into_text(self) -> Option<String> {
        match self {
            Lenient::Is(text) if !text.0.is_empty() => Some(text.0.into_owned()),
            Lenient::Is(_) | Lenient::Absent | Lenient::Wrong(_) => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(value.to_owned())))
    }
}

/// The first element of a list whose others have no meaning here; nothing is allocated for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First<T>(pub(super) Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FirstVisitor(PhantomData))
    }
}

struct FirstVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FirstVisitor<T> {
    type Value = First<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let first = seq.next_element()?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(First(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner<'a> {
        #[serde(borrow, default)]
        name: Lenient<Text<'a>>,
        #[serde(default)]
        port: Lenient<i64>,
    }

    fn decode(json: &str) -> Vec<Lenient<Inner<'_>>> {
        serde_json::from_str(json).expect("the JSON is well formed")
    }

    #[test]
    fn a_wrong_type_stays_in_its_field() {
        let name = |s| Lenient::Is(Text(Cow::Borrowed(s)));
        let table = [
            (
                r#"{"name":"a","port":1}"#,
                Lenient::Is(Inner { name: name("a"), port: Lenient::Is(1) }),
            ),
            (
                r#"{"name":null}"#,
                Lenient::Is(Inner { name: Lenient::Absent, port: Lenient::Absent }),
            ),
            (
                r#"{"x":[1,{"y":2}],"name":"a","port":"abc"}"#,
                Lenient::Is(Inner { name: name("a"), port: Lenient::Wrong("a string") }),
            ),
            (
                r#"{"name":{"a":[1]},"port":[[2],3]}"#,
                Lenient::Is(Inner {
                    name: Lenient::Wrong("an object"),
                    port: Lenient::Wrong("a list"),
                }),
            ),
            (
                r#"{"name":true,"port":1.5}"#,
                Lenient::Is(Inner {
                    name: Lenient::Wrong("a boolean"),
                    port: Lenient::Wrong("a fraction"),
                }),
            ),
            (r#"{"port":18446744073709551615}"#, {
                Lenient::Is(Inner { name: Lenient::Absent, port: Lenient::Wrong("a number") })
            }),
            ("5", Lenient::Wrong("a number")),
            ("null", Lenient::Absent),
        ];
        for (json, expected) in table {
            // The neighbour shows that the parser stands where it should.
            let pair = decode_pair(json);
            let decoded = decode(&pair);
            assert_eq!(decoded[0], expected, "{json}");
            assert_eq!(decoded[1], Lenient::Is(Inner { name: name("z"), port: Lenient::Is(9) }));
        }
    }

    fn decode_pair(json: &str) -> String {
        format!(r#"[{json},{{"name":"z","port":9}}]"#)
    }

    #[test]
    fn plain_strings_are_borrowed_and_escaped_ones_are_not() {
        let plain: Text<'_> = serde_json::from_str(r#""abc""#).expect("a string");
        assert!(matches!(plain.0, Cow::Borrowed("abc")));
        let escaped: Text<'_> = serde_json::from_str(r#""a\u0062c""#).expect("a string");
        assert!(matches!(escaped.0, Cow::Owned(_)));
        assert_eq!(escaped.0, "abc");
    }

    #[test]
    fn only_the_first_element_counts() {
        let list: Vec<Lenient<First<i64>>> =
            serde_json::from_str(r#"[[1,"x",{}],[],"a",["y"]]"#).expect("a list");
        assert_eq!(list[0], Lenient::Is(First(Some(1))));
        assert_eq!(list[1], Lenient::Is(First(None)));
        assert_eq!(list[2], Lenient::Wrong("a string"));
        assert_eq!(list[3], Lenient::Wrong("a list"));
    }
}
