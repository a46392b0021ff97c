//! A tuned network as its difference to the base model's, in three bits a weight: what is kept of large networks, which
//! would take gigabytes each (docs/CACHE.md).
//!
//! Weights are rounded to what can be kept before anybody draws with them, so that a picture is the same whether the
//! network was tuned just now or is read from the disk. A block is 64 weights: a scale s in bf16, then a code c of
//! three bits for each weight, whose difference is (c - 3.5) s. Differences are around 1e-5, below the normal numbers
//! of f16.
#![forbid(unsafe_code)]

use crate::engine::model::weights::Weights;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Weights that share a scale.
const BLOCK: usize = 64;
/// Bytes of a block: its scale, then three bits a weight.
const BYTES: usize = 2 + 3 * BLOCK / 8;
/// Between the codes, so that no code is 0: after tuning every weight differs from what it was.
const MIDDLE: f32 = 3.5;

/// The codes of a network's tensors by name; those of fewer than two sides, a thousandth of all weights, have none and
/// stay as they are.
pub type Codes = BTreeMap<String, Vec<u8>>;

/// Whether a tensor of that shape gets codes.
fn has_codes(tensor: &Tensor) -> bool {
    tensor.rank() > 1
}

/// Bytes of the codes of a tensor of so many elements.
pub fn code_bytes(elements: usize) -> usize {
    elements.div_ceil(BLOCK) * BYTES
}

/// Bytes that `network` takes on the disk in this form.
pub fn bytes(network: &Weights) -> u64 {
    let tensor = |tensor: &Tensor| match has_codes(tensor) {
        true => code_bytes(tensor.elem_count()),
        false => 4 * tensor.elem_count(),
    };
    network.tensors.values().map(tensor).sum::<usize>() as u64
}

/// Rounds `tuned` to what can be kept of it, one tensor after the other; `base` reads the base model's tensor of a
/// name.
pub fn round(tuned: &mut Weights, mut base: impl FnMut(&str) -> Result<Tensor>) -> Result<Codes> {
    let mut codes = Codes::new();
    for (name, tensor) in tuned.tensors.iter_mut().filter(|(_, tensor)| has_codes(tensor)) {
        let before = values(&base(name)?)?;
        let differences: Vec<f32> = values(tensor)?.iter().zip(&before).map(|(after, before)| after - before).collect();
        let mut packed = vec![0; code_bytes(differences.len())];
        packed.par_chunks_mut(BYTES).zip(differences.par_chunks(BLOCK)).for_each(|(packed, block)| pack(block, packed));
        drop(differences);
        *tensor = restored(before, &packed, tensor.dims(), tensor.device())?;
        codes.insert(name.clone(), packed);
    }
    Ok(codes)
}

/// The tuned tensor that differs from `base` by `codes`, of which there are as many as [`code_bytes`] says.
pub fn restore(base: &Tensor, codes: &[u8]) -> Result<Tensor> {
    restored(values(base)?, codes, base.dims(), base.device())
}

fn restored(mut values: Vec<f32>, codes: &[u8], shape: &[usize], device: &Device) -> Result<Tensor> {
    values.par_chunks_mut(BLOCK).zip(codes.par_chunks(BYTES)).for_each(|(values, packed)| {
        let scale = scale_of(packed);
        for (index, value) in values.iter_mut().enumerate() {
            *value += (f32::from(code(packed, index)) - MIDDLE) * scale;
        }
    });
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)?)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// The scale and codes of `block` that are nearest to it.
fn pack(block: &[f32], packed: &mut [u8]) {
    /// Best step between eight even levels for numbers of a normal distribution, in standard deviations (Max, 1960).
    const NORMAL: f32 = 0.586;
    let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let deviation = (block.iter().map(|value| value * value).sum::<f32>() / block.len() as f32).sqrt();
    let mut best = (f32::INFINITY, 0.0);
    for mut scale in [largest / MIDDLE, NORMAL * deviation] {
        // Codes for a scale, then the best scale for these codes, and so on.
        for _ in 0..3 {
            scale = rounded(scale);
            // 0 or no number: all differences are 0.
            if scale.is_nan() || scale <= 0.0 {
                break;
            }
            let (error, next) = fit(block, scale);
            if error < best.0 {
                best = (error, scale);
            }
            scale = next;
        }
    }
    let scale = best.1;
    packed[..2].copy_from_slice(&((scale.to_bits() >> 16) as u16).to_le_bytes());
    for (index, &value) in block.iter().enumerate() {
        let bits = u16::from(nearest(value, 1.0 / scale)) << (3 * index % 8);
        packed[2 + 3 * index / 8] |= bits as u8;
        if bits > 255 {
            packed[3 + 3 * index / 8] |= (bits >> 8) as u8;
        }
    }
}

/// The sum of squared errors that the codes for `scale` leave, and the scale that would suit these codes best.
fn fit(block: &[f32], scale: f32) -> (f32, f32) {
    /// Sums that are taken side by side: a billion weights are to be fitted in seconds.
    const LANES: usize = 8;
    let inverse = 1.0 / scale;
    let (mut error, mut product, mut square) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for values in block.chunks(LANES) {
        for (lane, &value) in values.iter().enumerate() {
            let level = f32::from(nearest(value, inverse)) - MIDDLE;
            error[lane] += (value - level * scale) * (value - level * scale);
            product[lane] += value * level;
            square[lane] += level * level;
        }
    }
    let sum = |lanes: [f32; LANES]| lanes.iter().sum::<f32>();
    (sum(error), sum(product) / sum(square))
}

/// The code for a difference, by 1 / scale.
fn nearest(value: f32, inverse: f32) -> u8 {
    // Half a step more, and what is behind the point goes. No number, as of 0 by infinity, becomes 0.
    (value * inverse + (MIDDLE + 0.5)).clamp(0.0, 7.0) as u8
}

/// Code `index` of a block.
fn code(packed: &[u8], index: usize) -> u8 {
    let (at, shift) = (2 + 3 * index / 8, 3 * index % 8);
    let next = packed.get(at + 1).copied().unwrap_or(0);
    ((u16::from_le_bytes([packed[at], next]) >> shift) & 7) as u8
}

fn scale_of(packed: &[u8]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([packed[0], packed[1]])) << 16)
}

/// `value`, which is not negative, as bf16.
fn rounded(value: f32) -> f32 {
    f32::from_bits((value.to_bits().saturating_add(0x8000)) & 0xFFFF_0000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::{Purpose, Stream};

    fn network(tensors: &[(&str, Tensor)]) -> Weights {
        let tensors = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        Weights { tensors, ..Weights::default() }
    }

    #[test]
    fn a_rounded_network_is_restored_to_the_bit_and_is_near_to_what_was_tuned() {
        let normals = |step, shape: &[usize]| Stream::new(1u32, Purpose::Adapters, step).normals(shape, &Device::Cpu);
        let base = normals(0, &[7, 30, 3]).expect("numbers");
        let difference = (normals(1, &[7, 30, 3]).expect("numbers") * 1e-5).expect("numbers");
        let exact = (&base + &difference).expect("numbers");
        let bias = normals(2, &[9]).expect("numbers");
        let mut tuned = network(&[("weight", exact.clone()), ("bias", bias.clone())]);
        let codes = round(&mut tuned, |_| Ok(base.clone())).expect("codes");
        assert_eq!(codes.keys().collect::<Vec<_>>(), ["weight"]);
        assert_eq!(codes["weight"].len(), 10 * 26);
        assert_eq!(bytes(&tuned), 10 * 26 + 4 * 9);
        let bits = |tensor: &Tensor| values(tensor).expect("numbers").iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&tuned.tensors["bias"]), bits(&bias));
        assert_eq!(bits(&tuned.tensors["weight"]), bits(&restore(&base, &codes["weight"]).expect("a tensor")));
        let power = |tensor: Tensor| values(&tensor).expect("numbers").iter().map(|v| v * v).sum::<f32>();
        let noise = power((&tuned.tensors["weight"] - &exact).expect("numbers")) / power(difference);
        // 0.037 is what eight even levels leave of normal numbers (Max, 1960); a scale for each 64 leaves less.
        assert!(noise < 0.037, "{noise} of the difference is lost");
    }

    #[test]
    fn what_was_not_changed_stays_and_two_values_are_kept_as_well_as_a_scale_can_be() {
        let base = Tensor::zeros((2, 64), DType::F32, &Device::Cpu).expect("zeros");
        let mut same = network(&[("weight", base.clone())]);
        let codes = round(&mut same, |_| Ok(base.clone())).expect("codes");
        assert!(codes["weight"].iter().all(|byte| *byte == 0) && power_of(&same) == 0.0);
        let signs = (0..128).map(|i| if i % 3 == 0 { 0.5_f32 } else { -0.5 }).collect::<Vec<_>>();
        let signs = Tensor::from_vec(signs, (2, 64), &Device::Cpu).expect("numbers");
        let mut tuned = network(&[("weight", signs.clone())]);
        round(&mut tuned, |_| Ok(base.clone())).expect("codes");
        for (kept, exact) in
            values(&tuned.tensors["weight"]).expect("numbers").iter().zip(&values(&signs).expect("numbers"))
        {
            // The scale has eight bits.
            assert!((kept - exact).abs() <= exact.abs() / 256.0, "{kept} for {exact}");
        }
    }

    fn power_of(network: &Weights) -> f32 {
        values(&network.tensors["weight"]).expect("numbers").iter().map(|v| v * v).sum()
    }
}
