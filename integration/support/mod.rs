//! What several test programs need: a network of their own, the real daemon, and its log.

#![allow(dead_code)] // every test program uses its own part
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test may end where it is

pub(crate) mod daemon;
pub(crate) mod netlink;
pub(crate) mod objects;

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// Why a test failed; any error will do.
pub(crate) type Outcome = Result<(), libtest_mimic::Failed>;

/// A named test that runs in a network namespace of its own, with loopback up.
pub(crate) fn trial(name: &str, run: fn() -> Outcome) -> libtest_mimic::Trial {
    libtest_mimic::Trial::test(name, move || in_own_network(run))
}

/// Runs `body` on a thread in a private network namespace; processes that it starts
/// are in it too.
pub(crate) fn in_own_network<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            run("ip", &["link", "set", "lo", "up"]);
            body()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs a program, which must succeed, and gives what it printed.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// How long what must happen may take: other programs may have the processors, or the guest's is emulated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `probe` gives something, within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "{PATIENCE:?} have passed without: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
