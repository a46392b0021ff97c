//! Windows.

use std::ffi::{CStr, OsString, c_int, c_void};
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering};
use windows_sys::Win32::Foundation::{HMODULE, MAX_PATH};
use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;
use windows_sys::Win32::System::Console::{
    CONSOLE_SCREEN_BUFFER_INFO, GetConsoleScreenBufferInfo, GetStdHandle, STD_ERROR_HANDLE, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::LibraryLoader::{
    GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT, GetModuleFileNameW,
    GetModuleHandleExW, GetProcAddress, LoadLibraryA,
};
use windows_sys::Win32::System::ProcessStatus::K32EnumProcessModules;
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
use windows_sys::Win32::System::Threading::{BELOW_NORMAL_PRIORITY_CLASS, GetCurrentProcess, SetPriorityClass};
use windows_sys::core::BOOL;

/// Libraries that a process may have loaded; GIMP's have some hundred.
const MOST_LIBRARIES: usize = 4096;

/// Longest path of a file.
const LONGEST_PATH: usize = 128 * MAX_PATH as usize;

static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The first event is only remembered; after that the system's own handler ends the program.
unsafe extern "system" fn remember(_event: u32) -> BOOL {
    (SIGNAL.swap(libc::SIGINT, Ordering::Relaxed) == 0).into()
}

/// From now on the first Ctrl+C is only remembered for [`stop_signal`]; the second one ends the program as usual.
pub fn catch_stop_signals() {
    // SAFETY: the handler only stores to an atomic, which is allowed on the thread that Windows makes for it.
    unsafe { SetConsoleCtrlHandler(Some(remember), 1) };
}

/// The signal that asked to stop, if one came.
pub fn stop_signal() -> Option<c_int> {
    Some(SIGNAL.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// Columns of the terminal behind stderr; `None` when stderr is not a terminal.
pub fn terminal_width() -> Option<usize> {
    // SAFETY: an all-zero structure is a valid one; the call writes one to the pointer, or nothing.
    unsafe {
        let mut screen: CONSOLE_SCREEN_BUFFER_INFO = std::mem::zeroed();
        let answer = GetConsoleScreenBufferInfo(GetStdHandle(STD_ERROR_HANDLE), &raw mut screen);
        (answer != 0).then(|| usize::try_from(screen.dwSize.X).unwrap_or(80))
    }
}

/// Lets every other program go first: this one uses what the others leave of the processor.
pub fn yield_to_other_programs() {
    // SAFETY: changes a number of this process; where that is refused, everything only goes on as before.
    unsafe { SetPriorityClass(GetCurrentProcess(), BELOW_NORMAL_PRIORITY_CLASS) };
}

/// Bytes of memory that can be had without swapping; `None` where the system does not say.
pub fn free_memory() -> Option<u64> {
    // SAFETY: an all-zero structure is a valid one once it says its size; the call writes one to the pointer.
    unsafe {
        let mut memory: MEMORYSTATUSEX = std::mem::zeroed();
        memory.dwLength = size_of::<MEMORYSTATUSEX>() as u32;
        (GlobalMemoryStatusEx(&raw mut memory) != 0).then_some(memory.ullAvailPhys)
    }
}

/// Bytes that this account can still write to the disk of `folder`; `None` when the folder is not there.
pub fn free_disk(folder: &Path) -> Option<u64> {
    let path: Vec<u16> = folder.as_os_str().encode_wide().chain([0]).collect();
    let mut free = 0;
    // SAFETY: `path` ends with NUL; the call writes one number, and none where a null says that it is not wanted.
    let answer = unsafe { GetDiskFreeSpaceExW(path.as_ptr(), &raw mut free, null_mut(), null_mut()) };
    (answer != 0).then_some(free)
}

/// Opens a shared library for good; why it cannot be opened.
pub fn open_library(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: opening a shared library runs its initializers; libgimp and GTK are made for that; the name is a C string.
    let library = unsafe { LoadLibraryA(name.as_ptr().cast()) };
    if library.is_null() {
        return Err(format!("{}: {}", name.to_string_lossy(), std::io::Error::last_os_error()));
    }
    Ok(library)
}

/// The address of a function in the library or in one that it needs; null when there is none.
///
/// # Safety
/// `library` came from [`open_library`].
pub unsafe fn find_function(library: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: the caller's promise; the library is never closed; the name is a C string.
    let of = |library: HMODULE| unsafe { GetProcAddress(library, name.as_ptr().cast()) };
    // Windows looks into this one library alone; those that it needs are loaded as well.
    let found = of(library).or_else(|| loaded_libraries().into_iter().find_map(of));
    found.map_or(null_mut(), |function| function as *mut c_void)
}

fn loaded_libraries() -> Vec<HMODULE> {
    let mut libraries: Vec<HMODULE> = vec![null_mut(); MOST_LIBRARIES];
    let (room, mut used) = (size_of_val(libraries.as_slice()) as u32, 0);
    // SAFETY: the call writes at most `room` bytes to the list, and how many it would need to `used`.
    let answer = unsafe { K32EnumProcessModules(GetCurrentProcess(), libraries.as_mut_ptr(), room, &raw mut used) };
    libraries.truncate(if answer == 0 { 0 } else { used as usize / size_of::<HMODULE>() });
    libraries
}

/// The file with the library or program that holds `function`.
pub fn file_of(function: *const c_void) -> Option<PathBuf> {
    let mut library = null_mut();
    let how = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    let mut path = vec![0_u16; LONGEST_PATH];
    // SAFETY: the first call only compares the address with those of the loaded files; the second one writes at most as many
    // letters as there is room for, and says how many.
    let length = unsafe {
        if GetModuleHandleExW(how, function.cast(), &raw mut library) == 0 {
            return None;
        }
        GetModuleFileNameW(library, path.as_mut_ptr(), path.len() as u32)
    };
    (length != 0).then(|| OsString::from_wide(&path[..length as usize]).into())
}

/// A text from C's `main`, which the launcher and GIMP write in UTF-8.
pub fn os_text(text: &CStr) -> OsString {
    text.to_string_lossy().into_owned().into()
}

/// Whether the file can be started as a program: by its name.
pub fn is_program(file: &Path) -> bool {
    file.is_file()
}
