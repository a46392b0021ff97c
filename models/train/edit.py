"""Imagic (Kawar et al., CVPR 2023) in PyTorch, to choose the settings in imagic.json and to test them.

name     symbol in the paper
e_tgt    e_tgt, text embedding of the target prompt, all tokens
e_opt    e_opt, the embedding after stage A
e_bar    e-bar = eta * e_tgt + (1 - eta) * e_opt, equation 3
x        the picture, here one sample of its latents times the scaling factor
loss     L, equation 2, on v because the model predicts v

One edit:    python edit.py MODEL --picture in.png --prompt "a photo of a blue car" --out row.png
Validation:  python edit.py MODEL --validate 12 --out rows.png    (scenes that training never saw)
A row is: the picture, the edit at each eta, and in validation the true target.
"""

import argparse
import copy
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import data
import gates
from diffusion import tokenize
from drawing import edit_truth, grid
from scenes import ATTRIBUTES, Scene, caption, random_edit


@dataclass
class Settings:
    """The preset `balanced` in imagic.json."""

    embedding_steps: int
    embedding_lr: float
    tuning_steps: int
    tuning_lr: float
    batch_size: int
    guidance: float
    sampling_steps: int
    eta: float


def denoising_loss(unet, schedule, x, embedding, batch_size, generator):
    """Mean of (v - v_pred)^2 over `batch_size` fresh timesteps and noises."""
    t = torch.randint(len(schedule.alphas_cumprod), (batch_size,), generator=generator)
    noise = torch.randn(batch_size, *x.shape[1:], generator=generator)
    a = schedule.alphas_cumprod[t][:, None, None, None]
    x_t = a.sqrt() * x + (1 - a).sqrt() * noise
    v = a.sqrt() * noise - (1 - a).sqrt() * x
    v_pred = unet(x_t, t, embedding.expand(batch_size, -1, -1)).sample
    return (v_pred - v).square().mean()


def train(parameters, rate, steps, loss):
    """Both stages: Adam on `parameters`. Returns the losses."""
    optimizer = torch.optim.Adam(parameters, rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def imagic(pipeline, picture: np.ndarray, prompt: str, settings: Settings, etas: list[float], seed: int = 0):
    """The edits of a 64 x 64 picture, one for each eta, and a dictionary of numbers about the run."""
    generator = torch.Generator().manual_seed(seed)
    schedule, vae = pipeline.scheduler, pipeline.vae
    unet = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        pixels = data.to_model_range(picture.transpose(2, 0, 1)[None])
        x = vae.encode(pixels).latent_dist.sample(generator) * vae.config.scaling_factor
        e_tgt, e_empty = (pipeline.text_encoder(tokenize(pipeline.tokenizer, [text]))[0] for text in (prompt, ""))

    def loss():
        return denoising_loss(unet, schedule, x, embedding, settings.batch_size, generator)

    start = time.time()
    embedding = e_tgt.clone().requires_grad_(True)
    unet.requires_grad_(False)
    losses_a = train([embedding], settings.embedding_lr, settings.embedding_steps, loss)
    embedding = e_opt = embedding.detach()
    unet.requires_grad_(True)
    losses_b = train(unet.parameters(), settings.tuning_lr, settings.tuning_steps, loss)
    seconds = time.time() - start

    noise = torch.randn(x.shape, generator=generator)
    with torch.no_grad():
        e_bar = torch.cat([eta * e_tgt + (1 - eta) * e_opt for eta in etas])
        both = torch.cat([e_bar, e_empty.expand_as(e_bar)])
        schedule.set_timesteps(settings.sampling_steps)
        x_t = noise.expand(len(etas), -1, -1, -1)
        for t in schedule.timesteps:
            with_text, without = unet(torch.cat([x_t, x_t]), t, both).sample.chunk(2)
            x_t = schedule.step(without + settings.guidance * (with_text - without), t, x_t).prev_sample
        results = data.to_pictures(vae.decode(x_t / vae.config.scaling_factor).sample)
    return results, {
        "seconds": seconds, "moved": ((e_opt - e_tgt).norm() / e_tgt.norm()).item(),
        "loss a": (np.mean(losses_a[:20]), np.mean(losses_a[-20:])), "loss b": (np.mean(losses_b[:20]), np.mean(losses_b[-20:])),
    }


def validation_edits(count: int) -> list[tuple[str, Scene, Scene]]:
    """(what changes, scene, edited scene), the attributes by turns."""
    rng = random.Random(data.VALIDATION_SEED)
    attributes = [ATTRIBUTES[i % len(ATTRIBUTES)] for i in range(count)]
    return [(attribute, *random_edit(attribute, rng)) for attribute in attributes]


def psnr(a: np.ndarray, b: np.ndarray, mask=True) -> float:
    error = np.square(a.astype(float) - b).mean(-1)
    return 10 * np.log10(255**2 / max(error[np.broadcast_to(mask, error.shape)].mean(), 1e-9))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--prompt")
    parser.add_argument("--validate", type=int, default=0, help="number of edits")
    parser.add_argument("--etas", type=float, nargs="+", default=[0, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other values than in imagic.json")
    parser.add_argument("--out", type=Path, default=Path("edit.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = gates.load(options.model)
    about = json.loads((options.model / "imagic.json").read_text())
    preset = about["preset"] | about["presets"]["balanced"]
    preset.update((name, json.loads(value)) for name, value in (pair.split("=") for pair in options.set))
    settings = Settings(**preset)

    if options.picture:
        image = Image.open(options.picture).convert("RGB").resize((data.SIZE, data.SIZE), Image.BOX)
        rows = [("edit", options.prompt, np.asarray(image), None, None)]
    else:
        rows = [(what, caption(edited), *edit_truth(scene, edited, data.SIZE)) for what, scene, edited in validation_edits(options.validate)]
    sheet, scores = [], {}
    for what, prompt, picture, target, keep in rows:
        results, numbers = imagic(pipeline, picture, prompt, settings, options.etas, options.seed)
        sheet += [picture, *results, *([target] if target is not None else [])]
        print(f"{what}: {prompt}: " + ", ".join(f"{k} {np.round(v, 3)}" for k, v in numbers.items()), flush=True)
        if target is not None:
            scores.setdefault(what, []).append([(psnr(r, picture), psnr(r, target), psnr(r, picture, keep)) for r in results])
        grid(sheet, len(results) + (1 if target is None else 2), 2).save(options.out)
    for what, values in scores.items():
        print(f"{what}: eta: PSNR to the picture, to the true target, on pixels that must stay (means of {len(values)})")
        for eta, mean in zip(options.etas, np.mean(values, 0)):
            print(f"  {eta}: " + ", ".join(f"{m:.1f}" for m in mean))


if __name__ == "__main__":
    main()
