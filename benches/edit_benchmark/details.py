"""What the model that enlarges is worth: edits of scenes of 256 pixels with exact truth, four times as large as the
base model's own pictures.

    benches/edit_benchmark/python -m edit_benchmark.details [--count 8] [--metrics FOLDER] [--sheet OUT.png]

Each edit is made once, its base model tuned once, and then enlarged plainly (`off`), by the model as it is
(`pretrained`) and by the model tuned on the layer at e_tgt and fed with it (`tuned`), as in the paper.

The measures are those of `measures.py`, and

right       share of the results, averaged to 64 pixels, in which every attribute reads as it should
better      share of the edits in which the distance (without --metrics the PSNR) is better than with `off`, with its
            interval
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import classifier
from edit_benchmark import Failed, intervals, measures
from edit_benchmark.edits import add_arguments as add_edits
from edit_benchmark.edits import at_side, edits
from edit_benchmark.perceptual import SqueezeNet
from edit_benchmark.program import add_arguments, program_of
from edit_benchmark.sheet import sheet

SIDE = 256
WAYS = ("off", "pretrained", "tuned")


def small(picture: np.ndarray) -> np.ndarray:
    """Averaged to 64 pixels, as the classifier reads it."""
    parts = picture.reshape(64, SIDE // 64, 64, SIDE // 64, 3).astype(float)
    return parts.mean((1, 3)).round().astype(np.uint8)


class Comparison:
    """Edits that are enlarged in several ways, what is measured of them, and their pictures."""

    def __init__(self, description: str):
        """With what the command line says."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_edits(parser, 8)
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--metrics", type=Path, help="folder of SqueezeNet's weights")
        parser.add_argument("--sheet", type=Path, help="a picture of all results")
        add_arguments(parser)
        self.options = parser.parse_args()
        self.edits = edits(self.options.split, self.options.seed, self.options.count)
        self.judge = classifier.load()
        self.squeezenet = SqueezeNet(self.options.metrics) if self.options.metrics else None
        self.rows, self.pictures = {}, []

    def add(self, edit, results: dict[str, np.ndarray]):
        """Results of an edit by way; all pictures are (256, 256, 3)."""
        measures_of = measures.measure(edit, list(results.values()), measures.Judges(self.squeezenet))
        readings = self.judge.read([small(picture) for picture in results.values()])
        for way, row, reading in zip(results, measures_of, readings):
            row["right"] = measures.right_attributes(reading, edit.edited) == measures.readable_attributes(edit.edited)
            self.rows.setdefault(way, []).append(row)
        self.pictures.append((edit.prompt, [edit.source, *results.values(), edit.target]))

    def end(self, plain: str):
        """A line a way: means, and in how many edits it is better than the `plain` one; and the sheet."""
        better = "squeezenet" if self.squeezenet else "psnr"
        for way, rows in self.rows.items():
            means = {name: np.mean([row[name] for row in rows if row[name] is not None]) for name in rows[0]}
            pairs = zip(rows, self.rows[plain])
            gains = [(off[better] - row[better]) * (1 if self.squeezenet else -1) for row, off in pairs]
            wins = intervals.rate([gain > 0 for gain in gains])
            text = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
            print(f"{way:20}  {text}  better {wins.value:.0%} ({wins.low:.0%} to {wins.high:.0%}) of {wins.count}")
        if self.options.sheet:
            sheet(self.pictures, ["source", *self.rows, "the truth"], cell=SIDE).save(self.options.sheet)


def main():
    comparison = Comparison(__doc__)
    for edit in comparison.edits:
        large = at_side(edit, SIDE)
        with program_of(comparison.options, preset="balanced") as program:
            results = {way: program.edit(large.source, large.prompt, [1.0], detail=way)[0][1.0] for way in WAYS}
        comparison.add(large, results)
    comparison.end("off")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"{failure}")
