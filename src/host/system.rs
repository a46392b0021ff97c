//! What hosts ask the operating system: Ctrl+C, the terminal's width, free disk and memory; the command line's unsafe code is here.

use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
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
pub fn free_memory() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Bytes that this account can still write to the disk of `folder`; `None` when the folder is not there.
pub fn free_disk(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: an all-zero statvfs is a valid one.
    let mut disk: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with NUL and statvfs writes one struct to the pointer.
    let answer = unsafe { libc::statvfs(path.as_ptr(), &raw mut disk) };
    (answer == 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}
