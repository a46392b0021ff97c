#!/usr/bin/env python3
"""What an edit costs: seconds of each stage and peak memory, cold and with the tuned model kept; and what a dialog
waits for.

    cargo build --release && benches/cost.py --model models/scenes-64 [--repeats N] [--picture FILE] [--prompt TEXT] \\
        [imagic-edit's options ...]

Prints two tables. In the first every run is a process of its own with an empty cache, so that "cold" is what a user
sees first. The second talks to `imagic-edit serve` as Krita's dialog does: seconds from an order to the first picture
that forms, and to the result. Pictures are PNG files. Only the standard library is needed.
"""

import argparse
import json
import os
import platform
import statistics
import struct
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("load_model", "optimize_text_embedding", "fine_tune", "generate", "fine_tune_detail", "enlarge")


def run(arguments, cache):
    """(seconds of each stage and in all, peak memory in MB) of one process."""
    command = [ROOT / "target/release/imagic-edit", "edit", *arguments, "--json"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, env={**os.environ, "XDG_CACHE_HOME": cache}
        )
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            said.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} failed: {said.read().strip()}")
    report = json.loads(printed)
    seconds = report["outputs"][0]["seconds"]
    return [*(seconds.get(stage, 0.0) for stage in STAGES), report["seconds"]], usage.ru_maxrss / 1024


class Dialog:
    """The engine in a process of its own, as Krita's dialog has it."""

    def __init__(self, cache):
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [ROOT / "target/release/imagic-edit", "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "XDG_CACHE_HOME": cache},
        )
        self.hello = self.message()
        self.start = time.perf_counter() - start

    def message(self):
        message = json.loads(self.process.stdout.readline())
        self.process.stdout.read(message.get("bytes", 0))
        return message

    def edit(self, order, pixels=b""):
        """Seconds to the first picture as it forms, and to the result."""
        start, first = time.perf_counter(), None
        self.process.stdin.write(json.dumps(order | {"do": "edit", "job": 1, "previews": 3}).encode() + b"\n" + pixels)
        self.process.stdin.flush()
        while True:
            message = self.message()
            if "preview" in message and first is None:
                first = time.perf_counter() - start
            if message["event"] == "done":
                return first, time.perf_counter() - start
            if message["event"] != "progress":
                raise SystemExit(f"serve said {message}")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def waits(picture, prompt, settings):
    """Seconds that a dialog waits, by what for."""
    width, height, pixels = gradient(picture)
    params = dict(settings, prompt=prompt)
    order = {
        "params": params,
        "document": "x",
        "width": width,
        "height": height,
        "format": "rgba8",
        "bytes": len(pixels),
    }
    with tempfile.TemporaryDirectory() as cache:
        dialog = Dialog(cache)
        took = {"start, until the dialog can be used": (None, dialog.start)}
        took["first edit"] = dialog.edit(order, pixels)
        del order["width"], order["height"], order["format"], order["bytes"]
        took["another eta"] = dialog.edit(order | {"params": params | {"eta": 0.8}})
        took["another seed"] = dialog.edit(order | {"params": params | {"seed": 7}})
        dialog.close()
        order = {
            "params": params | {"eta": 0.7},
            "document": "x",
            "width": width,
            "height": height,
            "format": "rgba8",
            "bytes": len(pixels),
        }
        dialog = Dialog(cache)
        took["another eta after a new start"] = dialog.edit(order, pixels)
        dialog.close()
    return took


def gradient(picture):
    """Width and height of a PNG file, and as many pixels: what they show does not matter to how long it takes."""
    with open(picture, "rb") as file:
        width, height = struct.unpack(">16xII", file.read(24))
    return (
        width,
        height,
        bytes(
            value
            for y in range(height)
            for x in range(width)
            for value in (x * 255 // width, y * 255 // height, 128, 255)
        ),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--picture", default=ROOT / "models/samples/demo.png")
    parser.add_argument("--prompt", default="a photo of a blue car on a sandy beach")
    options, more = parser.parse_known_args()
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    print(f"{os.cpu_count()} threads of {model}, {platform.system()}; medians of {options.repeats} runs\n")
    print(
        "| run | load, s | A, s | B, s | C, s | B of the detail, s | its C, s | in all, s | peak memory, MB |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    rows = {"first edit": [], "another eta, tuned model on disk": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name, eta in zip(rows, ["1.0", "0.8"]):
                arguments = [
                    options.picture,
                    "--prompt",
                    options.prompt,
                    "-o",
                    f"{folder}/out.png",
                    "--force",
                    "--eta",
                    eta,
                    *more,
                ]
                rows[name].append(run(arguments, f"{folder}/cache"))
    for name, runs in rows.items():
        seconds = [statistics.median(column) for column in zip(*(seconds for seconds, _ in runs))]
        memory = statistics.median(memory for _, memory in runs)
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in seconds) + f" | {memory:.0f} |")

    settings = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(more[::2], more[1::2])}
    rows = [waits(options.picture, options.prompt, settings) for _ in range(options.repeats)]
    print("\n| a dialog waits for | first picture as it forms, s | result, s |\n|---|---|---|")
    for name in rows[0]:
        columns = [[row[name][column] for row in rows] for column in (0, 1)]
        print(
            f"| {name} | "
            + " | ".join("" if column[0] is None else f"{statistics.median(column):.2f}" for column in columns)
            + " |"
        )


if __name__ == "__main__":
    main()
