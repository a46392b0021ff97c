//! Linear layer: y = x W^T + b.
#![forbid(unsafe_code)]

use super::adam::Adam;
use super::gemm::{Matrix, Out, Threads, matmul};
use super::gradient::hand_over;
use super::operation::{Gradients, Lent, Op, Operation};
use super::values::{Numbers, values, wanted, with_numbers, with_values};
use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// `x`: (..., k), `weight`: (n, k), of 16 bits too if it is frozen, `bias`: (n); gives (..., n).
/// `optimizer` as in [`super::Parameters`].
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, optimizer: &Option<Arc<Adam>>) -> Result<Tensor> {
    let (x, linear) = (x.contiguous()?, Op(Linear { optimizer: optimizer.clone() }));
    match bias {
        Some(bias) => x.apply_op3(weight, bias, linear),
        None => x.apply_op2(weight, linear),
    }
}

pub(super) struct Linear {
    pub(super) optimizer: Option<Arc<Adam>>,
}

impl Linear {
    /// `bias` is behind the result of a layer that has one.
    fn result(
        &self,
        x: Lent<'_, CpuStorage>,
        w: Lent<'_, CpuStorage>,
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (mut dims, n) = (x.1.dims().to_vec(), w.1.dims()[0]);
        let (x, w, last) = (values(x)?, Numbers::of(w)?, dims.len() - 1);
        let k = dims[last];
        let m = x.len() / k;
        let mut y = vec![0.0; m * n];
        if let Some(bias) = bias {
            y.par_chunks_mut(n).for_each(|row| row.copy_from_slice(bias));
        }
        matmul(&mut y, Out::Add, 1.0, Matrix::new(x, m, k), Matrix::of(w, n, k).t(), Threads::All);
        dims[last] = n;
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }
}

impl Operation<2> for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, [x, w]: [Lent<'_, CpuStorage>; 2]) -> Result<(CpuStorage, Shape)> {
        self.result(x, w, None)
    }

    fn backward(&self, [x, w]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Gradients<2> {
        let (n, k) = w.dims2()?;
        let m = x.elem_count() / k;
        let dx = wanted(x, || {
            with_values([dy], |[dy]| {
                let mut dx = vec![0.0; m * k];
                with_numbers(w, |w| {
                    matmul(&mut dx, Out::Replace, 1.0, Matrix::new(dy, m, n), Matrix::of(w, n, k), Threads::All);
                    Ok(())
                })?;
                Ok(dx)
            })
        })?;
        let dw = hand_over(&self.optimizer, w, |dw| {
            with_values([x, dy], |[x, dy]| {
                matmul(dw, Out::Replace, 1.0, Matrix::new(dy, m, n).t(), Matrix::new(x, m, k), Threads::All);
                Ok(())
            })
        })?;
        Ok([dx, dw])
    }
}

impl Operation<3> for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn forward(&self, [x, w, b]: [Lent<'_, CpuStorage>; 3]) -> Result<(CpuStorage, Shape)> {
        self.result(x, w, Some(values(b)?))
    }

    fn backward(&self, [x, w, b]: [&Tensor; 3], y: &Tensor, dy: &Tensor) -> Gradients<3> {
        let [dx, dw] = self.backward([x, w], y, dy)?;
        let db = hand_over(&self.optimizer, b, |db| {
            with_values([dy], |[dy]| {
                db.fill(0.0);
                for row in dy.chunks(db.len()) {
                    db.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
                Ok(())
            })
        })?;
        Ok([dx, dw, db])
    }
}
