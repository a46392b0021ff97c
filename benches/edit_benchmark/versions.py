"""What choosing among several versions of an edit is worth, for every method alike: each edit is made in several
versions, which are scored without the truth, as the program's `--candidates` does it, and measured with it.

    benches/edit_benchmark/python -m edit_benchmark.versions [--count 16] [--versions 8] [--metrics FOLDER]
        [--way NAME PARAMETER=NUMBER ...] [--sheet OUT.png]

imagic          the program, tuned once, with so many seeds
NAME            the same with other parameters; of the same tuning if they are of stage C
without-b       the program without stage B
sdedit          with so many seeds (methods.py)
ddib-*          from the source's own noise (ddib.py), with guidance from 1 to 4 in place of seeds: under no caption of
                the source (none), the true one (true), the one that the model finds (found)

one      the first version, as without a choice
mean     all versions: what one taken blindly succeeds in
chosen   the one with the best score
oracle   whether one of them succeeds: what the best choice could reach

With shares of successful edits stand their 95 % intervals. Behind them, of the chosen versions: asked and other
attributes right, kept pixels, distance to the truth (with --metrics), passes of an edit; and against imagic's: edits
gained and lost with the probability of that or more under chance alone (McNemar's exact test), and the mean difference
of distances with its interval.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch

import classifier
from edit_benchmark import Failed, ddib, intervals, measures, methods
from edit_benchmark.edits import add_arguments as add_edits
from edit_benchmark.edits import edits
from edit_benchmark.perceptual import SqueezeNet
from edit_benchmark.program import add_arguments, assignment, program_of, read_preset
from edit_benchmark.sheet import sheet
from edit_benchmark.store import Result, Store, fingerprint
from sampling import generate
from scenes import caption

LOOKS, RANGE = 12, (0.1, 0.9)  # as src/engine/candidates.rs has them


def by_chance(gained: int, lost: int) -> float:
    """Two-sided probability of a split as uneven as this one of so many pairs that differ."""
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    return min(1.0, 2 * tail)


class Maker:
    """Makes and scores the versions of one edit."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.preset = read_preset(options.model, options.preset, dict(options.set))
        self.store = Store(options.work)
        with program_of(options, preset=options.preset) as program:
            self.program = program
        self.settings = methods.Settings(program, self.preset, 1.0, (), (), self.store, 1)

    def all(self, edit, names: list[str]) -> dict[str, list[np.ndarray]]:
        """The versions by each of these methods; what the program has tuned serves all that it draws of one edit."""
        with program_of(self.options, preset=self.options.preset) as self.program:
            return {method: self.versions(edit, method) for method in names}

    def versions(self, edit, method: str) -> list[np.ndarray]:
        """Those that were not kept are made."""
        parts = [edit.source.tobytes(), edit.prompt, self.settings.model, self.preset, self.options.versions]
        if method in self.ways:
            parts += [self.settings.program_version, self.ways[method]]
        key = f"{edit.name}-{method}-" + fingerprint(*parts)
        levels = list(range(self.options.versions))
        results = self.store.read(key, levels)
        if results is None:
            make = self.of_program if method in self.ways else self.sdedit if method == "sdedit" else self.ddib
            results = [Result(picture, 0.0, level) for level, picture in enumerate(make(edit, method))]
            self.store.write(key, results)
        return [result.picture for result in results]

    @property
    def ways(self) -> dict[str, dict]:
        """Of the program: parameters other than the preset's."""
        named = {name: dict(map(assignment, changes)) for name, *changes in self.options.way}
        return {"imagic": {}, "without-b": {"tuning_steps": 0}} | named

    def of_program(self, edit, method: str) -> list[np.ndarray]:
        parameters = {"candidates": 1, "detail": "off"} | self.ways[method]
        return [
            self.program.edit(edit.source, edit.prompt, [1.0], **parameters, seed=seed)[0][1.0]
            for seed in range(self.options.versions)
        ]

    @torch.no_grad()
    def sdedit(self, edit, _method: str) -> list[np.ndarray]:
        pipeline, schedule, steps = self.settings.pipeline, self.settings.pipeline.scheduler, self.steps
        x = methods.encode(pipeline, edit.source)
        shape = (self.options.versions, *x.shape[1:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        x_t, first = methods.noised(schedule, x.expand(shape), noise, steps, methods.STRENGTH)
        return self.drawn(edit, x_t, self.preset["guidance"], first)

    @torch.no_grad()
    def ddib(self, edit, method: str) -> list[np.ndarray]:
        pipeline = self.settings.pipeline
        x = methods.encode(pipeline, edit.source)
        text = {
            "ddib-none": lambda: "",
            "ddib-true": lambda: caption(edit.scene),
            "ddib-found": lambda: ddib.found_caption(
                lambda texts: self.losses(x, texts, ddib.LOOKS).mean(1), edit.scene
            ),
        }[method]()
        x_t = ddib.invert(pipeline.unet, methods.embed(pipeline, text), x, pipeline.scheduler, self.steps)
        guidances = np.linspace(1, 4, self.options.versions)
        return [self.drawn(edit, x_t, float(guidance))[0] for guidance in guidances]

    @property
    def steps(self) -> int:
        return self.preset["sampling_steps"]

    def drawn(self, edit, x_t: torch.Tensor, guidance: float, first: int = 0) -> list[np.ndarray]:
        pipeline = self.settings.pipeline
        e, e_null = (methods.embed(pipeline, text) for text in (edit.prompt, ""))
        e = e.expand(len(x_t), -1, -1)
        latents = generate(pipeline.unet, e, e_null, x_t, self.steps, guidance, pipeline.scheduler, first)
        return [methods.decode(pipeline, one[None]) for one in latents]

    def losses(self, x: torch.Tensor, texts: list[str], timesteps) -> np.ndarray:
        """Of latents (1, c, h, w) under each text, at each timestep with a noise of its own: (texts, timesteps)."""
        pipeline = self.settings.pipeline
        e = torch.cat([methods.embed(pipeline, text) for text in texts])
        x = x.expand(len(texts), -1, -1, -1)
        found = []
        for look, t in enumerate(timesteps):
            noise = torch.randn((1, *x.shape[1:]), generator=torch.Generator().manual_seed(look)).expand_as(x)
            at = torch.tensor([t])
            x_t = pipeline.scheduler.add_noise(x, noise, at)
            is_v = pipeline.scheduler.config.prediction_type == "v_prediction"
            target = pipeline.scheduler.get_velocity(x, noise, at) if is_v else noise
            found.append((pipeline.unet(x_t, t, e).sample - target).square().mean((1, 2, 3)).numpy())
        return np.stack(found, 1)

    @torch.no_grad()
    def score(self, edit, picture: np.ndarray) -> float:
        """As the engine's, but of a picture and with PyTorch's noises."""
        low, high = RANGE
        count = self.settings.pipeline.scheduler.config.num_train_timesteps
        timesteps = [int((low + (high - low) * look / (LOOKS - 1)) * count) for look in range(LOOKS)]
        x = methods.encode(self.settings.pipeline, picture)
        without, with_text = self.losses(x, ["", edit.prompt], timesteps)
        return float(((without - with_text) / without).mean())

    def passes(self, method: str) -> float:
        """Through the network for one edit with all its versions and their scores: a training step counts as 2 for each
        timestep in stage A and as 3 in stage B. The inversion serves all versions; finding a caption is left out."""
        count, tuning = self.options.versions, 0.0
        each = 2 * self.steps * (methods.STRENGTH if method == "sdedit" else 1) + 2 * LOOKS
        if method in self.ways:
            of = self.preset | {name: float(value) for name, value in self.ways[method].items()}
            tuning = of["batch_size"] * (2 * of["embedding_steps"] + 3 * of["tuning_steps"])
        return count * each + tuning + (self.steps if method.startswith("ddib") else 0)


def line(method: str, rows: list[list[dict]], scores: list[list[float]], base, passes: float) -> str:
    """`rows` and `scores`: of each edit's versions; `base`: the chosen ones of imagic."""
    chosen = [versions[int(np.argmax(of))] for versions, of in zip(rows, scores)]
    shares = {
        "one": [versions[0]["success"] for versions in rows],
        "mean": [version["success"] for versions in rows for version in versions],
        "chosen": [version["success"] for version in chosen],
        "oracle": [any(version["success"] for version in versions) for versions in rows],
    }
    text = [f"{method:12}"]
    for name, values in shares.items():
        share = intervals.rate(values)
        text.append(f"{name} {share.value:.1%} ({share.low:.0%} to {share.high:.0%})")
    for name in ("asked", "others"):
        text.append(f"{name} {np.mean([version[name] for version in chosen]):.1%}")
    kept = [version["keep_psnr"] for version in chosen if version["keep_psnr"] is not None]
    text.append(f"kept {np.mean(kept):.1f} dB")
    if "squeezenet" in chosen[0]:
        text.append(f"distance {np.mean([version['squeezenet'] for version in chosen]):.3f}")
    text.append(f"passes {passes:.0f}")
    if base is not None:
        gained = sum(version["success"] > other["success"] for version, other in zip(chosen, base))
        lost = sum(version["success"] < other["success"] for version, other in zip(chosen, base))
        text.append(f"gained {gained} lost {lost} p {by_chance(gained, lost):.2g}")
        if "squeezenet" in chosen[0]:
            further = intervals.mean([one["squeezenet"] - other["squeezenet"] for one, other in zip(chosen, base)])
            text.append(f"further by {further.value:.3f} ({further.low:.3f} to {further.high:.3f})")
    return "  ".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_edits(parser, 16)
    parser.add_argument("--versions", type=int, default=8)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--metrics", type=Path, help="folder of SqueezeNet's weights")
    parser.add_argument("--way", nargs="+", action="append", default=[], help="a name, and NAME=NUMBER")
    parser.add_argument("--only", nargs="+", help="these methods, and imagic")
    parser.add_argument("--sheet", type=Path, help="a picture of the chosen versions")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work", help="where versions are kept")
    add_arguments(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    maker = Maker(options)
    every = [*maker.ways, "sdedit", "ddib-none", "ddib-true", "ddib-found"]
    chosen_methods = [method for method in every if not options.only or method in ("imagic", *options.only)]
    squeezenet = SqueezeNet(options.metrics) if options.metrics else None
    judges = measures.Judges(squeezenet, classifier.load(), classifier.VALUES)
    rows, scores, pictures = ({method: [] for method in chosen_methods} for _ in range(3))
    asked_for = edits(options.split, options.seed, options.count)
    for edit in asked_for:
        for method, versions in maker.all(edit, chosen_methods).items():
            rows[method].append(measures.measure(edit, versions, judges))
            scores[method].append([maker.score(edit, version) for version in versions])
            pictures[method].append(versions[int(np.argmax(scores[method][-1]))])
        told = "  ".join(f"{method} {sum(row['success'] for row in rows[method][-1])}" for method in chosen_methods)
        print(f"{edit.name}: of {options.versions} succeed: {told}", file=sys.stderr, flush=True)
    base = [versions[int(np.argmax(of))] for versions, of in zip(rows["imagic"], scores["imagic"])]
    for method in chosen_methods:
        other = base if method != "imagic" else None
        print(line(method, rows[method], scores[method], other, maker.passes(method)))
    if options.sheet:
        lines = [
            (edit.prompt, [edit.source, *(pictures[method][i] for method in chosen_methods), edit.target])
            for i, edit in enumerate(asked_for)
        ]
        sheet(lines, ["source", *chosen_methods, "the truth"]).save(options.sheet)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"{failure}")
