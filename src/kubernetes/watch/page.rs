//! A page of a list, object by object. A page of JSON is in memory as a whole; of one of protobuf, which
//! may be the whole list, there is only one object at a time.

use tokio::time::Instant;

use super::failure::Failure;
use super::object::{Encoding, Object};
use super::protobuf::{self, MAGIC, RAW};
use super::received::{More, Received};
use super::transport::{Answer, PAGE_WITHIN};
use super::watch_stream::LONGEST_EVENT;
use super::wire;

/// A server may ignore `limit` and send the whole list as one page.
const LARGEST_PAGE: usize = 256 << 20;
/// The field of a list that holds its metadata.
const METADATA: u64 = 1;
/// The field of a list that holds an object.
const ITEM: u64 = 2;

/// What follows a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// The version of the list.
    pub(super) version: Option<String>,
    /// How to ask for the next page; none after the last.
    pub(super) token: Option<String>,
}

impl From<wire::PageMeta<'_>> for Rest {
    fn from(meta: wire::PageMeta<'_>) -> Rest {
        Rest { version: meta.resource_version.into_text(), token: meta.next.into_text() }
    }
}

/// Reads a page and hands on each of its objects.
pub(super) async fn read(answer: Answer, each: impl FnMut(Object<'_>)) -> Result<Rest, Failure> {
    read_up_to(LARGEST_PAGE, answer, each).await
}

async fn read_up_to(
    limit: usize,
    Answer { encoding, received }: Answer,
    each: impl FnMut(Object<'_>),
) -> Result<Rest, Failure> {
    match encoding {
        Encoding::Json => json(limit, received, each).await,
        Encoding::Protobuf => {
            let until = Instant::now() + PAGE_WITHIN;
            ListReader { received, until, limit, position: 0 }.list(each).await
        }
    }
}

async fn json(
    limit: usize,
    received: Received,
    mut each: impl FnMut(Object<'_>),
) -> Result<Rest, Failure> {
    let page = received.whole(limit, PAGE_WITHIN).await?;
    let text = std::str::from_utf8(&page).map_err(|e| Failure::Malformed(e.to_string()))?;
    let page: wire::Page<'_> =
        serde_json::from_str(text).map_err(|error| Failure::malformed(error, text))?;
    for object in page.items.unwrap_or_default() {
        each(Object::Json(object.get()));
    }
    Ok(page.metadata.into())
}

/// Reads a list as it comes: the magic, and a `runtime.Unknown` with the list in it.
struct ListReader {
    received: Received,
    until: Instant,
    /// How long a page may be.
    limit: usize,
    /// How much of the page was read.
    position: usize,
}

impl ListReader {
    async fn list(&mut self, mut each: impl FnMut(Object<'_>)) -> Result<Rest, Failure> {
        if self.bytes(MAGIC.len()).await? != MAGIC {
            return Err(Failure::NotProtobuf("a list without the magic k8s".to_owned()));
        }
        let mut rest = None;
        while self.has_more().await? {
            match self.tag().await? {
                (RAW, Some(length)) => rest = Some(self.items(length, &mut each).await?),
                (_, length) => self.skip(length.unwrap_or_default()).await?,
            }
        }
        rest.ok_or_else(malformed)
    }

    async fn items(
        &mut self,
        length: usize,
        each: &mut impl FnMut(Object<'_>),
    ) -> Result<Rest, Failure> {
        let end = self.position.saturating_add(length);
        let mut rest = Rest::default();
        while self.position < end {
            let (number, length) = self.tag().await?;
            let length = length.unwrap_or_default();
            if length > end.saturating_sub(self.position) {
                return Err(malformed());
            }
            match number {
                METADATA => {
                    let meta = protobuf::decode::<wire::PageMeta<'_>>(self.bytes(length).await?);
                    rest = meta.map_err(|_| malformed())?.into();
                }
                ITEM => each(Object::Protobuf(self.bytes(length).await?)),
                _ => self.skip(length).await?,
            }
        }
        Ok(rest)
    }

    /// The number of the next field, and the length of its content. One that is a number has none.
    async fn tag(&mut self) -> Result<(u64, Option<usize>), Failure> {
        let tag = self.varint().await?;
        let length = match tag & 7 {
            0 => {
                self.varint().await?;
                None
            }
            1 => Some(8),
            2 => Some(usize::try_from(self.varint().await?).map_err(|_| malformed())?),
            5 => Some(4),
            _ => return Err(malformed()),
        };
        Ok((tag >> 3, length))
    }

    async fn varint(&mut self) -> Result<u64, Failure> {
        loop {
            let unread = self.received.unread();
            let mut rest = unread;
            if let Some(number) = protobuf::varint(&mut rest) {
                let length = unread.len() - rest.len();
                self.received.take(length);
                self.position += length;
                return Ok(number);
            }
            if unread.len() >= 10 || !self.more().await? {
                return Err(malformed());
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> Result<&[u8], Failure> {
        if count > LONGEST_EVENT {
            return Err(Failure::Malformed(format!("a list with an object of {count} bytes")));
        }
        while self.received.unread().len() < count {
            if !self.more().await? {
                return Err(malformed());
            }
        }
        self.position += count;
        if self.position > self.limit {
            let limit = self.limit;
            return Err(Failure::Malformed(format!("a list of over {limit} bytes")));
        }
        Ok(self.received.take(count))
    }

    async fn skip(&mut self, mut count: usize) -> Result<(), Failure> {
        while count > 0 {
            let piece = count.min(LONGEST_EVENT).min(self.received.unread().len().max(1));
            self.bytes(piece).await?;
            count -= piece;
        }
        Ok(())
    }

    async fn has_more(&mut self) -> Result<bool, Failure> {
        while self.received.unread().is_empty() {
            if !self.more().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for more; false after the end.
    async fn more(&mut self) -> Result<bool, Failure> {
        match self.received.more(self.until).await? {
            More::Came => Ok(true),
            More::End => Ok(false),
            More::Silence => Err(Failure::not_within(PAGE_WITHIN)),
        }
    }
}

fn malformed() -> Failure {
    Failure::NotProtobuf("a list that is cut off or malformed".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::content::PROTOBUF;
    use super::super::protobuf::tests::{envelope, field};
    use super::super::transport::tests::answer;
    use super::*;

    const TYPE: (&str, &str) = ("content-type", PROTOBUF);
    const GZIP: (&str, &str) = ("content-encoding", "gzip");

    fn page(objects: usize) -> Vec<u8> {
        let metadata = [field(2, b"7"), field(3, b"next"), vec![4 << 3, 3]].concat();
        let service = [field(1, &field(1, b"web")), field(2, &field(3, b"10.0.0.1"))].concat();
        envelope(&[field(1, &metadata), field(2, &service).repeat(objects)].concat())
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(bytes).and_then(|()| packer.finish()).expect("a vector takes everything")
    }

    /// How many objects come of an answer in these pieces, and what follows it.
    async fn read_all(
        headers: &[(&'static str, &str)],
        pieces: impl Iterator<Item = &[u8]>,
    ) -> Result<(usize, Rest), Failure> {
        let pieces = pieces.map(Bytes::copy_from_slice).collect();
        let mut count = 0;
        let answer = answer(headers, pieces).await?;
        let rest = read(answer, |object| {
            assert_eq!(object.version().ok(), Some((None, false)));
            count += 1;
        });
        rest.await.map(|rest| (count, rest))
    }

    #[tokio::test]
    async fn objects_are_found_wherever_the_pieces_break() {
        let plain = page(9);
        let rest = Rest { version: Some("7".to_owned()), token: Some("next".to_owned()) };
        for size in [1, 2, 3, 7, 50, 100_000] {
            let found = read_all(&[TYPE], plain.chunks(size)).await.expect("a page");
            assert_eq!(
                found,
                (9, Rest { version: rest.version.clone(), token: rest.token.clone() })
            );
            let packed = packed(&plain);
            let found = read_all(&[TYPE, GZIP], packed.chunks(size)).await.expect("a page");
            assert_eq!(found.0, 9, "packed, in pieces of {size}");
        }
        let json = br#"{"metadata":{"resourceVersion":"7","continue":"next"},"items":[{},{}]}"#;
        let found = read_all(&[GZIP], packed(json).chunks(5)).await.expect("a page");
        assert_eq!(found, (2, rest));
    }

    #[tokio::test]
    async fn a_page_that_is_cut_off_is_none() {
        let plain = page(3);
        let packed = packed(&plain);
        // The rest of the envelope is not used.
        for cut in 0..plain.len() - 4 {
            let cut = read_all(&[TYPE], std::iter::once(&plain[..cut])).await;
            assert!(matches!(cut, Err(Failure::NotProtobuf(_))), "{cut:?}");
        }
        for cut in 1..packed.len() {
            let cut = read_all(&[TYPE, GZIP], std::iter::once(&packed[..cut])).await;
            assert!(cut.is_err(), "{cut:?}");
        }
    }

    #[tokio::test]
    async fn a_list_in_a_page_is_never_in_memory_as_a_whole() {
        let page = page(50_000);
        for (headers, page) in [(vec![TYPE], page.clone()), (vec![TYPE, GZIP], packed(&page))] {
            let pieces = page.chunks(8 << 10).map(Bytes::copy_from_slice).collect();
            let Answer { received, .. } = answer(&headers, pieces).await.expect("an answer");
            let until = Instant::now() + PAGE_WITHIN;
            let mut reader = ListReader { received, until, limit: LARGEST_PAGE, position: 0 };
            let mut count = 0;
            reader.list(|_| count += 1).await.expect("a page");
            assert_eq!(count, 50_000);
            // Four KiB of packed zeros would be four MiB; this is text.
            assert!(reader.received.held() < 1 << 20, "{}", reader.received.held());
        }
    }

    #[tokio::test]
    async fn a_bomb_does_no_harm() {
        const LIMIT: usize = 1 << 20;
        // A few KiB that become 8 MiB: in a field that nobody knows, in an object, and in JSON.
        let skipped = b"k8s\0\x7a\xff\xff\xff\x7f".to_vec();
        let object = b"k8s\0\x12\xff\xff\xff\x7f\x12\xff\xff\xff\x3f".to_vec();
        for (start, headers) in
            [(skipped, vec![TYPE, GZIP]), (object, vec![TYPE, GZIP]), (b"[".to_vec(), vec![GZIP])]
        {
            let bomb = packed(&[start, vec![b' '; 8 * LIMIT]].concat());
            assert!(bomb.len() < 100_000, "{}", bomb.len());
            let pieces = bomb.chunks(64 << 10).map(Bytes::copy_from_slice).collect();
            let answer = answer(&headers, pieces).await.expect("an answer");
            let end = read_up_to(LIMIT, answer, |_| panic!("there is no object")).await;
            assert!(matches!(end, Err(Failure::Malformed(_))), "{end:?}");
        }
    }
}
