"""What a selection costs at its border: edits of scenes with exact truth, three times as large as the model's own
pictures, where an ellipse or a rectangle around what the edit changes is selected.

    benches/edit_benchmark/python -m edit_benchmark.selections [--count 2] [--sheet OUT.png]

Each is made by the program with --selection, and by it on the selection's bounds alone, pasted into the selection,
which is what happens without surroundings.

seam     mean difference of neighbors of which one is selected, over that of neighbors on one side of the border and 2
         to 5 pixels from it, each over all edits: 1 is no seam
inside   PSNR to the true result within the selection, mean
cast     mean difference of the mean color in the selection to the true one, of 255
outside  pixels out of the selection that are others than before, in all
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from drawing import edit_truth
from edit_benchmark import Failed
from edit_benchmark.edits import edits
from edit_benchmark.program import Program, add_arguments
from edit_benchmark.sheet import sheet
from scenes import caption

SIDE = 192
ATTRIBUTES = ("color", "kind", "hat", "pose")
SHAPES = ("ellipse", "rectangle")
# Around what the edit changes, in pixels.
ROOM = 8


def selected(keep: np.ndarray, shape: str) -> np.ndarray | None:
    """(h, w) bool around all that is not to be kept; None where that does not lie well inside of the picture."""
    rows, columns = np.nonzero(~keep)
    middle = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
    half = np.array([np.ptp(columns), np.ptp(rows)]) / 2
    # The corners of the rectangle lie on the ellipse.
    half = (half * 2**0.5 if shape == "ellipse" else half) + ROOM
    box = [*(middle - half).round(), *(middle + half).round()]
    if min(box) < 4 or max(box) > SIDE - 5:
        return None
    mask = Image.new("L", (SIDE, SIDE))
    getattr(ImageDraw.Draw(mask), shape)(box, fill=255)
    return np.asarray(mask) > 0


def pairs(mask: np.ndarray):
    """Two lists of pairs of flat indices of neighbors: across the border, and beside it."""
    near = [mask]
    for _ in range(5):
        grown = near[-1].copy()
        shrunk = near[0].copy()
        for axis in (0, 1):
            for step in (-1, 1):
                moved = np.roll(near[-1], step, axis)
                grown |= moved
                shrunk &= np.roll(near[0], step, axis)
        near = [shrunk, *near, grown]
    # near[5] is the mask; what lies between its 2nd and 5th neighbors on either side is beside the border.
    beside = (near[3] & ~near[0]) | (near[10] & ~near[7])
    index = np.arange(mask.size).reshape(mask.shape)
    across, along = [], []
    for first, second in ((index[:, :-1], index[:, 1:]), (index[:-1], index[1:])):
        a, b = first.ravel(), second.ravel()
        flat, flat_beside = mask.ravel(), beside.ravel()
        crosses = flat[a] != flat[b]
        across.append(np.stack([a[crosses], b[crosses]]))
        both = flat_beside[a] & flat_beside[b] & ~crosses
        along.append(np.stack([a[both], b[both]]))
    return np.concatenate(across, 1), np.concatenate(along, 1)


def differences(picture: np.ndarray, of: np.ndarray) -> float:
    flat = picture.reshape(-1, 3).astype(float)
    return float(np.abs(flat[of[0]] - flat[of[1]]).mean())


def with_selection(program: Program, edit, source, mask):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
        results, _ = program.edit(source, caption(edit.edited), [1.0], selection=path)
    return results[1.0]


def of_bounds_alone(program: Program, edit, source, mask):
    rows, columns = np.nonzero(mask)
    part = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    results, _ = program.edit(source[part], caption(edit.edited), [1.0])
    pasted = source.copy()
    pasted[part][mask[part]] = results[1.0][mask[part]]
    return pasted


METHODS = {"with its surroundings": with_selection, "the bounds alone": of_bounds_alone}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2, help="edits of each attribute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sheet", type=Path, help="a picture of all results")
    add_arguments(parser)
    options = parser.parse_args()
    program = Program(options.program, options.model, 1, {"preset": "fast"} | dict(options.set))
    program.check()
    tasks = []
    for edit in edits("validation", options.seed, options.count * 8, ATTRIBUTES):
        # Small things, so that there are surroundings.
        edit = replace(edit, scene=replace(edit.scene, size="small"), edited=replace(edit.edited, size="small"))
        source, target, keep = edit_truth(edit.scene, edit.edited, SIDE)
        shape = SHAPES[len(tasks) % 2]
        mask = selected(keep, shape)
        if mask is None or sum(task[0].attribute == edit.attribute for task in tasks) == options.count:
            continue
        # Where the border lies along an edge of the scene, as a horizon, the truth looks like a seam.
        across, beside = (differences(target, of) for of in pairs(mask))
        if across < 1.2 * beside:
            tasks.append((edit, source, target, mask))
    print(f"{len(tasks)} edits", flush=True)
    pictures = [[] for _ in tasks]
    for method in ["the truth", *options.methods]:
        across, along, inside, casts, outside = [], [], [], [], 0
        for task, row in zip(tasks, pictures):
            edit, source, target, mask = task
            result = target if method == "the truth" else METHODS[method](program, edit, source, mask)
            row.append(result)
            border, beside = pairs(mask)
            across.append(differences(result, border))
            along.append(differences(result, beside))
            error = (result[mask].astype(float) - target[mask]) ** 2
            inside.append(10 * np.log10(255**2 / max(error.mean(), 1e-9)))
            casts.append(np.abs(result[mask].mean(0) - target[mask].mean(0)).mean())
            outside += int((result[~mask] != source[~mask]).any(-1).sum())
        ratio = sum(across) / sum(along)
        print(
            f"{method:22}  seam {ratio:.3f} ({np.mean(across):.2f} of {np.mean(along):.2f})"
            f"  inside {np.mean(inside):5.1f} dB  cast {np.mean(casts):4.1f}  outside {outside}",
            flush=True,
        )
    if options.sheet:
        rows = [
            (edit.name, [np.where(outline(mask)[..., None], (255, 0, 255), source).astype(np.uint8), *row])
            for (edit, source, _, mask), row in zip(tasks, pictures)
        ]
        sheet(rows, ["selected", "the truth", *options.methods]).save(options.sheet)


def outline(mask):
    return mask & ~(np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1))


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"{failure}")
