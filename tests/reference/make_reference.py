"""Makes reference data for `tests/parity.rs` with diffusers, transformers and torch, none of it our code.

Imagic itself (Kawar et al., CVPR 2023) is written out below the way the diffusers community pipeline does it, except
that every random number comes from `noise.py`, so that the engine draws the same ones. See README.md for what is made.

name -> symbol of the paper
    e_tgt, e_opt, e_bar, eta   embedding of the text, the optimized one, and e_bar = eta * e_tgt + (1 - eta) * e_opt
    x_0, x_t                   latents of the image, and with noise of timestep t
"""

import argparse
import json
import os
import pathlib
from importlib.metadata import version
from typing import NamedTuple

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import noise
import random_model

HERE = pathlib.Path(__file__).parent

# Values for whatever the configuration's "settings" leaves open. The learning rates are larger than those of a real
# edit (1e-3 and some 1e-6), so that in few steps the changes stand well above the rounding of f32.
SETTINGS = {
    "latents": [8, 12],
    "square": [8, 8],
    "text": "A photo of a bird spreading its wings",
    "tuning_seed": 42,
    "seed": 7,
    "batch": 2,
    "steps_a": 10,
    "learning_rate_a": 1e-2,
    "steps_b": 10,
    "learning_rate_b": 1e-4,
    "eta": 0.7,
    "steps": 10,
    "guidance": 3.0,
    # In Stable Diffusion XL: what stage A optimizes, "all" or "tokens".
    "optimized_embedding": "all",
    # What stage B changed is kept of weights with up to this many elements; of all others only its length.
    "change_elements": 700,
    # "whole", or "sketch" where whole ones would be too large to commit: see `sketch`.
    "gradients": "whole",
    # Repeats everything in f64, to tell how much of a difference is torch's own rounding.
    "rounding": True,
}

# Numbers in the sketch of a gradient.
SKETCH = 64

TEXTS = [
    SETTINGS["text"],
    "",
    "a photo of a cat wearing a hat, with flowers; the tree on the hill and people standing at night " * 6,
    "A PHOTO of TWO Dogs, jumping over 3 boxes (2024)!",
    "don't  stop:   it's 1,234.50 -- we're 50% there... \"wow\"?!",
    "na\u00efve caf\u00e9, cafe\u0301, \u00dcN\u00cfC\u00d6D\u00c9 stra\u00dfe \u5199\u771f \U0001f426 "
    "\u03b1\u03b2\u03b3 \u00bd \u0663",
    " \ttabs\tand\nnew  lines \u00a0",
    "   ",
    "x",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True, help="of the random weights and of the inputs")
    parser.add_argument("--config", type=pathlib.Path, default=HERE / "configs" / "small-sd1.json")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("directory", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()

    config = json.loads(arguments.config.read_text())
    settings = {**SETTINGS, **config.get("settings", {})}
    arguments.directory.mkdir(parents=True, exist_ok=True)
    if "model" in config:
        model = (arguments.config.parent / config["model"]).resolve()
    else:
        model = arguments.directory / "model"
        random_model.write(model, config, arguments.seed)

    gradients = arguments.directory / "gradients.safetensors"
    tensors, facts = reference(model, settings, arguments.seed, torch.float32, gradients)
    save_file(to_file(tensors), arguments.directory / "reference.safetensors")
    rounding = {}
    if settings["rounding"]:
        exact_gradients = arguments.directory / "gradients-f64.safetensors"
        exact_tensors, _ = reference(model, settings, arguments.seed, torch.float64, exact_gradients)
        rounding = largest_rounding(tensors, exact_tensors) | largest_rounding(
            {f"gradients.{name}": gradient for name, gradient in load_file(gradients).items()},
            {f"gradients.{name}": gradient for name, gradient in load_file(exact_gradients).items()},
        )
        exact_gradients.unlink()
        for worst in rounding.values():
            print(f"torch's own rounding  {worst['error']:.1e}  {worst['tensor']}")

    if settings["gradients"] == "sketch":
        save_file({name: sketch(gradient) for name, gradient in load_file(gradients).items()}, gradients)

    facts = {
        "about": config["about"],
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "tokenizers", "numpy")},
        "weights_seed": arguments.seed,
        # Relative to this file.
        "model": os.path.relpath(model, arguments.directory.resolve()),
        "settings": settings,
        **facts,
        "tensors": [name for name in tensors if not name.startswith("change.")],
        "rounding": rounding,
    }
    write_facts(arguments.directory / "reference.json", facts)


def sketch(gradient):
    """SKETCH numbers that change with every element: sums of the elements times normal numbers. The relative error of a
    sketch is that of the gradient, but for the luck of the draw."""
    weighted = gradient.flatten().double() * torch.from_numpy(
        noise.normals((0, noise.INITIAL_LATENTS, 0), gradient.numel())
    )
    padding = -weighted.numel() % SKETCH
    return torch.nn.functional.pad(weighted, (0, padding)).reshape(-1, SKETCH).sum(0).float()


def reference(model, settings, seed, dtype, gradients_file):
    """Tensors by name and facts for the JSON file. The U-Net's gradients go straight to their file: of a real one they
    are 3.4 GB, which would stand beside Adam's moments."""
    unet = load(UNet2DConditionModel, model / "unet", dtype)
    vae = load(AutoencoderKL, model / "vae", dtype)
    scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
    texts = Texts(model, settings, 2 ** (len(vae.config.block_out_channels) - 1), dtype)
    inputs = Inputs(seed, dtype)
    tensors = {}
    facts = {}

    facts["streams"] = random_streams(tensors)
    facts["texts"] = [{"text": text, "ids": token_ids(texts.tokenizers[0], text)} for text in TEXTS]
    if len(texts.tokenizers) > 1:
        facts["texts_2"] = [{"text": text, "ids": token_ids(texts.tokenizers[1], text)} for text in TEXTS]
    texts.encode(tensors)
    encode_and_decode(tensors, vae, settings, inputs)
    facts["forward"] = predict_noise(tensors, unet, texts, settings, inputs)
    facts["loss"] = differentiate(tensors, unet, scheduler, texts, settings, inputs, gradients_file)
    facts["adam"] = optimize_with_adam(tensors, inputs)
    facts["scheduler"] = schedule(tensors, scheduler)
    sample_with_guidance(tensors, unet, scheduler, texts, settings)
    facts["tuned"] = imagic(tensors, model, unet, vae, scheduler, texts, settings)
    return tensors, facts


class Embedding(NamedTuple):
    """What the U-Net is conditioned on; the last two only in Stable Diffusion XL."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def arguments(self, batch):
        """Those of the U-Net for so many items."""
        arguments = {"encoder_hidden_states": self.tokens.expand(batch, -1, -1)}
        if self.pooled is not None:
            added = {"text_embeds": self.pooled.expand(batch, -1), "time_ids": self.time_ids.expand(batch, -1)}
            arguments["added_cond_kwargs"] = added
        return arguments


class Texts:
    """Text encoders and tokenizers as the pipelines use them."""

    def __init__(self, model, settings, factor, dtype):
        self.settings, self.factor, self.dtype = settings, factor, dtype
        self.encoders = [load(CLIPTextModel, model / "text_encoder", dtype)]
        self.tokenizers = [CLIPTokenizer.from_pretrained(model / "tokenizer")]
        self.is_xl = (model / "text_encoder_2").exists()
        self.zeros = False
        if self.is_xl:
            self.encoders.append(load(CLIPTextModelWithProjection, model / "text_encoder_2", dtype))
            self.tokenizers.append(CLIPTokenizer.from_pretrained(model / "tokenizer_2"))
            self.zeros = json.loads((model / "model_index.json").read_text())["force_zeros_for_empty_prompt"]

    def encode(self, tensors):
        """`text.hidden`: of the edit's text, the empty text and a text that is cut; (3, tokens, width). In Stable
        Diffusion XL `text.pooled`, too, (3, width)."""
        hidden = []
        for encoder, tokenizer in zip(self.encoders, self.tokenizers):
            ids = torch.tensor([token_ids(tokenizer, text) for text in (self.settings["text"], TEXTS[1], TEXTS[2])])
            with torch.no_grad():
                output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2] if self.is_xl else output.last_hidden_state)
        tensors["text.hidden"] = torch.cat(hidden, dim=-1)
        if self.is_xl:
            tensors["text.pooled"] = output.text_embeds

    def embedding(self, tensors, index):
        """The embedding of one of the texts, for pictures of the edit's size."""
        tokens = tensors["text.hidden"][index : index + 1]
        pooled = tensors["text.pooled"][index : index + 1] if self.is_xl else None
        return Embedding(tokens, pooled, self.time_ids(self.settings["latents"]))

    def unconditional(self, tensors):
        empty = self.embedding(tensors, 1)
        if not self.zeros:
            return empty
        return Embedding(torch.zeros_like(empty.tokens), torch.zeros_like(empty.pooled), empty.time_ids)

    def random(self, inputs, items, width, latents):
        tokens = inputs.normals(items, 77, width)
        pooled = inputs.normals(items, self.encoders[1].config.projection_dim) if self.is_xl else None
        return Embedding(tokens, pooled, self.time_ids(latents))

    def time_ids(self, latents):
        """Size of the picture, corner where it was cut, size again: as in StableDiffusionXLPipeline."""
        if not self.is_xl:
            return None
        height, width = (side * self.factor for side in latents)
        return torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype)


def load(kind, folder, dtype):
    model, report = kind.from_pretrained(folder, output_loading_info=True, torch_dtype=dtype)
    assert not report["missing_keys"], report
    return model.eval().requires_grad_(False)


class Inputs:
    """Draws one named input after the other from the reference's own streams."""

    def __init__(self, seed, dtype):
        self.seed, self.dtype, self.drawn = seed, dtype, 0

    def normals(self, *shape):
        self.drawn += 1
        return torch.from_numpy(noise.normals((self.seed, noise.REFERENCE_INPUTS, self.drawn), shape)).to(self.dtype)


def random_streams(tensors):
    streams = [
        (0, noise.VAE_SAMPLE, 0),
        (42, noise.NOISE_A, 9),
        (2**32 - 1, noise.NOISE_B, 1499),
        (7, noise.INITIAL_LATENTS, 0),
    ]
    facts = []
    for number, (seed, purpose, step) in enumerate(streams):
        stream = (seed, purpose, step)
        tensors[f"streams.{number}.normals"] = torch.from_numpy(noise.normals(stream, (3, 7)))
        facts.append(
            {
                "seed": seed,
                "purpose": purpose,
                "step": step,
                "bits": [f"{word:016x}" for word in noise.bits(stream, 4)],
                "timesteps": noise.timesteps(stream, 5, 1000).tolist(),
            }
        )
    return facts


def token_ids(tokenizer, text):
    options = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    return tokenizer(text, **options).input_ids


def encode_and_decode(tensors, vae, settings, inputs):
    height, width = settings["latents"]
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    image = inputs.normals(1, 3, height * factor, width * factor).div(2).clamp(-1, 1)
    with torch.no_grad():
        moments = vae.encode(image).latent_dist
        sample_noise = inputs.normals(*moments.mean.shape)
        latents = (moments.mean + moments.std * sample_noise) * vae.config.scaling_factor
        decoded = vae.decode(latents / vae.config.scaling_factor).sample
    tensors["vae.image"] = image
    tensors["vae.mean"] = moments.mean
    tensors["vae.logvar"] = moments.logvar
    tensors["vae.noise"] = sample_noise
    tensors["vae.latents"] = latents
    tensors["vae.decoded"] = decoded


def predict_noise(tensors, unet, texts, settings, inputs):
    """The U-Net's output on square and other latents, for two items with different timesteps and embeddings."""
    facts = {}
    for name, size, timesteps in (("square", settings["square"], [0, 999]), ("wide", settings["latents"], [371, 24])):
        x_t = inputs.normals(2, unet.config.in_channels, *size)
        e = texts.random(inputs, 2, unet.config.cross_attention_dim, size)
        with torch.no_grad():
            output = unet(x_t, torch.tensor(timesteps), **e.arguments(2)).sample
        tensors[f"forward.{name}.x_t"] = x_t
        tensors[f"forward.{name}.e"] = e.tokens
        if texts.is_xl:
            tensors[f"forward.{name}.pooled"] = e.pooled
        tensors[f"forward.{name}.output"] = output
        facts[name] = {"timesteps": timesteps}
    return facts


def differentiate(tensors, unet, scheduler, texts, settings, inputs, gradients_file):
    """The loss of two items that share one embedding, as both stages have it, with all its gradients."""
    timesteps = torch.tensor([153, 802])
    x_0 = inputs.normals(1, unet.config.in_channels, *settings["latents"])
    drawn_noise = inputs.normals(2, *x_0.shape[1:])
    e = texts.random(inputs, 1, unet.config.cross_attention_dim, settings["latents"])
    e.tokens.requires_grad_()
    if texts.is_xl:
        e.pooled.requires_grad_()
    unet.requires_grad_(True)
    loss, x_t, target = denoising_loss(unet, scheduler, x_0, drawn_noise, timesteps, e)
    loss.backward()
    save_file({name: weight.grad.contiguous() for name, weight in unet.named_parameters()}, gradients_file)
    unet.zero_grad(set_to_none=True)
    unet.requires_grad_(False)
    tensors["loss.x_0"] = x_0
    tensors["loss.noise"] = drawn_noise
    tensors["loss.e"] = e.tokens.detach()
    tensors["loss.x_t"] = x_t
    tensors["loss.target"] = target
    tensors["loss.loss"] = loss.detach().reshape(1)
    tensors["loss.gradient_of_e"] = e.tokens.grad
    if texts.is_xl:
        tensors["loss.pooled"] = e.pooled.detach()
        tensors["loss.gradient_of_pooled"] = e.pooled.grad
    return {"timesteps": timesteps.tolist()}


def denoising_loss(unet, scheduler, x_0, drawn_noise, timesteps, e):
    batch = drawn_noise.shape[0]
    x_0 = x_0.expand(batch, -1, -1, -1)
    x_t = scheduler.add_noise(x_0, drawn_noise, timesteps)
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(x_0, drawn_noise, timesteps)
    else:
        assert scheduler.config.prediction_type == "epsilon"
        target = drawn_noise
    predicted = unet(x_t, timesteps, **e.arguments(batch)).sample
    return (target - predicted).square().mean(), x_t, target


def optimize_with_adam(tensors, inputs):
    """Three tensors over ten steps with given gradients: usual ones, tiny ones next to eps, and ones with zeros."""
    shapes = {"usual": (5, 7), "tiny": (33,), "zeros": (2, 3, 4)}
    start = {name: inputs.normals(*shape) for name, shape in shapes.items()}
    gradients = {name: inputs.normals(10, *shape) for name, shape in shapes.items()}
    gradients["tiny"] *= 1e-8
    gradients["zeros"][:, 0] = 0
    gradients["zeros"][5:] = 0
    weights = {name: weight.clone().requires_grad_() for name, weight in start.items()}
    learning_rate = 1e-2
    optimizer = adam(weights.values(), learning_rate)
    for step in range(10):
        for name, weight in weights.items():
            weight.grad = gradients[name][step]
        optimizer.step()
    for name in shapes:
        tensors[f"adam.{name}.start"] = start[name]
        tensors[f"adam.{name}.gradients"] = gradients[name]
        tensors[f"adam.{name}.end"] = weights[name].detach()
    return {"learning_rate": learning_rate, "names": list(shapes)}


def adam(weights, learning_rate):
    return torch.optim.Adam(weights, learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, foreach=False)


def schedule(tensors, scheduler):
    tensors["scheduler.alphas_cumprod"] = scheduler.alphas_cumprod
    facts = {"prediction_type": scheduler.config.prediction_type}
    for steps in (10, 50):
        scheduler.set_timesteps(steps)
        facts[f"timesteps_{steps}"] = scheduler.timesteps.tolist()
    return facts


def sample_with_guidance(tensors, unet, scheduler, texts, settings):
    """`ddim.latents`: before the first and after every step; (steps + 1, channels, height, width)."""
    text, empty = texts.embedding(tensors, 0), texts.unconditional(tensors)
    latents = initial_latents(unet, settings, text.tokens.dtype)
    trajectory = [latents, *generate(unet, scheduler, latents, text, empty, settings)]
    tensors["ddim.latents"] = torch.cat(trajectory)


def initial_latents(unet, settings, dtype):
    shape = (1, unet.config.in_channels, *settings["latents"])
    return torch.from_numpy(noise.normals((settings["seed"], noise.INITIAL_LATENTS, 0), shape)).to(dtype)


@torch.no_grad()
def generate(unet, scheduler, latents, text, empty, settings):
    """Deterministic DDIM with guidance; yields the latents after every step."""
    scheduler.set_timesteps(settings["steps"])
    latents = latents * scheduler.init_noise_sigma
    e = Embedding(*(None if one is None else torch.cat([one, other]) for one, other in zip(empty, text)))
    for t in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([latents, latents]), t)
        without_text, with_text = unet(both, t, **e.arguments(2)).sample.chunk(2)
        predicted = without_text + settings["guidance"] * (with_text - without_text)
        latents = scheduler.step(predicted, t, latents, eta=0.0).prev_sample
        yield latents


def imagic(tensors, model, unet, vae, scheduler, texts, settings):
    """A whole edit of `vae.image`. Tunes `unet` in place; answers the length of every weight's change."""
    e_tgt, empty = texts.embedding(tensors, 0), texts.unconditional(tensors)
    dtype, tuning_seed, batch = e_tgt.tokens.dtype, settings["tuning_seed"], settings["batch"]

    with torch.no_grad():
        moments = vae.encode(tensors["vae.image"]).latent_dist
    vae_noise = noise.normals((tuning_seed, noise.VAE_SAMPLE, 0), tuple(moments.mean.shape))
    x_0 = (moments.mean + moments.std * torch.from_numpy(vae_noise).to(dtype)) * vae.config.scaling_factor

    def draw(timesteps_purpose, noise_purpose, step):
        timesteps = noise.timesteps((tuning_seed, timesteps_purpose, step), batch, scheduler.config.num_train_timesteps)
        drawn_noise = noise.normals((tuning_seed, noise_purpose, step), (batch, *x_0.shape[1:]))
        return torch.from_numpy(drawn_noise).to(dtype), torch.from_numpy(timesteps)

    # A: the embedding alone.
    e = e_tgt._replace(tokens=e_tgt.tokens.clone().requires_grad_())
    if texts.is_xl and settings["optimized_embedding"] == "all":
        e = e._replace(pooled=e_tgt.pooled.clone().requires_grad_())
    optimizer = adam([part for part in e if part is not None and part.requires_grad], settings["learning_rate_a"])
    losses_a = []
    for step in range(settings["steps_a"]):
        drawn = draw(noise.TIMESTEPS_A, noise.NOISE_A, step)
        loss, _, _ = denoising_loss(unet, scheduler, x_0, *drawn, e)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses_a.append(loss.item())
    e_opt = Embedding(*(part if part is None else part.detach() for part in e))

    # B: all weights of the U-Net, with the embedding fixed.
    unet.requires_grad_(True)
    optimizer = adam(unet.parameters(), settings["learning_rate_b"])
    losses_b = []
    for step in range(settings["steps_b"]):
        drawn = draw(noise.TIMESTEPS_B, noise.NOISE_B, step)
        loss, _, _ = denoising_loss(unet, scheduler, x_0, *drawn, e_opt)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses_b.append(loss.item())
    unet.zero_grad(set_to_none=True)
    del optimizer
    unet.requires_grad_(False)

    # C: between the embeddings, with the tuned network.
    eta = settings["eta"]
    e_bar = Embedding(*(end if end is None else eta * end + (1 - eta) * start for end, start in zip(e_tgt, e_opt)))
    *_, latents = generate(unet, scheduler, initial_latents(unet, settings, dtype), e_bar, empty, settings)
    with torch.no_grad():
        image = vae.decode(latents / vae.config.scaling_factor).sample

    tensors["imagic.x_0"] = x_0
    tensors["imagic.losses_a"] = torch.tensor(losses_a, dtype=dtype)
    tensors["imagic.e_opt"] = e_opt.tokens
    tensors["imagic.losses_b"] = torch.tensor(losses_b, dtype=dtype)
    tensors["imagic.e_bar"] = e_bar.tokens
    if texts.is_xl:
        tensors["imagic.pooled_opt"] = e_opt.pooled
        tensors["imagic.pooled_bar"] = e_bar.pooled
    tensors["imagic.latents"] = latents
    tensors["imagic.image"] = image
    lengths = {}
    with safe_open(model / "unet" / "diffusion_pytorch_model.safetensors", "pt") as base:
        for name, weight in unet.named_parameters():
            change = weight - base.get_tensor(name).to(dtype)
            lengths[name] = float(f"{change.double().norm().item():.9g}")
            if weight.numel() <= settings["change_elements"]:
                tensors[f"change.{name}"] = change
    return {"change_lengths": lengths}


def write_facts(path, facts):
    """JSON with a line for every fact of every group, so that lists of numbers do not fill pages."""
    groups = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            value = f"{{\n{lines}\n  }}" if lines else "{}"
        elif isinstance(value, list):
            lines = ",\n".join(f"    {json.dumps(entry)}" for entry in value)
            value = f"[\n{lines}\n  ]"
        else:
            value = json.dumps(value)
        groups.append(f"  {json.dumps(key)}: {value}")
    path.write_text("{\n" + ",\n".join(groups) + "\n}\n", encoding="utf-8")


def to_file(tensors):
    return {name: tensor.detach().to(torch.float32).contiguous().clone() for name, tensor in tensors.items()}


def largest_rounding(tensors, exact):
    """By tensor, or where there are very many (gradients, changes) only the worst of the group."""
    worst = {}
    for name, tensor in tensors.items():
        group = name.split(".")[0]
        key = group if group in ("gradients", "change") else name
        error = relative_error(tensor.double(), exact[name].double())
        if key not in worst or error > worst[key]["error"]:
            worst[key] = {"tensor": name, "error": float(f"{error:.1e}")}
    return worst


def relative_error(tensor, exact):
    return ((tensor - exact).norm() / exact.norm()).item() if exact.any() else tensor.norm().item()


if __name__ == "__main__":
    main()
