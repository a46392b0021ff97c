#!/usr/bin/env python3
"""Kills edits at random moments and goes on with them until they end: no byte may be lost, and little time.

    cargo build --release && benches/kills.py [--kills 100] [--seed 0] [--keep SECONDS] [--model FOLDER] \\
        [--program FILE] [imagic-edit's options ...]

Half of the edits run on the command line, half in `imagic-edit serve`, each in a home of its own. A process gets KILL,
TERM, HUP or INT, or its input ends, at a moment drawn evenly from the time that a whole edit takes; the next process of
the same edit goes on, until one ends. Its bytes are compared with those of an edit that nobody has killed. `--keep` is
the time between resume points (IMAGIC_RESUME_SECONDS), the program's own unless it is given. Only the standard library
is needed.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDE = 64
ENDINGS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


def pixels():
    """A picture with some of everything, as rgba8."""
    return b"".join(bytes([x * 4, y * 4, 255 if x > y else 20, 255]) for y in range(SIDE) for x in range(SIDE))


def png(path):
    """Writes the same picture."""
    rows = b"".join(b"\0" + pixels()[4 * SIDE * y : 4 * SIDE * (y + 1)] for y in range(SIDE))

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


class Home:
    """A home of its own, in which one edit is made however often it is killed."""

    def __init__(self, folder, options):
        self.folder, self.options = Path(folder), options
        self.environment = {
            **os.environ,
            "HOME": folder,
            "XDG_CACHE_HOME": f"{folder}/cache",
            "XDG_CONFIG_HOME": f"{folder}/config",
            "XDG_DATA_HOME": f"{folder}/data",
            "LC_ALL": "C.UTF-8",
            "LANGUAGE": "en",
        }
        if options.keep is not None:
            self.environment["IMAGIC_RESUME_SECONDS"] = str(options.keep)
        png(self.folder / "in.png")

    def start(self, arguments):
        """The program, started."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([self.options.program, *arguments], cwd=self.folder, env=self.environment, **pipes)


class CommandLine(Home):
    """The edit by `imagic-edit edit`."""

    def run(self, until=None):
        """(result or None, where it went on, seconds); something ends it after `until` seconds."""
        out = self.folder / "out.png"
        arguments = ["edit", "in.png", "-o", "out.png", "--model", self.options.model, *self.options.edit]
        start = time.perf_counter()
        process = self.start(arguments)
        killer = None
        if until is not None:
            killer = threading.Timer(until, process.send_signal, [random.choice(ENDINGS)])
            killer.start()
        _, said = process.communicate()
        if killer is not None:
            killer.cancel()
        lines = [line.split() for line in said.decode().splitlines()]
        went_on = next((int(line[4]) for line in lines if line[:4] == ["Goes", "on", "at", "step"]), 0)
        if process.returncode == 0:
            return out.read_bytes(), went_on, time.perf_counter() - start
        if until is None:
            raise SystemExit(f"failed: {said.decode()}")
        return None, went_on, time.perf_counter() - start


class Serve(Home):
    """The edit by messages, as Krita's package asks for it."""

    def run(self, until=None):
        """As on the command line; the host may also be what ends."""
        start = time.perf_counter()
        process = self.start(["serve"])
        ending = random.choice([*ENDINGS, None])
        if until is not None:
            end = process.stdin.close if ending is None else lambda: process.send_signal(ending)
            killer = threading.Timer(until, end)
            killer.start()
        params = {"model": self.options.model}
        pairs = zip(self.options.edit[::2], self.options.edit[1::2], strict=True)
        params.update({name.removeprefix("--").replace("-", "_"): value for name, value in pairs})
        data, result, went_on = pixels(), None, 0
        ask = {"params": params, "width": SIDE, "height": SIDE, "format": "rgba8", "bytes": len(data)}
        try:
            for what, job in (("estimate", 1), ("edit", 2)):
                process.stdin.write(json.dumps({"do": what, "job": job, **ask}).encode() + b"\n" + data)
            process.stdin.flush()
            while line := process.stdout.readline():
                message = json.loads(line)
                body = process.stdout.read(message.get("bytes", 0))
                if message["event"] == "estimate" and message["steps"]:
                    went_on = message["steps"][0]
                if message["event"] == "done" and len(body) == message["bytes"]:
                    result = body
                    break
                if message["event"] == "failed":
                    raise SystemExit(f"failed: {message}")
        except (BrokenPipeError, ValueError):
            pass  # It was killed, or its input closed, in the middle of a message.
        if until is not None:
            killer.cancel()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.read()
        process.wait()
        return result, went_on, time.perf_counter() - start


def main():
    """Prints what came of it; exit status 1 if a byte was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=float)
    parser.add_argument("--program", default=str(ROOT / "target/release/imagic-edit"))
    parser.add_argument("--model", default=str(ROOT / "models/scenes-64"))
    options, options.edit = parser.parse_known_args()
    if not options.edit:
        options.edit = ["--prompt", "a red ball on a beach", "--preset", "fast"]
    random.seed(options.seed)
    kills = edits = went_on = wrong = left = 0
    whole, took = {}, {}
    while kills < options.kills:
        way = (CommandLine, Serve)[edits % 2]
        if way not in whole:
            with tempfile.TemporaryDirectory() as folder:
                whole[way], _, took[way] = way(folder, options).run()
        with tempfile.TemporaryDirectory() as folder:
            home, result = way(folder, options), None
            while result is None and kills < options.kills:
                result, step, _ = home.run(random.uniform(0, took[way]))
                went_on += step > 0
                kills += result is None
            if result is None:
                result, step, _ = home.run()
                went_on += step > 0
            edits += 1
            wrong += result != whole[way]
            names = [file.name for file in (Path(folder) / "cache/imagic-edit").iterdir()]
            left += sum(name.endswith((".part", ".resume", ".bad")) for name in names)
        print(f"{kills} kills, {edits} edits, {went_on} went on, {wrong} wrong, {left} files left", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
