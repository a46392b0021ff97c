"""Which scenes train, which are held out, which validate: seeded random scenes, and their pictures, cached on disk.

Every second scene is the sibling of the one before it: the same picture with one attribute changed.
Held-out scenes come from seeds that training never uses.
"""

import random
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch

from drawing import render
from scenes import Scene, random_scene, sibling

SIZE = 64  # pixels
TRAINING_SEED = 1  # the autoencoder, the classifier, and the first 26,000 steps of the diffusion model
CHUNK_SEED = 100_000  # chunk k of the diffusion model's growing training set has the seed CHUNK_SEED + k
CHUNK = 20_000  # scenes
HELD_OUT_SEED = 1_000_001  # the gates of the autoencoder, the classifier and the generated samples
VALIDATION_SEED = 2_000_001  # edits on which imagic.json was chosen
CURVE_SEED = 2_500_001  # samples by which the training is watched
TEST_SEED = 3_000_001  # edits that are only reported on


def has_fast_bfloat16(device: str = "cpu") -> bool:
    """Whether bfloat16 saves time there. A processor without instructions for it takes up to twenty times as long."""
    if device != "cpu":
        return True
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def scenes(count: int, seed: int = TRAINING_SEED) -> list[Scene]:
    rng = random.Random(seed)
    result = []
    while len(result) < count:
        scene = random_scene(rng)
        result += [scene, sibling(scene, rng)]
    return result[:count]


def chunk_scenes(number: int) -> list[Scene]:
    """The scenes of one chunk of the growing training set."""
    assert CHUNK_SEED + number < HELD_OUT_SEED, "the chunks would run into the held-out scenes"
    return scenes(CHUNK, CHUNK_SEED + number)


def picture(scene: Scene) -> np.ndarray:
    return render(scene, SIZE)


def pictures(count: int, work: Path, seed: int = TRAINING_SEED, processes: int = 2) -> np.ndarray:
    """(count, 3, 64, 64) uint8, from the cache in `work` if it is there."""
    cache = work / f"pictures-{seed}-{count}.npy"
    if not cache.exists():
        work.mkdir(parents=True, exist_ok=True)
        with Pool(processes) as pool:
            rendered = np.stack(pool.map(picture, scenes(count, seed), chunksize=200))
        np.save(cache, rendered.transpose(0, 3, 1, 2))
    return np.load(cache)


def to_model_range(batch: np.ndarray) -> torch.Tensor:
    """uint8 pictures to floats from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(batch)).float() / 127.5 - 1


def to_pictures(batch: torch.Tensor) -> list[np.ndarray]:
    """(n, 3, h, w) from -1 to 1 to n pictures (h, w, 3) uint8."""
    return list(((batch.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy())
