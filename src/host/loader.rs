//! Opens a host's C library at run time and looks its functions up on first use; knows no host.

use crate::error::{Error, Result};
use crate::text::text;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

#[cfg(unix)]
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};
#[cfg(windows)]
use libloading::os::windows::Library;

/// The library in which every [`Symbol`] is looked up: one process serves one host.
static LIBRARY: Mutex<Option<Library>> = Mutex::new(None);

/// Opens the library for good: GObject types cannot be unloaded again.
pub fn open(name: &CStr) -> Result<()> {
    let file = name.to_string_lossy();
    // SAFETY: opening a shared library runs its initializers; libgimp and GTK are made for that.
    #[cfg(unix)]
    let library = unsafe { Library::open(Some(&*file), RTLD_LAZY | RTLD_GLOBAL | libc::RTLD_NODELETE) };
    // SAFETY: as above.
    #[cfg(windows)]
    let library = unsafe { Library::new(&*file) }.and_then(|library| library.pin().map(|()| library));
    let library = library.map_err(|reason| {
        let reason = reason.to_string();
        Error::Host(text!("{reason}; install GIMP's libraries or start the plug-in from GIMP", reason))
    })?;
    *LIBRARY.lock().unwrap_or_else(PoisonError::into_inner) = Some(library);
    Ok(())
}

/// One C function, looked up when it is first called.
pub struct Symbol {
    name: &'static CStr,
    address: OnceLock<usize>,
}

impl Symbol {
    /// Looks nothing up yet.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, address: OnceLock::new() }
    }

    /// The function's address in the open library or in one that it needs; `None` when there is no such function.
    pub fn find(&self) -> Option<*mut c_void> {
        let library = LIBRARY.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: only the address is asked for; whoever calls the function knows its type.
        let found = unsafe { library.as_ref()?.get::<*mut c_void>(self.name) };
        let address = found.map_or(null_mut(), |symbol| *symbol);
        #[cfg(windows)]
        let address = if address.is_null() { of_loaded_libraries(self.name) } else { address };
        (!address.is_null()).then_some(address)
    }

    /// The function's address. Panics where the host lacks the function: every call from a host sits in a guard.
    pub fn address(&self) -> *mut c_void {
        let lacking = || panic!("this host has no function {}", self.name.to_string_lossy());
        *self.address.get_or_init(|| self.find().unwrap_or_else(lacking) as usize) as *mut c_void
    }
}

/// Windows looks into one library alone; those that it needs are loaded as well.
#[cfg(windows)]
fn of_loaded_libraries(name: &CStr) -> *mut c_void {
    use windows_sys::Win32::Foundation::HMODULE;
    use windows_sys::Win32::System::LibraryLoader::GetProcAddress;
    use windows_sys::Win32::System::ProcessStatus::K32EnumProcessModules;
    use windows_sys::Win32::System::Threading::GetCurrentProcess;

    /// Libraries that a process may have loaded; GIMP's have some hundred.
    const MOST: usize = 4096;
    let mut libraries: Vec<HMODULE> = vec![null_mut(); MOST];
    let (room, mut used) = (size_of_val(libraries.as_slice()) as u32, 0);
    // SAFETY: the call writes at most `room` bytes to the list, and how many it would need to `used`.
    let answer = unsafe { K32EnumProcessModules(GetCurrentProcess(), libraries.as_mut_ptr(), room, &raw mut used) };
    libraries.truncate(if answer == 0 { 0 } else { used as usize / size_of::<HMODULE>() });
    // SAFETY: each is a loaded library; the name is a C string.
    let of = |library: HMODULE| unsafe { GetProcAddress(library, name.as_ptr().cast()) };
    libraries.into_iter().find_map(of).map_or(null_mut(), |function| function as *mut c_void)
}
