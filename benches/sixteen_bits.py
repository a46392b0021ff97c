#!/usr/bin/env python3
"""What it costs that frozen weights of 16 bits stay as they are and are widened whenever they are used, on the
processor: the same operation with both kinds, one after the other in each round. Processor time is what is compared,
because other programs change it less than the time on the clock.

    benches/sixteen_bits.py MODEL [--latent 64] [--rounds 5] [--operation forward "stage A step"]

MODEL has weights of 16 bits; both kinds are in memory at once. Only the standard library is needed.
"""

import argparse
import json
import os
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
        before = self.processor_seconds()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.process.stdout.readline()
        return self.processor_seconds() - before

    def processor_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        # proc_pid_stat(5): user and system time, the 14th and 15th field.
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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
        print(f"{operation}: {seconds[0]:.2f} s in 16 bits, {seconds[1]:.2f} s in 32, median ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
