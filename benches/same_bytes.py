"""Compares two builds of Imagic Edit: the same edits must give the same bytes, and take as long.

    benches/same_bytes.py OLD NEW [--rounds 3] [--only NAME ...]

OLD and NEW are folders with `imagic-edit`, its library beside it and the built-in model in `models`, as the installer
lays them out. Each edit runs in an empty home, so that nothing kept from another run is found. With several rounds
the two builds alternate, and the medians of their stage times are compared, too. Needs Pillow.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "models/samples/car-on-beach.png"
SCENES = {"prompt": "a photo of a blue car on a sandy beach"}
SHORT = {"embedding-steps": 12, "tuning-steps": 12, "sampling-steps": 6}
FIXTURE = {"prompt": "a bird spreading its wings", "eta": 0.7, **SHORT}

# Name, picture, options of `edit`. Between them: every preset, both fixtures, every way to tune, every kind of picture.
EDITS = [
    ("built-in, paper", "color", SCENES | {"preset": "paper", "embedding-steps": 40, "tuning-steps": 40}),
    ("built-in, balanced", "color", SCENES | {"preset": "balanced"}),
    ("built-in, fast", "color", SCENES | {"preset": "fast"}),
    ("built-in, keep untouched", "color", SCENES | {"preset": "fast", "keep-untouched": "yes", "eta": 1.1}),
    ("built-in, eta 0, untouched", "color", SCENES | {"preset": "fast", "keep-untouched": "yes", "eta": 0}),
    ("built-in, another resolution", "wide", SCENES | SHORT | {"resolution": 96, "batch-size": 3}),
    ("built-in, no guidance", "color", SCENES | SHORT | {"guidance": 1}),
    ("built-in, 16 bit", "deep", SCENES | SHORT),
    ("built-in, grayscale", "gray", SCENES | SHORT),
    ("built-in, alpha", "alpha", SCENES | SHORT),
    ("built-in, checkpointed", "color", SCENES | SHORT | {"tuning-mode": "checkpointed"}),
    ("built-in, LoRA", "color", SCENES | SHORT | {"tuning-mode": "lora", "lora-rank": 3}),
    ("built-in, LoRA in attention", "color", SCENES | SHORT | {"tuning-mode": "lora", "lora-layers": "attention"}),
    ("SD 1, small", "color", FIXTURE | {"model": "small-sd1"}),
    ("SD 1, small, checkpointed", "wide", FIXTURE | {"model": "small-sd1", "tuning-mode": "checkpointed"}),
    ("SD 1, small, LoRA", "color", FIXTURE | {"model": "small-sd1", "tuning-mode": "lora"}),
    ("v-prediction, small", "color", FIXTURE | {"model": "small-v"}),
    ("v-prediction, small, one thread", "color", FIXTURE | {"model": "small-v", "threads": 1}),
]


def pictures(folder: Path) -> dict[str, Path]:
    """The sample picture in every form that an edit reads."""
    sample = Image.open(SAMPLE).convert("RGB").resize((200, 200))
    alpha = sample.convert("RGBA")
    alpha.paste((0, 0, 0, 0), (0, 0, 60, 200))
    deep = sample.convert("L").convert("I").point(lambda value: value * 257)
    forms = {"color": sample, "wide": sample.resize((300, 170)), "gray": sample.convert("L"), "alpha": alpha}
    files = {name: folder / f"{name}.png" for name in (*forms, "deep")}
    for name, image in forms.items():
        image.save(files[name])
    deep.convert("I;16").save(files["deep"])
    return files


def environment(home: Path) -> dict[str, str]:
    """An empty account, in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LANG", "LC_", "IMAGIC"))}
    return kept | {"HOME": str(home), "LANG": "C"}


def edit(build: Path, picture: Path, options: dict) -> tuple[str, dict[str, float]]:
    """SHA-256 of the result's pixels, and the seconds of each stage."""
    with tempfile.TemporaryDirectory() as home:
        output = Path(home) / "out.png"
        command = [build / "imagic-edit", "edit", picture, "-o", output, "--json"]
        for name, value in options.items():
            if name == "model":
                value = ROOT / "tests/fixtures" / value / "model"
            command += [f"--{name}", value]
        done = subprocess.run(
            [str(word) for word in command], env=environment(Path(home)), capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
        [report] = json.loads(done.stdout)["outputs"]
        # The losses tell of a difference that the last picture may not show.
        losses = json.dumps([report["embedding_losses"], report["tuning_losses"]])
        return hashlib.sha256(Image.open(output).tobytes() + losses.encode()).hexdigest(), report["seconds"]


def serve(build: Path) -> tuple[str, dict[str, float]]:
    """The same of an edit by messages, as Krita asks for it: previews and result together."""
    side = 64
    image = Image.open(SAMPLE).convert("RGBA").resize((side, side))
    params = {name.replace("-", "_"): value for name, value in (SCENES | SHORT).items()}
    message = {
        "do": "edit",
        "job": 1,
        "params": params,
        "document": "x",
        "previews": 2,
        "width": side,
        "height": side,
        "format": "rgba8",
        "bytes": 4 * side * side,
    }
    with tempfile.TemporaryDirectory() as home:
        child = subprocess.Popen(
            [str(build / "imagic-edit"), "serve"],
            env=environment(Path(home)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        child.stdin.write(json.dumps(message).encode() + b"\n" + image.tobytes())
        child.stdin.flush()
        digest, seconds = hashlib.sha256(), {}
        for line in child.stdout:
            answer = json.loads(line)
            pixels = child.stdout.read(answer.get("bytes", 0) or 0)
            if answer["event"] == "done":
                digest.update(pixels)
                seconds = answer["report"].get("seconds", {})
                break
            if answer["event"] == "failed":
                raise SystemExit(answer)
        child.stdin.close()
        child.wait()
        return digest.hexdigest(), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="parts of the names of the edits to run")
    options = parser.parse_args()

    differ, times = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        files = pictures(Path(folder))
        runs = [(name, lambda build, p=picture, o=chosen: edit(build, files[p], o)) for name, picture, chosen in EDITS]
        runs.append(("serve, 8 bit", serve))
        for name, run in runs:
            if options.only and not any(part in name for part in options.only):
                continue
            digests = {}
            for _ in range(options.rounds):
                for build in (options.old, options.new):
                    digest, seconds = run(build)
                    digests.setdefault(build, set()).add(digest)
                    for stage, value in seconds.items():
                        times.setdefault((name, stage), {}).setdefault(build, []).append(value)
            same = len(set.union(*digests.values())) == 1
            differ += not same
            print(f"{'same bytes' if same else 'DIFFERENT'}  {name}", flush=True)
    if options.rounds > 1:
        for (name, stage), of_build in times.items():
            old, new = (statistics.median(of_build[build]) for build in (options.old, options.new))
            if old >= 0.1:
                print(f"{new / old:6.3f} of the old time  {name}, {stage} ({old:.2f} s)")
    print(f"{differ} of the edits differ" if differ else "every edit gives the same bytes")
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
