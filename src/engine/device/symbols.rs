//! CUDA's functions, found when the program runs: so that one library starts on machines with and without CUDA.
//!
//! cudarc, through which candle calls CUDA, leaves each function to the linker. Here the linker finds all that are
//! called: each is a jump to an address in a table that [`load`] fills. Nobody calls one before; who does all the same
//! gets an abort that says so. The build fails where one is missing here (`-z defs` in build.rs), and says which.
//!
//! candle also opens a generator of cuRAND with each device. All random numbers of an edit are our own, so this one is
//! never asked for a number, and a library of 130 MB is saved: the four calls that open and close it do nothing.

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("the feature cuda is for Linux on x86-64");

/// One function: its name and where its address goes.
#[repr(C)]
struct Symbol {
    name: *const c_char,
    address: *mut *mut c_void,
}

/// Defines functions that jump to where a table says, and the table, which ends with NULL.
macro_rules! found_later {
    ($table:literal: $($name:ident)+) => {
        std::arch::global_asm!(
            concat!(
                ".pushsection .data.rel.ro.", $table, ",\"aw\",@progbits\n.balign 8\n.globl ", $table, "\n.hidden ",
                $table
            ),
            concat!($table, ":\n.popsection"),
            $(
                concat!(
                    ".pushsection .rodata.", $table, ",\"a\",@progbits\n9:\n.asciz \"", stringify!($name),
                    "\"\n.popsection"
                ),
                concat!(
                    ".pushsection .data.", $table,
                    ",\"aw\",@progbits\n.balign 8\n8:\n.quad imagic_cuda_not_loaded\n.popsection"
                ),
                concat!(".pushsection .data.rel.ro.", $table, ",\"aw\",@progbits\n.quad 9b, 8b\n.popsection"),
                concat!(
                    ".pushsection .text.", $table, ",\"ax\",@progbits\n.globl ", stringify!($name), "\n.hidden ",
                    stringify!($name)
                ),
                concat!(
                    ".type ", stringify!($name), ",@function\n", stringify!($name), ":\njmp *8b(%rip)\n.popsection"
                ),
            )+
            concat!(".pushsection .data.rel.ro.", $table, ",\"aw\",@progbits\n.quad 0, 0\n.popsection"),
            options(att_syntax)
        );
    };
}

/// Defines functions that do nothing and say that they succeeded.
macro_rules! not_needed {
    ($($name:ident)+) => {
        std::arch::global_asm!(
            $(
                concat!(".pushsection .text.imagic_cuda_not_needed,\"ax\",@progbits\n.globl ", stringify!($name)),
                concat!(
                    ".hidden ", stringify!($name), "\n.type ", stringify!($name), ",@function\n", stringify!($name), ":"
                ),
                "xorl %eax, %eax\nret\n.popsection",
            )+
            options(att_syntax)
        );
    };
}

found_later! { "imagic_cuda_driver":
    cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxSynchronize cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount
    cuDeviceGetDefaultMemPool cuDeviceGetGraphMemAttribute cuDeviceGetName cuDeviceGraphMemTrim
    cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuDeviceTotalMem_v2
    cuDriverGetVersion cuEventCreate cuEventDestroy_v2 cuEventRecord cuGetErrorString
    cuGraphDestroy cuGraphExecDestroy cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload cuInit cuLaunchKernel
    cuMemAllocAsync cuMemAlloc_v2 cuMemFreeAsync cuMemFree_v2 cuMemGetInfo_v2 cuMemPoolGetAttribute
    cuMemPoolSetAttribute cuMemPoolTrimTo cuMemcpyDtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemcpyHtoDAsync_v2
    cuMemcpyPeerAsync
    cuMemsetD8Async cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuStreamBeginCapture_v2
    cuStreamCreate
    cuStreamDestroy_v2 cuStreamEndCapture cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
}

found_later! { "imagic_cuda_blas":
    cublasCreate_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasGemmStridedBatchedEx cublasSetMathMode
    cublasSetStream_v2 cublasSetWorkspace_v2
}

not_needed! { curandCreateGenerator curandDestroyGenerator curandSetPseudoRandomGeneratorSeed curandSetStream }

unsafe extern "C" {
    #[link_name = "imagic_cuda_driver"]
    static DRIVER: Symbol;
    #[link_name = "imagic_cuda_blas"]
    static BLAS: Symbol;
}

/// Where every function jumps to until it is found.
extern "C" fn not_loaded() -> ! {
    eprintln!(
        "imagic-edit: this is a defect of Imagic Edit, please report it: a function of CUDA was called that is not \
         loaded"
    );
    std::process::abort()
}

std::arch::global_asm!(
    ".pushsection .text.imagic_cuda_not_loaded,\"ax\",@progbits",
    ".hidden imagic_cuda_not_loaded\n.globl imagic_cuda_not_loaded\nimagic_cuda_not_loaded:",
    // On a stack aligned as for a call, whatever the caller's was.
    "andq $-16, %rsp\ncall {not_loaded}\n.popsection",
    not_loaded = sym not_loaded,
    options(att_syntax)
);

/// Finds the functions of NVIDIA's driver and of cuBLAS, which is looked for in `folders`, too. Says what is missing,
/// and what to do.
pub fn load(folders: &[PathBuf]) -> Result<(), String> {
    // Once for the process, because the tables are the linker's. A library stays loaded until the process ends.
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            let driver = open("libcuda.so.1", &[])
                .ok_or("there is no driver of NVIDIA (libcuda.so.1); an edit takes the GPU when one is installed")?;
            // cuBLAS names this one without saying where it is.
            open("libcublasLt.so.13", folders);
            let blas = open("libcublas.so.13", folders)
                .ok_or("NVIDIA's libcublas.so.13 is missing; run installer/cuda-runtime.sh")?;
            // SAFETY: the tables are of `found_later`. Nothing else refers to them, and `get_or_init` lets one thread
            // in.
            unsafe {
                fill(&raw const DRIVER, driver);
                fill(&raw const BLAS, blas);
            }
            Ok(())
        })
        .clone()
}

/// A library, found by the system's loader or in one of `folders`.
fn open(name: &str, folders: &[PathBuf]) -> Option<*mut c_void> {
    let paths = folders.iter().map(|folder| CString::new(folder.join(name).as_os_str().as_bytes()));
    let names = std::iter::once(CString::new(name)).chain(paths);
    let handles = names.flatten().map(|path| {
        // SAFETY: libraries of NVIDIA, which may be loaded by any program at any time.
        unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }
    });
    handles.into_iter().find(|handle| !handle.is_null())
}

/// Fills a table with what is in a library.
///
/// # Safety
/// `symbol` is the first of a table of `found_later`, none of whose functions is being called; `library` is open.
unsafe fn fill(mut symbol: *const Symbol, library: *mut c_void) {
    // SAFETY: every entry up to the one of NULLs has a name that ends with NUL and an address that can be written.
    unsafe {
        while !(*symbol).name.is_null() {
            let address = libc::dlsym(library, CStr::from_ptr((*symbol).name).as_ptr());
            // A driver that is older than cudarc lacks some, none of which is called.
            if !address.is_null() {
                (*symbol).address.write(address);
            }
            symbol = symbol.add(1);
        }
    }
}
