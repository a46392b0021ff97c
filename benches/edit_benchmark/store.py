"""Keeps the results of a method on disk, so that an interrupted benchmark goes on where it was. Knows pictures, seconds
and keys."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edit_benchmark import Failed


@dataclass(frozen=True)
class Result:
    """What a method made of an edit's source, with its eta or strength if it has one."""

    picture: np.ndarray
    seconds: float
    level: float | None = None


@dataclass(frozen=True)
class Store:
    """One folder for each thing done, named by everything it depends on."""

    folder: Path

    def read(self, key: str, levels: list[float]) -> list[Result] | None:
        """The results at these levels, if all of them are there."""
        folder = self.folder / key
        if not all(self.files(folder, level)[1].exists() for level in levels):
            return None
        results = []
        for level in levels:
            picture, seconds = self.files(folder, level)
            results.append(
                Result(np.asarray(Image.open(picture).convert("RGB")), json.loads(seconds.read_text()), level)
            )
        return results

    def write(self, key: str, results: list[Result]):
        (self.folder / key).mkdir(parents=True, exist_ok=True)
        for result in results:
            picture, seconds = self.files(self.folder / key, result.level)
            Image.fromarray(result.picture).save(picture)
            # Last and at once, since it says that the picture is there.
            part = seconds.with_suffix(".part")
            part.write_text(json.dumps(result.seconds))
            os.replace(part, seconds)

    @staticmethod
    def files(folder: Path, level: float) -> tuple[Path, Path]:
        return folder / f"{level}.png", folder / f"{level}.json"


def fingerprint(*parts) -> str:
    """Of bytes, and of anything that JSON can say."""
    digest = hashlib.sha256()
    for part in parts:
        part = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def model_fingerprint(model: Path) -> str:
    """Of everything that a result depends on: not of the preset, whose values are in the key, nor of words and
    samples."""
    files = [
        file
        for file in sorted(model.rglob("*"))
        if file.suffix in (".safetensors", ".json", ".txt") and file.name != "imagic.json"
    ]
    if not files:
        raise Failed(f"there is no model in {model}; name a folder with --model")
    return fingerprint(*(part for file in files for part in (str(file.relative_to(model)), file.read_bytes())))
