//! The GPU's operations on the processor: the same kernels compiled as C++, cuBLAS replaced by the definition of a product.
//! Values and gradients are compared with those of the CPU's operations.

use super::*;
use crate::engine::ops::{self, Activation, Padding, Parameters, with_values};
use crate::engine::optimizer::MomentBits;
use crate::engine::random::{Purpose, Stream};
use candle_core::{Device, Tensor, Var};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::process::Command;
use std::sync::OnceLock;

type Launch = unsafe extern "C" fn(*const c_char, c_uint, c_uint, *mut *mut c_void, bool) -> c_int;

/// As much scratch memory as no test needs.
const PLENTY: usize = 1 << 20;

/// Kernels as C++.
#[derive(Clone, Copy)]
struct Host {
    launch: Launch,
    /// Whether the last thread goes first.
    backwards: bool,
    /// Whether attention is done by one kernel.
    fused: bool,
    scratch: usize,
}

/// Compiled once for all tests; `None` where there is no compiler.
fn host() -> Option<&'static Host> {
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
        Some(Host { launch, backwards: false, fused: false, scratch: PLENTY })
    })
    .as_ref()
}

impl Gpu for Host {
    type Buffer = Vec<f32>;

    fn scratch(&self) -> usize {
        self.scratch
    }

    fn fuses_attention(&self) -> bool {
        self.fused
    }

    fn buffer(&self, len: usize) -> Result<Vec<f32>> {
        // Not zeros: what reads a value that nothing wrote is found out.
        Ok(vec![f32::NAN; len])
    }

    fn launch(&self, kernel: &'static str, blocks: usize, arguments: &mut [Argument<'_, Vec<f32>>]) -> Result<()> {
        #[repr(C)]
        union Passed {
            pointer: *mut f32,
            count: u32,
            value: f32,
        }
        let mut passed: Vec<Passed> = Vec::new();
        for argument in arguments {
            passed.push(match argument {
                Argument::In(view) => Passed { pointer: view.buffer[view.start..].as_ptr().cast_mut() },
                Argument::Out(buffer) => Passed { pointer: buffer.as_mut_ptr() },
                Argument::OutFrom((buffer, start)) => Passed { pointer: buffer[*start..].as_mut_ptr() },
                Argument::Count(number) => Passed { count: count(*number)? },
                Argument::Value(value) => Passed { value: *value },
            });
        }
        let mut pointers: Vec<*mut c_void> = passed.iter_mut().map(|passed| (&raw mut *passed).cast()).collect();
        let name = CString::new(kernel).expect("a name");
        // SAFETY: what `launch_kernel` takes. That the kernels stay within their buffers was seen with -fsanitize=address, see
        // docs/CUDA.md.
        let status = unsafe {
            (self.launch)(
                name.as_ptr(),
                count(blocks)?,
                pointers.len() as c_uint,
                pointers.as_mut_ptr(),
                self.backwards,
            )
        };
        assert_eq!(status, 0, "{kernel} with {} arguments", pointers.len());
        Ok(())
    }

    fn matmul(
        &self,
        out: &mut Vec<f32>,
        a: Matrix<'_, Vec<f32>>,
        b: Matrix<'_, Vec<f32>>,
        product: Product,
    ) -> Result<()> {
        let Product { m, n, k, scale, add, out_start, out_row, out_batch, batches } = product;
        let value = |matrix: &Matrix<'_, Vec<f32>>, batch: usize, row: usize, column: usize| {
            let (row, column) = if matrix.transposed { (column, row) } else { (row, column) };
            // cuBLAS refuses rows that overlap.
            assert!(column < matrix.row);
            f64::from(matrix.view.buffer[matrix.view.start + batch * matrix.batch + row * matrix.row + column])
        };
        assert!(n <= out_row);
        for (batch, row, column) in (0..batches * m * n).map(|i| (i / (m * n), i / n % m, i % n)) {
            let sum: f64 = (0..k).map(|i| value(&a, batch, row, i) * value(&b, batch, i, column)).sum();
            let out = &mut out[out_start + batch * out_batch + row * out_row + column];
            *out = (sum * f64::from(scale)) as f32 + if add { *out } else { 0.0 };
        }
        Ok(())
    }
}

fn normals(seed: u32, shape: &[usize]) -> Tensor {
    Stream::new(seed, Purpose::Latents, 0).normals(shape, &Device::Cpu).expect("some numbers")
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    with_values(tensor, |values| Ok(values.to_vec())).expect("numbers on the CPU")
}

/// Both forms of an operation on random arguments: `cpu` gives the result and candle its gradients by the arguments, `gpu` gives
/// all of them of the arguments and of the result's gradient.
fn compare(
    name: &str,
    scratch: usize,
    shapes: &[&[usize]],
    cpu: impl Fn(&[Tensor]) -> Result<Tensor>,
    gpu: impl Fn(&Host, &[View<'_, Vec<f32>>], View<'_, Vec<f32>>) -> Result<Vec<Vec<f32>>>,
) {
    let Some(&host) = host() else { return };
    let host = &Host { scratch, ..host };
    let variable = |(shape, seed): (&&[usize], u32)| Var::from_tensor(&normals(seed, shape)).expect("a variable");
    let variables: Vec<Var> = shapes.iter().zip(1..).map(variable).collect();
    let arguments: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let y = cpu(&arguments).expect(name);
    let dy = normals(99, y.dims());
    let gradients = (&y * &dy).and_then(|y| y.sum_all()).and_then(|sum| sum.backward()).expect(name);
    let mut exact = vec![numbers(&y)];
    exact.extend(variables.iter().map(|variable| numbers(gradients.get(variable).expect("a gradient"))));

    // Behind something else, as tensors may be that are parts of larger ones; once where four numbers can be read at a time, once where
    // they cannot.
    let run = |host: &Host, before: usize| {
        let buffer = |tensor: &Tensor| [vec![f32::NAN; before], numbers(tensor)].concat();
        let buffers: Vec<Vec<f32>> = arguments.iter().map(buffer).collect();
        let dy = buffer(&dy);
        let views: Vec<View<'_, Vec<f32>>> = buffers.iter().map(|buffer| View { buffer, start: before }).collect();
        gpu(host, &views, View { buffer: &dy, start: before }).expect(name)
    };
    let ours = run(host, 3);
    let backwards = run(&Host { backwards: true, ..*host }, 4);
    assert!(ours == backwards, "{name} depends on the order of threads, which has none on a GPU, or on addresses");
    assert_eq!(ours.len(), exact.len(), "{name}");
    for (what, (ours, exact)) in ours.iter().zip(&exact).enumerate() {
        assert_eq!(ours.len(), exact.len(), "{name}, result {what}");
        let norm = exact.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let squares = exact.iter().zip(ours).map(|(exact, ours)| (f64::from(*exact) - f64::from(*ours)).powi(2));
        let error = squares.sum::<f64>().sqrt();
        // Two ways to compute in f32; Winograd's, which the CPU takes for some sizes, errs by 1e-6.
        assert!(error <= 2e-6 * norm + 1e-6, "{name}, result {what} (0 is the value): {error} of {norm}");
    }
}

fn parameters(weight: &Tensor, bias: &Tensor) -> Parameters {
    Parameters { weight: weight.clone(), bias: bias.clone(), optimizer: None }
}

#[test]
fn linear_layers_are_those_of_the_cpu() {
    for [m, n, k] in [[6, 4, 5], [70, 300, 9], [129, 1, 1]] {
        compare(
            "linear",
            PLENTY,
            &[&[m, k], &[n, k], &[n]],
            |a| ops::linear(&a[0], &a[1], Some(&a[2]), &None),
            |gpu, a, dy| {
                let sizes = [m, n, k];
                let dx = linear_input_gradient(gpu, a[1], dy, sizes)?;
                let dw = linear_weight_gradient(gpu, a[0], dy, sizes)?;
                Ok(vec![linear(gpu, a[0], a[1], Some(a[2]), sizes)?, dx, dw, column_sums(gpu, dy, m, n)?])
            },
        );
        compare(
            "linear without bias",
            PLENTY,
            &[&[m, k], &[n, k]],
            |a| ops::linear(&a[0], &a[1], None, &None),
            |gpu, a, dy| {
                let sizes = [m, n, k];
                let dx = linear_input_gradient(gpu, a[1], dy, sizes)?;
                Ok(vec![linear(gpu, a[0], a[1], None, sizes)?, dx, linear_weight_gradient(gpu, a[0], dy, sizes)?])
            },
        );
    }
}

#[test]
fn convolutions_are_those_of_the_cpu() {
    for (k, stride, padding) in [
        (3, 1, Padding::Even(1)),
        (1, 1, Padding::Even(0)),
        (1, 2, Padding::Even(0)),
        (3, 2, Padding::Even(1)),
        (3, 2, Padding::AfterOnly),
    ] {
        for [b, c, o, h, w] in [[2, 3, 5, 6, 4], [1, 1, 1, 3, 3], [3, 4, 7, 16, 10], [2, 2, 2, 1, 7]] {
            let (before, after) = match padding {
                Padding::Even(n) => (n, n),
                Padding::AfterOnly => (0, 1),
            };
            if h + before + after < k {
                continue;
            }
            let out = |size: usize| (size + before + after - k) / stride + 1;
            let conv = Conv { b, c, h, w, o, k, out_h: out(h), out_w: out(w), stride, before };
            // Patches of the whole batch at once, of one item at a time, of some rows, and of one row.
            let item = c * k * k * conv.out_h * conv.out_w;
            for scratch in [PLENTY, item, item / 2, 1] {
                compare(
                    &format!("{conv:?} with {scratch} values of scratch memory"),
                    scratch,
                    &[&[b, c, h, w], &[o, c, k, k], &[o]],
                    |a| ops::conv2d(&a[0], &parameters(&a[1], &a[2]), stride, padding),
                    |gpu, a, dy| {
                        let y = conv2d(gpu, a[0], a[1], a[2], &conv)?;
                        let dx = conv_input_gradient(gpu, a[1], dy, &conv)?;
                        let dw = conv_weight_gradient(gpu, a[0], dy, &conv)?;
                        Ok(vec![y, dx, dw, conv_bias_gradient(gpu, dy, &conv)?])
                    },
                );
            }
        }
    }
}

#[test]
fn normalizations_are_those_of_the_cpu() {
    for [b, channels, groups, plane] in [[2, 6, 3, 15], [1, 4, 4, 1000], [3, 8, 1, 1]] {
        for after in [Activation::None, Activation::Silu] {
            let norm = Norm { b, channels, plane, groups, eps: 1e-5, silu: after == Activation::Silu };
            compare(
                &format!("group norm {norm:?}"),
                PLENTY,
                &[&[b, channels, plane], &[channels], &[channels]],
                |a| ops::group_norm(&a[0], &parameters(&a[1], &a[2]), groups, 1e-5, after),
                |gpu, a, dy| {
                    let [dx, sums] = group_norm_gradients(gpu, [a[0], a[1], a[2], dy], &norm)?;
                    let over_batch = |which| sums_of_parts(gpu, &sums, b, channels, [2, which]);
                    Ok(vec![normalize(gpu, [a[0], a[1], a[2]], &norm)?, dx, over_batch(0)?, over_batch(1)?])
                },
            );
        }
    }
    for [rows, columns] in [[140, 9], [3, 700], [64, 256]] {
        let norm = Norm::of_rows(rows, columns, 1e-5);
        compare(
            &format!("layer norm of {rows}x{columns}"),
            PLENTY,
            &[&[rows, columns], &[columns], &[columns]],
            |a| ops::layer_norm(&a[0], &parameters(&a[1], &a[2]), 1e-5),
            |gpu, a, dy| {
                let dx = layer_norm_input_gradient(gpu, [a[0], a[1], dy], &norm)?;
                let (sums, parts) = layer_norm_sums(gpu, [a[0], dy], &norm)?;
                let total = |which| sums_of_parts(gpu, &sums, parts, columns, [2, which]);
                Ok(vec![normalize(gpu, [a[0], a[1], a[2]], &norm)?, dx, total(0)?, total(1)?])
            },
        );
    }
}

#[test]
fn attention_is_that_of_the_cpu() {
    for (b, n, m, heads, d) in [(2, 30, 7, 4, 5), (1, 5, 300, 1, 8), (1, 1, 1, 2, 3), (2, 33, 33, 2, 4)] {
        let (c, dims) = (heads * d, [b, n, m]);
        let sizes = Attention { b, n, m, c, heads };
        // All queries at once, some, and one.
        for scratch in [PLENTY, 4 * heads * m, 1] {
            compare(
                &format!("attention {dims:?} with {scratch} values of scratch memory"),
                scratch,
                &[&[b, n, c], &[b, m, c], &[b, m, c]],
                |a| ops::attention(&a[0], &a[1], &a[2], heads),
                |gpu, a, dy| {
                    let out = attention(gpu, a[0], a[1], a[2], &sizes)?;
                    let gradients = attention_gradients(gpu, [a[0], a[1], a[2], View::all(&out), dy], &sizes)?;
                    Ok([out].into_iter().chain(gradients).collect())
                },
            );
        }
    }
}

#[test]
fn attention_that_keeps_its_scores_is_that_of_the_cpu() {
    for (b, n, m, heads, d) in [
        (1, 1, 3, 2, 3),
        (2, 30, 7, 4, 5),
        (2, 130, 77, 2, 40),
        (1, 256, 256, 1, 40),
        (1, 64, 64, 2, 64),
        (1, 70, 150, 2, 80),
        (1, 129, 33, 1, 72),
        (2, 33, 20, 2, 160),
        (1, 16, 77, 1, 84),
        // Without a kernel: there the sizes decide.
        (1, 9, 11, 1, 164),
    ] {
        let (c, dims) = (heads * d, [b, n, m, heads, d]);
        let sizes = Attention { b, n, m, c, heads };
        assert_eq!(fused::Fused::of(&sizes).is_some(), d <= 160);
        compare(
            &format!("attention {dims:?} in one kernel"),
            PLENTY,
            &[&[b, n, c], &[b, m, c], &[b, m, c]],
            |a| ops::attention(&a[0], &a[1], &a[2], heads),
            |gpu, a, dy| {
                let gpu = &Host { fused: true, ..*gpu };
                let out = attention(gpu, a[0], a[1], a[2], &sizes)?;
                let gradients = attention_gradients(gpu, [a[0], a[1], a[2], View::all(&out), dy], &sizes)?;
                Ok([out].into_iter().chain(gradients).collect())
            },
        );
    }
}

/// Where one score is far above the others, and all of them far from 0.
#[test]
fn attention_of_large_scores_is_that_of_the_cpu() {
    let (n, m, heads, d) = (20, 70, 2, 40);
    let sizes = Attention { b: 1, n, m, c: heads * d, heads };
    let large = |q: &Tensor| (q * 40.0)? - 20.0;
    let [q, k, v] = [(1, n), (2, m), (3, m)].map(|(seed, rows)| normals(seed, &[1, rows, heads * d]));
    let q = large(&q).expect("large numbers");
    let exact = numbers(&ops::attention(&q, &k, &v, heads).expect("a result"));
    let Some(&host) = host() else { return };
    let [q, k, v] = [q, k, v].map(|tensor| numbers(&tensor));
    let [q, k, v] = [&q, &k, &v].map(View::all);
    let ours = attention(&Host { fused: true, ..host }, q, k, v, &sizes).expect("a result");
    let worst = exact.iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // Scores of some hundreds have 5 digits behind the point.
    assert!(worst <= 1e-3, "{worst}");
}

#[test]
fn small_operations_are_those_of_the_cpu() {
    for (rows, d) in [(3, 4), (300, 5)] {
        compare(
            "geglu",
            PLENTY,
            &[&[rows, 2 * d]],
            |a| ops::geglu(&a[0]),
            |gpu, a, dy| Ok(vec![geglu(gpu, a[0], rows, d)?, geglu_gradient(gpu, a[0], dy, rows, d)?]),
        );
    }
    for [b, c, h, w] in [[2, 3, 4, 5], [1, 1, 1, 1], [2, 7, 20, 9]] {
        let (channels, plane) = (b * c, h * w);
        compare(
            "add per channel",
            PLENTY,
            &[&[b, c, h, w], &[b, c]],
            |a| ops::add_per_channel(&a[0], &a[1]),
            |gpu, a, dy| {
                let y = add_per_channel(gpu, a[0], a[1], channels, plane)?;
                Ok(vec![y, dy.buffer[dy.start..].to_vec(), row_sums(gpu, dy, channels, plane)?])
            },
        );
        compare(
            "upsample",
            PLENTY,
            &[&[b, c, h, w]],
            |a| ops::upsample_nearest_2x(&a[0]),
            |gpu, a, dy| {
                Ok(vec![upsample(gpu, a[0], channels, h, w)?, upsample_gradient(gpu, dy, channels * plane, w)?])
            },
        );
    }
}

#[test]
fn adam_takes_the_steps_of_the_cpu() {
    let Some(host) = host() else { return };
    let (count, lr, betas) = (1000, 1e-3f64, [0.9f32, 0.999]);
    let variable = Var::from_tensor(&normals(1, &[count])).expect("a variable");
    let adam = crate::engine::optimizer::Adam::new(vec![variable.clone()], lr, MomentBits::ThirtyTwo);
    let (mut p, mut first, mut second) = (numbers(&variable), vec![0.0; count], vec![0.0; count]);
    for step in 1..=5 {
        let gradient = normals(step + 10, &[count]);
        let loss = (variable.as_tensor() * &gradient).and_then(|product| product.sum_all()).expect("a sum");
        adam.step(|| Ok((loss.clone(), loss.backward()?))).expect("a step");
        let [bias_1, bias_2] = betas.map(|beta| 1.0 - f64::from(beta).powi(step as i32));
        let numbers_of_step = AdamStep {
            beta_1: betas[0],
            beta_2: betas[1],
            size: (lr / bias_1) as f32,
            root_of_bias_2: bias_2.sqrt() as f32,
            eps: 1e-8,
        };
        let gradient = numbers(&gradient);
        let moments = [&mut first, &mut second];
        adam_step(host, &mut p, View::all(&gradient), moments, numbers_of_step, count).expect("a step");
    }
    let worst = numbers(&variable).iter().zip(&p).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-6, "{worst}");
}

fn relative_error(ours: &[f32], exact: &[f32], start: &[f32]) -> f64 {
    let norm = |pairs: &mut dyn Iterator<Item = (&f32, &f32)>| {
        pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
    };
    norm(&mut ours.iter().zip(exact)) / norm(&mut exact.iter().zip(start))
}

/// Against what tests/reference/make_adam8.py has done, and Adam with moments of f32 beside it.
#[test]
fn adam_with_moments_of_8_bits_takes_the_steps_of_bitsandbytes() {
    let Some(&host) = host() else { return };
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adam8.safetensors");
    let fixture = candle_core::safetensors::load(fixture, &Device::Cpu).expect("the fixture");
    let parameters = |name: &str| fixture[name].to_vec2::<f32>().expect("parameters");
    let (nearest, bitsandbytes) = (parameters("nearest"), parameters("bitsandbytes"));
    let exact_codes = fixture["codes"].to_vec2::<u8>().expect("codes");
    let (count, lr, betas) = (1000, 1e-3f64, [0.9f32, 0.999]);
    let random =
        |index| numbers(&Stream::new(11u32, Purpose::Latents, index).normals(&[count], &Device::Cpu).expect("some"));
    let start = random(0);
    let mut steps = [1, 5, 20].iter().zip(nearest.iter().zip(&bitsandbytes));
    let mut next = steps.next();
    // Both orders of threads, which must give the same bits, and f32.
    let hosts = [host, Host { backwards: true, ..host }];
    let mut ours = hosts.map(|_| (start.clone(), vec![0.0; MomentBits::Eight.numbers(4096)]));
    let (mut p, mut first, mut second) = (start.clone(), vec![0.0; count], vec![0.0; count]);
    for step in 1..=20 {
        let [bias_1, bias_2] = betas.map(|beta| 1.0 - f64::from(beta).powi(step as i32));
        let numbers_of_step = AdamStep {
            beta_1: betas[0],
            beta_2: betas[1],
            size: (lr / bias_1) as f32,
            root_of_bias_2: bias_2.sqrt() as f32,
            eps: 1e-8,
        };
        let of_step = random(1).into_iter().zip(random(1 + step)).enumerate();
        let gradient: Vec<f32> =
            of_step.map(|(i, (a, b))| 10f64.powf(-((i % 5) as f64) / 2.0) as f32 * (a + b)).collect();
        let gradient = View::all(&gradient);
        for (host, (p, moments)) in hosts.iter().zip(&mut ours) {
            adam8::adam8_step(host, p, gradient, moments, numbers_of_step, count).expect("a step");
        }
        adam_step(&host, &mut p, gradient, [&mut first, &mut second], numbers_of_step, count).expect("a step");
        let [(forwards, moments), (backwards, moments_backwards)] = &ours;
        assert!(forwards == backwards, "the order of threads shows after step {step}");
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        assert!(bits(moments) == bits(moments_backwards), "the order of threads shows in moments after step {step}");
        let Some((_, (nearest, bitsandbytes))) = next.filter(|(at, _)| **at == step) else { continue };
        next = steps.next();
        let errors = [nearest, bitsandbytes, &p].map(|exact| relative_error(forwards, exact, &start));
        println!("step {step}: off by {errors:?} from the nearest codes, from bitsandbytes, from moments of f32");
        // f32 itself, which parameters of 1 that move by 0.001 show; what a coarser table makes of codes, and that is more off from moments
        // of f32 than ours; 8 bits of moments, half of a code's distance being 0.7 % where they are large and more where small.
        assert!(errors[0] <= 1e-4 && errors[1] <= 0.1 && errors[2] <= 0.05, "step {step}: {errors:?}");
    }
    let bytes: Vec<u8> = ours[0].1.iter().flat_map(|number| number.to_ne_bytes()).collect();
    for (moment, exact) in exact_codes.iter().enumerate() {
        let code = |i: &usize| bytes[i / 256 * 520 + moment * 256 + i % 256];
        let others = (0..count).filter(|i| code(i) != exact[*i]).count();
        // Those in the middle between two codes.
        assert!(others <= 2, "moment {moment}: {others} of {count} codes differ");
    }
}

#[test]
fn a_kernel_that_is_not_there_is_refused() {
    let Some(host) = host() else { return };
    let call = |name: &CStr| {
        // SAFETY: no argument is read, because there are none.
        unsafe { (host.launch)(name.as_ptr(), 1, 0, std::ptr::null_mut(), false) }
    };
    assert_eq!([call(c"nothing"), call(c"adam")], [1, 2]);
}
