"""PyTorch's side of the benchmark: prepares one operation, then runs it once for every line on its input.

It speaks as `speed_worker.rs` does. What is usual to make PyTorch fast on a processor is used: channels_last, fused
Adam, no gradients where none are wanted; fused or plain attention and torch.compile as the job says, because none of
them always wins."""

import json
import os
import sys
import time
import warnings

import diffusers
import torch
import torch.nn.functional as F
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0


class Model:
    """What the operations need of a diffusers folder; each part is loaded when it is asked for."""

    def __init__(self, job: dict):
        self.folder, self.latent, self.tokens, self.params = job["model"], job["latent"], job["tokens"], job["params"]
        self.compiled, self.attention = (
            job["compiled"],
            AttnProcessor if job["attention"] == "plain" else AttnProcessor2_0,
        )

    def unet(self) -> torch.nn.Module:
        unet = UNet2DConditionModel.from_pretrained(self.folder, subfolder="unet", torch_dtype=torch.float32)
        unet.set_attn_processor(self.attention())
        return unet.to(torch.get_default_device(), memory_format=torch.channels_last).requires_grad_(False)

    def vae(self) -> AutoencoderKL:
        vae = AutoencoderKL.from_pretrained(self.folder, subfolder="vae", torch_dtype=torch.float32)
        return vae.to(torch.get_default_device(), memory_format=torch.channels_last).requires_grad_(False)

    def scheduler(self) -> DDIMScheduler:
        return DDIMScheduler.from_pretrained(self.folder, subfolder="scheduler")

    def callable(self, module):
        return torch.compile(module) if self.compiled else module


def denoising_loss(predict, scheduler, x, e, batch):
    t = torch.randint(scheduler.config.num_train_timesteps, (batch,))
    noise = torch.randn(batch, *x.shape[1:])
    x = x.expand(batch, -1, -1, -1)
    x_t = scheduler.add_noise(x, noise, t).contiguous(memory_format=torch.channels_last)
    target = scheduler.get_velocity(x, noise, t) if scheduler.config.prediction_type == "v_prediction" else noise
    return F.mse_loss(predict(x_t, t, e.expand(batch, -1, -1)).sample, target)


def train(predict, scheduler, x, e, variables, steps, batch, lr) -> list[float]:
    """Seconds of each step of stage A or B."""
    optimizer = torch.optim.Adam(variables, lr, fused=True)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = denoising_loss(predict, scheduler, x, e, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


@torch.no_grad()
def generate(predict, scheduler, x_t, e_bar, e_null, steps, guidance):
    scheduler.set_timesteps(steps)
    both = torch.cat([e_null, e_bar])
    for t in scheduler.timesteps:
        latents = torch.cat([x_t, x_t]).contiguous(memory_format=torch.channels_last)
        without_text, with_text = predict(latents, t, both).sample.chunk(2)
        x_t = scheduler.step(without_text + guidance * (with_text - without_text), t, x_t).prev_sample
    return x_t


def forward(model: Model):
    unet = model.unet()
    predict, batch = model.callable(unet), model.params["batch_size"]
    x, e = latents(model, unet, batch), text(model, unet, batch)

    @torch.no_grad()
    def run():
        predict(x, torch.full((batch,), 500), e)

    return timed(run)


def stage_a(model: Model):
    unet, scheduler, params = model.unet(), model.scheduler(), model.params
    predict, x = model.callable(unet), latents(model, unet)

    def run():
        e = text(model, unet).requires_grad_()
        return train(
            predict, scheduler, x, e, [e], params["embedding_steps"], params["batch_size"], params["embedding_lr"]
        )

    return run


def stage_b(model: Model):
    unet, scheduler, params = model.unet().requires_grad_(True), model.scheduler(), model.params
    predict, x, e = model.callable(unet), latents(model, unet), text(model, unet)

    def run():
        # The same network goes on: a copy of the weights for each run would only cost memory.
        return train(
            predict,
            scheduler,
            x,
            e,
            list(unet.parameters()),
            params["tuning_steps"],
            params["batch_size"],
            params["tuning_lr"],
        )

    return run


def ddim(model: Model):
    unet, scheduler, params = model.unet(), model.scheduler(), model.params
    predict, x, e, e_null = model.callable(unet), latents(model, unet), text(model, unet), text(model, unet)
    return timed(lambda: generate(predict, scheduler, x, e, e_null, params["sampling_steps"], params["guidance"]))


def vae_encode(model: Model):
    vae = model.vae()
    pixels = 0.3 * torch.randn(1, 3, *[model.latent * 2 ** (len(vae.config.block_out_channels) - 1)] * 2)
    pixels, encode = (
        pixels.contiguous(memory_format=torch.channels_last),
        torch.compile(vae.encode) if model.compiled else vae.encode,
    )
    return timed(torch.no_grad()(lambda: encode(pixels)))


def vae_decode(model: Model):
    vae = model.vae()
    x = torch.randn(1, vae.config.latent_channels, model.latent, model.latent).contiguous(
        memory_format=torch.channels_last
    )
    decode = torch.compile(vae.decode) if model.compiled else vae.decode
    return timed(torch.no_grad()(lambda: decode(x)))


def edit(model: Model):
    """A whole edit, reading the model included: as the engine's, which keeps nothing either."""
    from transformers import CLIPTextModel, CLIPTokenizer

    params = model.params

    def run():
        unet, vae, scheduler = model.unet(), model.vae(), model.scheduler()
        predict = model.callable(unet)
        text_encoder = CLIPTextModel.from_pretrained(model.folder, subfolder="text_encoder", dtype=torch.float32).to(
            torch.get_default_device()
        )
        tokenizer = CLIPTokenizer.from_pretrained(model.folder, subfolder="tokenizer")
        with torch.no_grad():
            tokens = tokenizer(
                [params["prompt"], ""],
                padding="max_length",
                truncation=True,
                max_length=model.tokens,
                return_tensors="pt",
            )
            e_tgt, e_null = text_encoder(tokens.input_ids.to(torch.get_default_device()))[0].split(1)
            side = model.latent * 2 ** (len(vae.config.block_out_channels) - 1)
            x = vae.encode(picture(side)).latent_dist.sample() * vae.config.scaling_factor
        e = e_tgt.clone().requires_grad_()
        train(predict, scheduler, x, e, [e], params["embedding_steps"], params["batch_size"], params["embedding_lr"])
        e_opt = e.detach()
        unet.requires_grad_(True)
        train(
            predict,
            scheduler,
            x,
            e_opt,
            list(unet.parameters()),
            params["tuning_steps"],
            params["batch_size"],
            params["tuning_lr"],
        )
        unet.zero_grad(set_to_none=True)
        unet.requires_grad_(False)
        e_bar = params["eta"] * e_tgt + (1 - params["eta"]) * e_opt
        x = generate(
            predict, scheduler, torch.randn(x.shape), e_bar, e_null, params["sampling_steps"], params["guidance"]
        )
        with torch.no_grad():
            vae.decode(x / vae.config.scaling_factor)

    return timed(run)


def picture(side: int) -> torch.Tensor:
    ramp = torch.linspace(-1, 1, side)
    return torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), (ramp + ramp[:, None]) / 2])[None]


def latents(model: Model, unet, batch=1) -> torch.Tensor:
    shape = batch, unet.config.in_channels, model.latent, model.latent
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def text(model: Model, unet, batch=1) -> torch.Tensor:
    return torch.randn(batch, model.tokens, unet.config.cross_attention_dim)


def timed(run):
    def once():
        start = time.perf_counter()
        run()
        synchronize()
        return [time.perf_counter() - start]

    return once


def synchronize():
    """Waits for what a GPU was told to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


OPERATIONS = {
    "forward": forward,
    "stage A step": stage_a,
    "stage B step": stage_b,
    "DDIM": ddim,
    "vae encode": vae_encode,
    "vae decode": vae_decode,
    "edit": edit,
}


def main():
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    if "gpu" in job:
        torch.set_default_device("cuda")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = job["gpu"]["precision"] == "tf32"
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    run = OPERATIONS[job["operation"]](Model(job))
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), flush=True)
    if "gpu" in job:
        print(torch.cuda.max_memory_allocated())
    sys.stdout.flush()
    os._exit(0)  # without the seconds that torch's own end takes


if __name__ == "__main__":
    main()
