//! What a layer takes, counted from shapes alone: each one has a `trace` beside its `forward` that counts here.
#![forbid(unsafe_code)]

/// (b, c, h, w).
pub type Size = [usize; 4];

/// Numbers in a tensor of that size.
pub fn values(size: Size) -> usize {
    size.iter().product()
}

/// What some layers take, in numbers of 4 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace {
    /// Results, all of which the backward pass needs.
    pub kept: usize,
    /// Most that the gradients of one operation's inputs and result take.
    pub gradients: usize,
    /// The same with the gradients of its weights.
    pub all_gradients: usize,
    /// Most that exist at a time when there is no backward pass.
    pub alive: usize,
}

impl Trace {
    /// Counts an operation that makes `output` numbers of `input` numbers and `weights` weights; gives `output`.
    pub fn operation(&mut self, input: usize, output: usize, weights: usize) -> usize {
        self.kept += output;
        // candle adds a gradient to zeros: the gradient, the zeros and the sum exist together.
        self.gradients = self.gradients.max(output + 3 * input);
        self.all_gradients = self.all_gradients.max(output + 3 * input + weights);
        self.alive(input + output);
        output
    }

    /// Counts a layer's adapter: `low` numbers between A and B, and B's result, which is added to the layer's.
    pub fn adapter(&mut self, input: usize, low: usize, output: usize) {
        self.operation(input, low, 0);
        self.operation(low, output, 0);
        self.operation(output, output, 0);
    }

    /// Counts `values` numbers that exist at a time.
    pub fn alive(&mut self, values: usize) {
        self.alive = self.alive.max(values);
    }
}
