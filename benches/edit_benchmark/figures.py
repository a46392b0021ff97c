"""The figures of docs/, in the manner of the Imagic paper's, made with the built program from the pictures in
models/samples.

scenes  edits with their true results, as they are drawn for the benchmark
eta     one edit at growing eta
texts   several texts on one picture
seeds   several seeds of one edit
etas    several edits at growing eta
tuned   the model tuned by stage B against the model as it is: same picture, text, seed and etas
"""

import argparse
import random
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from drawing import render
from edit_benchmark import Failed
from edit_benchmark.program import ROOT, Program, add_arguments, read_preset
from edit_benchmark.sheet import sheet
from samples import BIRD, CAR, DOG, SAMPLES
from scenes import ATTRIBUTES, Scene, caption, random_edit

ETAS = (0.0, 0.4, 0.6, 0.8, 1.0, 1.2)
README_ETAS = (0.0, 0.6, 0.8, 1.0, 1.2)
TEXTS = (
    replace(DOG, pose="sitting"),
    replace(DOG, pose="lying down"),
    replace(DOG, hat=True),
    replace(DOG, kind="cat"),
    replace(DOG, color="white"),
    replace(DOG, background="snow"),
    replace(DOG, style="sketch"),
)
SEEDS = range(6)


@dataclass(frozen=True)
class Studio:
    """The program, with one cache for all figures, so that no edit is tuned twice."""

    program: Program
    eta: float  # the preset's

    def edit(self, picture: np.ndarray, wanted: Scene, etas, **parameters) -> list[np.ndarray]:
        results, _ = self.program.edit(picture, caption(wanted), list(etas), **parameters)
        return list(results.values())


def scenes(_studio: Studio) -> Image.Image:
    rng = random.Random(4)
    rows = []
    for attribute in ATTRIBUTES:
        pairs = [random_edit(attribute, rng) for _ in range(4)]
        rows.append((attribute, [render(scene, 96) for pair in pairs for scene in pair]))
    return sheet(rows, ["source", "true result"] * 4, cell=96, words=90)


def eta(studio: Studio) -> Image.Image:
    picture, wanted = sample("demo.png")
    return sheet([("", [picture, *studio.edit(picture, wanted, README_ETAS)])], columns(README_ETAS), cell=150, words=0)


def texts(studio: Studio) -> Image.Image:
    picture, _ = sample("dog-on-grass.png")
    pictures = [picture, *(studio.edit(picture, wanted, [studio.eta])[0] for wanted in TEXTS)]
    words = ["picture", *(caption(wanted) for wanted in TEXTS)]
    return stack([sheet([("", pictures[i : i + 4])], words[i : i + 4], cell=200, words=0) for i in (0, 4)])


def seeds(studio: Studio) -> Image.Image:
    picture, wanted = sample("bird-on-beach.png")
    results = [studio.edit(picture, wanted, [studio.eta], seed=seed)[0] for seed in SEEDS]
    return sheet([(caption(wanted), [picture, *results])], ["picture", *(f"seed {seed}" for seed in SEEDS)], cell=110)


def etas(studio: Studio) -> Image.Image:
    rows = [
        (sample("dog-on-grass.png")[0], replace(DOG, pose="sitting")),
        (sample("bird-on-beach.png")[0], replace(BIRD, pose="spreading its wings")),
        (sample("car-on-beach.png")[0], replace(CAR, color="blue")),
        (sample("dog-on-grass.png")[0], replace(DOG, background="snow")),
    ]
    return sheet(
        [(caption(wanted), [picture, *studio.edit(picture, wanted, ETAS)]) for picture, wanted in rows],
        columns(ETAS),
        cell=110,
    )


def tuned(studio: Studio) -> Image.Image:
    rows = []
    for name in ("dog-on-grass.png", "car-on-beach.png"):
        picture, wanted = sample(name)
        rows += [
            (f"tuned: {caption(wanted)}", [picture, *studio.edit(picture, wanted, ETAS)]),
            ("not tuned: the same text and seed", [picture, *studio.edit(picture, wanted, ETAS, tuning_steps=0)]),
        ]
    return sheet(rows, columns(ETAS), cell=110)


def sample(name: str) -> tuple[np.ndarray, Scene]:
    """A sample picture and the edit it is there for."""
    return np.asarray(Image.open(ROOT / "models/samples" / name).convert("RGB")), SAMPLES[name][1]


def columns(etas) -> list[str]:
    return ["picture", *(f"eta {eta:g}" for eta in etas)]


def stack(images: list[Image.Image]) -> Image.Image:
    result = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    y = 0
    for image in images:
        result.paste(image, (0, y))
        y += image.height
    return result


def main():
    makers = {"scenes": scenes, "eta": eta, "texts": texts, "seeds": seeds, "etas": etas, "tuned": tuned}
    parser = argparse.ArgumentParser(
        prog="docs/make-figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="all of them if none is named")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--threads", type=int, default=2)
    add_arguments(parser)
    options = parser.parse_args()
    if unknown := set(options.figures) - set(makers):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(makers)}")
    preset = read_preset(options.model, "balanced", {})
    try:
        with tempfile.TemporaryDirectory() as cache:
            studio = Studio(
                Program(options.program, options.model, options.threads, dict(options.set), Path(cache)), preset["eta"]
            )
            studio.program.check()
            for name in options.figures or makers:
                file = options.out / f"{name}.png"
                makers[name](studio).save(file, optimize=True)
                print(file)
    except Failed as error:
        sys.exit(f"docs/make-figures: {error}")


if __name__ == "__main__":
    main()
