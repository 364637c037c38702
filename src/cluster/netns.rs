//! Named network namespaces, each with one thread that lives in it.
//!
//! A socket belongs for ever to the network namespace of the thread that made it, so all that the
//! lab does in a namespace (responders, probes, netlink) is a task on that namespace's own thread,
//! a current-thread tokio runtime. [`Namespace::run`] is for what blocks: it takes a fresh thread.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use super::privilege::{self, Privilege};

/// Where named namespaces are, as `ip-netns(8)` has it.
pub const NETNS_DIR: &str = "/run/netns";

/// The namespace of the thread that reads it.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Why something with a namespace failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// The directory of names could not be made or prepared.
    #[error("prepare {NETNS_DIR}: {0}")]
    PrepareDir(#[source] io::Error),
    /// The kernel made no new namespace.
    #[error("create the network namespace {name}: {source}{}", hint(source))]
    Create { name: String, source: io::Error },
    /// The namespace could not be given its name.
    #[error("name the network namespace {name}: {source}")]
    Name { name: String, source: io::Error },
    /// A name could not be removed.
    #[error("remove the network namespace {name}: {source}")]
    Remove { name: String, source: io::Error },
    /// A thread or its runtime could not be started.
    #[error("start a thread in the network namespace {name}: {source}")]
    Start { name: String, source: io::Error },
    /// A thread could not enter.
    #[error("enter the network namespace {name}: {source}")]
    Enter { name: String, source: io::Error },
    /// The namespace was removed; its handles are of no use any more.
    #[error("the network namespace {name} is gone; it was removed, or its task panicked")]
    Gone { name: String },
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => " (run as root, or call lab::prepare first thing in main)",
        _ => "",
    }
}

/// A network namespace under a name in [`NETNS_DIR`]. Dropping it, or [`Namespace::close`], ends
/// everything that the lab runs in it and removes the name.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    alive: Mutex<Option<Alive>>,
}

#[derive(Debug)]
struct Alive {
    file: Arc<File>,
    runtime: Handle,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Namespace {
    /// Makes a new, empty namespace. The caller's own one is not touched.
    pub fn create(name: &str) -> Result<Namespace, Error> {
        prepare_dir().map_err(Error::PrepareDir)?;
        let (report, reported) = mpsc::sync_channel(1);
        let stop = CancellationToken::new();
        let (thread_stop, thread_name) = (stop.clone(), name.to_owned());
        let started = |source| Error::Start { name: name.to_owned(), source };
        let thread = std::thread::Builder::new()
            .name(format!("lab:{}", name.rsplit_once('-').map_or(name, |(_, last)| last)))
            .spawn(move || match found(&thread_name) {
                Ok((file, runtime)) => {
                    let _ = report.send(Ok((file, runtime.handle().clone())));
                    runtime.block_on(thread_stop.cancelled());
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            })
            .map_err(started)?;
        let (file, runtime) =
            reported.recv().map_err(|_| started(io::Error::other("it ended early")))??;
        let alive = Mutex::new(Some(Alive { file: Arc::new(file), runtime, stop, thread }));
        Ok(Namespace { name: name.to_owned(), alive })
    }

    /// The name in [`NETNS_DIR`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path under which the namespace can be opened.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// The shell command that runs `command` in this namespace from another terminal.
    pub fn enter_command(&self, command: &str) -> String {
        match privilege::current() {
            Privilege::Root => format!("ip netns exec {} {command}", self.name),
            Privilege::PrivateRoot => {
                format!(
                    "nsenter -t {} -m ip netns exec {} {command}",
                    std::process::id(),
                    self.name
                )
            }
            Privilege::UserNamespace => format!(
                "nsenter -t {} -U -m --preserve-credentials nsenter --net={} {command}",
                std::process::id(),
                self.path().display()
            ),
        }
    }

    /// Runs a closure inside the namespace on a thread of its own, and waits for it. It may block.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let file = self.file()?;
        let entered = |source| Error::Enter { name: self.name.clone(), source };
        let inside = move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Ok(f())
        };
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().spawn_scoped(scope, inside).map_err(entered)?;
            match thread.join() {
                Ok(result) => result.map_err(entered),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a future on the namespace's own thread, and blocks until it is done. Other tasks of the
    /// namespace go on meanwhile; the future shall not block. Not to be called from such a task.
    pub fn block_on<F>(&self, future: F) -> Result<F::Output, Error>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let (send, receive) = mpsc::sync_channel(1);
        self.spawn(async move {
            let _ = send.send(future.await);
        })?;
        receive.recv().map_err(|_| self.gone())
    }

    /// Starts a task on the namespace's own thread. It ends with the namespace at the latest.
    pub fn spawn<F>(&self, future: F) -> Result<tokio::task::JoinHandle<F::Output>, Error>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.as_ref().map(|alive| alive.runtime.spawn(future)).ok_or_else(|| self.gone())
    }

    /// A command that will run inside the namespace. The caller configures and starts it.
    pub fn command(&self, program: &str) -> Result<Command, Error> {
        let file = self.file()?;
        let mut command = Command::new(program);
        let enter = move || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        #[allow(unsafe_code)]
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes
        // one system call and neither allocates nor locks.
        unsafe {
            command.pre_exec(enter);
        }
        Ok(command)
    }

    /// Ends the namespace's thread with all its tasks and sockets, and removes the name. Handles
    /// that are still around answer [`Error::Gone`]. Closing twice is allowed.
    pub fn close(&self) -> Result<(), Error> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(alive) = alive else { return Ok(()) };
        alive.stop.cancel();
        // One of the namespace's own tasks may have held the last handle: no thread can wait for
        // itself. A panic of the thread was reported by the task that caused it.
        if alive.thread.thread().id() != std::thread::current().id() {
            let _ = alive.thread.join();
        }
        remove_name(&self.name)
    }

    /// The open namespace, for netlink messages that move an interface into it.
    pub(super) fn file(&self) -> Result<Arc<File>, Error> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.as_ref().map(|alive| Arc::clone(&alive.file)).ok_or_else(|| self.gone())
    }

    fn gone(&self) -> Error {
        Error::Gone { name: self.name.clone() }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "a namespace's name stays behind; the next lab will remove it");
        }
    }
}

/// Turns the calling thread into the first inhabitant of a new, named namespace.
fn found(name: &str) -> Result<(File, Runtime), Error> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Error::Create { name: name.to_owned(), source: errno.into() })?;
    let file = File::open(OWN_NAMESPACE)
        .map_err(|source| Error::Create { name: name.to_owned(), source })?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Start { name: name.to_owned(), source })?;
    give_name(name).map_err(|source| Error::Name { name: name.to_owned(), source })?;
    Ok((file, runtime))
}

/// Binds the calling thread's namespace to its name.
fn give_name(name: &str) -> io::Result<()> {
    let path = Path::new(NETNS_DIR).join(name);
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    let bound = mount(Some(OWN_NAMESPACE), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    bound.map_err(|errno| {
        // Without the mount the file would look like a broken namespace to `ip netns`.
        let _ = fs::remove_file(&path);
        errno.into()
    })
}

/// Removes a name; a name that is gone already is no error. The namespace itself ends with its last
/// thread and socket.
pub(super) fn remove_name(name: &str) -> Result<(), Error> {
    let path = Path::new(NETNS_DIR).join(name);
    let failed = |source| Error::Remove { name: name.to_owned(), source };
    match umount2(&path, MntFlags::MNT_DETACH) {
        // A file without a mount: its creator was killed between the two.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(failed(errno.into())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Makes the directory of names a shared mount, as `ip netns add` does: removing a name then frees
/// the namespace also in mount namespaces that were copied from this one in the meantime.
fn prepare_dir() -> io::Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, NETNS_DIR, None::<&str>, flags, None::<&str>)
    };
    match share() {
        // It is not a mount point yet.
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NETNS_DIR), NETNS_DIR, None::<&str>, flags, None::<&str>)?;
            Ok(share()?)
        }
        // Without even this permission, creating the namespace gives the clearer error.
        Err(Errno::EPERM) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
