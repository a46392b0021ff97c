"""Trains the companion of the built-in model, which enlarges its pictures of 64 pixels to 256 (v-prediction).

It works on the latents of the same autoencoder, (8, 64, 64) for 256 pixels, and sees those of the plain enlargement
beside x_t, with a little noise of a level that it is told. It is sampled from the plain enlargement with the noise of
timestep START, not from pure noise: what the plain enlargement has already need not be found again (the idea of Yue
et al., "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting", 2023). From pure noise,
as Stable Diffusion's x4 upscaler is sampled, the same network was below a bicubic enlargement after ten minutes of
training; so it was above it after five.

Small pictures for the training are drawn large and averaged, and most of them have been through the autoencoder, as
the pictures of the base model have. The text is the base model's embedding of the caption.

All there is to know about the run is in WORK/enlarger.pt; started again with the same --work it goes on, also with
more --steps: the rate falls over the last fifth of them. WORK/enlarger.jsonl gets a line every --look-every steps.
"""

import argparse
import copy
import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch.nn import functional as F

import data
from diffusion import WIDTH, save
from drawing import render
from latents import Words
from sampling import scheduler, tokenize
from scenes import caption
from vae import LATENT_CHANNELS

FACTOR = 4
LARGE = FACTOR * data.SIZE  # pixels
CROP = 32  # latents, of 64
START = 600  # the timestep at which sampling begins
LEVELS = 100  # noise levels of the small picture while it trains
LEVEL = 5  # and when it draws
STEPS = 10
PEAK_RATE = 8e-4
WARM_UP = 100
COOL_DOWN = 0.2  # of all steps
AVERAGE = 0.999
NO_CAPTION = 0.1
SEED = 500_000  # chunk k of the training set has the seed SEED + k
CHUNK = 400  # scenes
STEPS_PER_CHUNK = 1000  # before the set grows by a chunk
MOST_CHUNKS = 5
LOOK_SCENES = 24


def build_unet() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=LARGE // 4,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        cross_attention_dim=WIDTH,
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        num_class_embeds=LEVELS,
    )
    unet.set_attn_processor(AttnProcessor())  # faster than the fused one on a CPU
    return unet


def enlarge_plainly(small: torch.Tensor) -> torch.Tensor:
    """(n, 3, h, w) from -1 to 1, bicubic: four times as large."""
    large = F.interpolate(small, scale_factor=FACTOR, mode="bicubic", antialias=True)
    return large.clamp(-1, 1)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    means = [vae.encode(part).latent_dist.mode() for part in pictures.split(4)]
    return torch.cat(means) * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    parts = [vae.decode(part).sample.clamp(-1, 1) for part in (latents / vae.config.scaling_factor).split(4)]
    return torch.cat(parts)


def drawn_large(scenes) -> torch.Tensor:
    pictures = np.stack([render(scene, LARGE) for scene in scenes]).transpose(0, 3, 1, 2)
    return data.to_model_range(pictures)


class Crops:
    """Latents of scenes drawn large, those of their plain enlargements, and tokens of their captions."""

    def __init__(self, folder: Path, vae: AutoencoderKL, tokenizer):
        self.folder, self.vae, self.words = folder, vae, Words(tokenizer)
        self.large, self.plain, self.tokens = [], [], []

    def grow_to(self, chunks: int):
        while len(self.large) < min(chunks, MOST_CHUNKS):
            number = len(self.large)
            scenes = data.scenes(CHUNK, SEED + number)
            file = self.folder / f"{number:03}.npz"
            if not file.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                with (unfinished := file.with_suffix(".new")).open("wb") as new:
                    np.savez(new, **self._encoded(scenes))
                unfinished.replace(file)
            both = np.load(file)
            self.large.append(torch.from_numpy(both["large"]))
            self.plain.append(torch.from_numpy(both["plain"]))
            rng = random.Random(number)
            self.tokens.append(torch.tensor([self.words(caption(scene, rng)) for scene in scenes]))

    def _encoded(self, scenes) -> dict[str, np.ndarray]:
        large, plain = [], []
        for start in range(0, len(scenes), 8):
            x = drawn_large(scenes[start : start + 8])
            small = F.avg_pool2d(x, FACTOR)
            # Three of four as the base model would give them, one as it is.
            through = decode(self.vae, encode(self.vae, small))
            chosen = (torch.arange(start, start + len(x)) % 4 != 0)[:, None, None, None]
            large.append(encode(self.vae, x))
            plain.append(encode(self.vae, enlarge_plainly(torch.where(chosen, through, small))))
        return {name: torch.cat(all).half().numpy() for name, all in (("large", large), ("plain", plain))}

    def draw(self, count: int):
        """Crops (count, 8, CROP, CROP) of large and plain latents, and tokens, of scenes of one chunk."""
        chunk = int(torch.randint(len(self.large), ()))
        chosen = torch.randint(len(self.large[chunk]), (count,))
        y, x = torch.randint(LARGE // 4 - CROP + 1, (2,)).tolist()
        place = (chosen, slice(None), slice(y, y + CROP), slice(x, x + CROP))
        return self.large[chunk][place].float(), self.plain[chunk][place].float(), self.tokens[chunk][chosen]


def add_noise(x: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    a = scheduler().alphas_cumprod[t][:, None, None, None]
    return a.sqrt() * x + (1 - a).sqrt() * noise


def batch_loss(unet, text_encoder, crops: Crops, no_caption: torch.Tensor, count: int) -> torch.Tensor:
    x, plain, ids = crops.draw(count)
    ids[torch.rand(count) < NO_CAPTION] = no_caption
    # A slice of equal probability for each: less chance in the loss of a batch. Later ones are never sampled.
    t = ((torch.arange(count) + torch.rand(count)) / count * (START + 50)).long()
    levels = torch.randint(LEVELS, (count,))
    noise = torch.randn_like(x)
    beside = add_noise(plain, levels, torch.randn_like(plain))
    a = scheduler().alphas_cumprod[t][:, None, None, None]
    v = a.sqrt() * noise - (1 - a).sqrt() * x
    inputs = torch.cat([add_noise(x, t, noise), beside], 1).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        embedding = text_encoder(ids)[0]
    return (unet(inputs, t, embedding, class_labels=levels).sample - v).square().mean()


@torch.no_grad()
def enlarge(unet, embedding, plain, generator, steps=STEPS, start=START, level=LEVEL) -> torch.Tensor:
    """Latents (n, 8, h, w), sampled with DDIM from the plain enlargement's, `plain`, with the noise of `start`."""
    schedule: DDIMScheduler = scheduler()
    schedule.set_timesteps(round(steps * 1000 / start))
    times = [t for t in schedule.timesteps if t <= start]
    levels = torch.full((len(plain),), level)
    beside = add_noise(plain, levels, torch.randn(plain.shape, generator=generator))
    x_t = add_noise(plain, times[0].expand(len(plain)), torch.randn(plain.shape, generator=generator))
    for t in times:
        inputs = torch.cat([x_t, beside], 1).split(8)
        parts = zip(inputs, embedding.split(8), levels.split(8))
        v = torch.cat([unet(x, t, e, class_labels=level).sample for x, e, level in parts])
        x_t = schedule.step(v, t, x_t).prev_sample
    return x_t


def psnr(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((-10 * ((ours - truth) / 2).square().mean((1, 2, 3)).log10()).mean())


def look(unet, base, scenes, steps: int = STEPS) -> tuple[dict[str, float], torch.Tensor]:
    """Mean PSNR in dB to the true large picture: plain enlargement, this model's, the autoencoder's round trip."""
    truth = drawn_large(scenes)
    small = decode(base.vae, encode(base.vae, F.avg_pool2d(truth, FACTOR)))
    plain = enlarge_plainly(small)
    with torch.no_grad():
        e = base.text_encoder(tokenize(base.tokenizer, [caption(scene) for scene in scenes]))[0]
    latents = enlarge(unet, e, encode(base.vae, plain), torch.Generator().manual_seed(0), steps)
    ours = decode(base.vae, latents)
    pictures = torch.cat([torch.cat([small_as_large(small), plain, ours, truth], 3)[:8]])
    return {
        "plain": psnr(plain, truth),
        "enlarged": psnr(ours, truth),
        "round trip": psnr(decode(base.vae, encode(base.vae, truth)), truth),
    }, pictures


def small_as_large(small: torch.Tensor) -> torch.Tensor:
    return small.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)


def export(unet, folder: Path):
    """A folder in diffusers' layout, for the base model's folder: what it lacks is the base model's."""
    unet.half().save_pretrained(folder / "unet")
    for file in (folder / "unet").glob("*.safetensors"):
        file.chmod(0o644)
    pipeline = {
        "_class_name": "ImagicEditEnlarger",
        "guidance_scale": 1.0,
        "max_noise_level": LEVELS,
        "noise_level": LEVEL,
        "sampling_steps": STEPS,
        "start_timestep": START,
    }
    (folder / "model_index.json").write_text(json.dumps(pipeline, indent=2) + "\n")


def rate(step: int, steps: int) -> float:
    return PEAK_RATE * min(1, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--base", type=Path, default=Path(__file__).parent.parent / "scenes-64")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--look-every", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the average of the weights there, in f16")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(True))

    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    base = StableDiffusionPipeline.from_pretrained(options.base, torch_dtype=torch.float32)
    unet = build_unet().to(memory_format=torch.channels_last)
    average = copy.deepcopy(unet)
    optimizer = torch.optim.AdamW(unet.parameters(), PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    crops = Crops(work / "large", base.vae, base.tokenizer)
    no_caption = tokenize(base.tokenizer, [""])[0]
    step, checkpoint = 0, work / "enlarger.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint)
        unet.load_state_dict(state["unet"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        step = state["step"]

    def keep():
        state = {"unet": unet.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        save(state | {"random": torch.get_rng_state(), "step": step}, checkpoint)

    if options.export:
        export(average, options.export)
        print(f"step {step}: {options.export}")
        return
    held_out = data.scenes(LOOK_SCENES, data.CURVE_SEED)
    start, losses = time.time(), []
    while not stopped and step < options.steps:
        crops.grow_to(2 + step // STEPS_PER_CHUNK)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.steps)
        loss = batch_loss(unet, base.text_encoder, crops, no_caption, options.batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        with torch.no_grad():
            share = max(1 - AVERAGE, 9 / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), share)
        if step % 100 == 0:
            seconds = (time.time() - start) / len(losses)
            print(f"step {step} {seconds:.3f} s/step loss {np.mean(losses):.4f}", flush=True)
            start, losses = time.time(), []
            keep()
        if step % options.look_every == 0 or step == options.steps:
            random_state = torch.get_rng_state()
            values, pictures = look(average, base, held_out)
            torch.set_rng_state(random_state)
            line = json.dumps({"step": step, **{name: round(value, 2) for name, value in values.items()}})
            print(line, flush=True)
            with (work / "enlarger.jsonl").open("a") as file:
                file.write(line + "\n")
            Image.fromarray(np.concatenate(data.to_pictures(pictures))).save(work / "enlarger.png")
    keep()


if __name__ == "__main__":
    main()
