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
from drawing import render
from sampling import draw
from scenes import ATTRIBUTES, Scene, caption
from vae import psnr

GUIDANCE = 5.0  # the best of 2, 3, 5 and 8 for samples of validation scenes


def round_trip(pipeline, count: int) -> dict[str, float]:
    """Mean PSNR in dB of decode(mean of encode) on held-out scenes: all of them, photos, sketches."""
    scenes = data.scenes(count, data.HELD_OUT_SEED)
    x = data.to_model_range(np.stack([render(scene, data.SIZE) for scene in scenes]).transpose(0, 3, 1, 2))
    values = np.array([psnr(pipeline.vae, picture[None]) for picture in x])
    sketch = np.array([scene.style == "sketch" for scene in scenes])
    return {"all": values.mean(), "photo": values[~sketch].mean(), "sketch": values[sketch].mean()}


def samples_read_back(
    parts, judge, scenes: list[Scene], guidance: float = GUIDANCE, steps: int = 25, dtype: torch.dtype = torch.float32
) -> dict:
    """Shares of samples in which the judge reads what the full captions of the scenes ask for; see `shares`."""
    generator, pictures = torch.Generator().manual_seed(0), []
    for start in range(0, len(scenes), 50):
        captions = [caption(scene) for scene in scenes[start : start + 50]]
        pictures += draw(parts, captions, generator, steps, guidance, dtype)
    return shares(scenes, judge.read(pictures))


def shares(scenes: list[Scene], readings: list[dict]) -> dict[str, float]:
    """Of each attribute, where the scene has it, how often the reading is as the scene; and of all of them together.

    The shares of single attributes hide how often a picture is right, and the whole hides rare things that fail:
    so hats where one was asked for, and dogs and people, have their own.
    """
    right = [
        {
            name: reading[name] == getattr(scene, name)
            for name in ATTRIBUTES
            if (name != "color" or scene.style == "photo") and (name != "pose" or scene.pose is not None)
        }
        for scene, reading in zip(scenes, readings)
    ]
    together = [all(attributes.values()) for attributes in right]

    def share(values):
        values = list(values)
        return float(np.mean(values)) if values else float("nan")

    result = {"all together": share(together)}
    result |= {name: share(attributes[name] for attributes in right if name in attributes) for name in ATTRIBUTES}
    result["hat where asked"] = share(r["hat"] for scene, r in zip(scenes, right) if scene.hat)
    for kind in ("dog", "person"):
        result[kind] = share(r["kind"] for scene, r in zip(scenes, right) if scene.kind == kind)
        result[f"{kind}, all together"] = share(
            all_right for scene, all_right in zip(scenes, together) if scene.kind == kind
        )
    return result


def load(model: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.unet.set_attn_processor(AttnProcessor())  # faster than the fused one on a CPU
    return pipeline


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--guidance", type=float, nargs="+", default=[GUIDANCE])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = load(options.model)
    judge = classifier.load()
    held_out = data.scenes(options.scenes, data.HELD_OUT_SEED)
    report = {
        "autoencoder round trip, dB": round_trip(pipeline, options.scenes),
        "samples read back, by guidance": {
            guidance: samples_read_back(pipeline, judge, held_out, guidance, options.steps)
            for guidance in options.guidance
        },
        "classifier on held-out scenes": classifier.accuracy(judge, data.scenes(4000, data.HELD_OUT_SEED)),
        "scenes": options.scenes,
        "sampling steps": options.steps,
    }
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
