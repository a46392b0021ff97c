"""Makes `enlarging/`: what diffusers makes of models that enlarge pictures, small ones with random weights.

    cd tests/reference && .venv/bin/python make_enlarging.py ../fixtures/enlarging

| model | as in |
|---|---|
| latents | stabilityai/stable-diffusion-x4-upscaler: latents beside the small picture, its noise level from a table |
| pixels | Imagen (Saharia et al., NeurIPS 2022): pixels beside the enlarged small picture, its level as sinusoids |
| base | the base model of such a cascade: pixels |

Weights and inputs are normal numbers of streams that both sides draw (`weight`, `Inputs`), so that only results are
kept: predictions, sketches of every gradient, a short tuning, and for `latents` what the pipeline for enlarging draws.
"""

import argparse
import json
import pathlib

import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale as upscale
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

import noise
from make_reference import sketch as whole_sketch

WEIGHTS_SEED, INPUTS_SEED = 1000, 2000
WIDTH, TOKENS = 24, 5  # of the text's embedding
SMALL = (8, 12)  # height and width of the small picture in `latents`; of the pixels in the other models
FACTOR = 4
LEVELS = [17, 311]  # noise levels of the two items
TIMESTEPS = [153, 802]
STEPS, GUIDANCE, LEVEL = 5, 4.0, 20  # of the pipeline
TUNING = {"steps": 5, "lr": 1e-3, "batch": 2, "levels": 350}

BLOCKS = {
    "norm_num_groups": 2,
    "block_out_channels": [8, 12],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
}
UNETS = {
    "latents": {
        **BLOCKS,
        "in_channels": 7,
        "out_channels": 4,
        "sample_size": 8,
        "block_out_channels": [8, 12, 12],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "only_cross_attention": [True, True, False],
        "num_class_embeds": 1000,
        "use_linear_projection": True,
    },
    "pixels": {**BLOCKS, "in_channels": 6, "out_channels": 3, "sample_size": 16, "class_embed_type": "timestep"},
    "base": {**BLOCKS, "in_channels": 3, "out_channels": 3, "sample_size": 8},
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "sample_size": 32,
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "scaling_factor": 0.08333,
}
SCHEDULER = {
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def weight(number, name, shape):
    """Tensor `number` of a network, its names sorted: every one is of a size that shows in the output."""
    normals = torch.from_numpy(noise.normals((WEIGHTS_SEED, noise.INITIAL_LATENTS, number), tuple(shape)))
    if len(shape) == 1:
        return 1 + normals / 4 if name.endswith("weight") else normals / 8
    if name == "class_embedding.weight":
        return normals / 2
    return normals / shape[1:].numel() ** 0.5


def sketch(tensor):
    """That of make_reference.py with a quarter of its numbers."""
    return whole_sketch(tensor).reshape(4, 16).sum(0)


def fill(network):
    weights = {
        name: weight(number, name, tensor.shape)
        for number, (name, tensor) in enumerate(sorted(network.state_dict().items()))
    }
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


class Inputs:
    """Normal numbers, one stream after the other."""

    def __init__(self, dtype=torch.float32):
        self.drawn, self.dtype = 0, dtype

    def normals(self, *shape):
        self.drawn += 1
        return torch.from_numpy(noise.normals((INPUTS_SEED, noise.INITIAL_LATENTS, self.drawn), shape)).to(self.dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tensors, shapes, exact = {}, {}, {}
    for name, config in UNETS.items():
        for dtype, results in ((torch.float32, tensors), (torch.float64, exact)):
            unet = fill(UNet2DConditionModel.from_config(config)).to(dtype)
            shapes[name] = shapes_of(unet)
            one_model(name, unet, results)
    # Another processor rounds otherwise: the most of all on which this has run.
    known = directory / "facts.json"
    rounding = json.loads(known.read_text())["rounding"] if known.exists() else {}
    for name, tensor in tensors.items():
        error = ((tensor - exact[name]).norm() / exact[name].norm()).item()
        kind = ".".join(name.split(".")[:2])
        rounding[kind] = max(error, rounding.get(kind, 0.0))
    # What is compared with is as exact as it can be had.
    tensors = {name: tensor.float() for name, tensor in exact.items()}
    shapes["vae"] = shapes_of(AutoencoderKL.from_config(VAE))
    pipeline(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "reference.safetensors")
    facts = {
        "unets": UNETS,
        "vae": VAE,
        "scheduler": SCHEDULER,
        "small": SMALL,
        "tokens": TOKENS,
        "levels": LEVELS,
        "timesteps": TIMESTEPS,
        "pipeline": {"steps": STEPS, "guidance": GUIDANCE, "level": LEVEL},
        "tuning": TUNING,
        "shapes": shapes,
        # How far torch's own f32 lies from its f64, at most, by model and kind of tensor.
        "rounding": rounding,
    }
    (directory / "facts.json").write_text(json.dumps(facts) + "\n")


def shapes_of(network):
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def one_model(name, unet, tensors):
    """Prediction, loss with every gradient, and a tuning."""
    inputs, scheduler = Inputs(unet.dtype), DDIMScheduler.from_config(SCHEDULER)
    low_scheduler = DDPMScheduler.from_config(SCHEDULER)
    beside = unet.config.in_channels - unet.config.out_channels
    x_0 = inputs.normals(1, unet.config.out_channels, *SMALL)
    x_0_noise = inputs.normals(2, *x_0.shape[1:])
    e = inputs.normals(1, TOKENS, WIDTH).requires_grad_()
    low, low_noise = inputs.normals(1, 3, *SMALL).div(2), inputs.normals(2, 3, *SMALL)

    def loss_of(timesteps, drawn, levels, drawn_low):
        x_t = scheduler.add_noise(x_0.expand_as(drawn), drawn, timesteps)
        target = scheduler.get_velocity(x_0.expand_as(drawn), drawn, timesteps)
        arguments = {}
        if beside:
            x_t = torch.cat([x_t, low_scheduler.add_noise(low.expand_as(drawn_low), drawn_low, levels)], 1)
            arguments["class_labels"] = levels
        prediction = unet(x_t, timesteps, e.expand(len(drawn), -1, -1), **arguments).sample
        return prediction, (prediction - target).square().mean()

    unet.requires_grad_(True)
    prediction, loss = loss_of(torch.tensor(TIMESTEPS), x_0_noise, torch.tensor(LEVELS), low_noise)
    loss.backward()
    tensors[f"{name}.prediction"] = prediction.detach()
    tensors[f"{name}.loss"] = loss.detach().reshape(1)
    tensors[f"{name}.gradient_of_e"] = e.grad
    for weight_name, parameter in unet.named_parameters():
        tensors[f"{name}.gradient.{weight_name}"] = sketch(parameter.grad)

    e = e.detach()
    optimizer = torch.optim.Adam(unet.parameters(), TUNING["lr"])
    losses = []
    for step in range(TUNING["steps"]):
        batch = TUNING["batch"]
        stream = lambda purpose, step=step: (42, purpose, step)  # noqa: E731
        timesteps = torch.from_numpy(noise.timesteps(stream(noise.DETAIL_TIMESTEPS), batch, 1000))
        levels = torch.from_numpy(noise.timesteps(stream(noise.DETAIL_LEVELS), batch, TUNING["levels"]))
        drawn = torch.from_numpy(noise.normals(stream(noise.DETAIL_NOISE), (batch, *x_0.shape[1:]))).to(unet.dtype)
        drawn_low = torch.from_numpy(noise.normals(stream(noise.DETAIL_SMALL_NOISE), (batch, *low.shape[1:])))
        drawn_low = drawn_low.to(unet.dtype)
        _, loss = loss_of(timesteps, drawn, levels, drawn_low)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    tensors[f"{name}.losses"] = torch.tensor(losses)
    for weight_name, parameter in unet.named_parameters():
        tensors[f"{name}.tuned.{weight_name}"] = sketch(parameter.detach())


def pipeline(tensors):
    """What StableDiffusionUpscalePipeline makes of a small picture, with the numbers of our streams."""
    inputs = Inputs()
    small = inputs.normals(1, 3, *SMALL).div(2).clamp(-1, 1)
    drawn_low = inputs.normals(1, 3, *SMALL)
    latents = inputs.normals(1, 4, *SMALL)
    e, e_null = inputs.normals(1, TOKENS, WIDTH), inputs.normals(1, TOKENS, WIDTH)
    upscale.randn_tensor = lambda shape, **_: drawn_low
    pipe = upscale.StableDiffusionUpscalePipeline(
        vae=fill(AutoencoderKL.from_config(VAE)),
        text_encoder=None,
        tokenizer=None,
        unet=fill(UNet2DConditionModel.from_config(UNETS["latents"])),
        low_res_scheduler=DDPMScheduler.from_config(SCHEDULER),
        scheduler=DDIMScheduler.from_config(SCHEDULER),
    )
    pipe.set_progress_bar_config(disable=True)
    for kind in ("latent", "pt"):
        tensors[f"pipeline.{kind}"] = pipe(
            image=small,
            prompt_embeds=e,
            negative_prompt_embeds=e_null,
            latents=latents,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            noise_level=LEVEL,
            output_type=kind,
        ).images


if __name__ == "__main__":
    main()
