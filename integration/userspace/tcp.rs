//! What TCP promises, through a relay.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use sluice_core::net::Family;
use socket2::SockRef;

use super::support::daemon::program;
use super::support::{Outcome, eventually, run};
use super::world::{PATIENCE, World, connect, echo, exchange, serve, vip};

/// More than all queues on the way can hold.
const MUCH: usize = 48 << 20;

pub(crate) fn half_close() -> Outcome {
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    // Reads everything, answers with its length, and only then closes.
    serve(&pod, |mut stream| {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).is_ok() {
            let _ = write!(stream, "{} bytes", all.len());
        }
    });
    for family in Family::BOTH {
        let mut client = world.connect(family);
        client.write_all(&[7; 100_000])?;
        client.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        assert_eq!(answer, "100000 bytes", "{family}");
    }

    let other = world.pod("web-2")?;
    world.cluster.retire_pod(&pod)?;
    let (sender, received) = mpsc::channel();
    // The other way round: closes its sending half first, and then reads.
    serve(&other, move |mut stream| {
        let _ = stream.write_all(b"last word");
        let _ = stream.shutdown(Shutdown::Write);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = sender.send(all.len());
    });
    for family in Family::BOTH {
        let mut client = eventually("the second pod answers", || {
            let mut client = connect(&world.client, vip(family)).ok()?;
            client.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
            let mut word = [0; 9];
            client.read_exact(&mut word).ok()?;
            (word == *b"last word").then_some(client)
        });
        client.set_read_timeout(Some(PATIENCE))?;
        assert_eq!(client.read(&mut [0; 1])?, 0, "the server has ended");
        client.write_all(&[7; 100_000])?;
        drop(client);
        assert_eq!(received.recv_timeout(PATIENCE)?, 100_000, "{family}");
    }
    Ok(())
}

pub(crate) fn back_pressure() -> Outcome {
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    let (go, wait) = mpsc::channel::<()>();
    let (sender, received) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    serve(&pod, move |mut stream| {
        let _ = wait.lock().map(|wait| wait.recv_timeout(PATIENCE));
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = sender.send(all.len());
    });
    let before = resident(&world);
    let mut client = world.connect(Family::V4);
    client.set_write_timeout(Some(Duration::from_millis(700)))?;
    let (chunk, mut written) = (vec![7; 64 * 1024], 0);
    while written < MUCH {
        match client.write(&chunk) {
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    assert!(written < MUCH, "nobody reads, and yet {written} bytes were taken");
    let grown = resident(&world).saturating_sub(before);
    assert!(grown < 8 << 10, "the daemon holds {grown} KiB for one connection");
    go.send(())?;
    drop(client);
    assert_eq!(received.recv_timeout(PATIENCE)?, written);
    Ok(())
}

/// The daemon's memory in KiB.
fn resident(world: &World) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

pub(crate) fn reset() -> Outcome {
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    let (sender, received) = mpsc::channel();
    let (arrival, arrived) = mpsc::channel();
    // The first byte is a command: reset; or wait, with the sending half closed or open.
    serve(&pod, move |mut stream| {
        let mut order = [0];
        let _ = stream.read_exact(&mut order);
        let _ = arrival.send(order[0]);
        match order[0] {
            b'r' => break_off(stream),
            order => {
                if order == b'h' {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                let ended = stream.read(&mut [0; 1]).map_err(|error| error.kind());
                let _ = sender.send(ended);
            }
        }
    });
    for family in Family::BOTH {
        let mut client = world.connect(family);
        client.write_all(b"r")?;
        let ended = client.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{family}: the endpoint breaks off");

        let mut client = world.connect(family);
        client.shutdown_after(b"r")?;
        let ended = client.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{family}: after the client's end");

        for order in [b"w", b"h"] {
            let mut client = world.connect(family);
            client.write_all(order)?;
            // Then the connection to the endpoint is there; orders before this one arrived, too.
            while arrived.recv_timeout(PATIENCE)? != order[0] {}
            if order == b"h" {
                assert_eq!(client.read(&mut [0; 1])?, 0, "the server has ended");
            }
            break_off(client);
            let ended = received.recv_timeout(PATIENCE)?;
            assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{family}: the client breaks off");
        }
    }
    Ok(())
}

trait ShutdownAfter {
    fn shutdown_after(&mut self, bytes: &[u8]) -> std::io::Result<()>;
}

impl ShutdownAfter for TcpStream {
    fn shutdown_after(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write_all(bytes)?;
        match self.shutdown(Shutdown::Write) {
            // The other side's reset has come already.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }
}

/// Closes so that the other side sees a reset.
fn break_off(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

pub(crate) fn retry() -> Outcome {
    let world = World::new(program())?;
    let good = world.pod("web-1")?;
    serve(&good, echo);
    // Nothing listens on this one.
    let refusing = world.pod("web-2")?;
    for family in Family::BOTH {
        for _ in 0..20 {
            exchange(&mut world.connect(family), b"hello");
        }
    }
    // And this one does not even say that.
    let silence = || {
        run(
            "nft",
            &["add table inet silence; add chain inet silence input \
                      { type filter hook input priority 0; policy drop; }"],
        );
    };
    refusing.namespace().run(silence)?;
    std::thread::scope(|scope| {
        for family in Family::BOTH {
            for _ in 0..6 {
                let world = &world;
                scope.spawn(move || exchange(&mut world.connect(family), b"hello"));
            }
        }
    });
    Ok(())
}

pub(crate) fn nobody() -> Outcome {
    let world = World::new(program())?;
    world.pod("web-1")?;
    for family in Family::BOTH {
        let mut client = world.connect(family);
        let ended = client.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{family}");
    }
    Ok(())
}

pub(crate) fn transfers() -> Outcome {
    const LENGTH: usize = 32 << 20;
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    // Both sides send and check at the same time.
    let (sender, received) = mpsc::channel();
    serve(&pod, move |stream| {
        let _ = sender.send(both_ways(&stream, [2, 1], LENGTH));
    });
    for family in Family::BOTH {
        let client = world.connect(family);
        assert_eq!(both_ways(&client, [1, 2], LENGTH), None, "{family}: at the client");
        assert_eq!(received.recv_timeout(PATIENCE)?, None, "{family}: at the server");
    }
    Ok(())
}

/// Sends one sequence of bytes and receives another; where it went wrong, if it did.
fn both_ways(stream: &TcpStream, [mine, theirs]: [u64; 2], length: usize) -> Option<usize> {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut bytes, mut stream) = (Sequence(mine), stream);
            let mut buffer = vec![0; 50_001];
            let mut sent = 0;
            while sent < length {
                let part = buffer.len().min(length - sent);
                bytes.fill(&mut buffer[..part]);
                if stream.write_all(&buffer[..part]).is_err() {
                    return;
                }
                sent += part;
            }
            let _ = stream.shutdown(Shutdown::Write);
        });
        let (mut bytes, mut stream) = (Sequence(theirs), stream);
        let (mut buffer, mut wanted) = (vec![0; 70_000], vec![0; 70_000]);
        let mut got = 0;
        while let Ok(part @ 1..) = stream.read(&mut buffer) {
            bytes.fill(&mut wanted[..part]);
            if buffer[..part] != wanted[..part] {
                return Some(got);
            }
            got += part;
        }
        (got != length).then_some(got)
    })
}

/// Bytes that do not repeat (xorshift64, one byte of each number).
struct Sequence(u64);

impl Sequence {
    fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0.to_le_bytes()[3];
        }
    }
}
