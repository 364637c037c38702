//! What the lab needs from the kernel before it can start: the right to make network namespaces.
//!
//! Root has it. Without root it is had inside a user namespace, which a process can only enter while
//! it has a single thread; hence [`prepare`] is the first thing that `main` does.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid};

/// Why the process could not be prepared.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// The capabilities of the process could not be read.
    #[error("read the capabilities of this process from /proc/self/status: {0}")]
    Capabilities(#[source] io::Error),
    /// The kernel does not allow user namespaces, or the process has threads already.
    #[error("enter a user namespace before any thread starts: {0}; {ADVICE}")]
    UserNamespace(#[source] io::Error),
    /// Private namespaces were refused.
    #[error("enter private mount and network namespaces: {0}")]
    PrivateNamespaces(#[source] io::Error),
    /// The user and group of the process could not be mapped to root.
    #[error("map the user to root in the new user namespace by {file}: {source}; {ADVICE}")]
    MapIdentity { file: &'static str, source: io::Error },
    /// A private `/run` could not be mounted.
    #[error("mount a private /run for the names of namespaces: {0}; {ADVICE}")]
    CoverRun(#[source] io::Error),
    /// The limit on open files could not be raised.
    #[error("raise the limit on open files to what is allowed: {0}")]
    OpenFiles(#[source] io::Error),
}

/// What helps where the kernel or the distribution keeps user namespaces from people.
const ADVICE: &str = "run as root, or allow user namespaces (sysctl user.max_user_namespaces, \
                      kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)";

/// How much of the lab the rest of the machine can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// As root, namespaces have their names in the machine's own `/run/netns`, so that
    /// `ip netns exec` works from any terminal. (Without root it is [`Isolation::Private`].)
    Shared,
    /// The names are in a private mount namespace, which ends with the process; tests want this.
    Private,
}

/// On what ground the process may make namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// It is root and works in the machine's own mount namespace.
    Root,
    /// It is root and works in a private mount namespace.
    PrivateRoot,
    /// It is root only in a user namespace of its own, with a private mount namespace.
    UserNamespace,
}

static PREPARED: OnceLock<Privilege> = OnceLock::new();

/// Makes sure that this process may build labs. To be called first thing in `main`, before any
/// thread exists; a second call changes nothing.
///
/// In any case, the network namespace that the process was started in is not touched.
pub fn prepare(isolation: Isolation) -> Result<Privilege, Error> {
    if let Some(&privilege) = PREPARED.get() {
        return Ok(privilege);
    }
    let privilege = match (has_capabilities().map_err(Error::Capabilities)?, isolation) {
        (true, Isolation::Shared) => Privilege::Root,
        (true, Isolation::Private) => {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::PrivateNamespaces(errno.into()))?;
            cover_run().map_err(Error::CoverRun)?;
            Privilege::PrivateRoot
        }
        (false, _) => {
            enter_user_namespace()?;
            Privilege::UserNamespace
        }
    };
    raise_open_files().map_err(Error::OpenFiles)?;
    Ok(*PREPARED.get_or_init(|| privilege))
}

/// Allows as many open files as may be: a pod takes about a dozen, and the customary limit of 1024
/// would end the lab at 80 pods.
fn raise_open_files() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// What [`prepare`] found; [`Privilege::Root`] if it was never called.
pub(super) fn current() -> Privilege {
    PREPARED.get().copied().unwrap_or(Privilege::Root)
}

/// Enters a user namespace in which this process is root, with mount and network namespaces of its
/// own. [`prepare`] does this where it is needed.
fn enter_user_namespace() -> Result<(), Error> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Error::UserNamespace(errno.into()))?;
    // The order is the kernel's: without privilege the group map is refused until setgroups(2) is
    // denied (user_namespaces(7)).
    let write = |file: &'static str, text: String| {
        fs::write(file, text).map_err(|source| Error::MapIdentity { file, source })
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    cover_run().map_err(Error::CoverRun)
}

/// Whether the process has CAP_SYS_ADMIN and CAP_NET_ADMIN (`linux/capability.h`). The user id would
/// not tell: root in a container mostly lacks them.
fn has_capabilities() -> io::Result<bool> {
    const NEEDED: u64 = 1 << 12 | 1 << 21;
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("there is no CapEff line"))?;
    Ok(effective & NEEDED == NEEDED)
}

/// Puts a fresh `/run` over the machine's, in the private mount namespace of this process, and
/// carries the directories over (some distributions keep all programs below `/run`). Files and
/// sockets are omitted, because locks of the real root would interfere.
fn cover_run() -> io::Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let old = open("/run", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, Some("mode=0755"))?;
    let old = format!("/proc/self/fd/{}", old.as_raw_fd());
    for entry in fs::read_dir(&old)? {
        let entry = entry?;
        let (source, target) = (entry.path(), Path::new("/run").join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(source)?, target)?;
        } else if kind.is_dir() && !["netns", "sluice-lab"].iter().any(|n| entry.file_name() == *n)
        {
            fs::create_dir(&target)?;
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            // A directory that cannot be carried over (another user's) stays empty: nothing here
            // needs it.
            let _ = mount(Some(&source), &target, None::<&str>, bind, None::<&str>);
        }
    }
    Ok(())
}
