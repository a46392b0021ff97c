#!/usr/bin/env python3
"""How often a drawing is taken for a photograph, and a photograph for a drawing, before an edit: src/host/photograph.rs
by way of the command line, which tells it as a hint. docs/BENCHMARK.md has the numbers.

Usage: benches/photographs.py FOLDER_OF_PHOTOGRAPHS [--program target/release/imagic-edit] [--scenes N]
Needs numpy and Pillow (models/train/requirements.txt)."""

import argparse
import io
import os
import pathlib
import random
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models/train"))

from PIL import Image, ImageFilter  # noqa: E402

import drawing  # noqa: E402
import scenes  # noqa: E402

# Nothing is tuned, and next to nothing drawn.
QUICK = {
    "prompt": "a",
    "model": "scenes-64",
    "detail": "off",
    "embedding-steps": "0",
    "tuning-steps": "0",
    "eta": "1",
    "sampling-steps": "1",
}


def jpeg(picture, quality):
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=quality)
    return Image.open(packed).convert("RGB")


def drawn(count, rng):
    """Scenes of the sizes and shapes that people draw."""
    for _ in range(count):
        side = rng.choice((64, 128, 256, 512))
        yield Image.fromarray(drawing.render(scenes.random_scene(rng), side, rng.choice((side, side * 3 // 4))))


def crops(pictures, count, rng):
    """Parts of photographs, 0.6 to 1 of their side long."""
    for picture in pictures:
        for _ in range(count):
            width = int(picture.width * rng.uniform(0.6, 1))
            height = min(int(width * rng.choice((2 / 3, 3 / 4, 1))), picture.height)
            x, y = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
            yield picture.crop((x, y, x + width, y + height))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("photographs", type=pathlib.Path)
    arguments.add_argument("--program", default=str(ROOT / "target/release/imagic-edit"))
    arguments.add_argument("--scenes", type=int, default=100)
    given = arguments.parse_args()
    rng = random.Random(11)
    photographs = [Image.open(file).convert("RGB") for file in sorted(given.photographs.glob("*.jpg"))]
    plain = list(drawn(given.scenes, rng))
    sets = {
        "scenes": plain,
        "scenes as JPEG (75), 128 pixels or more": [jpeg(one, 75) for one in plain if min(one.size) >= 96],
        "scenes as JPEG (75), 64 pixels": [jpeg(one, 75) for one in plain if min(one.size) < 96],
        "photographs": photographs,
        "parts of photographs": list(crops(photographs, 3, rng)),
        "photographs out of focus": [one.filter(ImageFilter.GaussianBlur(4)) for one in photographs],
    }
    with tempfile.TemporaryDirectory() as home:
        # Models are found in the sources.
        models = pathlib.Path(home, "data/imagic-edit/models")
        models.parent.mkdir(parents=True)
        models.symlink_to(ROOT / "models")
        environment = dict(os.environ, HOME=home, XDG_DATA_HOME=home + "/data", XDG_CONFIG_HOME=home + "/config")
        for name, pictures in sets.items():
            hinted = 0
            for picture in pictures:
                picture.save(home + "/in.png")
                command = [given.program, "edit", home + "/in.png", "-o", home + "/out.png", "--private", "--force"]
                command += [part for name, value in QUICK.items() for part in (f"--{name}", value)]
                told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
                hinted += "not photographs" in told
            print(f"{name}: {hinted} of {len(pictures)} taken for photographs", flush=True)


if __name__ == "__main__":
    main()
