//! The events of a watch, one at a time: lines of JSON, or frames of protobuf behind their length.

use std::borrow::Cow;

use tokio::time::Instant;

use super::failure::Failure;
use super::lenient::Lenient;
use super::object::{Encoding, Object};
use super::protobuf;
use super::received::{More, Received};
use super::transport::Answer;
use super::wire;

/// An object of the API is at most 1.5 MiB in etcd; no event is longer than this.
pub(super) const LONGEST_EVENT: usize = 64 << 20;
/// Before each frame stands its length, in network byte order (`apimachinery/pkg/util/framer`).
const LENGTH: usize = 4;

/// What came of waiting for an event.
pub(super) enum Next<'a> {
    Event(Event<'a>),
    /// Nothing arrived before the deadline. Nothing is lost; the next call continues.
    Silence,
    /// The server ended the answer.
    End,
}

/// An event of a watch.
pub(super) struct Event<'a> {
    pub(super) kind: Cow<'a, str>,
    pub(super) object: Object<'a>,
}

/// The events of a watch. At most one of them is in memory, with what arrived together with it.
pub(super) struct WatchStream {
    received: Received,
    encoding: Encoding,
    /// How much of what is not read was searched for a line's end.
    searched: usize,
}

impl WatchStream {
    pub(super) fn new(Answer { received, encoding }: Answer) -> WatchStream {
        WatchStream { received, encoding, searched: 0 }
    }

    /// Waits for the next event.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Next<'_>, Failure> {
        match self.encoding {
            Encoding::Json => self.next_line(until).await,
            Encoding::Protobuf => self.next_frame(until).await,
        }
    }

    async fn next_line(&mut self, until: Instant) -> Result<Next<'_>, Failure> {
        let length = loop {
            let unread = self.received.unread();
            if let Some(at) = unread[self.searched..].iter().position(|byte| *byte == b'\n') {
                let length = self.searched + at;
                self.searched = 0;
                if length > 0 {
                    break length;
                }
                self.received.take(1);
                continue;
            }
            self.searched = unread.len();
            if self.searched > LONGEST_EVENT {
                return Err(Failure::Malformed(format!("a line of over {LONGEST_EVENT} bytes")));
            }
            match self.received.more(until).await? {
                More::Came => {}
                More::Silence => return Ok(Next::Silence),
                // A line without an end was cut off.
                More::End => return Ok(Next::End),
            }
        };
        let (line, _) = self.received.take(length + 1).split_at(length);
        let line = std::str::from_utf8(line).map_err(|e| Failure::Malformed(e.to_string()))?;
        let event: wire::Event<'_> =
            serde_json::from_str(line).map_err(|error| Failure::malformed(error, line))?;
        Ok(Next::Event(Event { kind: event.kind.0, object: Object::Json(event.object.get()) }))
    }

    async fn next_frame(&mut self, until: Instant) -> Result<Next<'_>, Failure> {
        let length = loop {
            let unread = self.received.unread();
            if let Some((length, rest)) = unread.split_first_chunk::<LENGTH>() {
                // Nothing is set aside for a length: memory grows with what comes.
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                if length > LONGEST_EVENT {
                    return Err(Failure::Malformed(format!("an event of {length} bytes")));
                }
                if rest.len() >= length {
                    break length;
                }
            }
            match self.received.more(until).await? {
                More::Came => {}
                More::Silence => return Ok(Next::Silence),
                // A frame that is not whole was cut off.
                More::End => return Ok(Next::End),
            }
        };
        self.received.take(LENGTH);
        event(self.received.take(length)).map(Next::Event)
    }
}

fn event(frame: &[u8]) -> Result<Event<'_>, Failure> {
    let wrong = |error: protobuf::Malformed| Failure::NotProtobuf(format!("an event: {error}"));
    let event: wire::WatchEvent<'_> = protobuf::decode(frame).map_err(wrong)?;
    let (Lenient::Is(kind), Lenient::Is(object)) = (event.kind, event.object) else {
        return Err(wrong(protobuf::Malformed));
    };
    let object = protobuf::open(object.raw).map_err(wrong)?;
    Ok(Event { kind: kind.0, object: Object::Protobuf(object) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::protobuf::tests::{envelope, field};
    use super::super::received::USUAL_BUFFER;
    use super::super::transport::tests::answer;
    use super::*;

    /// A watch whose bytes arrive in these pieces.
    async fn stream(content_type: &str, pieces: Vec<Bytes>) -> WatchStream {
        WatchStream::new(
            answer(&[("content-type", content_type)], pieces).await.expect("an answer"),
        )
    }

    fn line(name: &str) -> String {
        format!("{{\"type\":\"ADDED\",\"object\":\"{name}\"}}\n")
    }

    /// A frame with an object of this name.
    fn frame(name: &str) -> Vec<u8> {
        let object = envelope(&field(1, &field(1, name.as_bytes())));
        let event = [field(1, b"ADDED"), field(2, &field(1, &object))].concat();
        let length = u32::try_from(event.len()).expect("short").to_be_bytes();
        [&length[..], &event].concat()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf;stream=watch";

    #[tokio::test]
    async fn events_are_found_wherever_the_pieces_break() {
        let lines: String = ["a", "bc", "", "d"].map(line).concat().replace("\n{", "\n\n{");
        let frames = ["a", "bc", "", "d"].map(frame).concat();
        for (content_type, text) in [("application/json", lines.into_bytes()), (PROTOBUF, frames)] {
            for size in [1, 2, 3, 5, 7, 11, 64, 1000] {
                let pieces = text.chunks(size).map(Bytes::copy_from_slice).collect();
                let mut stream = stream(content_type, pieces).await;
                let mut count = 0;
                while let Ok(Next::Event(event)) = stream.next(soon()).await {
                    assert_eq!(event.kind, "ADDED");
                    count += 1;
                }
                assert_eq!(count, 4, "{content_type} in pieces of {size}");
                assert!(matches!(stream.next(soon()).await, Ok(Next::End)));
            }
        }
    }

    #[tokio::test]
    async fn an_event_that_is_cut_off_is_none() {
        for (content_type, text) in [("", line("a").into_bytes()), (PROTOBUF, frame("a"))] {
            for cut in 0..text.len() {
                let piece = Bytes::copy_from_slice(&text[..cut]);
                let mut stream = stream(content_type, vec![piece]).await;
                assert!(matches!(stream.next(soon()).await, Ok(Next::End)), "{content_type} {cut}");
            }
        }
    }

    #[tokio::test]
    async fn a_long_list_is_never_in_memory_as_a_whole() {
        let name = "x".repeat(4000);
        for (content_type, text) in [("", line(&name).into_bytes()), (PROTOBUF, frame(&name))] {
            let mut stream = stream(content_type, vec![text.into(); 10_000]).await;
            let mut count = 0;
            while let Ok(Next::Event(_)) = stream.next(soon()).await {
                count += 1;
                let unread = stream.received.unread().len();
                assert!(unread <= USUAL_BUFFER, "{unread}");
            }
            assert_eq!(count, 10_000);
        }
    }

    #[tokio::test]
    async fn a_length_alone_costs_no_memory() {
        for (length, what) in [(64 << 20, "waits"), ((64 << 20) + 1, "ends"), (u32::MAX, "ends")] {
            let head = Bytes::copy_from_slice(&length.to_be_bytes());
            let mut stream = stream(PROTOBUF, vec![head, Bytes::from_static(b"abc")]).await;
            let next = stream.next(soon()).await;
            match what {
                "waits" => assert!(matches!(next, Ok(Next::End))),
                _ => assert!(matches!(next, Err(Failure::Malformed(_)))),
            }
            assert!(stream.received.unread().len() < 10);
        }
    }

    #[tokio::test]
    async fn an_envelope_without_the_magic_is_no_kubernetes_protobuf() {
        let text = String::from_utf8(frame("a")).expect("short frames are ASCII but for lengths");
        let wrong = text.replace("k8s\0", "k8s\x01");
        let mut stream = stream(PROTOBUF, vec![wrong.into()]).await;
        assert!(matches!(stream.next(soon()).await, Err(Failure::NotProtobuf(_))));
    }
}
