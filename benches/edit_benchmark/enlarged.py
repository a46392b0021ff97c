"""What the companion of the built-in model makes of small pictures of held-out scenes: the gates of its model card.

    benches/edit_benchmark/python -m edit_benchmark.enlarged [--scenes 100] [--metrics FOLDER] [--sheet OUT.png]

Small pictures are

drawn        the scene drawn at 256 pixels, averaged to 64
decoded      the same through the autoencoder, which is what the base model's pictures are made of
sampled      drawn by the base model from the caption: of these there is no true large picture

and enlarged by `Lanczos`, by `bicubic`, with which the companion begins, and by the `companion`, untuned, fed with the
caption's embedding.

psnr         to the scene drawn at 256 pixels, dB
squeezenet   distance to it
right        share in which every attribute reads as the caption says, after averaging to 64 pixels; `small` is the
             small picture itself
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import classifier
import data
import enlarger
from drawing import render
from edit_benchmark import measures
from edit_benchmark.ablation import Enlargers, to_model
from edit_benchmark.details import SIDE, small
from edit_benchmark.perceptual import SqueezeNet
from edit_benchmark.sheet import sheet
from gates import shares
from sampling import draw, tokenize
from scenes import caption

GUIDANCE, STEPS = 2.0, 25  # as the model card's samples
WAYS = ("Lanczos", "bicubic", "companion")


def small_pictures(base, scenes, truths: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """By kind, pictures (64, 64, 3) uint8 of scenes and of those drawn at 256 pixels."""
    drawn = [small(truth) for truth in truths]
    decoded = [data.to_pictures(enlarger.through(base.vae, to_model(picture)))[0] for picture in drawn]
    generator = torch.Generator().manual_seed(0)
    sampled = draw(base, [caption(scene) for scene in scenes], generator, STEPS, GUIDANCE)
    return {"drawn": drawn, "decoded": decoded, "sampled": list(sampled)}


@torch.no_grad()
def enlarged(enlargers: Enlargers, scene, picture: np.ndarray) -> dict[str, np.ndarray]:
    """By way, pictures (256, 256, 3) uint8."""
    base = enlargers.base
    plain = enlarger.enlarge_plainly(to_model(picture))
    e = base.text_encoder(tokenize(base.tokenizer, [caption(scene)]))[0]
    return {
        "Lanczos": np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)),
        "bicubic": data.to_pictures(plain)[0],
        "companion": enlargers.enlarge(enlargers.companion, e, plain),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parents[2] / "models/scenes-64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--metrics", type=Path, help="folder of SqueezeNet's weights")
    parser.add_argument("--sheet", type=Path, help="a picture of the first results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    enlargers, judge = Enlargers(options.model), classifier.load()
    squeezenet = SqueezeNet(options.metrics) if options.metrics else None
    scenes = data.scenes(options.scenes, data.HELD_OUT_SEED)
    truths = [render(scene, SIDE) for scene in scenes]
    shown = [[truth] for truth in truths]
    for kind, pictures in small_pictures(enlargers.base, scenes, truths).items():
        large = [enlarged(enlargers, scene, picture) for scene, picture in zip(scenes, pictures)]
        print(f"{kind:9}{'small':11}right {shares(scenes, judge.read(pictures))['all together']:.3f}")
        for way in WAYS:
            results = [ways[way] for ways in large]
            values = {"right": shares(scenes, judge.read([small(picture) for picture in results]))["all together"]}
            if kind != "sampled":
                values["psnr"] = np.mean([measures.psnr(*pair) for pair in zip(results, truths)])
                if squeezenet:
                    distances = [squeezenet.distances([one], truth)[0] for one, truth in zip(results, truths)]
                    values["squeezenet"] = np.mean(distances)
            print(f"{kind:9}{way:11}" + "  ".join(f"{name} {value:.3f}" for name, value in values.items()), flush=True)
        for row, ways in zip(shown, large):
            row += [ways["bicubic"], ways["companion"]]
    if options.sheet:
        kinds = [f"{kind}, {way}" for kind in ("drawn", "decoded", "sampled") for way in ("bicubic", "companion")]
        rows = [(caption(scene), row) for scene, row in zip(scenes[:12], shown)]
        sheet(rows, ["the scene", *kinds], cell=SIDE).save(options.sheet)


if __name__ == "__main__":
    main()
