//! Windows.

use std::ffi::{CStr, OsString, c_void};
use std::os::windows::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use windows_sys::Win32::Foundation::MAX_PATH;
use windows_sys::Win32::System::LibraryLoader::{
    GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT, GetModuleFileNameW,
    GetModuleHandleExW,
};
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
use windows_sys::Win32::System::Threading::{BELOW_NORMAL_PRIORITY_CLASS, GetCurrentProcess, SetPriorityClass};

/// Longest path of a file.
const LONGEST_PATH: usize = 128 * MAX_PATH as usize;

/// There is no such signal here.
pub fn hangup() -> Option<std::ffi::c_int> {
    None
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

/// Nothing is known of limits here.
pub fn limited_by() -> &'static str {
    ""
}

/// Nobody asks here.
pub fn own_memory() -> Option<[u64; 2]> {
    None
}

/// Nobody is killed here where memory ends.
pub fn be_killed_first() {}

/// The file with the library or program that holds `function`.
pub fn file_of(function: *const c_void) -> Option<PathBuf> {
    let mut library = null_mut();
    let how = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    let mut path = vec![0_u16; LONGEST_PATH];
    // SAFETY: the first call only compares the address with those of the loaded files; the second one writes at most as
    // many letters as there is room for, and says how many.
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
