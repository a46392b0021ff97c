"""The engine's counter-based random numbers, written a second time so that both sides draw the same ones.

name -> formula, all in wrapping 64-bit arithmetic with G = 0x9E3779B97F4A7C15
    mix          SplitMix64's finalizer
    key          mix(mix(mix(seed + G) + purpose * G) + step * G)
    bits(i)      mix(key + (i + 1) * G)
    uniform(i)   (bits(i) >> 11) * 2^-53, in [0, 1)
    normals      Box-Muller on the uniforms 2j and 2j + 1, in f64, then rounded to f32
"""

import numpy as np

VAE_SAMPLE, TIMESTEPS_A, NOISE_A, TIMESTEPS_B, NOISE_B, INITIAL_LATENTS = range(1, 7)
# Of the auxiliary model.
DETAIL_TIMESTEPS, DETAIL_NOISE, DETAIL_LEVELS, DETAIL_SMALL_NOISE = range(8, 12)
# Inputs of the single-operation references; the engine has no such purposes.
REFERENCE_INPUTS = 1000

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(z):
    z = np.asarray(z, np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def bits(stream, count):
    """The first `count` words of `stream`, which is (seed, purpose, step)."""
    seed, purpose, step = (np.asarray(number, np.uint64) for number in stream)
    with np.errstate(over="ignore"):
        key = mix(mix(mix(seed + GOLDEN) + purpose * GOLDEN) + step * GOLDEN)
        return mix(key + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * GOLDEN)


def uniforms(stream, count):
    return (bits(stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(stream, shape):
    """f32, in row-major order; an odd count drops the last number of the last pair."""
    count = int(np.prod(shape))
    pairs = uniforms(stream, count + count % 2).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log(1.0 - pairs[:, 0]))
    angle = 2.0 * np.pi * pairs[:, 1]
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return values.reshape(-1)[:count].reshape(shape).astype(np.float32)


def timesteps(stream, batch, num_train_timesteps):
    """One in each of `batch` equal parts of the range."""
    part = num_train_timesteps / batch
    return np.floor((np.arange(batch) + uniforms(stream, batch)) * part).astype(np.int64)
