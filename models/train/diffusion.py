"""Trains the text encoder and the U-Net together on the autoencoder's latents (v-prediction).

The latents of the training set are made once and cached. After a warm-up the rate falls to zero over --steps.
What is kept is the moving average of the weights. Every --sample-every steps a grid of samples says more than
the loss: one row a prompt.
"""

import argparse
import copy
import random
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import data
from drawing import grid
from scenes import caption, vocabulary
from tokens import MAX_LENGTH, write_tokenizer
from vae import LATENT_CHANNELS

WIDTH = 128  # of the text embedding
PEAK_RATE = 6e-4
WARM_UP = 200  # steps
DECAY = 0.98  # share of the steps
# Without limits the queries and keys grow until every softmax takes one key alone and attention learns no more.
ATTENTION_WEIGHT_DECAY = 0.3
WEIGHT_DECAY = 0.01  # of the other matrices
MAX_SCORE_SPREAD = 3.0  # see `soften_attention`
SOFTEN_EVERY = 50  # steps
AVERAGE = 0.999  # decay of the moving average
CAPTIONS = 4  # variants of each scene's caption
NO_CAPTION = 0.1  # share of empty captions, for classifier-free guidance
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


def build_unet(channels: list[int]) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=data.SIZE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        cross_attention_dim=WIDTH,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,  # the number of heads, as in Stable Diffusion 1.x
    )
    if not torch.cuda.is_available():
        # PyTorch's fused attention takes a quarter of a training step on a CPU; the plain one is faster.
        unet.set_attn_processor(AttnProcessor())
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            hidden_act="quick_gelu",
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # CLIP's 0.02 is for long trainings; with a short one the words must be told apart from the start.
    for name, parameter in text_encoder.named_parameters():
        if "embedding" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return text_encoder


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt").input_ids


def rate(step: int, steps: int) -> float:
    return PEAK_RATE * min(1, (step + 1) / WARM_UP, max(0, (steps - step) / (DECAY * steps)))


@torch.no_grad()
def score_spreads(unet, x_t, t, embedding) -> dict[str, torch.Tensor]:
    """The deviation of the attention scores (before the softmax) over the keys, by layer: one number a head."""
    spreads, handles = {}, []

    def measure(name, attention, hidden, context):
        query, key = (
            x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for x in (attention.to_q(hidden), attention.to_k(hidden if context is None else context))
        )
        scores = query @ key.transpose(-1, -2) * attention.scale
        spreads[name] = scores.var(-1).mean((0, 2)).sqrt()

    for name, module in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            handles.append(
                module.register_forward_hook(
                    lambda module, inputs, named, _, name=name: measure(
                        name, module, inputs[0], named.get("encoder_hidden_states")
                    ),
                    with_kwargs=True,
                )
            )
    unet(x_t, t, embedding)
    for handle in handles:
        handle.remove()
    return spreads


@torch.no_grad()
def soften_attention(unet, spreads: dict[str, torch.Tensor]):
    """Scales the queries and keys of each head down until its scores spread by MAX_SCORE_SPREAD at most."""
    for name, spread in spreads.items():
        attention = unet.get_submodule(name)
        factor = (MAX_SCORE_SPREAD / spread).clamp(max=1).sqrt()
        for projection in (attention.to_q, attention.to_k):
            projection.weight.mul_(factor.repeat_interleave(len(projection.weight) // attention.heads)[:, None])


def parameter_groups(models) -> list[dict]:
    """Matrices decay, those of queries and keys most; embeddings, norms and biases do not."""
    groups = {ATTENTION_WEIGHT_DECAY: [], WEIGHT_DECAY: [], 0.0: []}
    for model in models:
        for name, parameter in model.named_parameters():
            attention = name.endswith((".to_q.weight", ".to_k.weight"))
            matrix = parameter.dim() > 1 and "embedding" not in name
            groups[ATTENTION_WEIGHT_DECAY if attention else WEIGHT_DECAY if matrix else 0.0].append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


@torch.no_grad()
def cached_latents(work: Path, count: int, device: str) -> torch.Tensor:
    """Scaled means of the latents of the training pictures, (count, 8, 16, 16) f32, on `device`."""
    cache = work / f"latents-{count}.pt"
    if not cache.exists():
        vae = AutoencoderKL.from_pretrained(work / "vae").to(device)
        pictures, parts = data.pictures(count, work), []
        for start in range(0, count, 200):
            with torch.autocast(device, torch.bfloat16):
                batch = data.to_model_range(pictures[start : start + 200]).to(device)
                parts.append(vae.encode(batch).latent_dist.mode().float())
        torch.save(torch.cat(parts) * vae.config.scaling_factor, cache)
    return torch.load(cache, map_location=device)


@torch.no_grad()
def generate(unet, embedding, empty_embedding, noise, steps=25, guidance=3.0, schedule=None) -> torch.Tensor:
    """DDIM with classifier-free guidance from `noise` (n, 8, 16, 16): scaled latents."""
    schedule = schedule or scheduler()
    schedule.set_timesteps(steps)
    x_t = noise
    both = torch.cat([embedding, empty_embedding.expand_as(embedding)])
    for t in schedule.timesteps:
        with_text, without = unet(torch.cat([x_t, x_t]), t, both).sample.chunk(2)
        x_t = schedule.step(without + guidance * (with_text - without), t, x_t).prev_sample
    return x_t


@torch.no_grad()
def sample_grid(work: Path, tokenizer, text_encoder, unet, columns=8, guidance=3.0, schedule=None):
    device = unet.device
    vae = AutoencoderKL.from_pretrained(work / "vae").to(device)
    embedding = text_encoder(tokenize(tokenizer, list(SAMPLE_PROMPTS)).to(device))[0].repeat_interleave(columns, 0)
    empty = text_encoder(tokenize(tokenizer, [""]).to(device))[0]
    noise = torch.randn(len(embedding), LATENT_CHANNELS, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    latents = generate(unet, embedding, empty, noise, guidance=guidance, schedule=schedule)
    return grid(data.to_pictures(vae.decode(latents / vae.config.scaling_factor).sample.cpu()), columns, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("work"), help="caches and checkpoints, and the autoencoder in WORK/vae"
    )
    parser.add_argument(
        "--init",
        type=Path,
        help="folder of a trained model to go on from where WORK has no checkpoint: weights, but no optimizer",
    )
    parser.add_argument("--steps", type=int, default=13_500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--sample-every", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 192])
    parser.add_argument("--device", default="cpu", help="cuda takes a graphics card")
    parser.add_argument(
        "--compile", action="store_true", help="minutes at the start, then faster steps; needs a C++ compiler"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    if options.init and not (options.work / "vae").exists():
        AutoencoderKL.from_pretrained(options.init / "vae", torch_dtype=torch.float32).save_pretrained(
            options.work / "vae"
        )
    write_tokenizer(vocabulary(), options.work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(options.work / "tokenizer")
    latents = cached_latents(options.work, options.pictures, options.device)
    rng = random.Random(options.seed)
    texts = [caption(scene, rng) for scene in data.scenes(options.pictures) for _ in range(CAPTIONS)]
    distinct = sorted(set(texts))
    index = {text: i for i, text in enumerate(distinct)}
    tokens = tokenize(tokenizer, distinct)[torch.tensor([index[t] for t in texts])].view(-1, CAPTIONS, MAX_LENGTH)
    no_caption = tokenize(tokenizer, [""])[0]
    alphas_cumprod = scheduler().alphas_cumprod

    text_encoder, unet = (
        build_text_encoder(tokenizer).to(options.device),
        build_unet(options.channels).to(options.device),
    )
    unet = unet.to(memory_format=torch.channels_last)
    t = torch.linspace(0, 999, options.batch).long()
    a = alphas_cumprod[t][:, None, None, None]
    noisy = a.sqrt() * latents[: options.batch].cpu() + (1 - a).sqrt() * torch.randn(options.batch, *latents.shape[1:])
    probe = [tensor.to(options.device) for tensor in (noisy, t, tokens[: options.batch, 0])]

    def probe_attention(text_encoder, unet):
        return score_spreads(unet, *probe[:2], text_encoder(probe[2])[0])

    if options.init:
        for model, part in ((text_encoder, "text_encoder"), (unet, "unet")):
            model.load_state_dict(
                type(model).from_pretrained(options.init / part, torch_dtype=torch.float32).state_dict()
            )
    soften_attention(unet, probe_attention(text_encoder, unet))
    parameters = [*text_encoder.parameters(), *unet.parameters()]
    average = copy.deepcopy((text_encoder, unet))
    averaged_parameters = [*average[0].parameters(), *average[1].parameters()]
    optimizer = torch.optim.AdamW(parameter_groups((text_encoder, unet)), PEAK_RATE, betas=(0.9, 0.99), fused=True)
    checkpoint, step = options.work / "diffusion.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=options.device)
        for model, kept in zip((text_encoder, unet, *average), state["models"]):
            model.load_state_dict(kept)
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        torch.manual_seed(options.seed + step)
    predict = torch.compile(unet) if options.compile else unet

    # Random numbers come from the processor's generator, so that every device draws the same ones.
    start, losses = time.time(), []
    while step < options.steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.steps)
        chosen = torch.randint(len(latents), (options.batch,))
        ids = tokens[chosen, torch.randint(CAPTIONS, (options.batch,))].clone()
        ids[torch.rand(options.batch) < NO_CAPTION] = no_caption
        t = torch.randint(1000, (options.batch,))
        x = latents[chosen.to(options.device)]
        noise = torch.randn(x.shape).to(options.device)
        a = alphas_cumprod[t][:, None, None, None].to(options.device)
        x_t = (a.sqrt() * x + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        v = a.sqrt() * noise - (1 - a).sqrt() * x
        with torch.autocast(options.device, torch.bfloat16):
            v_pred = predict(x_t, t.to(options.device), text_encoder(ids.to(options.device))[0]).sample
        loss = (v_pred.float() - v).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        keep = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averaged_parameters, parameters, 1 - keep)
        if step % SOFTEN_EVERY == 0:
            spreads = probe_attention(text_encoder, unet)
            soften_attention(unet, spreads)
        losses.append(loss.detach())
        if step % 100 == 0:
            print(
                f"diffusion step {step} {time.time() - start:.0f} s loss {torch.stack(losses).mean().item():.4f}",
                flush=True,
            )
            losses = []
        if step % 500 == 0:
            name, spread = max(spreads.items(), key=lambda item: item[1].max())
            print(f"widest attention scores: {spread.max().item():.1f} in {name}", flush=True)
        if step % 500 == 0 or step == options.steps:
            state = {
                "models": [m.state_dict() for m in (text_encoder, unet, *average)],
                "channels": options.channels,
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
        if step % options.sample_every == 0 or step == options.steps:
            sample_grid(options.work, tokenizer, *average, columns=4).save(options.work / f"samples-{step}.png")


if __name__ == "__main__":
    main()
