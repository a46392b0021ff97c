"""Makes `inpainting.safetensors`: what diffusers' pipeline for inpainting draws where it may paint everywhere.

    cd tests/reference && .venv/bin/python make_inpainting.py ../fixtures/small-sd1 ../fixtures/inpainting.safetensors

The model is that of the folder with five more input channels, whose weights are in the file, too. Nothing is left of
the picture: the mask is one everywhere, and beside it stand latents of gray, their mean and not a sample."""

import json
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

import noise
from make_reference import initial_latents


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    folder, output = map(pathlib.Path, sys.argv[1:])
    facts = json.loads((folder / "reference.json").read_text())
    settings, model = facts["settings"], folder / facts["model"]
    narrow = UNet2DConditionModel.from_pretrained(model / "unet")
    unet = UNet2DConditionModel.from_config({**narrow.config, "in_channels": 9})
    weights = narrow.state_dict()
    shape = (weights["conv_in.weight"].shape[0], 5, 3, 3)
    more = 0.2 * torch.from_numpy(noise.normals((0, noise.REFERENCE_INPUTS, 0), shape))
    weights["conv_in.weight"] = torch.cat([weights["conv_in.weight"], more], dim=1)
    unet.load_state_dict(weights)
    pipeline = StableDiffusionInpaintPipeline(
        AutoencoderKL.from_pretrained(model / "vae"),
        CLIPTextModel.from_pretrained(model / "text_encoder"),
        CLIPTokenizer.from_pretrained(model / "tokenizer"),
        unet,
        DDIMScheduler.from_pretrained(model / "scheduler"),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    height, width = (side * pipeline.vae_scale_factor for side in settings["latents"])
    gray = torch.zeros(1, 3, height, width)
    picture = pipeline(
        settings["text"],
        image=gray,
        mask_image=torch.ones(1, 1, height, width),
        masked_image_latents=pipeline.vae.encode(gray).latent_dist.mean * pipeline.vae.config.scaling_factor,
        height=height,
        width=width,
        strength=1.0,
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance"],
        latents=initial_latents(narrow, settings, torch.float32),
        output_type="pt",
    ).images
    save_file({"image": picture.contiguous(), "conv_in": more.contiguous()}, output)


if __name__ == "__main__":
    main()
