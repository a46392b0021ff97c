//! What a layer needs of memory, counted from shapes alone: every layer has a `trace` beside its `forward` that counts
//! here.
#![forbid(unsafe_code)]

/// Shape of a batch of pictures or feature maps: (b, c, h, w).
pub type Size = [usize; 4];

/// Elements of a tensor of that shape.
pub fn elements(size: Size) -> usize {
    size.iter().product()
}

/// What some layers need, in elements of 4 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace {
    /// All results, which the backward pass needs.
    pub kept: usize,
    /// The most that the backward pass of a single operation needs for the gradients of its result and its inputs.
    pub gradients: usize,
    /// The same where the gradients of its weights are computed, too.
    pub all_gradients: usize,
    /// The most that exists at a time where there is no backward pass.
    pub alive: usize,
}

impl Trace {
    /// Counts an operation with `input` elements in its inputs, `output` in its result and `weights` in its weights;
    /// gives `output`.
    pub fn operation(&mut self, input: usize, output: usize, weights: usize) -> usize {
        self.kept += output;
        // candle adds a gradient to zeros: the gradient, the zeros and the sum exist together.
        self.gradients = self.gradients.max(output + 3 * input);
        self.all_gradients = self.all_gradients.max(output + 3 * input + weights);
        self.alive(input + output);
        output
    }

    /// Counts the adapter of a layer: `low` elements between A and B, and the result of B, which is added to the
    /// layer's.
    pub fn adapter(&mut self, input: usize, low: usize, output: usize) {
        self.operation(input, low, 0);
        self.operation(low, output, 0);
        self.operation(output, output, 0);
    }

    /// Counts `elements` that exist at a time.
    pub fn alive(&mut self, elements: usize) {
        self.alive = self.alive.max(elements);
    }
}
