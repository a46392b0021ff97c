#!/usr/bin/env python3
"""What the engine expects an edit to need of memory, and what it takes: one process for each row.

    benches/memory.py [--docs docs/MEMORY.md] [--model FOLDER] [--side N ...] [--batch N ...] \\
        [--mode NAME ...] [--steps N]
    benches/memory.py --growth --steps 1000 --side 64 --batch 1

A peak is the process's largest resident size (VmHWM), libraries and model included. A model of SD 1.5's size with
random weights: `benches/speed --model sd15 --operations forward --rounds 1 --repeats 1` leaves one in
target/speed/sd15. Only the standard library is needed. `--growth` prints the resident size after every hundredth step
instead.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# And what the worker is told besides the parameter.
MODES = {"full": [], "checkpointed": [], "lora": [], "lora-checkpointed": ["lightest"]}


def worker():
    subprocess.run(["cargo", "build", "--release", "--locked", "--example", "memory_worker"], cwd=ROOT, check=True)
    return ROOT / "target/release/examples/memory_worker"


def run(program, model, side, params, more):
    # As src/main.rs does.
    environment = {**os.environ, "MIMALLOC_PURGE_DELAY": "10000"}
    output = subprocess.run(
        [program, model, str(side), json.dumps(params), *more], env=environment, check=True, capture_output=True
    )
    result = json.loads(output.stdout)
    result["measured"]["peak"] = max(result["measured"].values())
    return result


def row(side, mode, params, result):
    expected, measured = result["expected"]["peak"], result["measured"]["peak"]
    parts = [f"{result['measured'][part] / 1e6:.0f}" for part in "ABC"]
    steps = [
        f"{result['seconds'][part] / params[f'{name}_steps']:.2f}"
        for part, name in (("A", "embedding"), ("B", "tuning"))
    ]
    error = f"{100 * (expected / measured - 1):+.0f} %"
    return [
        str(side),
        str(params["batch_size"]),
        mode,
        *parts,
        f"{expected / 1e6:.0f}",
        f"{measured / 1e6:.0f}",
        error,
        *steps,
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/scenes-64")
    parser.add_argument("--side", type=int, nargs="+", default=[64, 128], help="of the picture in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--mode", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--steps", type=int, default=3, help="of each stage")
    parser.add_argument("--growth", action="store_true", help="the resident size after every hundredth step")
    parser.add_argument("--docs", type=Path, help="file with the markers between which the table goes")
    options = parser.parse_args()
    program = worker()
    lines = [
        "| side | batch | mode | A | B | C | expected peak, MB | measured peak, MB | error "
        "| A, s a step | B, s a step |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for side in options.side:
        for batch in options.batch:
            for mode in options.mode:
                params = {
                    "sampling_steps": 2,
                    "batch_size": batch,
                    "tuning_mode": mode.split("-")[0],
                    "detail": "off",
                    "embedding_steps": options.steps,
                    "tuning_steps": options.steps,
                }
                result = run(program, options.model, side, params, MODES[mode])
                if options.growth:
                    for stage, sizes in result["resident"].items():
                        print(
                            f"side {side}, batch {batch}, {mode}, stage {stage}, MB: "
                            + " ".join(f"{size / 1e6:.0f}" for size in sizes)
                        )
                    continue
                lines.append("| " + " | ".join(row(side, mode, params, result)) + " |")
                print(lines[-1], file=sys.stderr, flush=True)
    if options.growth:
        return
    processor = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = (
        int(
            next(
                line.split()[1]
                for line in Path("/proc/meminfo").read_text().splitlines()
                if line.startswith("MemTotal")
            )
        )
        / 2**20
    )
    about = (
        f"`benches/memory.py {shlex.join(sys.argv[1:])}` on {os.cpu_count()} threads of {processor}, "
        f"{memory:.0f} GiB, {platform.system()}"
    )
    table = "\n".join([about, "", *lines, ""])
    print(table)
    if options.docs:
        name = options.model.name
        begin, end = f"<!-- {name}: written by benches/memory.py -->\n", f"<!-- end of {name} -->\n"
        text = options.docs.read_text()
        before, _, rest = text.partition(begin)
        _, marker, after = rest.partition(end)
        if not marker:
            sys.exit(f"{options.docs} has no place for {name}: {begin.strip()} and {end.strip()}")
        options.docs.write_text(before + begin + table + end + after)


if __name__ == "__main__":
    main()
