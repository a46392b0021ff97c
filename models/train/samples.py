"""Draws the sample pictures in models/samples, larger than the model's 64 pixels as a user's pictures are."""

import argparse
from dataclasses import replace
from pathlib import Path

from PIL import Image

from drawing import render
from scenes import Scene, caption

# What the samples share.
PLAIN = Scene(
    kind="dog",
    color="brown",
    background="grass",
    pose="standing",
    hat=False,
    style="photo",
    size="normal",
    position="middle",
    within_size=1,
    within_position=0.4,
    faces_left=False,
    horizon=0.57,
    sun=0.16,
    mountains=0.2,
    clutter=(),
)
DOG = replace(PLAIN, clutter=(("cloud", 0.75, 0.2, 0.9),))
CAR = replace(
    PLAIN, kind="car", color="red", background="beach", pose=None, sun=0.82, clutter=(("cloud", 0.3, 0.4, 1.0),)
)
BIRD = replace(PLAIN, kind="bird", color="blue", background="beach", pose="sitting", horizon=0.6, sun=0.85)
CAT = replace(
    PLAIN, kind="cat", color="black", background="desert", pose="sitting", faces_left=True, sun=0.8, mountains=0.5
)
HOUSE = replace(
    PLAIN,
    kind="house",
    color="yellow",
    pose=None,
    sun=0.85,
    clutter=(("cloud", 0.25, 0.3, 1.0), ("bush", 0.1, 0.5, 0.9)),
)
# file: the scene, the edit that is suggested, width and height
SAMPLES = {
    "demo.png": (CAR, replace(CAR, color="blue"), 512, 512),
    "car-on-beach.png": (CAR, replace(CAR, color="blue"), 512, 512),
    "dog-on-grass.png": (DOG, replace(DOG, background="snow"), 512, 512),
    "bird-on-beach.png": (BIRD, replace(BIRD, pose="spreading its wings"), 512, 512),
    "cat-in-desert.png": (CAT, replace(CAT, background="snow"), 512, 512),
    "house-on-grass.png": (HOUSE, replace(HOUSE, background="night"), 640, 480),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, (scene, edited, width, height) in SAMPLES.items():
        Image.fromarray(render(scene, width, height)).quantize(256, dither=Image.Dither.NONE).convert("RGB").save(
            options.folder / name, optimize=True
        )
        print(f"{name}: {caption(scene)} -> {caption(edited)}")


if __name__ == "__main__":
    main()
