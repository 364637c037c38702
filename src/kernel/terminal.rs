//! How wide a terminal is.

use std::os::fd::{AsFd, AsRawFd};

/// The columns of the terminal that a descriptor is; none if it is no terminal, or does not know.
pub fn columns(terminal: &impl AsFd) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let descriptor = terminal.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes nothing but a winsize.
    #[allow(unsafe_code)]
    let answer = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}
