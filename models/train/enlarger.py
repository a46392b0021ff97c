"""Trains the companion of the built-in model, which enlarges its pictures of 64 pixels to 256 in one step.

It works on pixels, as Imagen's super-resolution models do, PATCH x PATCH of them at each place, and not on those of
the picture but on what the plain enlargement lacks of them, SCALE times as large (after Yue et al., "ResShift:
Efficient Diffusion Model for Image Super-resolution by Residual Shifting", 2023). It sees the plain enlargement beside
x_t, with a little noise of a level that it is told.

It is a diffusion model of one step: at its last timestep x_t is noise alone, as in Lin et al., "Common Diffusion Noise
Schedules and Sample Steps are Flawed", 2024, and v is minus what is lacking. Other timesteps are not trained. What a
scene looks like in large is nearly settled by its small picture and its caption, and networks that had to learn the
same at every timestep left specks and grain after as many steps of training (README.md). Of the errors the mean of the
absolute values is taken: where an edge may lie at two places that is least for a sharp edge at one of them, and the
mean of the squares for a blurred one between them.

Small pictures for the training are drawn large and averaged. Most of them have then been through the autoencoder, and
two thirds of those through the last steps of the base model, too, from some noise on: its edges are softer than drawn
ones, and what has never seen that puts halos around them. The text is the base model's embedding of the caption.

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
from sampling import generate, scheduler, tokenize
from scenes import caption

FACTOR = 4
LARGE = FACTOR * data.SIZE  # pixels
PATCH = 4  # side of the square of pixels that are the channels of one place
CROPS = (
    (64, 0.5),
    (128, 0.25),
    (256, 0.25),
)  # sides in pixels and their shares of the steps; few large ones cost as much
SCALE = 4.0
LEVELS = 30  # noise levels of the small picture while it trains
LEVEL = 0  # and when it draws
PEAK_RATE = 3e-4
WARM_UP = 100
COOL_DOWN = 0.2  # of all steps
AVERAGE = 0.999
NO_CAPTION = 0.1
# Small pictures through the last of so many steps of the base model, and the first of them, from and below.
DRAWN_STEPS, DRAWN_FROM, DRAWN_GUIDANCE = 12, (5, 10), 2.0
SEED = 500_000  # chunk k of the training set has the seed SEED + k
CHUNK = 400  # scenes
STEPS_PER_CHUNK = 1500  # before the set grows by a chunk
MOST_CHUNKS = 10
LOOK_SCENES = 12


def build_unet() -> UNet2DConditionModel:
    channels = 3 * PATCH**2
    unet = UNet2DConditionModel(
        sample_size=LARGE // PATCH,
        in_channels=2 * channels,
        out_channels=channels,
        cross_attention_dim=WIDTH,
        block_out_channels=(96, 128, 192),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        num_class_embeds=LEVELS,
    )
    unet.set_attn_processor(AttnProcessor())  # faster than the fused one on a CPU
    with torch.no_grad():
        # It begins with the plain enlargement, and need not find out first that x_t tells it nothing.
        unet.conv_out.weight.zero_()
        unet.conv_in.weight[:, :channels] = 0
    return unet


def to_patches(pictures: torch.Tensor) -> torch.Tensor:
    """(n, 3, h, w) to (n, 3 * PATCH * PATCH, h / PATCH, w / PATCH), what the network works on."""
    return F.pixel_unshuffle(pictures, PATCH)


def to_pictures(patches: torch.Tensor) -> torch.Tensor:
    """Back from `to_patches`."""
    return F.pixel_shuffle(patches, PATCH)


def enlarge_plainly(small: torch.Tensor) -> torch.Tensor:
    """(n, 3, h, w) from -1 to 1, bicubic: four times as large."""
    large = F.interpolate(small, scale_factor=FACTOR, mode="bicubic", antialias=True)
    return large.clamp(-1, 1)


@torch.no_grad()
def through(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """What the autoencoder gives back."""
    return torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in pictures.split(8)]).clamp(
        -1, 1
    )


@torch.no_grad()
def as_drawn_by(base, scenes, pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What the base model makes of the pictures with the noise of some timestep and their captions (SDEdit)."""
    vae, schedule = base.vae, scheduler()
    schedule.set_timesteps(DRAWN_STEPS)
    first = int(torch.randint(*DRAWN_FROM, (), generator=generator))
    x = vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor
    x_t = add_noise(x, schedule.timesteps[first].expand(len(x)), torch.randn(x.shape, generator=generator), schedule)
    captions = [caption(scene) for scene in scenes]
    e, e_null = (base.text_encoder(tokenize(base.tokenizer, texts))[0] for texts in (captions, [""]))
    latents = generate(base.unet, e, e_null, x_t, DRAWN_STEPS, DRAWN_GUIDANCE, schedule, first)
    return vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)


def drawn_large(scenes) -> torch.Tensor:
    pictures = np.stack([render(scene, LARGE) for scene in scenes]).transpose(0, 3, 1, 2)
    return data.to_model_range(pictures)


class Crops:
    """Scenes drawn large, their small pictures, and tokens of their captions."""

    def __init__(self, folder: Path, base: StableDiffusionPipeline):
        self.folder, self.base, self.words = folder, base, Words(base.tokenizer)
        self.large, self.small, self.tokens = [], [], []

    def grow_to(self, chunks: int):
        while len(self.large) < min(chunks, MOST_CHUNKS):
            number = len(self.large)
            scenes = data.scenes(CHUNK, SEED + number)
            file = self.folder / f"{number:03}.npz"
            if not file.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                with (unfinished := file.with_suffix(".new")).open("wb") as new:
                    np.savez(new, **self._drawn(scenes, torch.Generator().manual_seed(number)))
                unfinished.replace(file)
            both = np.load(file)
            self.large.append(both["large"])
            self.small.append(both["small"])
            rng = random.Random(number)
            self.tokens.append(torch.tensor([self.words(caption(scene, rng)) for scene in scenes]))

    def _drawn(self, scenes, generator: torch.Generator) -> dict[str, np.ndarray]:
        large, small = [], []
        for start in range(0, len(scenes), 8):
            part = scenes[start : start + 8]
            x = drawn_large(part)
            averaged = F.avg_pool2d(x, FACTOR)
            # One of four as it is.
            ways = [
                averaged,
                through(self.base.vae, averaged),
                *[as_drawn_by(self.base, part, averaged, generator)] * 2,
            ]
            large += data.to_pictures(x)
            small += data.to_pictures(torch.stack([ways[i % 4][i] for i in range(len(part))]))
        return {name: np.stack(all).transpose(0, 3, 1, 2) for name, all in (("large", large), ("small", small))}

    def draw(self, count: int):
        """Crops (n, 3, side, side) of large and of plainly enlarged pictures, and tokens, of scenes of one chunk.

        There are `count` of them if they are small and fewer if they are not.
        """
        sides, shares = zip(*CROPS)
        side = sides[int(torch.multinomial(torch.tensor(shares), 1))]
        count = max(1, count * sides[0] ** 2 // side**2)
        chunk = int(torch.randint(len(self.large), ()))
        chosen = torch.randint(CHUNK, (count,)).numpy()
        y, x = (FACTOR * torch.randint((LARGE - side) // FACTOR + 1, (2,))).tolist()
        place = (chosen, slice(None), slice(y, y + side), slice(x, x + side))
        plain = enlarge_plainly(data.to_model_range(self.small[chunk][chosen]))
        return (
            data.to_model_range(self.large[chunk][place]),
            plain[:, :, y : y + side, x : x + side],
            self.tokens[chunk][torch.from_numpy(chosen)],
        )


def add_noise(x: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, schedule: DDIMScheduler) -> torch.Tensor:
    a = schedule.alphas_cumprod[t][:, None, None, None]
    return a.sqrt() * x + (1 - a).sqrt() * noise


def low_res_scheduler() -> DDIMScheduler:
    """Of the noise of the small picture: faint, standard deviations of 0.003 to 0.03 below LEVELS."""
    return DDIMScheduler.from_config(scheduler().config, beta_start=1e-5)


def last_step_scheduler() -> DDIMScheduler:
    """Its last timestep is noise alone."""
    return DDIMScheduler.from_config(scheduler().config, rescale_betas_zero_snr=True, set_alpha_to_one=True)


def lacking(unet, embedding, plain: torch.Tensor, levels: torch.Tensor, generator=None) -> torch.Tensor:
    """What the network finds that `plain`, patches, lacks, SCALE times as large."""
    beside = add_noise(plain, levels, torch.randn(plain.shape, generator=generator), low_res_scheduler())
    x_t = torch.randn(plain.shape, generator=generator)
    inputs = torch.cat([x_t, beside], 1).contiguous(memory_format=torch.channels_last)
    last = scheduler().config.num_train_timesteps - 1
    return -unet(inputs, last, embedding, class_labels=levels).sample


def batch_loss(unet, text_encoder, crops: Crops, no_caption: torch.Tensor, count: int, half: bool) -> torch.Tensor:
    x, plain, ids = crops.draw(count)
    ids[torch.rand(len(ids)) < NO_CAPTION] = no_caption
    with torch.no_grad():
        embedding = text_encoder(ids)[0]
    x, plain = to_patches(x), to_patches(plain)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = lacking(unet, embedding, plain, torch.randint(LEVELS, (len(x),)))
    return (found.float() - SCALE * (x - plain)).abs().mean()


@torch.no_grad()
def enlarge(unet, embedding, plain, generator) -> torch.Tensor:
    """Pictures (n, 3, h, w): the plain enlargement's, `plain`, and what it lacks."""
    patches = to_patches(plain)
    levels = torch.full((len(plain),), LEVEL)
    parts = zip(patches.split(4), embedding.split(4), levels.split(4))
    found = torch.cat([lacking(unet, e, part, level, generator) for part, e, level in parts])
    return to_pictures(patches + found / SCALE)


def with_colors_of(picture: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """The picture with the plain enlargement's colors over 16 pixels, as `pixels::with_colors_of` in src/engine."""
    difference = F.pad(plain - picture, (8, 8, 8, 8), "replicate")
    return picture + F.avg_pool2d(difference, 17, 1)


def psnr(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((-10 * ((ours.clamp(-1, 1) - truth) / 2).square().mean((1, 2, 3)).log10()).mean())


def look(unet, base, scenes) -> tuple[dict[str, float], torch.Tensor]:
    """Mean PSNR in dB to the true large picture: of the plain enlargement and of this model's."""
    truth = drawn_large(scenes)
    small = as_drawn_by(base, scenes, F.avg_pool2d(truth, FACTOR), torch.Generator().manual_seed(1))
    plain = enlarge_plainly(small)
    with torch.no_grad():
        e = base.text_encoder(tokenize(base.tokenizer, [caption(scene) for scene in scenes]))[0]
    ours = enlarge(unet, e, plain, torch.Generator().manual_seed(0))
    pictures = torch.cat([small_as_large(small), plain, ours, truth], 3)[:8]
    return {
        "plain": psnr(plain, truth),
        "enlarged": psnr(ours, truth),
        "its colors": psnr(with_colors_of(ours, plain), truth),
    }, pictures


def small_as_large(small: torch.Tensor) -> torch.Tensor:
    return small.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)


def export(unet, folder: Path):
    """A folder in diffusers' layout, for the base model's folder: what it lacks is the base model's."""
    unet.half().save_pretrained(folder / "unet")
    for file in (folder / "unet").glob("*.safetensors"):
        file.chmod(0o644)
    last_step_scheduler().save_pretrained(folder / "scheduler")
    low_res_scheduler().save_pretrained(folder / "low_res_scheduler")
    pipeline = {
        "_class_name": "ImagicEditEnlarger",
        "guidance_scale": 1.0,
        "max_noise_level": LEVELS,
        "noise_level": LEVEL,
        "sampling_steps": 1,
        "residual_scale": SCALE,
    }
    (folder / "model_index.json").write_text(json.dumps(pipeline, indent=2) + "\n")


def rate(step: int, steps: int) -> float:
    return PEAK_RATE * min(1, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--base", type=Path, default=Path(__file__).parent.parent / "scenes-64")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16, help="of the smaller crops")
    parser.add_argument("--look-every", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--init", type=Path, help="folder of an exported companion that it begins with")
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
    base.unet.set_attn_processor(AttnProcessor())
    crops = Crops(work / "pairs", base)
    no_caption = tokenize(base.tokenizer, [""])[0]
    step, checkpoint = 0, work / "enlarger.pt"
    if options.init and not checkpoint.exists():
        begin = UNet2DConditionModel.from_pretrained(options.init / "unet", torch_dtype=torch.float32).state_dict()
        unet.load_state_dict(begin)
        average.load_state_dict(begin)
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
        loss = batch_loss(unet, base.text_encoder, crops, no_caption, options.batch, data.has_fast_bfloat16())
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
