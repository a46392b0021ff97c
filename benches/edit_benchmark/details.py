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
import tempfile
from pathlib import Path

import numpy as np

import classifier
from edit_benchmark import Failed, intervals, measures
from edit_benchmark.edits import add_arguments as add_edits
from edit_benchmark.edits import at_side, edits
from edit_benchmark.perceptual import SqueezeNet
from edit_benchmark.program import Program, add_arguments
from edit_benchmark.sheet import sheet

SIDE = 256
WAYS = ("off", "pretrained", "tuned")


def small(picture: np.ndarray) -> np.ndarray:
    """Averaged to 64 pixels, as the classifier reads it."""
    parts = picture.reshape(64, SIDE // 64, 64, SIDE // 64, 3).astype(float)
    return parts.mean((1, 3)).round().astype(np.uint8)


def measured(edit, pictures: list[np.ndarray], squeezenet, judge) -> list[dict]:
    rows = measures.measure(edit, pictures, measures.Judges(squeezenet))
    for row, reading in zip(rows, judge.read([small(picture) for picture in pictures])):
        row["right"] = measures.right_attributes(reading, edit.edited) == measures.readable_attributes(edit.edited)
    return rows


def summary(rows: dict[str, list[dict]], plain: str, by_distance: bool):
    """A line a way: means, and in how many edits it is better than the `plain` one."""
    better = "squeezenet" if by_distance else "psnr"
    for way, all_rows in rows.items():
        means = {name: np.mean([row[name] for row in all_rows if row[name] is not None]) for name in all_rows[0]}
        wins = intervals.rate([(row[better] < off[better]) == by_distance for row, off in zip(all_rows, rows[plain])])
        text = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        print(f"{way:20}  {text}  better {wins.value:.0%} ({wins.low:.0%} to {wins.high:.0%}) of {wins.count}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_edits(parser, 8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--metrics", type=Path, help="folder of SqueezeNet's weights")
    parser.add_argument("--sheet", type=Path, help="a picture of all results")
    add_arguments(parser)
    options = parser.parse_args()
    judge, squeezenet = classifier.load(), SqueezeNet(options.metrics) if options.metrics else None
    rows, pictures = {way: [] for way in WAYS}, []
    for edit in edits(options.split, options.seed, options.count):
        edit = at_side(edit, SIDE)
        with tempfile.TemporaryDirectory() as cache:
            changes = {"preset": "balanced"} | dict(options.set)
            program = Program(options.program, options.model, options.threads, changes, Path(cache))
            program.check()
            results = [program.edit(edit.source, edit.prompt, [1.0], detail=way)[0][1.0] for way in WAYS]
        for way, row in zip(WAYS, measured(edit, results, squeezenet, judge)):
            rows[way].append(row)
        pictures.append((edit.prompt, [edit.source, *results, edit.target]))
    summary(rows, "off", bool(squeezenet))
    if options.sheet:
        sheet(pictures, ["source", *WAYS, "the truth"], cell=SIDE).save(options.sheet)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"{failure}")
