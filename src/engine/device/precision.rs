//! In which numbers a GPU computes, and what computes attention there.
#![forbid(unsafe_code)]

use candle_core::DType;

/// What a GPU multiplies matrices in, and what the U-Net's tensors are stored in. Weights, their gradients and moments,
/// the time embedding, the loss and the autoencoder are always f32, and sums are taken in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32, as on the processor.
    F32,
    /// The tensor cores' 32 bit format, which has a mantissa of 10 bits instead of 23, as f16 has; several times as
    /// fast.
    Tf32,
    /// As `Tf32`, with [`AttentionKernels::Own`]. Never run on a card.
    Tf32OwnAttention,
    /// 16 bits for the tensors between the U-Net's layers, their gradients, and both factors of its products: half the
    /// memory and traffic of TF32, and twice the speed of its products. Where it is trained, bf16: it has the exponents
    /// of f32, so that no gradient vanishes or needs a scale. Where it samples, f16: with a mantissa of 7 bits bf16
    /// would lose most of what 1500 steps of 5e-7 have changed of a weight of 0.02, whose neighbor is 1.2e-4 away; f16
    /// has 10 as TF32. Other products as in `Tf32`.
    Bf16,
}

impl Precision {
    /// The one called f32, tf32 or bf16; one that is experimental has no name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::F32),
            "tf32" => Some(Self::Tf32),
            "bf16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// The form of the U-Net's layers while something is trained: stages A and B.
    pub fn training(self) -> Form {
        self.form(if self == Self::Bf16 { DType::BF16 } else { DType::F32 })
    }

    /// Their form in stage C.
    pub fn sampling(self) -> Form {
        self.form(if self == Self::Bf16 { DType::F16 } else { DType::F32 })
    }

    fn form(self, storage: DType) -> Form {
        let own = self == Self::Tf32OwnAttention;
        Form { storage, attention: if own { AttentionKernels::Own } else { AttentionKernels::Cublas } }
    }
}

/// How the U-Net's layers compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// What the tensors between them are stored in.
    pub storage: DType,
    /// What computes their attention.
    pub attention: AttentionKernels,
}

/// What computes attention on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKernels {
    /// cuBLAS, with scores in memory.
    Cublas,
    /// Kernels of our own that keep scores in shared memory, for the sizes that have one; these always multiply in
    /// TF32.
    Own,
}
