"""Runs the built program imagic-edit as a user would: one process an edit, with an empty cache unless one is named."""

import argparse
import json
import os
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from edit_benchmark import Failed

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Program:
    path: Path
    model: Path
    threads: int = 1
    parameters: dict[str, str] = field(default_factory=dict)  # by id, other than the model's preset
    cache: Path | None = None  # of tuned models; every edit has an empty one of its own if there is none

    def check(self):
        if not os.access(self.path, os.X_OK):
            raise Failed(
                f"{self.path} is missing; build it with `cargo build --release`, or name another with --program PATH"
            )

    def edit(self, picture: np.ndarray, prompt: str, etas: list[float], **parameters):
        """(result by eta, the program's report); `parameters` go before those of the program."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            Image.fromarray(picture).save(folder / "in.png")
            command = [
                self.path,
                "edit",
                folder / "in.png",
                "--prompt",
                prompt,
                "--model",
                self.model,
                "-o",
                folder / "out.png",
                "--json",
            ]
            for name, value in (self.parameters | parameters).items():
                command += ["--" + name.replace("_", "-"), str(value)]
            for eta in etas:
                command += ["--eta", str(eta)]
            process = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env={
                    **os.environ,
                    "XDG_CACHE_HOME": str(self.cache or folder / "cache"),
                    "RAYON_NUM_THREADS": str(self.threads),
                },
            )
            if process.returncode != 0:
                raise Failed(f"{' '.join(map(str, command))}: {process.stderr.strip()[-1000:]}")
            report = json.loads(process.stdout)
            pictures = [np.asarray(Image.open(output["path"]).convert("RGB")) for output in report["outputs"]]
        return dict(zip(etas, pictures, strict=True)), report


@contextmanager
def program_of(options: argparse.Namespace, **changes):
    """The program of the options, which have --threads, too, with an empty cache for as long as it is there. `changes`
    are parameters other than the preset's; --set may change them again."""
    with tempfile.TemporaryDirectory() as cache:
        program = Program(options.program, options.model, options.threads, changes | dict(options.set), Path(cache))
        program.check()
        yield program


def add_arguments(parser: argparse.ArgumentParser):
    """What says how it is started: --set, --program and --model."""
    parser.add_argument(
        "--set",
        nargs="*",
        type=assignment,
        default=[],
        metavar="NAME=NUMBER",
        help="a parameter's value instead of the preset's",
    )
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/imagic-edit")
    parser.add_argument("--model", type=Path, default=ROOT / "models/scenes-64")


def assignment(text: str) -> tuple[str, str]:
    """NAME=VALUE on a command line; the value is a number as JSON writes it."""
    name, _, value = text.partition("=")
    try:
        json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=NUMBER") from None
    return name, value


def read_preset(model: Path, name: str, changes: dict[str, str]) -> dict:
    """A preset in the model's imagic.json with other values in it."""
    about = json.loads((model / "imagic.json").read_text())
    return about["preset"] | about["presets"][name] | {name: json.loads(value) for name, value in changes.items()}
