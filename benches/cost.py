#!/usr/bin/env python3
"""What an edit costs: seconds of each stage and peak memory, cold and with the tuned model kept.

    cargo build --release && benches/cost.py --model models/scenes-64 [--repeats N] [--picture FILE] [--prompt TEXT] [imagic-edit's options ...]

Prints one table; every run is a process of its own with an empty cache, so that "cold" is what a user sees first.
Only the standard library is needed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["load_model", "optimize_text_embedding", "fine_tune", "generate"]


def run(arguments, cache):
    """(seconds of each stage and in all, peak memory in MB) of one process."""
    command = [ROOT / "target/release/imagic-edit", "edit", *arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               env={**os.environ, "XDG_CACHE_HOME": cache})
    report = json.load(process.stdout)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed with status {status}")
    seconds = report["outputs"][0]["seconds"]
    return [*(seconds.get(stage, 0.0) for stage in STAGES), report["seconds"]], usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--picture", default=ROOT / "models/samples/demo.png")
    parser.add_argument("--prompt", default="a photo of a blue car on a sandy beach")
    options, more = parser.parse_known_args()
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    print(f"{os.cpu_count()} threads of {model}, {platform.system()}; medians of {options.repeats} runs\n")
    print("| run | load, s | A, s | B, s | C, s | in all, s | peak memory, MB |\n|---|---|---|---|---|---|---|")
    rows = {"first edit": [], "another eta, tuned model on disk": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name, eta in zip(rows, ["1.0", "0.8"]):
                arguments = [options.picture, "--prompt", options.prompt, "-o", f"{folder}/out.png", "--eta", eta, *more]
                rows[name].append(run(arguments, f"{folder}/cache"))
    for name, runs in rows.items():
        seconds = [statistics.median(column) for column in zip(*(seconds for seconds, _ in runs))]
        memory = statistics.median(memory for _, memory in runs)
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in seconds) + f" | {memory:.0f} |")


if __name__ == "__main__":
    main()
