//! The GPU's operations on the processor: the same kernels compiled as C++, cuBLAS replaced by the definition of a
//! product. Values and gradients are compared with those of the CPU's operations.

#[allow(unsafe_code, reason = "the kernels as C++, in a library that is compiled here")]
mod host;

use super::adam::{AdamStep, adam_step, adam8_step};
use super::attention::{attention, attention_gradients};
use super::conv::{conv_bias_gradient, conv_input_gradient, conv_weight_gradient, conv2d};
use super::elementwise::{add_per_channel, geglu, geglu_gradient, upsample, upsample_gradient};
use super::fused;
use super::layout::{Joined, join, mean_square_error, mean_square_error_gradient, split, transpose, weighted_sum};
use super::linear::{linear, linear_input_gradient, linear_weight_gradient};
use super::norm::{Norm, group_norm_gradients, layer_norm_input_gradient, layer_norm_sums, normalize};
use super::sums::{column_sums, row_sums, sums_of_parts};
use super::terms::{Kind, Stored, View, narrowed};
use crate::engine::device::AttentionKernels;
use crate::engine::ops::MomentBits;
use crate::engine::ops::attention::Sizes;
use crate::engine::ops::tests::{normals, parameters};
use crate::engine::ops::values::with_values;
use crate::engine::ops::{self, Activation, Padding};
use crate::engine::random::{Purpose, Stream};
use candle_core::{Device, Result, Tensor, Var};
use host::{Buffer, Host, PLENTY, host};

fn numbers(tensor: &Tensor) -> Vec<f32> {
    with_values([tensor], |[values]| Ok(values.to_vec())).expect("numbers on the CPU")
}

/// Shapes of an operation's arguments: of tensors of the network, then of weights.
type Shapes<'a> = [&'a [&'a [usize]]; 2];

/// [`compare_in`] every kind, with plenty of scratch memory.
fn compare(
    name: &str,
    shapes: Shapes<'_>,
    cpu: impl Fn(&[Tensor]) -> Result<Tensor>,
    gpu: impl Fn(&Host, &[View<'_, Buffer>], View<'_, Buffer>) -> Result<Vec<Buffer>>,
) {
    compare_in(&KINDS, PLENTY, name, shapes, cpu, gpu);
}

const KINDS: [Kind; 3] = [Kind::F32, Kind::Bf16, Kind::F16];

/// Both forms of an operation on random arguments, those of the network in each of some kinds: `cpu` gives the result
/// and candle its gradients by the arguments, `gpu` gives all of them of the arguments and of the result's gradient.
fn compare_in(
    kinds: &[Kind],
    scratch: usize,
    name: &str,
    [tensors, weights]: Shapes<'_>,
    cpu: impl Fn(&[Tensor]) -> Result<Tensor>,
    gpu: impl Fn(&Host, &[View<'_, Buffer>], View<'_, Buffer>) -> Result<Vec<Buffer>>,
) {
    let Some(&host) = host() else { return };
    let host = &Host { scratch, ..host };
    for &kind in kinds {
        let of_kinds = tensors.iter().map(|shape| (shape, kind)).chain(weights.iter().map(|shape| (shape, Kind::F32)));
        let random =
            |((shape, kind), seed): ((&&[usize], Kind), u32)| Buffer::of(&numbers(&normals(seed, shape)), kind);
        let buffers: Vec<Buffer> = of_kinds.zip(1..).map(random).collect();
        let variable = |(buffer, shape): (&Buffer, &&[usize])| {
            let tensor = Tensor::from_vec(buffer.values(), *shape, &Device::Cpu);
            Var::from_tensor(&tensor.expect("a tensor")).expect("a variable")
        };
        let variables: Vec<Var> = buffers.iter().zip(tensors.iter().chain(weights)).map(variable).collect();
        let arguments: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
        let y = cpu(&arguments).expect(name);
        let dy = Buffer::of(&numbers(&normals(99, y.dims())), kind);
        let exact_dy = Tensor::from_vec(dy.values(), y.dims(), &Device::Cpu).expect("a tensor");
        let gradients = (&y * &exact_dy).and_then(|y| y.sum_all()).and_then(|sum| sum.backward()).expect(name);
        let mut exact = vec![numbers(&y)];
        exact.extend(variables.iter().map(|variable| numbers(gradients.get(variable).expect("a gradient"))));

        // Behind something else, as tensors may be that are parts of larger ones; once where four numbers can be read
        // at a time, once where they cannot.
        let run = |host: &Host, before: usize| {
            let moved =
                |buffer: &Buffer| Buffer::of(&[vec![f32::NAN; before], buffer.values()].concat(), buffer.kind());
            let (buffers, dy) = (buffers.iter().map(moved).collect::<Vec<_>>(), moved(&dy));
            let views: Vec<View<'_, Buffer>> = buffers.iter().map(|buffer| View { buffer, start: before }).collect();
            gpu(host, &views, View { buffer: &dy, start: before }).expect(name)
        };
        let ours = run(host, 3);
        let backwards = run(&Host { backwards: true, ..*host }, 4);
        assert_eq!(ours.len(), exact.len(), "{name}");
        for (what, ((ours, backwards), exact)) in ours.iter().zip(&backwards).zip(&exact).enumerate() {
            let name = format!("{name} in {kind:?}, result {what} (0 is the value)");
            let is_of_tensor = what <= tensors.len();
            assert_eq!(ours.kind(), if is_of_tensor { kind } else { Kind::F32 }, "{name}");
            let (ours, backwards) = (ours.values(), backwards.values());
            assert!(
                ours == backwards,
                "{name} depends on the order of threads, which has none on a GPU, or on addresses"
            );
            assert_eq!(ours.len(), exact.len(), "{name}");
            let (norm, error) = (distance(exact, &vec![0.0; exact.len()]), distance(exact, &ours));
            // Two ways to compute in f32; Winograd's, which the CPU takes for some sizes, errs by 1e-6. Gradients of
            // weights are no worse where tensors have 16 bits: their factors are what the CPU has, and their sums are
            // f32.
            let of_f32 = 2e-6 * norm + 1e-6;
            assert!(
                error <= if is_of_tensor { of_f32 + ROUNDINGS * half_step(kind) * norm } else { of_f32 },
                "{name}: {error} of {norm}"
            );
        }
    }
}

/// Roundings between arguments and a result of 16 bits, at most, which is in the gradient of a convolution's input: of
/// the weight, of the columns, of what one band gives, and of the sum with the next one. Each is off by half a step of
/// its number at most, and most of them by less and in other directions.
const ROUNDINGS: f64 = 4.0;

/// How far a number of that kind may be from what it stands for, as a share of it; nothing for f32, see `compare`.
fn half_step(kind: Kind) -> f64 {
    match kind {
        Kind::F32 => 0.0,
        Kind::Bf16 => 1.0 / 256.0,
        Kind::F16 => 1.0 / 2048.0,
    }
}

#[test]
fn linear_layers_are_those_of_the_cpu() {
    for [m, n, k] in [[6, 4, 5], [70, 300, 9], [129, 1, 1]] {
        let sizes = [m, n, k];
        let cpu = |a: &[Tensor]| ops::linear(&a[0], &a[1], a.get(2), &None);
        let gpu = |gpu: &Host, a: &[View<'_, Buffer>], dy: View<'_, Buffer>| {
            let dx = linear_input_gradient(gpu, [a[1], dy], sizes)?;
            let dw = linear_weight_gradient(gpu, [a[0], dy], sizes)?;
            Ok(vec![linear(gpu, a[0], a[1], a.get(2).copied(), sizes)?, dx, dw])
        };
        compare("linear without bias", [&[&[m, k]], &[&[n, k]]], cpu, gpu);
        compare("linear", [&[&[m, k]], &[&[n, k], &[n]]], cpu, |host, a, dy| {
            let mut results = gpu(host, a, dy)?;
            results.push(column_sums(host, dy, m, n)?);
            Ok(results)
        });
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
            let conv = ops::conv::Sizes { b, c, h, w, o, k, out_h: out(h), out_w: out(w), stride, before };
            // Patches of the whole batch at once, of one item at a time, of some rows, and of one row.
            let item = c * k * k * conv.out_h * conv.out_w;
            for scratch in [PLENTY, item, item / 2, 1] {
                let name = format!("{conv:?} with {scratch} values of scratch memory");
                let shapes: Shapes<'_> = [&[&[b, c, h, w]], &[&[o, c, k, k], &[o]]];
                let cpu = |a: &[Tensor]| ops::conv2d(&a[0], &parameters(&a[1], &a[2]), stride, padding);
                compare_in(&KINDS, scratch, &name, shapes, cpu, |gpu, a, dy| {
                    let y = conv2d(gpu, [a[0], a[1], a[2]], &conv)?;
                    let dx = conv_input_gradient(gpu, [a[1], dy], &conv)?;
                    let dw = conv_weight_gradient(gpu, [a[0], dy], &conv)?;
                    Ok(vec![y, dx, dw, conv_bias_gradient(gpu, dy, &conv)?])
                });
            }
        }
    }
}

#[test]
fn normalizations_are_those_of_the_cpu() {
    for [b, channels, groups, plane] in [[2, 6, 3, 15], [1, 4, 4, 1000], [3, 8, 1, 1]] {
        for after in [Activation::None, Activation::Silu] {
            let norm = Norm { b, channels, plane, groups, eps: 1e-5, silu: after == Activation::Silu };
            let shapes: Shapes<'_> = [&[&[b, channels, plane]], &[&[channels], &[channels]]];
            let cpu = |a: &[Tensor]| ops::group_norm(&a[0], &parameters(&a[1], &a[2]), groups, 1e-5, after);
            compare(&format!("group norm {norm:?}"), shapes, cpu, |gpu, a, dy| {
                let [dx, sums] = group_norm_gradients(gpu, [a[0], a[1], a[2], dy], &norm)?;
                let over_batch = |which| sums_of_parts(gpu, &sums, b, channels, [2, which]);
                Ok(vec![normalize(gpu, [a[0], a[1], a[2]], &norm)?, dx, over_batch(0)?, over_batch(1)?])
            });
        }
    }
    for [rows, columns] in [[140, 9], [3, 700], [64, 256]] {
        let norm = Norm::of_rows(rows, columns, 1e-5);
        let shapes: Shapes<'_> = [&[&[rows, columns]], &[&[columns], &[columns]]];
        let cpu = |a: &[Tensor]| ops::layer_norm(&a[0], &parameters(&a[1], &a[2]), 1e-5);
        compare(&format!("layer norm of {rows}x{columns}"), shapes, cpu, |gpu, a, dy| {
            let dx = layer_norm_input_gradient(gpu, [a[0], a[1], dy], &norm)?;
            let (sums, parts) = layer_norm_sums(gpu, [a[0], dy], &norm)?;
            let total = |which| sums_of_parts(gpu, &sums, parts, columns, [2, which]);
            Ok(vec![normalize(gpu, [a[0], a[1], a[2]], &norm)?, dx, total(0)?, total(1)?])
        });
    }
}

fn compare_attention(name: &str, kinds: &[Kind], scratch: usize, sizes: &Sizes, kernels: AttentionKernels) {
    let Sizes { b, n, m, c, heads, .. } = *sizes;
    let shapes: Shapes<'_> = [&[&[b, n, c], &[b, m, c], &[b, m, c]], &[]];
    let cpu = |a: &[Tensor]| ops::attention(&a[0], &a[1], &a[2], heads, AttentionKernels::Cublas);
    compare_in(kinds, scratch, name, shapes, cpu, |gpu, a, dy| {
        let out = attention(gpu, [a[0], a[1], a[2]], sizes, kernels)?;
        let gradients = attention_gradients(gpu, [a[0], a[1], a[2], View::all(&out), dy], sizes, kernels)?;
        Ok([out].into_iter().chain(gradients).collect())
    });
}

#[test]
fn attention_is_that_of_the_cpu() {
    for (b, n, m, heads, d) in [(2, 30, 7, 4, 5), (1, 5, 300, 1, 8), (1, 1, 1, 2, 3), (2, 33, 33, 2, 4)] {
        let sizes = Sizes { b, n, m, c: heads * d, d, heads };
        // All queries at once, some, and one.
        for scratch in [PLENTY, 4 * heads * m, 1] {
            let name = format!("attention {:?} with {scratch} values of scratch memory", [b, n, m]);
            compare_attention(&name, &KINDS, scratch, &sizes, AttentionKernels::Cublas);
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
        let sizes = Sizes { b, n, m, c, d, heads };
        assert_eq!(fused::Fused::of(&sizes).is_some(), d <= 160);
        let name = format!("attention {dims:?} in one kernel");
        compare_attention(&name, &KINDS[..2], PLENTY, &sizes, AttentionKernels::Own);
        // f16 is for sampling, which takes no gradients.
        let Some(&host) = host() else { return };
        let shapes = [[b, n, c], [b, m, c], [b, m, c]];
        let buffers = [0, 1, 2].map(|i| Buffer::of(&numbers(&normals(i as u32, &shapes[i])), Kind::F16));
        let [q, k, v] =
            [0, 1, 2].map(|i| Tensor::from_vec(buffers[i].values(), &shapes[i], &Device::Cpu).expect("a tensor"));
        let exact = numbers(&ops::attention(&q, &k, &v, heads, AttentionKernels::Cublas).expect("a result"));
        let ours = attention(&host, buffers.each_ref().map(View::all), &sizes, AttentionKernels::Own);
        let ours = ours.expect("a result");
        assert_eq!(ours.kind(), Kind::F16);
        let error = relative_error(&ours.values(), &exact, &vec![0.0; exact.len()]);
        assert!(error <= ROUNDINGS * half_step(Kind::F16), "attention {dims:?} in f16: {error}");
    }
}

/// Where one score is far above the others, and all of them far from 0.
#[test]
fn attention_of_large_scores_is_that_of_the_cpu() {
    let (n, m, heads, d) = (20, 70, 2, 40);
    let sizes = Sizes { b: 1, n, m, c: heads * d, d, heads };
    let large = |q: &Tensor| (q * 40.0)? - 20.0;
    let [q, k, v] = [(1, n), (2, m), (3, m)].map(|(seed, rows)| normals(seed, &[1, rows, heads * d]));
    let q = large(&q).expect("large numbers");
    let exact = numbers(&ops::attention(&q, &k, &v, heads, AttentionKernels::Cublas).expect("a result"));
    let Some(&host) = host() else { return };
    let inputs = [q, k, v].map(|tensor| Buffer::F32(numbers(&tensor)));
    let ours = attention(&host, inputs.each_ref().map(View::all), &sizes, AttentionKernels::Own).expect("a result");
    let worst = exact.iter().zip(&ours.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // Scores of some hundreds have 5 digits behind the point.
    assert!(worst <= 1e-3, "{worst}");
}

#[test]
fn small_operations_are_those_of_the_cpu() {
    for (rows, d) in [(3, 4), (300, 5)] {
        let cpu = |a: &[Tensor]| ops::geglu(&a[0]);
        compare("geglu", [&[&[rows, 2 * d]], &[]], cpu, |gpu, a, dy| {
            Ok(vec![geglu(gpu, a[0], rows, d)?, geglu_gradient(gpu, [a[0], dy], rows, d)?])
        });
    }
    for [b, c, h, w] in [[2, 3, 4, 5], [1, 1, 1, 1], [2, 7, 20, 9]] {
        let (channels, plane) = (b * c, h * w);
        let cpu = |a: &[Tensor]| ops::add_per_channel(&a[0], &a[1]);
        compare("add per channel", [&[&[b, c, h, w]], &[&[b, c]]], cpu, |gpu, a, dy| {
            let y = add_per_channel(gpu, [a[0], a[1]], [channels, plane])?;
            Ok(vec![y, Buffer::of(&dy.buffer.values()[dy.start..], dy.kind()), row_sums(gpu, dy, channels, plane)?])
        });
        let cpu = |a: &[Tensor]| ops::upsample_nearest_2x(&a[0]);
        compare("upsample", [&[&[b, c, h, w]], &[]], cpu, |gpu, a, dy| {
            Ok(vec![upsample(gpu, a[0], channels, h, w)?, upsample_gradient(gpu, dy, channels * plane, w)?])
        });
    }
}

#[test]
fn layouts_and_the_loss_are_those_of_the_cpu() {
    for [b, m, n] in [[1, 1, 1], [2, 32, 64], [3, 33, 5], [2, 70, 40]] {
        let cpu = |a: &[Tensor]| ops::transpose(&a[0]);
        compare("transpose", [&[&[b, m, n]], &[]], cpu, |gpu, a, dy| {
            Ok(vec![transpose(gpu, a[0], [b, m, n])?, transpose(gpu, dy, [b, n, m])?])
        });
    }
    for [b, c, d, h, w] in [[1, 3, 2, 4, 5], [3, 2, 5, 7, 9]] {
        let joined = Joined { rows: b, columns: [c * h * w, d * h * w] };
        let cpu = |a: &[Tensor]| ops::join_channels(&a[0], &a[1]);
        compare("join channels", [&[&[b, c, h, w], &[b, d, h, w]], &[]], cpu, |gpu, a, dy| {
            Ok(vec![join(gpu, [a[0], a[1]], joined)?, split(gpu, dy, joined, 0)?, split(gpu, dy, joined, 1)?])
        });
    }
    for count in [7, 5000, 9000] {
        // The network's prediction is f32 before it comes here.
        let cpu = |a: &[Tensor]| ops::mean_square_error(&a[0], &a[1]);
        let shapes: Shapes<'_> = [&[], &[&[count], &[count]]];
        compare_in(&[Kind::F32], PLENTY, "mean square error", shapes, cpu, |gpu, a, dy| {
            let mean = mean_square_error(gpu, [a[0], a[1]], count)?;
            let dx = mean_square_error_gradient(gpu, [a[0], a[1], dy], count)?;
            // Nobody asks for that of the target, which is this one.
            let dtarget = dx.values().iter().map(|dx| -dx).collect();
            Ok(vec![mean, dx, Buffer::F32(dtarget)])
        });
    }
}

#[test]
fn weighted_sums_are_those_of_the_cpu() {
    let Some(host) = host() else { return };
    let (items, item) = (3, [2, 5, 4]);
    let shape = |items| [items, item[0], item[1], item[2]];
    let [a, b] = [1, 2].map(|seed| normals(seed, &[items, 1, 1, 1]));
    for (of_x, of_z) in [(1, items), (items, 1), (items, items)] {
        let (x, z) = (normals(3, &shape(of_x)), normals(4, &shape(of_z)));
        let scales = Tensor::stack(&[&a, &b], 0).expect("both");
        for (sign, factor) in [(ops::Sign::Plus, 1.0), (ops::Sign::Minus, -1.0)] {
            let expected = numbers(&ops::weighted_sum(&scales, &x, sign, &z).expect("a sum"));
            let counts = [&x, &z].map(Tensor::elem_count);
            let [a, b, x, z] = [&a, &b, &x, &z].map(|tensor| Buffer::F32(numbers(tensor)));
            let parts = [(View::all(&x), counts[0]), (View::all(&z), counts[1])];
            let sum = weighted_sum(host, [View::all(&a), View::all(&b)], parts, factor, [items, item.iter().product()]);
            assert_eq!(sum.expect("a sum").values(), expected, "{of_x} {of_z} {sign:?}");
        }
    }
}

#[test]
fn adam_takes_the_steps_of_the_cpu() {
    let Some(host) = host() else { return };
    let (count, lr, betas) = (1000, 1e-3f64, [0.9f32, 0.999]);
    let variable = Var::from_tensor(&normals(1, &[count])).expect("a variable");
    let adam = crate::engine::ops::adam::Adam::new(vec![variable.clone()], lr, MomentBits::ThirtyTwo);
    let zeros = || Buffer::F32(vec![0.0; count]);
    let (mut p, mut first, mut second) = (Buffer::F32(numbers(&variable)), zeros(), zeros());
    for step in 1..=5 {
        let gradient = normals(step + 10, &[count]);
        let loss = (variable.as_tensor() * &gradient).and_then(|product| product.sum_all()).expect("a sum");
        adam.begin_step().expect("a number");
        adam.update(|| Ok((loss.clone(), loss.backward()?))).expect("a step");
        let [bias_1, bias_2] = betas.map(|beta| 1.0 - f64::from(beta).powi(step as i32));
        let numbers_of_step = Buffer::F32(vec![(lr / bias_1) as f32, bias_2.sqrt() as f32]);
        let gradient = Buffer::F32(numbers(&gradient));
        let (read, moments) = ([&gradient, &numbers_of_step].map(View::all), [&mut first, &mut second]);
        let step = AdamStep { beta_1: betas[0], beta_2: betas[1], eps: 1e-8 };
        adam_step(host, &mut p, read, moments, step, count).expect("a step");
    }
    let worst = numbers(&variable).iter().zip(&p.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-6, "{worst}");
}

fn relative_error(ours: &[f32], exact: &[f32], start: &[f32]) -> f64 {
    distance(ours, exact) / distance(exact, start)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
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
    let zeros = |count| Buffer::F32(vec![0.0; count]);
    let parameters = || Buffer::F32(start.clone());
    let mut ours = hosts.map(|_| (parameters(), zeros(MomentBits::Eight.numbers(4096))));
    let (mut p, mut first, mut second) = (parameters(), zeros(count), zeros(count));
    for step in 1..=20 {
        let [bias_1, bias_2] = betas.map(|beta| 1.0 - f64::from(beta).powi(step as i32));
        let numbers_of_step = Buffer::F32(vec![(lr / bias_1) as f32, bias_2.sqrt() as f32]);
        let adam = AdamStep { beta_1: betas[0], beta_2: betas[1], eps: 1e-8 };
        let of_step = random(1).into_iter().zip(random(1 + step)).enumerate();
        let gradient: Vec<f32> =
            of_step.map(|(i, (a, b))| 10f64.powf(-((i % 5) as f64) / 2.0) as f32 * (a + b)).collect();
        let gradient = Buffer::F32(gradient);
        let read = [&gradient, &numbers_of_step].map(View::all);
        for (host, (p, moments)) in hosts.iter().zip(&mut ours) {
            adam8_step(host, p, read, moments, adam, count).expect("a step");
        }
        adam_step(&host, &mut p, read, [&mut first, &mut second], adam, count).expect("a step");
        let [(forwards, moments), (backwards, moments_backwards)] = &ours;
        let bits = |buffer: &Buffer| buffer.values().iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        assert!(bits(forwards) == bits(backwards), "the order of threads shows after step {step}");
        assert!(bits(moments) == bits(moments_backwards), "the order of threads shows in moments after step {step}");
        let Some((_, (nearest, bitsandbytes))) = next.filter(|(at, _)| **at == step) else { continue };
        next = steps.next();
        let errors = [nearest, bitsandbytes, &p.values()];
        let errors = errors.map(|exact| relative_error(&forwards.values(), exact, &start));
        println!("step {step}: off by {errors:?} from the nearest codes, from bitsandbytes, from moments of f32");
        // f32 itself, which parameters of 1 that move by 0.001 show; what a coarser table makes of codes, and that is
        // more off from moments of f32 than ours; 8 bits of moments, half of a code's distance being 0.7 % where they
        // are large and more where small.
        assert!(errors[0] <= 1e-4 && errors[1] <= 0.1 && errors[2] <= 0.05, "step {step}: {errors:?}");
    }
    let bytes: Vec<u8> = ours[0].1.values().iter().flat_map(|number| number.to_ne_bytes()).collect();
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
    assert_eq!(["nothing", "adam"].map(|name| host.status_without_arguments(name)), [1, 2]);
}

#[test]
fn numbers_of_a_kind_that_a_kernel_would_misread_are_refused() {
    let Some(host) = host() else { return };
    let [x, w, narrow] = [Kind::F32, Kind::F32, Kind::Bf16].map(|kind| Buffer::of(&[1.0; 4], kind));
    let [x, w, narrow] = [&x, &w, &narrow].map(View::all);
    let sizes = [2, 2, 2];
    assert!(linear(host, x, w, Some(w), sizes).is_ok() && linear(host, narrow, w, Some(w), sizes).is_ok());
    let norm = Norm::of_rows(2, 2, 1e-5);
    let results = [
        linear(host, narrow, w, Some(narrow), sizes),
        linear(host, x, narrow, None, sizes),
        normalize(host, [x, narrow, w], &norm),
        geglu_gradient(host, [narrow, x], 1, 2),
        add_per_channel(host, [narrow, narrow], [2, 2]),
    ];
    assert!(results.iter().all(Result::is_err), "a bias, a factor, a weight, a gradient, what is added: {results:?}");
}

/// In steps that no number of 16 bits falls into, and where those numbers end.
#[test]
fn numbers_are_rounded_to_the_nearest_of_16_bits() {
    let Some(host) = host() else { return };
    let ends = [f32::INFINITY, f32::MAX, 65504.0, 65519.99, 65520.0, 6e-8, 2.9e-8, 3e-8, 1e-40, 0.0];
    let all = (0..1 << 17).map(|high| f32::from_bits(high << 15)).filter(|value| value.is_finite());
    let between = (0..1 << 19).map(|high| f32::from_bits((high << 13) + 1)).filter(|value| value.is_finite());
    let values: Vec<f32> = ends.iter().flat_map(|end| [*end, -*end]).chain(all).chain(between).collect();
    let values = Buffer::F32(values);
    for kind in [Kind::Bf16, Kind::F16] {
        let exact = Buffer::of(&values.values(), kind).values();
        let ours =
            narrowed(host, View::all(&values), exact.len(), kind).expect("a copy").expect("of another kind").values();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert!(bits(&ours) == bits(&exact), "{kind:?}");
    }
    let nan = Buffer::F32(vec![f32::NAN]);
    let narrow = |kind| narrowed(host, View::all(&nan), 1, kind).expect("a copy").expect("of another kind");
    assert!([Kind::Bf16, Kind::F16].iter().all(|&kind| narrow(kind).values()[0].is_nan()));
}
