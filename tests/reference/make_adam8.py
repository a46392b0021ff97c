"""Writes what Adam with moments of 8 bits does to some parameters: with the code books of bitsandbytes, and by its own
optimizer.

    cd tests/reference
    .venv/bin/pip install --no-deps bitsandbytes==0.50.2
    .venv/bin/python make_adam8.py ../fixtures/adam8.safetensors

Start and gradients are the engine's own random numbers, so that only results need to be kept: parameters after steps 1,
5 and 20, (3, values), as `nearest` with the code next to each moment in f64, and as `bitsandbytes` by its optimizer on
the processor, which looks codes up in a coarser table; `codes`, (2, values), of both moments after the last step of
`nearest`."""

import sys

import bitsandbytes
import numpy as np
import torch
from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file

import noise

# Three whole blocks and a part of one. Gradients of five sizes from 1 to 0.01, as those of the weights of a layer are
# of several.
SEED, VALUES, STEPS, BLOCK = 11, 1000, (1, 5, 20), 256
LEARNING_RATE, BETA_1, BETA_2, EPS = 1e-3, 0.9, 0.999, 1e-8


def main():
    sizes = (10.0 ** -(np.arange(VALUES) % 5 / 2)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(normals(0)))
    optimizer = bitsandbytes.optim.Adam8bit(
        [parameter], LEARNING_RATE, (BETA_1, BETA_2), EPS, weight_decay=0, min_8bit_size=1
    )
    p, m, v = normals(0).astype(np.float64), np.zeros(VALUES), np.zeros(VALUES)
    nearest, theirs = [], []
    for step in range(1, STEPS[-1] + 1):
        # Half of a gradient is the same at every step.
        g = sizes * (normals(1) + normals(1 + step))
        parameter.grad = torch.from_numpy(g)
        optimizer.step()
        m = BETA_1 * m + (1 - BETA_1) * g
        v = BETA_2 * v + (1 - BETA_2) * np.float64(g) ** 2
        p -= LEARNING_RATE / (1 - BETA_1**step) * m / (np.sqrt(v / (1 - BETA_2**step)) + EPS)
        codes_m, m = code(m, create_dynamic_map(signed=True), 0)
        # Nothing above 0 becomes 0.
        codes_v, v = code(v, create_dynamic_map(signed=False), np.where(v > 0, 1, 0))
        if step in STEPS:
            nearest.append(torch.from_numpy(p.astype(np.float32)))
            theirs.append(parameter.detach().clone())
    codes = torch.from_numpy(np.stack([codes_m, codes_v]).astype(np.uint8))
    save_file({"nearest": torch.stack(nearest), "bitsandbytes": torch.stack(theirs), "codes": codes}, sys.argv[1])


def code(x, book, least):
    """Codes of at least `least` for x, and what they mean."""
    starts = np.arange(0, VALUES, BLOCK)
    largest = np.repeat(np.maximum.reduceat(np.abs(x), starts), np.diff([*starts, VALUES]))
    book = book.numpy().astype(np.float64)
    codes = np.maximum(np.abs(x[:, None] / largest[:, None] - book).argmin(axis=1), least)
    return codes, book[codes] * largest


def normals(index):
    return noise.normals((SEED, noise.INITIAL_LATENTS, index), (VALUES,))


if __name__ == "__main__":
    main()
