//! Moving bytes between sockets without copying them to this process: `splice(2)` through a pipe.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::null_mut;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

/// The capacity of a pipe. The kernel's default is 64 KiB, the maximum `fs.pipe-max-size`.
const CAPACITY: i32 = 1 << 20;

/// A pipe between two sockets.
#[derive(Debug)]
pub struct Pipe {
    exit: OwnedFd,
    entry: OwnedFd,
    held: usize,
}

impl Pipe {
    /// Opens one.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn open() -> io::Result<Pipe> {
        let (exit, entry) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // A small one works, too.
        let _ = fcntl(&entry, FcntlArg::F_SETPIPE_SZ(CAPACITY));
        Ok(Pipe { exit, entry, held: 0 })
    }

    /// How many bytes are in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Reads from a socket; 0 is its end. To be called when the pipe is empty, so that `WouldBlock` always
    /// refers to the socket.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has arrived; otherwise what is wrong with the connection.
    pub fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let moved = splice(from.as_raw_fd(), self.entry.as_raw_fd(), CAPACITY.unsigned_abs())?;
        self.held += moved;
        Ok(moved)
    }

    /// Writes its content to a socket, as much as that accepts.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes nothing now; otherwise what is wrong with the connection.
    pub fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let held = u32::try_from(self.held).unwrap_or(u32::MAX);
        let moved = splice(self.exit.as_raw_fd(), to.as_raw_fd(), held)?;
        self.held -= moved;
        Ok(moved)
    }
}

fn splice(from: RawFd, to: RawFd, length: u32) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    #[allow(unsafe_code)]
    // SAFETY: both descriptors are borrowed from their owners by the callers, and null offsets are
    // what sockets and pipes ask for; no memory of this process is involved.
    let moved = unsafe { libc::splice(from, null_mut(), to, null_mut(), length, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
