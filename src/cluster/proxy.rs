//! The real daemon as a process of the lab: its configuration goes in through standard input, its log
//! is read as it is written, and it never outlives the lab.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::host::Host;
use super::netns;

/// Why a daemon could not be started or waited for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// The host is gone.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The process could not be started, or be given its configuration.
    #[error("start {program}: {source}")]
    Start { program: String, source: io::Error },
    /// The process could not be signalled or waited for.
    #[error("wait for the daemon: {0}")]
    Wait(#[source] io::Error),
    /// It did not do what was waited for.
    #[error("the daemon has not {wanted} within {patience:?}; its log:\n{log}")]
    Late { wanted: String, patience: Duration, log: String },
}

/// Where a daemon runs.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// On a host of the lab.
    On(&'a Host),
    /// In the network namespace of the calling thread.
    Here,
}

/// A daemon that is running; it is killed when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Starts `program` with a KubeProxyConfiguration, against the API server at `url`.
    pub fn start(
        program: &Path,
        place: Place<'_>,
        url: &str,
        configuration: &str,
    ) -> Result<Proxy, Error> {
        let mut command = Command::new(program);
        command.args(["--config", "/dev/stdin", "--master", url, "-v", "4"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |source| Error::Start { program: program.display().to_string(), source };
        let mut child = match place {
            Place::Here => spawn(&mut command).map_err(failed)?,
            Place::On(host) => start_on(host, command)?.map_err(failed)?,
        };
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(configuration.as_bytes()).map_err(failed)?;
        }
        Ok(Proxy::listen_to(child))
    }

    /// Starts a daemon in the calling thread's namespaces, with a command line of the caller's own.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start_as(command: &mut Command) -> Result<Proxy, Error> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn(command).map_err(|source| Error::Start { program, source })?;
        Ok(Proxy::listen_to(child))
    }

    /// Starts a daemon on a host of the lab, with a command line of the caller's own. The kernel kills it
    /// when the host ends.
    ///
    /// # Errors
    /// If the host is gone, or the program cannot be started.
    pub fn start_on(host: &Host, mut command: Command) -> Result<Proxy, Error> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let child = start_on(host, command)?.map_err(|source| Error::Start { program, source })?;
        Ok(Proxy::listen_to(child))
    }

    fn listen_to(mut child: Child) -> Proxy {
        let log = Arc::new(Log::default());
        let (pipe, sink) = (child.stderr.take(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
                let Ok(line) = line else { return };
                sink.lines().push(line);
                sink.grown.notify_all();
            }
        });
        Proxy { child, log, reader: Some(reader) }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.lines().join("\n")
    }

    /// Lines of its log that contain `words`.
    pub fn lines_with(&self, words: &str) -> Vec<String> {
        self.log.lines().iter().filter(|line| line.contains(words)).cloned().collect()
    }

    /// Waits for one more line with `words` than `before`, and gives it.
    pub fn wait_for(
        &self,
        words: &str,
        before: usize,
        patience: Duration,
    ) -> Result<String, Error> {
        let deadline = Instant::now() + patience;
        let mut lines = self.log.lines();
        loop {
            if let Some(line) = lines.iter().filter(|line| line.contains(words)).nth(before) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let wanted = format!("said {words:?}");
                return Err(Error::Late { wanted, patience, log: lines.join("\n") });
            }
            let waited = self.log.grown.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0))
    }

    /// Ends it as Kubernetes does, and gives its exit code.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus, Error> {
        kill(self.pid(), Signal::SIGTERM).map_err(|errno| Error::Wait(errno.into()))?;
        self.wait_for_exit(patience)
    }

    /// Ends it as a crash does.
    pub fn crash(&mut self) -> Result<ExitStatus, Error> {
        self.child.kill().map_err(Error::Wait)?;
        self.child.wait().map_err(Error::Wait)
    }

    /// Waits until it has ended by itself; its log is complete then.
    pub fn wait_for_exit(&mut self, patience: Duration) -> Result<ExitStatus, Error> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().map_err(Error::Wait)? {
                if let Some(reader) = self.reader.take() {
                    let _ = reader.join();
                }
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(Error::Late { wanted: "ended".to_owned(), patience, log: self.log() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a process on the host's own thread, which is in its namespace already: the kernel kills the
/// process when that thread ends, be it with the host or with a lab that is killed.
fn start_on(host: &Host, mut command: Command) -> Result<io::Result<Child>, Error> {
    let follow = || set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    #[allow(unsafe_code)]
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes one
    // system call and neither allocates nor locks.
    unsafe {
        command.pre_exec(follow);
    }
    Ok(host.namespace().block_on(async move { spawn(&mut command) })?)
}

/// Starts a process. A program that was written just before may still be open for writing, in a child that another
/// thread forked meanwhile and that has not yet become another program.
fn spawn(command: &mut Command) -> io::Result<Child> {
    // Daemons of a lab share the machine's /run. A flag counts more.
    command.env("SLUICE_ADMIN_SOCKET", "");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}
