"""Trains the text encoder and the U-Net together on the autoencoder's latents (v-prediction).

The training has no end that it knows: after a warm-up the rate stays as it is, and all there is to know about
the run is in WORK/diffusion.pt, written every few minutes and when the program is told to stop. Started again
with the same --work it goes on as if nothing had happened. What is kept is the moving average of the weights.

What is exported comes from a branch: --cool-down N takes a copy of the run and lets the rate fall to zero in N
steps, in WORK/cool-down.pt. The run itself stays where it is and can go on afterwards.

WORK/curve.jsonl gets a line every --curve-every steps: the share of samples in which every attribute is as the
caption says, for captions of scenes that neither the training nor the gates use. It says more than the loss,
and WORK/samples.png, one row a prompt, more than both.
"""

import argparse
import copy
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import classifier
import data
import gates
from latents import TrainingSet, chunks_wanted
from sampling import sample_grid, scheduler, tokenize
from scenes import vocabulary
from tokens import MAX_LENGTH, write_tokenizer
from vae import LATENT_CHANNELS

WIDTH = 128  # of the text embedding
PEAK_RATE = 5e-4
WARM_UP = 500  # steps, for Adam to find its moments again where weights come without them
# Without limits the queries and keys grow until every softmax takes one key alone and attention learns no more.
ATTENTION_WEIGHT_DECAY = 0.3
WEIGHT_DECAY = 0.01  # of the other matrices
MAX_SCORE_SPREAD = 3.0  # see `soften_attention`
SOFTEN_EVERY = 50  # steps
# Decay of the moving average. At a constant rate the average does what a falling rate would do otherwise.
AVERAGE = 0.9997
COOL_DOWN_AVERAGE = 0.999  # short beside the branch, or it would keep the noise of the branch's start
STRUCTURE = (-0.5, 1.5)  # mean and deviation of the log signal-to-noise ratio, see `timestep_shares`
NO_CAPTION = 0.1  # share of empty captions, for classifier-free guidance
CURVE_SCENES, CURVE_GUIDANCE, CURVE_STEPS = 200, 2.0, 15
CHECKPOINT_SECONDS = 300
COUNTS = ("step", "samples", "first", "cool_down")  # of a `Training`, beside its weights
RUN_FILE = "run.json"  # in a folder of weights: the step and the samples they are from


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


@torch.no_grad()
def score_spreads(unet, x_t, t, embedding) -> dict[str, torch.Tensor]:
    """The deviation of the attention scores (before the softmax) over the keys, by layer: one number a head."""
    spreads, handles = {}, []

    def measure(name, attention, hidden, context):
        query, key = (
            x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for x in (attention.to_q(hidden), attention.to_k(hidden if context is None else context))
        )
        scores = (query @ key.transpose(-1, -2)).float() * attention.scale
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


def rate(steps_taken: int) -> float:
    """Of the run: constant after a warm-up, so that the run can be made longer at will."""
    return PEAK_RATE * min(1, (steps_taken + 1) / WARM_UP)


def cool_down_share(progress: float) -> float:
    """Of the run's rate, in a branch of which the share `progress` is done: down to zero by 1 - sqrt.

    That shape beat the linear one in Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", 2024, for branches of a tenth to a fifth of the run.
    """
    return max(0, 1 - progress**0.5)


def timestep_shares() -> torch.Tensor:
    """How often each of the 1000 timesteps is drawn, (1000,), sum 1.

    Stable Diffusion's schedule was made for latents of 64 x 64. On 16 x 16 the same noise hides more of a
    picture: at the noisy end there is little to learn but the mean of a caption's pictures, at the other end
    little but grain. A thing, its pose and its hat take some 5 to 60 of the 256 places, 8 numbers each, so they
    are decided where the signal-to-noise ratio of one number is about exp(-3) to exp(1). Half of the draws are
    normal in the logarithm of that ratio (Stable Diffusion 3's logit-normal, said for this schedule), and half
    are uniform, so that no timestep is forgotten and Imagic, which draws them so, finds what it expects.

    The loss on v keeps its weight of 1: to draw a timestep more often is a weight already, and the weights of
    min-SNR fall with the ratio where captions count most.
    """
    alphas_cumprod = scheduler().alphas_cumprod.double()
    log_snr = (alphas_cumprod / (1 - alphas_cumprod)).log()
    width = -torch.gradient(log_snr)[0]
    structure = (-0.5 * ((log_snr - STRUCTURE[0]) / STRUCTURE[1]).square()).exp() * width
    return 0.5 / len(log_snr) + 0.5 * structure / structure.sum()


def draw_timesteps(count: int, cumulative: torch.Tensor) -> torch.Tensor:
    """One timestep from each of `count` slices of equal probability: less chance in the loss of a batch.

    Scenes are drawn independently, so the order of the slices does not matter.
    """
    places = (torch.arange(count) + torch.rand(count)) / count
    return torch.searchsorted(cumulative, places.double()).clamp(max=len(cumulative) - 1)


class Training:
    """The weights, the optimizer and where the run is."""

    def __init__(
        self,
        tokenizer,
        channels: list[int],
        training_set: TrainingSet,
        batch: int = 32,
        device: str = "cpu",
        compiled: bool = False,
        half: bool | None = None,
    ):
        # Whether it computes in bfloat16; if nothing is said, where that is quicker.
        self.half = data.has_fast_bfloat16(device) if half is None else half
        self.tokenizer, self.channels, self.set = tokenizer, channels, training_set
        self.batch, self.device = batch, device
        self.text_encoder = build_text_encoder(tokenizer).to(device)
        self.unet = build_unet(channels).to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy((self.text_encoder, self.unet))
        self.parameters = [*self.text_encoder.parameters(), *self.unet.parameters()]
        self.averaged_parameters = [*self.average[0].parameters(), *self.average[1].parameters()]
        self.optimizer = torch.optim.AdamW(
            parameter_groups((self.text_encoder, self.unet)), PEAK_RATE, betas=(0.9, 0.99), fused=True
        )
        self.predict = torch.compile(self.unet) if compiled else self.unet
        self.step, self.samples = 0, 0
        self.first = 0  # the step at which the optimizer knew nothing
        self.cool_down = None  # of a branch: its first step and the number of its steps
        self.no_caption = tokenize(tokenizer, [""])[0]
        self.alphas_cumprod = scheduler().alphas_cumprod
        self.timesteps = timestep_shares().cumsum(0)

    def begin_with(self, folder: Path):
        """The weights of a trained model. Its optimizer is lost, so the rate warms up again.

        The count of steps goes on if the folder knows it, as those of `export.py --run` do.
        """
        for model, part in ((self.text_encoder, "text_encoder"), (self.unet, "unet")):
            trained = type(model).from_pretrained(folder / part, torch_dtype=torch.float32)
            model.load_state_dict(trained.state_dict())
        with torch.no_grad():
            torch._foreach_copy_(self.averaged_parameters, self.parameters)
        if (folder / RUN_FILE).exists():
            run = json.loads((folder / RUN_FILE).read_text())
            self.step, self.first, self.samples = run["step"], run["step"], run["samples"]

    def state(self) -> dict:
        models = (self.text_encoder, self.unet, *self.average)
        return {
            "models": [model.state_dict() for model in models],
            "channels": self.channels,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            **{name: getattr(self, name) for name in COUNTS},
        }

    def restore(self, state: dict):
        for model, kept in zip((self.text_encoder, self.unet, *self.average), state["models"]):
            model.load_state_dict(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        for name in COUNTS:
            setattr(self, name, state[name])
        torch.set_rng_state(state["random"].cpu())

    def rate(self) -> float:
        if self.cool_down is None:
            return rate(self.step - self.first)
        begin, steps = self.cool_down
        return rate(begin - self.first) * cool_down_share((self.step - begin) / steps)

    def advance(self) -> torch.Tensor:
        """One step: its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        x_t, v, t, ids = self._noisy_batch()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            v_pred = self.predict(x_t, t, self.text_encoder(ids)[0]).sample
        loss = (v_pred.float() - v).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        if torch.nn.utils.clip_grad_norm_(self.parameters, 1.0).isfinite():
            self.optimizer.step()
        else:
            print(f"step {self.step}: the gradient is not finite, the batch is left out", flush=True)
        self.step += 1
        self.samples += self.batch
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged_parameters, self.parameters, 1 - self._keep())
        if self.step % SOFTEN_EVERY == 0:
            self.soften_attention()
        return loss.detach()

    def _keep(self) -> float:
        """The share of the moving average that stays; short at first, to forget where the run began."""
        if self.cool_down:
            return COOL_DOWN_AVERAGE
        steps = self.step - self.first
        return min(AVERAGE, (1 + steps) / (10 + steps))

    def soften_attention(self):
        x_t, _, t, ids = self._noisy_batch()
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            soften_attention(self.unet, score_spreads(self.unet, x_t, t, self.text_encoder(ids)[0]))

    def _noisy_batch(self):
        # Random numbers come from the processor's generator, so that every device draws the same ones.
        x, ids = self.set.draw(self.batch)
        ids[torch.rand(self.batch) < NO_CAPTION] = self.no_caption
        t = draw_timesteps(self.batch, self.timesteps)
        noise = torch.randn(x.shape)
        a = self.alphas_cumprod[t][:, None, None, None]
        x_t = (a.sqrt() * x + (1 - a).sqrt() * noise).to(self.device).contiguous(memory_format=torch.channels_last)
        v = (a.sqrt() * noise - (1 - a).sqrt() * x).to(self.device)
        return x_t, v, t.to(self.device), ids.to(self.device)

    def averaged_parts(self, vae: AutoencoderKL) -> SimpleNamespace:
        """What draws with the moving average of the weights; see `sampling.draw`."""
        return SimpleNamespace(
            tokenizer=self.tokenizer, text_encoder=self.average[0], unet=self.average[1], vae=vae, scheduler=scheduler()
        )


def save(state: dict, path: Path):
    """Whatever happens meanwhile, `path` is a whole checkpoint: the old one or the new one."""
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def add_to_curve(training: Training, vae: AutoencoderKL, judge, work: Path):
    """How well the average of the weights draws now, as a line of WORK/curve.jsonl."""
    scenes = data.scenes(CURVE_SCENES, data.CURVE_SEED)
    parts = training.averaged_parts(vae)
    random_state = torch.get_rng_state()
    dtype = torch.bfloat16 if training.half else torch.float32
    shares = gates.samples_read_back(parts, judge, scenes, CURVE_GUIDANCE, CURVE_STEPS, dtype)
    sample_grid(parts, dtype=dtype).save(work / "samples.png")
    torch.set_rng_state(random_state)  # the run does not depend on how often it is looked at
    line = json.dumps(
        {
            "step": training.step,
            "samples": training.samples,
            "cool-down": training.cool_down is not None,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
            **{name: round(share, 4) for name, share in shares.items()},
        }
    )
    with (work / "curve.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"), help="what it makes; the autoencoder is WORK/vae")
    parser.add_argument(
        "--init",
        type=Path,
        help="folder of a trained model whose weights the run begins with, if "
        "WORK has no checkpoint; and its autoencoder, if WORK has none",
    )
    parser.add_argument("--steps", type=int, help="stop there; without it the run goes on until it is stopped")
    parser.add_argument("--cool-down", type=int, metavar="N", help="not the run, but a branch of N steps to its end")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--curve-every", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 192])
    parser.add_argument("--device", default="cpu", help="cuda takes a graphics card")
    parser.add_argument("--compile", action="store_true", help="minutes at the start, then faster steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="that draw the pictures of a new chunk")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(True))

    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    if options.init and not (work / "vae").exists():
        AutoencoderKL.from_pretrained(options.init / "vae", torch_dtype=torch.float32).save_pretrained(work / "vae")
    write_tokenizer(vocabulary(), work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    vae = AutoencoderKL.from_pretrained(work / "vae").to(options.device)
    judge = classifier.load()
    half = data.has_fast_bfloat16(options.device)
    training_set = TrainingSet(work / "latents", vae, tokenizer, options.device, options.processes, half)
    training = Training(tokenizer, options.channels, training_set, options.batch, options.device, options.compile, half)
    run, branch = work / "diffusion.pt", work / "cool-down.pt"
    checkpoint = branch if options.cool_down else run
    if checkpoint.exists() and not (options.cool_down and is_outdated(branch, run)):
        training.restore(torch.load(checkpoint, map_location=options.device))
    elif options.cool_down:
        training.restore(torch.load(run, map_location=options.device))
        training.cool_down = (training.step, options.cool_down)
    elif options.init:
        training.begin_with(options.init)
    training.set.grow_to(chunks_wanted(training.samples))
    last = sum(training.cool_down) if training.cool_down else options.steps
    print(f"from step {training.step}, {training.samples} samples, on {len(training.set.latents)} chunks", flush=True)

    start, losses, saved = time.time(), [], time.time()
    while not stopped and (last is None or training.step < last):
        losses.append(training.advance())
        if training.step % 100 == 0:
            loss = torch.stack(losses).mean().item()
            seconds = (time.time() - start) / len(losses)
            print(f"step {training.step} {seconds:.3f} s/step rate {training.rate():.1e} loss {loss:.4f}", flush=True)
            start, losses = time.time(), []
        look = training.step % options.curve_every == 0 or training.step == last
        if look or time.time() - saved > CHECKPOINT_SECONDS:
            save(training.state(), checkpoint)
            saved = time.time()
        if look:
            add_to_curve(training, vae, judge, work)
        training.set.grow_to(chunks_wanted(training.samples))
    save(training.state(), checkpoint)
    print(f"stopped at step {training.step}", flush=True)


def is_outdated(branch: Path, run: Path) -> bool:
    """Whether the branch has reached its end and the run has gone on since."""
    state, newest = (torch.load(path, map_location="cpu", mmap=True) for path in (branch, run))
    return state["step"] >= sum(state["cool_down"]) and newest["step"] > state["cool_down"][0]


if __name__ == "__main__":
    main()
