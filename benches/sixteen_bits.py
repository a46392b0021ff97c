#!/usr/bin/env python3
"""What it costs that frozen weights of 16 bits stay as they are and are widened whenever they are used, on the
processor: the same operation with both kinds, one after the other in each round.

    benches/sixteen_bits.py MODEL [--latent 64] [--rounds 5] [--operation forward "stage A step"]

MODEL has weights of 16 bits; both kinds are in memory at once. Only the standard library is needed.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ["cargo", "build", "--release", "--locked", "--example", "speed_worker"]


class Worker:
    def __init__(self, job):
        command = [ROOT / "target/release/examples/speed_worker", json.dumps(job)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return statistics.median(json.loads(self.process.stdout.readline()))

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--latent", type=int, default=64, help="side of the latents")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operation", nargs="+", default=["forward", "stage A step"])
    options = parser.parse_args()
    subprocess.run(BUILD, cwd=ROOT, check=True)
    for operation in options.operation:
        params = {"embedding_steps": 2, "batch_size": 1}
        job = {"operation": operation, "model": str(options.model), "latent": options.latent, "tokens": 77}
        workers = [Worker({**job, "params": params, "widened": widened}) for widened in (False, True)]
        rounds = [[worker.run() for worker in workers] for _ in range(options.rounds)]
        for worker in workers:
            worker.end()
        seconds = [statistics.median(column) for column in zip(*rounds)]
        ratio = statistics.median(stored / widened for stored, widened in rounds)
        print(f"{operation}: {seconds[0]:.3f} s in 16 bits, {seconds[1]:.3f} s in 32, median ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
