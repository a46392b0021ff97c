"""Which embedding the model that enlarges should be tuned on and fed with: the paper's question, answered on edits of
scenes of 256 pixels with exact truth (section 3.2 of the paper conditions on e_tgt, not on e_opt).

    benches/edit_benchmark/python -m edit_benchmark.ablation [--count 8] [--metrics FOLDER] [--sheet OUT.png]

Each edit is made once by the program, at 64 pixels. Its picture is then enlarged by PyTorch, whose training steps and
pictures are those of the engine (`cargo test --release --test enlarging`), with one seed and the same crops and noises:

plain                     bicubic
pretrained                the model as it is, fed with e_tgt
on e_opt, fed e_opt       tuned on crops of the source at e_opt, the embedding that stage A of the base model has found
on e_tgt, fed e_opt
on e_tgt, fed e_tgt       the paper's

The measures are those of details.py.
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file

import data
import enlarger
from edit_benchmark import Failed
from edit_benchmark.details import SIDE, Comparison
from edit_benchmark.edits import at_side
from edit_benchmark.program import program_of, read_preset
from gates import load
from sampling import tokenize

PLAIN, PRETRAINED = "plain", "pretrained"
# Tuned on, and fed with.
TUNED = (("e_opt", "e_opt"), ("e_tgt", "e_opt"), ("e_tgt", "e_tgt"))
CROP = SIDE // 2
SEED = 0


def name_of(on: str, fed: str) -> str:
    return f"on {on}, fed {fed}"


def to_model(picture: np.ndarray) -> torch.Tensor:
    """(1, 3, h, w) from -1 to 1."""
    return data.to_model_range(picture.transpose(2, 0, 1)[None])


def tuned(unet, e: torch.Tensor, plain: torch.Tensor, large: torch.Tensor, preset: dict):
    """The network after stage B on crops of the picture `large` beside those of its plain enlargement."""
    unet = copy.deepcopy(unet)
    optimizer = torch.optim.Adam(unet.parameters(), preset["detail_lr"])
    generator = torch.Generator().manual_seed(SEED)
    places = range(0, SIDE - CROP + 1, CROP // 2)
    places = [(slice(None), slice(None), slice(y, y + CROP), slice(x, x + CROP)) for y in places for x in places]
    batch = preset["batch_size"]
    for _ in range(preset["detail_steps"]):
        place = places[int(torch.randint(len(places), (), generator=generator))]
        beside = enlarger.to_patches(plain[place]).repeat(batch, 1, 1, 1)
        wanted = enlarger.SCALE * (enlarger.to_patches(large[place]) - enlarger.to_patches(plain[place]))
        levels = torch.randint(enlarger.LEVELS, (batch,), generator=generator)
        found = enlarger.lacking(unet, e.expand(batch, -1, -1), beside, levels, generator)
        optimizer.zero_grad()
        (found - wanted).square().mean().backward()
        optimizer.step()
    return unet


class Enlargers:
    """The base model's text encoder and autoencoder, and its companion."""

    def __init__(self, model: Path):
        self.base = load(model)
        companion = UNet2DConditionModel.from_pretrained(model / "enlarger" / "unet", torch_dtype=torch.float32)
        companion.set_attn_processor(AttnProcessor())
        self.companion = companion.to(memory_format=torch.channels_last)

    def enlarge(self, unet, e: torch.Tensor, plain: torch.Tensor) -> np.ndarray:
        found = enlarger.enlarge(unet, e, plain, torch.Generator().manual_seed(SEED))
        return data.to_pictures(enlarger.with_colors_of(found, plain))[0]

    def all_of(self, edit, source: np.ndarray, result: np.ndarray, e_opt: torch.Tensor, preset: dict):
        """Pictures by name: `result`, (64, 64, 3), enlarged; the models tuned on `source`, (256, 256, 3)."""
        with torch.no_grad():
            e_tgt = self.base.text_encoder(tokenize(self.base.tokenizer, [edit.prompt]))[0]
        embeddings = {"e_tgt": e_tgt, "e_opt": e_opt}
        plain = enlarger.enlarge_plainly(to_model(result))
        plain_source = enlarger.enlarge_plainly(enlarger.through(self.base.vae, to_model(edit.source)))
        pictures = {
            PLAIN: data.to_pictures(plain)[0],
            PRETRAINED: self.enlarge(self.companion, e_tgt, plain),
        }
        networks = {}
        for on, fed in TUNED:
            if on not in networks:
                networks[on] = tuned(self.companion, embeddings[on], plain_source, to_model(source), preset)
            pictures[name_of(on, fed)] = self.enlarge(networks[on], embeddings[fed], plain)
        return pictures


def found_embedding(cache: Path) -> torch.Tensor:
    """e_opt of the only tuned model in the cache."""
    [file] = (cache / "imagic-edit").glob("*.safetensors")
    [embedding] = [tensor for name, tensor in load_file(file).items() if name.startswith("e_opt.")]
    return embedding.float().reshape(1, *embedding.shape[-2:])


def main():
    comparison = Comparison(__doc__)
    options = comparison.options
    torch.set_num_threads(options.threads)
    preset = read_preset(options.model, "balanced", dict(options.set))
    enlargers = Enlargers(options.model)
    for edit in comparison.edits:
        with program_of(options, preset="balanced", detail="off") as program:
            result = program.edit(edit.source, edit.prompt, [1.0])[0][1.0]
            e_opt = found_embedding(program.cache)
        large = at_side(edit, SIDE)
        comparison.add(large, enlargers.all_of(edit, large.source, result, e_opt, preset))
    print(json.dumps({name: preset[name] for name in ("detail_steps", "detail_lr", "batch_size")}))
    comparison.end(PLAIN)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"{failure}")
