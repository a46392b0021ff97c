//! Each operation's gradient against the change of its value; the exact comparison with PyTorch is `tests/parity.rs`.

use super::values::*;
use super::*;
use crate::engine::device::AttentionKernels;
use crate::engine::random::{Purpose, Stream};
use candle_core::{DType, Device, Result, Tensor, Var};
use half::f16;

pub(super) fn normals(seed: u32, shape: &[usize]) -> Tensor {
    Stream::new(seed, Purpose::Latents, 0).normals(shape, &Device::Cpu).expect("some numbers")
}

pub(super) fn parameters(weight: &Tensor, bias: &Tensor) -> Parameters {
    Parameters { weight: weight.clone(), bias: bias.clone(), optimizer: None }
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    let product = (a * b).and_then(|product| product.to_dtype(DType::F64)).and_then(|p| p.sum_all());
    product.and_then(|sum| sum.to_scalar()).expect("a number")
}

/// The gradient of sum(weights * op(arguments)) along a random direction against the difference quotient.
fn check(name: &str, shapes: &[&[usize]], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    const H: f64 = 1e-2;
    for argument in 0..shapes.len() {
        let values: Vec<Tensor> = shapes.iter().zip(1..).map(|(shape, seed)| normals(seed, shape)).collect();
        let direction = normals(77, shapes[argument]);
        let at = |h: f64| {
            let mut moved = values.clone();
            moved[argument] = (&moved[argument] + (&direction * h).expect("a product")).expect("a sum");
            op(&moved).expect(name)
        };
        let weights = normals(99, at(0.0).dims());
        let quotient = (dot(&weights, &at(H)) - dot(&weights, &at(-H))) / (2.0 * H);

        let variable = Var::from_tensor(&values[argument]).expect("a variable");
        let mut arguments = values.clone();
        arguments[argument] = variable.as_tensor().clone();
        let loss = (op(&arguments).expect(name) * weights).and_then(|y| y.sum_all()).expect("a sum");
        let gradients = loss.backward().expect("a backward");
        let gradient = gradients.get(&variable).unwrap_or_else(|| panic!("{name}: no gradient of argument {argument}"));
        let slope = dot(gradient, &direction);
        let scale = dot(gradient, gradient).sqrt() * dot(&direction, &direction).sqrt();
        // f32 values and a difference of order h^2 leave three digits.
        assert!((slope - quotient).abs() < 2e-3 * scale, "{name}, argument {argument}: {slope} but {quotient}");
    }
}

#[test]
fn gradients_are_the_slopes_of_the_values() {
    let linear_ = |a: &[Tensor]| linear(&a[0], &a[1], a.get(2), &None);
    check("linear", &[&[2, 3, 5], &[4, 5], &[4]], linear_);
    check("linear without bias", &[&[7, 5], &[4, 5]], linear_);
    for (name, k, stride, padding) in [
        ("conv 3x3", 3, 1, Padding::Even(1)),
        ("conv 1x1", 1, 1, Padding::Even(0)),
        ("conv 3x3 halving", 3, 2, Padding::Even(1)),
        ("conv 3x3 halving, padded after", 3, 2, Padding::AfterOnly),
    ] {
        check(name, &[&[2, 3, 6, 4], &[5, 3, k, k], &[5]], |a| {
            conv2d(&a[0], &parameters(&a[1], &a[2]), stride, padding)
        });
    }
    for after in [Activation::None, Activation::Silu] {
        check("group norm", &[&[2, 6, 3, 5], &[6], &[6]], |a| {
            group_norm(&a[0], &parameters(&a[1], &a[2]), 3, 1e-5, after)
        });
    }
    check("layer norm", &[&[2, 70, 9], &[9], &[9]], |a| layer_norm(&a[0], &parameters(&a[1], &a[2]), 1e-5));
    check("geglu", &[&[3, 8]], |a| geglu(&a[0]));
    check("add per channel", &[&[2, 3, 4, 4], &[2, 3]], |a| add_per_channel(&a[0], &a[1]));
    check("upsample", &[&[2, 3, 4, 5]], |a| upsample_nearest_2x(&a[0]));
    // More queries than are handled at a time, and as many heads as to need one thread each or all for one.
    for heads in [1, 4] {
        check("attention", &[&[1, 300, 8], &[1, 7, 8], &[1, 7, 8]], |a| {
            attention(&a[0], &a[1], &a[2], heads, AttentionKernels::Cublas)
        });
    }
}

#[test]
fn a_convolution_cut_into_bands_is_the_whole_convolution() {
    // 64 x 64 positions with 150 channels need several bands, of Winograd's tiles and of patches; each item needs
    // fewer.
    let (x, w, b) = (normals(1, &[3, 150, 64, 64]), normals(2, &[4, 150, 3, 3]), normals(3, &[4]));
    for (stride, padding) in [(1, Padding::Even(1)), (2, Padding::AfterOnly)] {
        let convolve = |x: &Tensor| conv2d(x, &parameters(&w, &b), stride, padding).expect("a convolution");
        let all = convolve(&x);
        for item in 0..3 {
            let one = convolve(&x.narrow(0, item, 1).expect("one item"));
            let difference = (all.narrow(0, item, 1).expect("one item") - one).expect("same shapes");
            assert!(dot(&difference, &difference) < 1e-6, "stride {stride}, item {item}");
        }
    }
}

#[test]
fn weights_of_16_bits_give_the_same_bytes_as_their_numbers_in_32() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|n| n.is_finite()).collect();
    let mut wide = vec![0.0; all.len()];
    Numbers::F16(&all).widen(&mut wide);
    assert!(all.iter().zip(&wide).all(|(n, wide)| n.to_f32().to_bits() == wide.to_bits()));

    // The result, and the gradient of x.
    let both = |x: &Tensor, op: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let x = Var::from_tensor(x).expect("a variable");
        let y = op(&x).expect("a result");
        let loss = (&y * normals(9, y.dims())).and_then(|y| y.sum_all()).expect("a sum");
        let dx = loss.backward().expect("a backward").remove(&x).expect("a gradient");
        [y, dx].map(|tensor| tensor.flatten_all().and_then(|all| all.to_vec1::<f32>()).expect("numbers"))
    };
    for stored in [DType::F16, DType::BF16] {
        let weights = |shape: &[usize]| {
            let half = (normals(2, shape) * 0.02).and_then(|w| w.to_dtype(stored)).expect("16 bits");
            [half.to_dtype(DType::F32).expect("32 bits"), half]
        };
        for [m, k, n] in
            [[1, 320, 1280], [2, 1280, 1280], [77, 768, 321], [300, 130, 4100], [3, 2000, 300], [3, 1, 2], [5, 7, 1]]
        {
            let (x, bias) = (normals(1, &[m, k]), normals(3, &[n]));
            let [wide, half] = weights(&[n, k]).map(|w| both(&x, &|x| linear(x, &w, Some(&bias), &None)));
            assert!(wide == half, "{stored:?}, {m} rows from {k} to {n}");
        }
        for ([b, c, o, h, w], k, stride, padding) in [
            ([2, 70, 90, 16, 12], 3, 1, Padding::Even(1)),
            ([1, 640, 330, 4, 5], 3, 1, Padding::Even(1)),
            ([1, 640, 45, 8, 8], 3, 2, Padding::Even(1)),
            ([2, 33, 40, 9, 9], 3, 2, Padding::AfterOnly),
            ([1, 640, 650, 8, 8], 1, 1, Padding::Even(0)),
        ] {
            let (x, bias) = (normals(1, &[b, c, h, w]), normals(3, &[o]));
            let [wide, half] = weights(&[o, c, k, k])
                .map(|weight| both(&x, &|x| conv2d(x, &parameters(&weight, &bias), stride, padding)));
            assert!(wide == half, "{stored:?}, convolution {k}x{k} from {c} to {o}, stride {stride}");
        }
    }
}

#[test]
fn winograd_is_the_convolution() {
    for [b, c, o, h, w] in [
        [1, 1, 1, 1, 1],
        [2, 3, 5, 1, 4],
        [2, 17, 33, 5, 7],
        [3, 40, 35, 6, 3],
        [1, 8, 16, 33, 35],
        [3, 4, 7, 25, 14],
        [5, 33, 64, 4, 4],
        [2, 64, 20, 16, 16],
    ] {
        let numbers = |seed, count| normals(seed, &[count]).to_vec1::<f32>().expect("numbers");
        let (x, weight, bias) = (numbers(1, b * c * h * w), numbers(2, o * c * 9), numbers(3, o));
        let dy = numbers(4, b * o * h * w);
        // The definition, in f64: y from x, and both gradients from dy.
        let mut y: Vec<f64> = (0..b * o * h * w).map(|i| f64::from(bias[i / (h * w) % o])).collect();
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        for i in 0..y.len() {
            let (item, to, row, column) = (i / (o * h * w), i / (h * w) % o, i / w % h, i % w);
            for from in 0..c {
                for (ky, kx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                    if (1..=h).contains(&(row + ky)) && (1..=w).contains(&(column + kx)) {
                        let at_x = ((item * c + from) * h + row + ky - 1) * w + column + kx - 1;
                        let at_w = ((to * c + from) * 3 + ky) * 3 + kx;
                        y[i] += f64::from(x[at_x]) * f64::from(weight[at_w]);
                        dx[at_x] += f64::from(dy[i]) * f64::from(weight[at_w]);
                        dw[at_w] += f64::from(dy[i]) * f64::from(x[at_x]);
                    }
                }
            }
        }
        let tiles = winograd::Tiles::new(b, h, w);
        let mut our_dw = vec![f32::NAN; weight.len()];
        tiles.weight_gradient(&x, &dy, &mut our_dw);
        for (what, exact, ours) in [
            ("y", y, tiles.forward(&x, Numbers::F32(&weight), &bias)),
            ("dx", dx, tiles.input_gradient(Numbers::F32(&weight), &dy)),
            ("dw", dw, our_dw),
        ] {
            // One alone for each value, because the numbers are about 1 even where few of them are summed.
            let norm = exact.iter().map(|value| value * value + 1.0).sum::<f64>().sqrt();
            let squares = exact.iter().zip(&ours).map(|(exact, ours)| (exact - f64::from(*ours)).powi(2));
            let error = squares.sum::<f64>().sqrt();
            assert!(ours.len() == exact.len() && error < 1e-6 * norm, "{what} of {:?}: {error}", [b, c, o, h, w]);
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let values = [
        normals(1, &[2, 40, 12, 10]),
        normals(2, &[70, 40, 3, 3]),
        normals(3, &[70]),
        normals(4, &[70, 70, 1, 1]),
        normals(5, &[70]),
    ]
    .map(|values| Var::from_tensor(&values).expect("a variable"));
    let [x, w, b, w_one, b_one] = &values;
    let run = || -> Result<Vec<Vec<f32>>> {
        let y = conv2d(x, &parameters(w, b), 1, Padding::Even(1))?; // Winograd's way
        let y = group_norm(&y, &parameters(b, b_one), 7, 1e-5, Activation::Silu)?;
        let y = conv2d(&y, &parameters(w_one, b_one), 2, Padding::Even(0))?; // by patches
        let y = y.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let y = attention(&y, &linear(&y, &w_one.flatten_from(1)?, None, &None)?, &y, 5, AttentionKernels::Cublas)?;
        let gradients = y.sqr()?.sum_all()?.backward()?;
        let gradient = |variable| gradients.get(variable).expect("a gradient").flatten_all()?.to_vec1();
        values.iter().map(|variable| gradient(variable.as_tensor())).chain([y.flatten_all()?.to_vec1()]).collect()
    };
    let [one, three] = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(run).expect("values and gradients")
    });
    assert!(one == three);
}

#[test]
fn only_wanted_gradients_are_computed() {
    let (x, w, b) = (normals(1, &[1, 2, 4, 4]), normals(2, &[3, 2, 3, 3]), normals(3, &[3]));
    let x = Var::from_tensor(&x).expect("a variable");
    let y = conv2d(&x, &parameters(&w, &b), 1, Padding::Even(1)).and_then(|y| y.sum_all()).expect("a sum");
    let gradients = y.backward().expect("a backward");
    assert!(gradients.get(&x).is_some());
    assert!(gradients.get(&w).is_none() && gradients.get(&b).is_none());
}

#[test]
fn fast_exp_and_erf_are_accurate() {
    for i in -2000..2000 {
        let x = i as f32 / 100.0;
        let exact = f64::from(x).exp();
        assert!((f64::from(exp(x)) - exact).abs() <= 4e-7 * exact, "exp({x})");
    }
    // Abramowitz and Stegun, table 7.1.
    for (x, exact) in [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (-1.0, -0.842_700_8f32)]
    {
        assert!((erf(x) - exact).abs() < 4e-7, "erf({x}) is {}", erf(x));
    }
}
