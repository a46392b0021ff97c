"""Draws with a text encoder and a U-Net: the noise schedule, tokens, DDIM with guidance, grids of samples."""

import torch
from diffusers import DDIMScheduler
from transformers import CLIPTokenizer

import data
from drawing import grid
from tokens import MAX_LENGTH

SAMPLE_PROMPTS = (
    "a photo of a red car on a sandy beach",
    "a photo of a big brown dog sitting on a grassy field",
    "a photo of a blue dog standing wearing a hat in the snow",
    "a photo of a yellow bird spreading its wings on a sandy beach",
    "a photo of a white cat jumping in the desert",
    "a photo of a black cat lying down in the snow",
    "a photo of a purple person raising arms at sunset",
    "a photo of a small green balloon on the left at night",
    "a photo of an orange fish on the right in the snow",
    "a photo of a pink house on a grassy field",
    "a pencil sketch of a tree on a grassy field",
    "a pencil sketch of a big cat sitting in the desert",
)


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=0,
        timestep_spacing="trailing",
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt").input_ids


@torch.no_grad()
def generate(unet, embedding, empty_embedding, x_t, steps=25, guidance=3.0, schedule=None, first=0) -> torch.Tensor:
    """DDIM with classifier-free guidance from `x_t` (n, 8, 16, 16), which is noise, or latents with the noise of
    timestep number `first` of `steps`: scaled latents."""
    schedule = schedule or scheduler()
    schedule.set_timesteps(steps)
    both = torch.cat([embedding, empty_embedding.expand_as(embedding)])
    for t in schedule.timesteps[first:]:
        with_text, without = unet(torch.cat([x_t, x_t]), t, both).sample.float().chunk(2)
        x_t = schedule.step(without + guidance * (with_text - without), t, x_t).prev_sample
    return x_t


@torch.no_grad()
def draw(parts, captions: list[str], generator: torch.Generator, steps=25, guidance=3.0, dtype=torch.float32) -> list:
    """Pictures (64, 64, 3) uint8 of the captions.

    `parts` has what a pipeline of diffusers has: tokenizer, text_encoder, unet, vae, scheduler.
    """
    device, config = parts.unet.device, parts.unet.config
    noise = torch.randn(len(captions), config.in_channels, config.sample_size, config.sample_size, generator=generator)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        embedding = parts.text_encoder(tokenize(parts.tokenizer, captions).to(device))[0]
        empty = parts.text_encoder(tokenize(parts.tokenizer, [""]).to(device))[0]
        latents = generate(parts.unet, embedding, empty, noise.to(device), steps, guidance, parts.scheduler)
        pictures = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample
    return data.to_pictures(pictures.float().cpu())


def sample_grid(parts, columns=4, guidance=3.0, dtype=torch.float32):
    captions = [prompt for prompt in SAMPLE_PROMPTS for _ in range(columns)]
    return grid(draw(parts, captions, torch.Generator().manual_seed(0), guidance=guidance, dtype=dtype), columns, 2)
