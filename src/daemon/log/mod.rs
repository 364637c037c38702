//! The daemon's log, and its level, which can change at run time.
//!
//! Logging never blocks the daemon: lines are queued in a [`Queue`] for a thread that writes them to standard
//! error, which may be a pipe without a reader.

mod queue;

use std::backtrace::Backtrace;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use self::queue::Queue;
use sluice_config::{LogFormat, Logging};

/// The variable with a filter for developers; it takes precedence over the verbosity.
const VARIABLE: &str = "SLUICE_LOG";

/// The target of what is said all the time in a busy cluster where all is well: with `-v=2` and more.
pub(crate) const ROUTINE: &str = "sluice::routine";

/// How long the end of the program waits for a standard error that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Lines on their way out.
static QUEUE: Queue = Queue::new();

/// There is no writer thread: the logging thread writes.
static DIRECT: AtomicBool = AtomicBool::new(false);

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log on standard error. A second start in one process (tests) keeps the first log.
pub(crate) fn start(logging: &Logging) {
    let (filter, handle) = reload::Layer::new(filter(logging.verbosity));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(|| Line);
    let started = match logging.format {
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    if started.is_ok() {
        let _ = LEVEL.set(handle);
        std::panic::set_hook(Box::new(panicked));
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(carry);
        DIRECT.store(thread.is_err(), Ordering::Relaxed);
    }
}

fn put(line: Vec<u8>) {
    if DIRECT.load(Ordering::Relaxed) {
        // If standard error fails, there is nowhere else to report it.
        let _ = io::stderr().write_all(&line);
    } else {
        QUEUE.push(line);
    }
}

fn carry() {
    loop {
        QUEUE.carry(&mut io::stderr(), |lost| {
            tracing::warn!(
                lost,
                "lines of the log are lost: nobody read standard error for a while"
            );
        });
    }
}

/// Writes the lines of the log that wait; a standard error that takes nothing is not waited for long.
pub(crate) fn end() {
    QUEUE.flush(PATIENCE);
}

/// The number of log lines lost because nobody read them.
pub(crate) fn lost() -> u64 {
    QUEUE.lost()
}

/// Says something that is no line of the log.
#[allow(clippy::print_stderr)] // before there is a log
pub(crate) fn say(text: &str) {
    if LEVEL.get().is_some() {
        put(format!("{text}\n").into_bytes());
    } else {
        eprintln!("{text}");
    }
}

fn panicked(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    say(&format!("thread {name}: {panic}\n{}", Backtrace::capture()));
}

/// A line of the log, which comes in one piece.
struct Line;

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        put(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Changes how much is logged.
pub(crate) fn set_verbosity(verbosity: u32) {
    match LEVEL.get().map(|handle| handle.reload(filter(verbosity))) {
        Some(Err(error)) => tracing::warn!("the log keeps its level: {error}"),
        _ => tracing::debug!(verbosity, "the log has this level"),
    }
}

fn filter(verbosity: u32) -> EnvFilter {
    let directives = match verbosity {
        0..=1 => format!("warn,sluice=info,{ROUTINE}=warn"),
        2..=3 => "warn,sluice=info".to_owned(),
        4..=5 => "warn,sluice=debug".to_owned(),
        _ => "warn,sluice=trace".to_owned(),
    };
    EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(directives))
}
