"""Adds what diffusers' own pipeline draws for the text alone to a folder of `make_reference.py`.

    cd tests/reference && .venv/bin/python make_pipeline.py ../fixtures/small-sd1 ../fixtures/small-sdxl

Everything is the pipeline's: tokenizers, text encoders, what stands for the empty text, sizes, guidance, steps. Only
the start latents are given, those of the engine for the seed, and the scheduler is DDIM."""

import json
import pathlib
import sys

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import save_file

from make_reference import initial_latents


def main():
    torch.set_num_threads(1)
    for folder in map(pathlib.Path, sys.argv[1:]):
        facts = json.loads((folder / "reference.json").read_text())
        settings = facts["settings"]
        pipeline = DiffusionPipeline.from_pretrained(folder / facts["model"], torch_dtype=torch.float32)
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        height, width = (side * pipeline.vae_scale_factor for side in settings["latents"])
        picture = pipeline(
            settings["text"],
            height=height,
            width=width,
            num_inference_steps=settings["steps"],
            guidance_scale=settings["guidance"],
            latents=initial_latents(pipeline.unet, settings, torch.float32),
            output_type="pt",
        ).images
        save_file({"image": picture.contiguous()}, folder / "pipeline.safetensors")


if __name__ == "__main__":
    main()
