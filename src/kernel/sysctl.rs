//! Settings of the kernel below `/proc/sys`.

use std::io;
use std::path::Path;

/// A setting is not as it must be.
#[derive(Debug, thiserror::Error)]
#[error("set {name} to {value}: {source}; set it before the start if this process may not")]
pub struct SysctlError {
    /// Its path below `/proc/sys`.
    name: &'static str,
    /// What it should be.
    value: &'static str,
    /// Why it is not.
    source: io::Error,
}

/// Sets a setting of the current network namespace, by its path below `/proc/sys`; one that is right
/// is left alone, so that a process that may not write it can do without.
///
/// # Errors
/// If it has another value and cannot be written.
pub fn set_sysctl(name: &'static str, value: &'static str) -> Result<(), SysctlError> {
    let path = Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| SysctlError { name, value, source })
}
