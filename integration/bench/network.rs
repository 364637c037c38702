//! A network namespace for one figure.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `body` in a new network namespace with an address, and with a prefix that leads to this node itself.
/// Each figure starts without connections that are tracked already.
pub(crate) fn in_new_network<T: Send>(
    address: &str,
    prefix: &str,
    body: impl FnOnce() -> T + Send,
) -> T {
    let ip = |arguments: &[&str]| {
        let status = Command::new("ip").args(arguments).status().expect("iproute2 is installed");
        assert!(status.success(), "ip {arguments:?}");
    };
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; run it as root");
        ip(&["link", "set", "lo", "up"]);
        ip(&["addr", "add", address, "dev", "lo"]);
        ip(&["route", "add", "local", prefix, "dev", "lo"]);
        body()
    };
    std::thread::scope(|scope| {
        scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
