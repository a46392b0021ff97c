"""Measures a model on held-out scenes: the autoencoder's round trip, and whether generated samples show what was asked.

python gates.py ../scenes-64 --json gates.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor

import classifier
import data
from diffusion import generate, tokenize
from drawing import render
from scenes import ATTRIBUTES, caption
from vae import psnr

GUIDANCE = 5.0  # the best of 2, 3, 5 and 8 for samples of validation scenes


def round_trip(pipeline, count: int) -> dict[str, float]:
    """Mean PSNR in dB of decode(mean of encode) on held-out scenes: all of them, photos, sketches."""
    scenes = data.scenes(count, data.HELD_OUT_SEED)
    x = data.to_model_range(np.stack([render(scene, data.SIZE) for scene in scenes]).transpose(0, 3, 1, 2))
    values = np.array([psnr(pipeline.vae, picture[None]) for picture in x])
    sketch = np.array([scene.style == "sketch" for scene in scenes])
    return {"all": values.mean(), "photo": values[~sketch].mean(), "sketch": values[sketch].mean()}


@torch.no_grad()
def samples_read_back(pipeline, judge, count: int, guidance: float = GUIDANCE, steps: int = 25) -> dict[str, float]:
    """Share of samples in which the judge reads what the full caption of a held-out scene asks for."""
    scenes = data.scenes(count, data.HELD_OUT_SEED)
    generator = torch.Generator().manual_seed(0)
    empty = pipeline.text_encoder(tokenize(pipeline.tokenizer, [""]))[0]
    pictures = []
    for start in range(0, count, 50):
        part = scenes[start : start + 50]
        embedding = pipeline.text_encoder(tokenize(pipeline.tokenizer, [caption(scene) for scene in part]))[0]
        config = pipeline.unet.config
        noise = torch.randn(len(part), config.in_channels, config.sample_size, config.sample_size, generator=generator)
        latents = generate(
            pipeline.unet, embedding, empty, noise, steps=steps, guidance=guidance, schedule=pipeline.scheduler
        )
        pictures += data.to_pictures(pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample)
    right = {name: [] for name in ATTRIBUTES}
    for scene, reading in zip(scenes, judge.read(pictures)):
        for name in ATTRIBUTES:
            if (name != "color" or scene.style == "photo") and (name != "pose" or scene.pose is not None):
                right[name].append(reading[name] == getattr(scene, name))
    return {name: float(np.mean(values)) for name, values in right.items()}


def load(model: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.unet.set_attn_processor(AttnProcessor())  # faster than the fused one on a CPU
    return pipeline


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = load(options.model)
    judge = classifier.load()
    report = {
        "autoencoder round trip, dB": round_trip(pipeline, options.scenes),
        "samples read back": samples_read_back(pipeline, judge, options.scenes, options.guidance, options.steps),
        "classifier on held-out scenes": classifier.accuracy(judge, data.scenes(4000, data.HELD_OUT_SEED)),
        "scenes": options.scenes,
        "guidance": options.guidance,
        "sampling steps": options.steps,
    }
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
