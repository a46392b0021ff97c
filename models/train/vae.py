"""Trains the autoencoder (AutoencoderKL, 64 x 64 x 3 pixels to 16 x 16 x 8 latents).

Loss: L1 + L1 of the picture's gradients, both with more weight where the picture has detail, + a tiny KL term. The rate
is constant after a warm-up and falls to zero over the last 30 % of --steps, so a run can be resumed and made longer.
The best way to read the log: `psnr` on 128 held-out scenes, 28 dB is usable, 30 dB good.

With --refine FOLDER it goes on with the decoder of the autoencoder in FOLDER alone: latents stay what they are, and so
does a diffusion model that was trained on them."""

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

import data
from drawing import grid

LATENT_CHANNELS = 8
KL_WEIGHT = 2e-4
GRADIENT_WEIGHT = 0.5
DETAIL_WEIGHT = 6  # of a pixel in whose neighbourhood the standard deviation is 1, beside 1 for a flat one
PEAK_RATE = 1.5e-3
REFINING_RATE = 7e-4
WARM_UP = 100  # steps
DECAY = 0.3  # share of the steps


def build(channels: list[int]) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        sample_size=data.SIZE,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        act_fn="silu",
    )


def rate(step: int, steps: int, peak: float = PEAK_RATE) -> float:
    return peak * min(1, (step + 1) / WARM_UP, max(0, (steps - step) / (DECAY * steps)))


def detail_weights(x: torch.Tensor) -> torch.Tensor:
    """Weights of mean 1 that are larger where pixels differ from their neighbours: skies are easy, faces are not."""

    def mean(y):
        return F.avg_pool2d(y, 9, 1, 4, count_include_pad=False)

    deviation = (mean(x.square()) - mean(x).square()).clamp(min=0).mean(1, keepdim=True).sqrt()
    weights = 1 + DETAIL_WEIGHT * deviation
    return weights / weights.mean()


def loss_of(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=data.has_fast_bfloat16(x.device.type)):
        moments = vae.encode(x).latent_dist.parameters.float()
        mean, log_variance = moments.chunk(2, 1)
        log_variance = log_variance.clamp(-30, 20)
        y = vae.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp()).sample
    error = (y.float() - x) * detail_weights(x)
    gradients = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean()
    return error.abs().mean() + GRADIENT_WEIGHT * gradients + KL_WEIGHT * kl


@torch.no_grad()
def psnr(vae: AutoencoderKL, x: torch.Tensor) -> float:
    """Mean over pictures of the PSNR of decode(mean of encode), f32, in dB."""
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    return (-10 * torch.log10(((y - x) / 2).square().mean((1, 2, 3)))).mean().item()


@torch.no_grad()
def normalize_latents(vae: AutoencoderKL, x: torch.Tensor):
    """Gives every latent channel mean 0 and one common std, without changing what the autoencoder does.

    The change of scale is folded into the two 1x1 convolutions around the latents; the common std goes to
    scaling_factor, so that scaled latents have std 1 as the diffusion model wants them.
    """
    z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(100)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    common = std.square().mean().sqrt()
    gain = common / std
    print("std of the channels", [round(s, 2) for s in std.tolist()])
    channels = len(mean)
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    decoder.bias += decoder.weight[:, :, 0, 0] @ mean
    decoder.weight /= gain[None, :, None, None]
    encoder.bias[:channels] = (encoder.bias[:channels] - mean) * gain
    encoder.weight[:channels] *= gain[:, None, None, None]
    encoder.bias[channels:] += 2 * gain.log()  # the second half is the logarithm of the variance
    vae.register_to_config(scaling_factor=round(1 / common.item(), 5))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"), help="caches and checkpoints")
    parser.add_argument("--steps", type=int, default=7500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--refine", type=Path, metavar="FOLDER", help="of the autoencoder whose decoder is trained on")
    parser.add_argument("--name", default="vae", help="checkpoint is WORK/NAME.pt, result WORK/NAME/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cuda takes a graphics card")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    x_train = data.pictures(options.pictures, options.work)
    x_held_out = data.to_model_range(data.pictures(128, options.work, data.HELD_OUT_SEED)).to(options.device)
    if options.refine:
        vae, peak = AutoencoderKL.from_pretrained(options.refine, torch_dtype=torch.float32), REFINING_RATE
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)
    else:
        vae, peak = build(options.channels), PEAK_RATE
    vae = vae.to(options.device)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, peak, betas=(0.9, 0.99), weight_decay=0.0)
    checkpoint, step = options.work / f"{options.name}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=options.device)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        torch.manual_seed(options.seed + step)

    start = time.time()
    while step < options.steps:
        optimizer.param_groups[0]["lr"] = rate(step, options.steps, peak)
        x = data.to_model_range(x_train[torch.randint(len(x_train), (options.batch,)).sort().values.numpy()]).to(
            options.device
        )
        if step % 2:  # crops, so that borders and middles of pictures are not told apart
            top, left = torch.randint(0, data.SIZE - 47, (2,)).tolist()
            x = x[:, :, top : top + 48, left : left + 48]
        loss = loss_of(vae, x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 500 == 0 or step == options.steps:
            quality = psnr(vae, x_held_out)
            print(
                f"vae step {step} {time.time() - start:.0f} s loss {loss.item():.4f} psnr {quality:.2f} dB", flush=True
            )
            torch.save(
                {
                    "vae": vae.state_dict(),
                    "channels": options.channels,
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "psnr": quality,
                },
                checkpoint,
            )
    if not options.refine:
        normalize_latents(vae, data.to_model_range(x_train[:2000]).to(options.device))
    vae.save_pretrained(options.work / options.name)
    print(f"vae saved, scaling factor {vae.config.scaling_factor}, psnr {psnr(vae, x_held_out):.2f} dB")
    with torch.no_grad():
        y = vae.decode(vae.encode(x_held_out[:16]).latent_dist.mode()).sample
    grid(data.to_pictures(x_held_out[:16].cpu()) + data.to_pictures(y.cpu()), 16, 2).save(
        options.work / f"{options.name}.png"
    )


if __name__ == "__main__":
    main()
