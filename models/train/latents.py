"""The training set as latents: chunks of scenes, drawn and encoded once, and new chunks as the training goes on.

A scene costs about as much to draw and encode as a fifth of a training step on it, so a fresh scene at every
step would be a waste and the same ones for ever would be learned by heart. A chunk is made when those before
it have been seen a few times.
"""

import os
import random
from contextlib import nullcontext
from itertools import islice
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

import data
from scenes import Scene, caption
from tokens import MAX_LENGTH

CAPTIONS = 4  # variants of each scene's caption
FIRST_CHUNKS = 1  # a quarter of an hour of one thread, in which nothing is learned yet
SAMPLES_PER_CHUNK = 100_000  # seen by the training before the set grows by a chunk
MOST_CHUNKS = 25  # half a million scenes, 2 GB of latents
PART = 50  # pictures that are encoded together; more do not fit a processor's cache


def chunks_wanted(samples_seen: int) -> int:
    return min(MOST_CHUNKS, FIRST_CHUNKS + samples_seen // SAMPLES_PER_CHUNK)


def weight(scene: Scene) -> float:
    """How often a scene is drawn for a batch, beside 1 for a rigid thing in a photo.

    Only what a caption says counts here, so what a caption means stays the same: other scenes of the same
    caption are drawn more often by the same factor.
    """
    hat = 3 if scene.hat else 1  # a few pixels that most pictures lack
    sketch = 1.5 if scene.style == "sketch" and scene.pose else 1  # without color, dogs and cats differ in little
    dog_or_cat = 2 if scene.kind in ("dog", "cat") else 1  # one body, two heads: most of what goes wrong
    return hat * sketch * dog_or_cat


class Words:
    """Captions to token ids, as the tokenizer does it for captions of whole words; quick enough for millions."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.ids = {}

    def __call__(self, text: str) -> list[int]:
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = [start, *(self._id(word) for word in text.split()), end]
        return ids + [self.tokenizer.pad_token_id] * (MAX_LENGTH - len(ids))

    def _id(self, word: str) -> int:
        if word not in self.ids:
            (self.ids[word],) = self.tokenizer(word, add_special_tokens=False).input_ids
        return self.ids[word]


@torch.no_grad()
def encode(
    vae: AutoencoderKL, scenes: list[Scene], device: str = "cpu", processes: int = 1, half: bool = False
) -> np.ndarray:
    """Scaled means of the latents of the scenes' pictures, (n, 8, 16, 16) f16; computed in bfloat16 if `half`."""
    parts = []
    with Pool(processes) if processes > 1 else nullcontext() as pool:
        drawn = pool.imap(data.picture, scenes, PART) if pool else map(data.picture, scenes)
        while pictures := list(islice(drawn, PART)):
            batch = data.to_model_range(np.stack(pictures).transpose(0, 3, 1, 2)).to(device)
            with torch.autocast(device, torch.bfloat16, enabled=half):
                mean = vae.encode(batch).latent_dist.mode()
            parts.append((mean.float() * vae.config.scaling_factor).half().cpu().numpy())
    return np.concatenate(parts)


class TrainingSet:
    """Latents, token ids of captions and weights of all chunks that there are so far."""

    def __init__(
        self,
        folder: Path,
        vae: AutoencoderKL,
        tokenizer,
        device: str = "cpu",
        processes: int = 1,
        half: bool = False,
    ):
        self.folder, self.vae, self.words = folder, vae, Words(tokenizer)
        self.device, self.processes, self.half = device, processes, half
        self.latents, self.tokens, self.cumulative = [], [], np.zeros(0)

    def grow_to(self, chunks: int):
        while len(self.latents) < chunks:
            self._add(len(self.latents))

    def _add(self, number: int):
        scenes = data.chunk_scenes(number)
        file = self.folder / f"{number:03}.npy"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(f".{os.getpid()}.new")
            with unfinished.open("wb") as new:
                np.save(new, encode(self.vae, scenes, self.device, self.processes, self.half))
            unfinished.replace(file)
        rng = random.Random(number)
        ids = [[self.words(caption(scene, rng)) for _ in range(CAPTIONS)] for scene in scenes]
        # The pages of a mapped file can be dropped when others need the memory.
        self.latents.append(np.load(file, mmap_mode="r"))
        self.tokens.append(np.array(ids, np.int16))
        so_far = self.cumulative[-1] if len(self.cumulative) else 0
        self.cumulative = np.concatenate([self.cumulative, so_far + np.cumsum([weight(scene) for scene in scenes])])

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(latents, token ids of one caption each) of scenes that are drawn with PyTorch's random numbers."""
        places = torch.rand(count, dtype=torch.float64).numpy() * self.cumulative[-1]
        chosen = np.minimum(np.searchsorted(self.cumulative, places, "right"), len(self.cumulative) - 1)
        variants = torch.randint(CAPTIONS, (count,)).numpy()
        parts = [divmod(i, data.CHUNK) for i in chosen.tolist()]
        latents = np.stack([self.latents[chunk][i] for chunk, i in parts])
        tokens = np.stack([self.tokens[chunk][i, variant] for (chunk, i), variant in zip(parts, variants)])
        return torch.from_numpy(latents).float(), torch.from_numpy(tokens).long()
