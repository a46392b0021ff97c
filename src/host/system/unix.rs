//! Unix: Linux and macOS.

use std::ffi::{CStr, CString, OsStr, OsString, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn remember(signal: c_int) {
    SIGNAL.store(signal, Ordering::Relaxed);
}

/// From now on the first Ctrl+C (or SIGTERM) is only remembered for [`stop_signal`]; the second one kills as usual.
pub fn catch_stop_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero sigaction is a valid one: default handler, empty mask, no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = remember as extern "C" fn(c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        // SAFETY: the handler only stores to an atomic, which is allowed at any moment.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// The signal that asked to stop, if one came.
pub fn stop_signal() -> Option<c_int> {
    Some(SIGNAL.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// Columns of the terminal behind stderr; `None` when stderr is not a terminal.
pub fn terminal_width() -> Option<usize> {
    // SAFETY: an all-zero winsize is a valid one.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer.
    let answer = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    // Some terminals do not know their size and say 0.
    (answer == 0).then(|| if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
}

/// Lets every other program go first: threads that are started after this use what the others leave of the processor.
pub fn yield_to_other_programs() {
    // A fifth of the usual share where both want the same core; enough for an editor to answer at once.
    const NICENESS: c_int = 7;
    // SAFETY: changes a number of the calling thread; where that is refused, everything only goes on as before.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

/// Bytes of memory that can be had without swapping; `None` where the system does not say.
#[cfg(not(target_os = "macos"))]
pub fn free_memory() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
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

/// Bytes that this account can still write to the disk of `folder`; `None` when the folder is not there.
pub fn free_disk(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: an all-zero statvfs is a valid one.
    let mut disk: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with NUL and statvfs writes one struct to the pointer.
    let answer = unsafe { libc::statvfs(path.as_ptr(), &raw mut disk) };
    // Their widths differ from one Unix to the next.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    (answer == 0).then(|| u64::from(disk.f_bavail).saturating_mul(disk.f_frsize as u64))
}

/// Opens a shared library for good; why it cannot be opened.
pub fn open_library(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: opening a shared library runs its initializers; libgimp and GTK are made for that.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL | libc::RTLD_NODELETE) };
    if library.is_null() {
        // SAFETY: after a failed dlopen this is a C string, valid until the next call of a dl function.
        return Err(unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned());
    }
    Ok(library)
}

/// The address of a function in the library or in one that it needs; null when there is none.
///
/// # Safety
/// `library` came from [`open_library`].
pub unsafe fn find_function(library: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: the caller's promise; the library is never closed; the name is a C string.
    unsafe { libc::dlsym(library, name.as_ptr()) }
}

/// The file with the library or program that holds `function`.
pub fn file_of(function: *const c_void) -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
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
