"""Adds what adapters (LoRA) do to a folder of `make_reference.py`: their gradients, and some steps of stage B, with
torch and diffusers.

    cd tests/reference && .venv/bin/python make_lora.py ../fixtures/small-sd1 ../fixtures/small-v ../fixtures/small-sdxl

LoRA is written out below after Hu et al. (ICLR 2022), with the names and the start of the library PEFT: W x + B A x, A
of `rank` rows uniform within 1 / sqrt(inputs), B zero."""

import json
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

import noise
from make_reference import Embedding, Texts, adam, denoising_loss, load

RANK, LEARNING_RATE, STEPS = 2, 1e-3, 5
# The engine's purpose for the start of A.
ADAPTERS = 7


def main():
    torch.set_num_threads(1)
    for folder in map(pathlib.Path, sys.argv[1:]):
        facts = json.loads((folder / "reference.json").read_text())
        inputs = load_file(folder / "reference.safetensors")
        model = folder / facts["model"]
        tensors = {}
        for layers in ("attention", "all"):
            unet = load(UNet2DConditionModel, model / "unet", torch.float32)
            scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
            vae = load(AutoencoderKL, model / "vae", torch.float32)
            texts = Texts(model, facts["settings"], 2 ** (len(vae.config.block_out_channels) - 1), torch.float32)
            time_ids = texts.time_ids(facts["settings"]["latents"])
            e = Embedding(inputs["loss.e"], inputs.get("loss.pooled"), time_ids)
            for name, tensor in reference(unet, scheduler, layers, inputs, e, facts).items():
                tensors[f"{layers}.{name}"] = tensor.detach().contiguous().clone()
        save_file(tensors, folder / "lora.safetensors")


def reference(unet, scheduler, layers, inputs, e, facts):
    x_0, settings = inputs["loss.x_0"], facts["settings"]
    adapters = add_adapters(unet, layers, settings["tuning_seed"])
    start = {name: tensor.detach().clone() for name, tensor in adapters.items()}

    # Gradients where neither matrix is zero.
    with torch.no_grad():
        for index, tensor in enumerate(adapters.values()):
            tensor.copy_(0.1 * torch.from_numpy(noise.normals((1, noise.INITIAL_LATENTS, index), tuple(tensor.shape))))
    loss, _, _ = denoising_loss(unet, scheduler, x_0, inputs["loss.noise"], torch.tensor(facts["loss"]["timesteps"]), e)
    loss.backward()
    results = {"loss": loss.reshape(1)} | {f"gradient.{name}": tensor.grad for name, tensor in adapters.items()}

    # Stage B from the start.
    with torch.no_grad():
        for name, tensor in adapters.items():
            tensor.copy_(start[name])
    optimizer = adam(adapters.values(), LEARNING_RATE)
    losses = []
    for step in range(STEPS):
        seed, batch = settings["tuning_seed"], settings["batch"]
        timesteps = noise.timesteps((seed, noise.TIMESTEPS_B, step), batch, scheduler.config.num_train_timesteps)
        drawn_noise = noise.normals((seed, noise.NOISE_B, step), (batch, *x_0.shape[1:]))
        loss, _, _ = denoising_loss(unet, scheduler, x_0, torch.from_numpy(drawn_noise), torch.from_numpy(timesteps), e)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return results | {"losses": torch.tensor(losses)} | {f"tuned.{name}": tensor for name, tensor in adapters.items()}


def add_adapters(unet, layers, seed):
    """Gives the chosen layers an A and a B, by name, in the order of the layers' names."""
    modules = {
        name: module for name, module in unet.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    }
    chosen = sorted(
        (name for name in modules if layers == "all" or ".attentions." in name), key=lambda name: f"{name}.weight"
    )
    adapters = {}
    for index, name in enumerate(chosen):
        weight = modules[name].weight
        a = weight.new_empty(RANK, *weight.shape[1:])
        uniforms = torch.from_numpy(noise.uniforms((seed, ADAPTERS, index), a.numel()))
        a = ((2 * uniforms - 1) / (a.numel() / RANK) ** 0.5).float().reshape(a.shape).requires_grad_()
        b = weight.new_zeros(weight.shape[0], RANK, *[1] * (weight.dim() - 2)).requires_grad_()
        modules[name].register_forward_hook(lambda module, x, y, a=a, b=b: y + low_rank(module, x[0], a, b))
        adapters |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    return adapters


def low_rank(module, x, a, b):
    if isinstance(module, torch.nn.Linear):
        return torch.nn.functional.linear(torch.nn.functional.linear(x, a), b)
    low = torch.nn.functional.conv2d(x, a, stride=module.stride, padding=module.padding)
    return torch.nn.functional.conv2d(low, b)


if __name__ == "__main__":
    main()
