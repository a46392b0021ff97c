//! A [`Gpu`] that is the processor: the kernels compiled as C++, cuBLAS replaced by the definition of a product.

use super::super::terms::{Argument, Gpu, Kind, Matrix, Product, Stored, View, count};
use candle_core::Result;
use half::{bf16, f16};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::process::Command;
use std::sync::OnceLock;

type Launch = unsafe extern "C" fn(*const c_char, c_uint, *const c_char, *mut *mut c_void, bool) -> c_int;

/// As much scratch memory as no test needs.
pub const PLENTY: usize = 1 << 20;

/// Kernels as C++.
#[derive(Clone, Copy)]
pub struct Host {
    pub launch: Launch,
    /// Whether the last thread goes first.
    pub backwards: bool,
    pub scratch: usize,
}

/// Compiled once for all tests; `None` where there is no compiler.
pub fn host() -> Option<&'static Host> {
    static HOST: OnceLock<Option<Host>> = OnceLock::new();
    HOST.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/ops/gpu/host.cpp");
        // Tests of several builds may run at once.
        let library = format!("{}/kernels-{}.so", env!("OUT_DIR"), std::process::id());
        let mut compile = Command::new("c++");
        compile.args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", &library, source]);
        match compile.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: there is no c++ to compile the kernels with");
                return None;
            }
            output => {
                let output = output.expect("c++ runs");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        let path = CString::new(library.as_str()).expect("a path");
        // SAFETY: the library is ours and has nothing that runs when it is loaded.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{library} can be loaded");
        std::fs::remove_file(&library).expect("the library can be removed");
        // SAFETY: `handle` is open and the name ends with NUL.
        let symbol = unsafe { libc::dlsym(handle, c"launch_kernel".as_ptr()) };
        assert!(!symbol.is_null(), "{library} has launch_kernel");
        // SAFETY: host.cpp defines it with this type.
        let launch = unsafe { std::mem::transmute::<*mut c_void, Launch>(symbol) };
        Some(Host { launch, backwards: false, scratch: PLENTY })
    })
    .as_ref()
}

/// A tensor there.
#[derive(Clone, Debug)]
pub enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

/// An argument as the kernel takes it.
#[repr(C)]
union Passed {
    pointer: *mut c_void,
    count: u32,
    value: f32,
}

/// Evaluates an expression with the values of one of the kinds.
macro_rules! with_values {
    ($buffer:expr, $values:ident => $result:expr) => {
        match $buffer {
            Buffer::F32($values) => $result,
            Buffer::Bf16($values) => $result,
            Buffer::F16($values) => $result,
        }
    };
}

fn wide(value: impl Into<f32>) -> f32 {
    value.into()
}

impl Stored for Buffer {
    fn kind(&self) -> Kind {
        match self {
            Self::F32(_) => Kind::F32,
            Self::Bf16(_) => Kind::Bf16,
            Self::F16(_) => Kind::F16,
        }
    }
}

impl Buffer {
    /// The nearest numbers of that kind.
    pub fn of(values: &[f32], kind: Kind) -> Self {
        match kind {
            Kind::F32 => Self::F32(values.to_vec()),
            Kind::Bf16 => Self::Bf16(values.iter().map(|value| bf16::from_f32(*value)).collect()),
            Kind::F16 => Self::F16(values.iter().map(|value| f16::from_f32(*value)).collect()),
        }
    }

    pub fn values(&self) -> Vec<f32> {
        with_values!(self, values => values.iter().map(|value| wide(*value)).collect())
    }

    fn get(&self, at: usize) -> f32 {
        with_values!(self, values => wide(values[at]))
    }

    fn set(&mut self, at: usize, value: f32) {
        match self {
            Self::F32(values) => values[at] = value,
            Self::Bf16(values) => values[at] = bf16::from_f32(value),
            Self::F16(values) => values[at] = f16::from_f32(value),
        }
    }

    /// The address of value `start`, as an argument, and what host.cpp calls it.
    fn pointer(&mut self, start: usize) -> (Passed, c_char) {
        let pointer = with_values!(self, values => values[start..].as_mut_ptr().cast());
        (Passed { pointer }, self.letter())
    }

    /// As [`Buffer::pointer`], of what is only read.
    fn const_pointer(&self, start: usize) -> (Passed, c_char) {
        let pointer: *const c_void = with_values!(self, values => values[start..].as_ptr().cast());
        (Passed { pointer: pointer.cast_mut() }, self.letter())
    }

    fn letter(&self) -> c_char {
        let letter = match self.kind() {
            Kind::F32 => b'f',
            Kind::Bf16 => b'b',
            Kind::F16 => b'h',
        };
        letter as c_char
    }
}

impl Host {
    /// What a launch with no arguments ends with: 1 for a kernel that is not there, 2 for one that takes others.
    pub fn status_without_arguments(&self, kernel: &str) -> c_int {
        let name = CString::new(kernel).expect("a name");
        // SAFETY: no argument is read, because there are none.
        unsafe { (self.launch)(name.as_ptr(), 1, c"".as_ptr(), std::ptr::null_mut(), false) }
    }
}

impl Gpu for Host {
    type Buffer = Buffer;

    fn scratch(&self) -> usize {
        self.scratch
    }

    fn buffer(&self, len: usize, kind: Kind) -> Result<Buffer> {
        // Not zeros: what reads a value that nothing wrote is found out.
        Ok(Buffer::of(&vec![f32::NAN; len], kind))
    }

    fn launch(&self, kernel: &str, blocks: usize, arguments: &mut [Argument<'_, Buffer>]) -> Result<()> {
        let (mut passed, mut kinds): (Vec<Passed>, Vec<c_char>) = (Vec::new(), Vec::new());
        for argument in arguments {
            let (argument, kind) = match argument {
                // The kernel takes it as one to constants, and the kinds are compared.
                Argument::In(View { buffer, start }) => buffer.const_pointer(*start),
                Argument::Out(buffer) => buffer.pointer(0),
                Argument::OutFrom((buffer, start)) => buffer.pointer(*start),
                Argument::Count(number) => (Passed { count: count(*number)? }, b'u' as c_char),
                Argument::Value(value) => (Passed { value: *value }, b'v' as c_char),
            };
            passed.push(argument);
            kinds.push(kind);
        }
        kinds.push(0);
        let mut pointers: Vec<*mut c_void> = passed.iter_mut().map(|passed| (&raw mut *passed).cast()).collect();
        let name = CString::new(kernel).expect("a name");
        // SAFETY: what `launch_kernel` takes. That the kernels stay within their buffers was seen with
        // -fsanitize=address, see docs/CUDA.md.
        let status = unsafe {
            (self.launch)(name.as_ptr(), count(blocks)?, kinds.as_ptr(), pointers.as_mut_ptr(), self.backwards)
        };
        assert_eq!(status, 0, "{kernel} with {} arguments", pointers.len());
        Ok(())
    }

    fn matmul(&self, out: &mut Buffer, a: Matrix<'_, Buffer>, b: Matrix<'_, Buffer>, product: Product) -> Result<()> {
        let Product { m, n, k, scale, add, out_start, out_row, out_batch, batches } = product;
        // cuBLAS has no others.
        assert!(a.view.kind() == b.view.kind() && [a.view.kind(), Kind::F32].contains(&out.kind()));
        let value = |matrix: &Matrix<'_, Buffer>, batch: usize, row: usize, column: usize| {
            let (row, column) = if matrix.transposed { (column, row) } else { (row, column) };
            // cuBLAS refuses rows that overlap.
            assert!(column < matrix.row);
            f64::from(matrix.view.buffer.get(matrix.view.start + batch * matrix.batch + row * matrix.row + column))
        };
        assert!(n <= out_row);
        for (batch, row, column) in (0..batches * m * n).map(|i| (i / (m * n), i / n % m, i % n)) {
            let sum: f64 = (0..k).map(|i| value(&a, batch, row, i) * value(&b, batch, i, column)).sum();
            let at = out_start + batch * out_batch + row * out_row + column;
            out.set(at, (sum * f64::from(scale)) as f32 + if add { out.get(at) } else { 0.0 });
        }
        Ok(())
    }
}
