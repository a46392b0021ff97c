"""Which edits are measured, each with its true result. Knows no method and no measure."""

import argparse
import random
from dataclasses import dataclass, replace

import numpy as np

import data
from drawing import edit_truth
from edit_benchmark import Failed
from scenes import ATTRIBUTES, Scene, caption, random_edit

SPLITS = {"validation": data.VALIDATION_SEED, "test": data.TEST_SEED}
# Splits are this far apart, so that no --seed of one is a seed of another.
SEEDS = 1_000_000


@dataclass(frozen=True)
class Edit:
    """One edit. Pictures are (64, 64, 3) uint8."""

    name: str  # attribute and number
    attribute: str  # what the prompt asks to change
    scene: Scene
    edited: Scene
    source: np.ndarray
    target: np.ndarray  # the true result
    keep: np.ndarray  # (64, 64) bool: pixels that must stay

    @property
    def prompt(self) -> str:
        return caption(self.edited)


def add_arguments(parser: argparse.ArgumentParser, count: int):
    """What says which edits: --split, --count, which is `count` if it is not said, and --seed."""
    parser.add_argument("--split", default="validation", choices=tuple(SPLITS))
    parser.add_argument("--count", type=int, default=count, help="edits of each attribute")
    parser.add_argument("--seed", type=int, default=0)


def at_side(edit: Edit, side: int) -> Edit:
    """The same with pictures of (side, side, 3), and the pixels that must stay of those."""
    source, target, keep = edit_truth(edit.scene, edit.edited, side)
    return replace(edit, source=source, target=target, keep=keep)


def edits(split: str, seed: int, count: int, attributes=ATTRIBUTES) -> list[Edit]:
    """`count` edits of each attribute. A larger count or other attributes add edits and leave the rest as they are."""
    if not 0 <= seed < SEEDS:
        raise Failed(f"the seed is {seed}, must be 0 to {SEEDS - 1}")
    result = []
    for attribute in attributes:
        rng = random.Random(f"{SPLITS[split] + seed} {attribute}")
        for number in range(count):
            scene, edited = random_edit(attribute, rng)
            result.append(
                Edit(f"{attribute}-{number:02}", attribute, scene, edited, *edit_truth(scene, edited, data.SIZE))
            )
    return result
