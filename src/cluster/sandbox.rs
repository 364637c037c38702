//! The inside of a pod for programs of this machine: the pod's network, its own `/etc/resolv.conf` and the like, and
//! its hostname. Files are bound over the machine's in a mount namespace of the program's own.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::sethostname;

/// What a program finds in a pod. It holds no open file, so that it can be told to another process.
#[derive(Debug, Clone)]
pub struct Sandbox {
    namespace: CString,
    /// A file, and the one that it hides.
    files: Vec<(CString, CString)>,
    hostname: String,
}

impl Sandbox {
    /// A sandbox in a named network namespace.
    ///
    /// # Errors
    /// If a path has a NUL byte.
    pub fn new(
        namespace: &Path,
        files: &[(PathBuf, PathBuf)],
        hostname: &str,
    ) -> io::Result<Sandbox> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
        let files = files.iter().map(|(own, hidden)| Ok((text(own)?, text(hidden)?)));
        Ok(Sandbox {
            namespace: text(namespace)?,
            files: files.collect::<io::Result<_>>()?,
            hostname: hostname.to_owned(),
        })
    }

    /// A command that will run inside, and that the kernel kills when the thread that starts it ends.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.process_group(0);
        let inside = self.clone();
        let enter = move || {
            set_pdeathsig(Signal::SIGKILL)?;
            inside.enter()
        };
        #[allow(unsafe_code)]
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes system calls
        // with texts that are there already, and neither allocates nor locks.
        unsafe {
            command.pre_exec(enter);
        }
        command
    }

    /// Puts this process, which has one thread, inside.
    ///
    /// # Errors
    /// If the kernel refuses a step, or the namespace is gone.
    pub fn enter(&self) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let namespace = open(self.namespace.as_c_str(), flags, Mode::empty())?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, c"/", None::<&str>, private, None::<&str>)?;
        for (own, hidden) in &self.files {
            let bind = MsFlags::MS_BIND;
            mount(Some(own.as_c_str()), hidden.as_c_str(), None::<&str>, bind, None::<&str>)?;
        }
        Ok(sethostname(&self.hostname)?)
    }
}
