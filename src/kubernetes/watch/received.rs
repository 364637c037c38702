//! The body of a response as it arrives: decompressed, and dropped once read.

use std::time::Duration;

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{Instant, timeout_at};

use super::failure::{Failure, causes};

/// A buffer that one large object has grown is given back above this size.
pub(super) const USUAL_BUFFER: usize = 64 << 10;
/// So much of a packed body is unpacked at a time. Gzip makes at most a thousand times as much of it.
const PACKED_PIECE: usize = 4 << 10;

/// What came of waiting for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    /// There may be more to read now.
    Came,
    /// Nothing arrived before the deadline. Nothing is lost; the next call continues.
    Silence,
    /// The server ended the answer.
    End,
}

/// A body on its way.
pub(super) struct Received {
    body: Body,
    /// Of a packed body, what unpacks it.
    unpacking: Option<MultiGzDecoder<Vec<u8>>>,
    /// What came of a packed body and is not unpacked.
    packed: Bytes,
    buffer: Vec<u8>,
    /// Up to where the buffer was read.
    read: usize,
}

impl Received {
    pub(super) fn new(body: Body, is_packed: bool) -> Received {
        Received {
            body,
            unpacking: is_packed.then(|| MultiGzDecoder::new(Vec::new())),
            packed: Bytes::new(),
            buffer: Vec::new(),
            read: 0,
        }
    }

    /// What has come and was not read.
    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer[self.read..]
    }

    /// How much memory it has.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let unpacked =
            self.unpacking.as_ref().map_or(0, |unpacking| unpacking.get_ref().capacity());
        self.buffer.capacity() + unpacked
    }

    /// Takes the next bytes, which must be available.
    pub(super) fn take(&mut self, count: usize) -> &[u8] {
        let start = self.read;
        self.read += count;
        &self.buffer[start..self.read]
    }

    /// Waits for more than is there.
    pub(super) async fn more(&mut self, until: Instant) -> Result<More, Failure> {
        self.forget();
        if self.packed.is_empty() {
            match timeout_at(until, self.body.frame()).await {
                Err(_) => return Ok(More::Silence),
                Ok(None) => return self.end(),
                Ok(Some(Err(error))) => return Err(Failure::Unreachable(causes(&error))),
                Ok(Some(Ok(frame))) => {
                    // Trailers are not used.
                    let data = frame.into_data().unwrap_or_default();
                    if self.unpacking.is_none() {
                        self.buffer.extend_from_slice(&data);
                        return Ok(More::Came);
                    }
                    self.packed = data;
                }
            }
        }
        self.unpack()?;
        Ok(More::Came)
    }

    /// Reads everything up to the limit.
    pub(super) async fn whole(
        mut self,
        limit: usize,
        within: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let until = Instant::now() + within;
        loop {
            match self.more(until).await? {
                More::Came if self.buffer.len() > limit => {
                    return Err(Failure::Malformed(format!("an answer of over {limit} bytes")));
                }
                More::Came => {}
                More::Silence => return Err(Failure::not_within(within)),
                More::End => return Ok(self.buffer),
            }
        }
    }

    /// Forgets what was read.
    fn forget(&mut self) {
        self.buffer.drain(..self.read);
        self.read = 0;
        if self.buffer.len() < USUAL_BUFFER {
            self.buffer.shrink_to(USUAL_BUFFER);
        }
    }

    fn unpack(&mut self) -> Result<(), Failure> {
        let Some(unpacking) = &mut self.unpacking else { return Ok(()) };
        let piece = self.packed.len().min(PACKED_PIECE);
        unpacked(std::io::Write::write_all(unpacking, &self.packed[..piece]))?;
        unpacked(std::io::Write::flush(unpacking))?;
        self.packed.advance(piece);
        self.buffer.append(unpacking.get_mut());
        Ok(())
    }

    fn end(&mut self) -> Result<More, Failure> {
        let Some(mut unpacking) = self.unpacking.take() else { return Ok(More::End) };
        unpacked(unpacking.try_finish())?;
        self.buffer.append(unpacking.get_mut());
        Ok(if self.unread().is_empty() { More::End } else { More::Came })
    }
}

fn unpacked<T>(result: std::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|error| Failure::Malformed(format!("its gzip cannot be unpacked: {error}")))
}
