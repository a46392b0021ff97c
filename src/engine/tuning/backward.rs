//! Gradients of a loss through the U-Net, one block at a time: what a block computes on the way to its output is kept
//! until its turn comes, or computed a second time then (gradient checkpointing). Knows no stage and no optimizer.
//!
//! Both ways run the same operations on the same numbers and add gradients up in the same order, so that they give the
//! same bytes. What candle's own `backward` cannot do is to let go of a block's graph once it is through with it.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::unet::{Skip, UNet};
use crate::engine::ops;
use crate::error::Result;
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

/// What happens to the intermediate results of a block until its gradients are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// They stay in memory.
    Keep,
    /// They are computed again: about a third more time, for the memory of one block instead of all.
    Recompute,
}

/// What the network is asked about, as in [`UNet::forward`].
pub struct Input<'a> {
    /// (b, c, h, w).
    pub x_t: &'a Tensor,
    /// b timesteps, see [`UNet::sinusoids`].
    pub sinusoids: &'a Tensor,
    /// b items.
    pub e: &'a Conditioning,
}

/// The loss of the network's prediction, and the gradients of all variables behind it that no optimizer used up.
pub fn backward(
    unet: &UNet,
    input: &Input<'_>,
    activations: Activations,
    loss: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<(Tensor, GradStore)> {
    let silu_emb = unet.embed_timesteps(input.sinusoids, input.e)?;
    let (own_emb, own_e) = (cut(&silu_emb)?, cut(&input.e.tokens)?);
    // Block i makes values[i + 1] of values[i] and perhaps of the value that it takes from the down path.
    let mut values = vec![cut(&unet.input(input.x_t, input.e)?)?];
    let mut skips = Vec::new();
    let mut graphs = Vec::new();
    for (i, block) in unet.blocks.iter().enumerate() {
        let skip = (block.skip == Skip::Takes).then(|| skips.pop().expect("the down path gives as many"));
        let y = block.forward(&values[i], skip.map(|skip: usize| &values[skip]), &own_emb, &own_e)?;
        values.push(cut(&y)?);
        if block.skip == Skip::Gives {
            skips.push(i + 1);
        }
        graphs.push((skip, (activations == Activations::Keep).then_some(y)));
    }

    let mut gradients = GradStore::default();
    let loss = loss(&values[unet.blocks.len()].to_dtype(DType::F32)?)?;
    add_gradients(&loss, &mut gradients)?;
    for (block, (skip, kept)) in unet.blocks.iter().zip(graphs).rev() {
        let output = values.pop().expect("one value more than blocks");
        // No variable is behind the first blocks in stage A.
        let Some(gradient) = gradients.remove(&output) else { continue };
        let y = match kept {
            Some(y) => y,
            None => {
                let h = values.last().expect("the block's input");
                block.forward(h, skip.map(|skip| &values[skip]), &own_emb, &own_e)?
            }
        };
        add_gradients(&ops::seed_gradient(&y, &gradient)?, &mut gradients)?;
    }
    for (whole, own) in [(&silu_emb, &own_emb), (&input.e.tokens, &own_e)] {
        // A variable is its own end, see `cut`.
        if !whole.is_variable()
            && let Some(gradient) = gradients.remove(own)
        {
            add_gradients(&ops::seed_gradient(whole, &gradient)?, &mut gradients)?;
        }
    }
    Ok((loss.detach(), gradients))
}

/// `tensor` without what it was computed from. If a variable is behind it, it becomes one, so that its gradient is
/// computed.
fn cut(tensor: &Tensor) -> Result<Tensor> {
    Ok(if tensor.track_op() { Var::from_tensor(tensor)?.into_inner() } else { tensor.clone() })
}

/// Adds the gradients of the variables behind `y` to `all`.
fn add_gradients(y: &Tensor, all: &mut GradStore) -> Result<()> {
    let mut gradients = y.backward()?;
    // `backward` leaves gradients of other tensors, too.
    for variable in y.sorted_nodes().into_iter().filter(|tensor| tensor.is_variable()) {
        if let Some(gradient) = gradients.remove(variable) {
            let sum = match all.remove(variable) {
                Some(others) => (others + gradient)?,
                None => gradient,
            };
            all.insert(variable, sum);
        }
    }
    Ok(())
}
