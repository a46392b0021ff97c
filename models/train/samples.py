"""Draws the sample pictures in models/samples, larger than the model's 64 pixels as a user's pictures are."""

import argparse
from dataclasses import replace
from pathlib import Path

from PIL import Image

from scenes import Scene, caption, render

CAR = Scene("car", "red", "beach", None, faces_left=False, x=0.5, scale=1.35, horizon=0.58, sun=0.82, mountains=0.2,
            clutter=(("cloud", 0.3, 0.4, 1.0),))
DOG = Scene("dog", "brown", "grass", "standing", faces_left=False, x=0.49, scale=1.3, horizon=0.57, sun=0.16, mountains=0.0,
            clutter=(("cloud", 0.75, 0.2, 0.9),))
BIRD = Scene("bird", "blue", "beach", "sitting", faces_left=False, x=0.52, scale=1.25, horizon=0.6, sun=0.85, mountains=0.0, clutter=())
CAT = Scene("cat", "black", "desert", "sitting", faces_left=True, x=0.5, scale=1.3, horizon=0.6, sun=0.8, mountains=0.5, clutter=())
HOUSE = Scene("house", "yellow", "grass", None, faces_left=False, x=0.5, scale=1.35, horizon=0.58, sun=0.85, mountains=0.0,
              clutter=(("cloud", 0.25, 0.3, 1.0), ("bush", 0.1, 0.5, 0.9)))
# file: the scene, the edit that is suggested, width and height
SAMPLES = {
    "demo.png": (DOG, replace(DOG, pose="sitting"), 512, 512),
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
        Image.fromarray(render(scene, width, height)).quantize(256, dither=Image.Dither.NONE).convert("RGB").save(options.folder / name, optimize=True)
        print(f"{name}: {caption(scene)} -> {caption(edited)}")


if __name__ == "__main__":
    main()
