//! Unix: Linux and macOS.

use std::ffi::{CStr, OsStr, OsString, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Lets every other program go first: threads that are started after this use what the others leave of the processor.
pub fn yield_to_other_programs() {
    // A fifth of the usual share where both want the same core; enough for an editor to answer at once.
    const NICENESS: c_int = 7;
    // SAFETY: changes a number of the calling thread; where that is refused, everything only goes on as before.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

/// The signal that comes when the terminal is closed; none where whoever started us wants us to go on then, as `nohup`.
pub fn hangup() -> Option<c_int> {
    // SAFETY: zeros are a valid value of this struct of numbers and a pointer to a function or NULL.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and `action` is writable.
    let known = unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action) } == 0;
    (!known || action.sa_sigaction != libc::SIG_IGN).then_some(libc::SIGHUP)
}

/// Bytes of memory that can be had without swapping; `None` where the system does not say.
#[cfg(not(target_os = "macos"))]
pub fn free_memory() -> Option<u64> {
    room().map(|room| room.bytes)
}

#[cfg(not(target_os = "macos"))]
fn room() -> Option<super::limits::Room> {
    super::limits::room(Path::new("/proc"), Path::new("/sys"))
}

/// Why [`free_memory`] is less than what the machine has; empty where it is not.
pub fn limited_by() -> &'static str {
    #[cfg(not(target_os = "macos"))]
    return match room().map(|room| room.by) {
        Some(super::limits::By::ControlGroup) => {
            ", as a control group allows (a container's, a flatpak's or a session's)"
        }
        Some(super::limits::By::Ulimit) => ", as ulimit -v or -d allows",
        _ => "",
    };
    #[cfg(target_os = "macos")]
    ""
}

/// Bytes of memory that this process has, and that it had at most; `None` where the system does not say.
pub fn own_memory() -> Option<[u64; 2]> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = |name| {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(rest.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    };
    Some([line("VmRSS:")?, line("VmHWM:")?])
}

/// Where memory ends, Linux ends this program before any other: an editor may hold unsaved work.
pub fn be_killed_first() {
    // Where there is no such file, or it may not be written, everything only goes on as before.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

/// Bytes of memory that can be had without swapping; `None` where the system does not say.
#[cfg(target_os = "macos")]
pub fn free_memory() -> Option<u64> {
    // Pages that are empty, and pages whose content is on disk as well.
    let pages = system_number(c"vm.page_free_count")? + system_number(c"vm.page_pageable_external_count")?;
    Some(pages * system_number(c"hw.pagesize")?)
}

/// A number that the kernel tells under this name, in 32 or in 64 bits.
#[cfg(target_os = "macos")]
fn system_number(name: &CStr) -> Option<u64> {
    let mut bytes = [0_u8; size_of::<u64>()];
    let mut size = bytes.len();
    // SAFETY: the name is a C string; the kernel writes at most `size` bytes and says how many; nothing is set.
    let answer =
        unsafe { libc::sysctlbyname(name.as_ptr(), bytes.as_mut_ptr().cast(), &raw mut size, std::ptr::null_mut(), 0) };
    match (answer, size) {
        (0, 4) => Some(u32::from_ne_bytes(bytes[..4].try_into().ok()?).into()),
        (0, 8) => Some(u64::from_ne_bytes(bytes)),
        _ => None,
    }
}

/// The file with the library or program that holds `function`.
pub fn file_of(function: *const c_void) -> Option<PathBuf> {
    // SAFETY: null pointers are valid ones.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr only compares the address with those of the loaded files, and `info` is writable.
    let found = unsafe { libc::dladdr(function, &raw mut info) } != 0;
    if !found || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name ends with NUL and lives as long as the library is loaded, which is now.
    let file = unsafe { CStr::from_ptr(info.dli_fname) };
    Path::new(OsStr::from_bytes(file.to_bytes())).canonicalize().ok()
}

/// A text from C's `main`.
pub fn os_text(text: &CStr) -> OsString {
    OsString::from_vec(text.to_bytes().to_vec())
}

/// Whether the file can be started as a program.
pub fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
