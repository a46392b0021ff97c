#!/usr/bin/env python3
"""Kills edits at random moments and goes on with them until they end: no byte may be lost, and little time.

    cargo build --release && benches/kills.py [--kills 100] [--seed 0] [--keep SECONDS] [--ways WAY ...] \\
        [--model FOLDER] [--program FILE] [imagic-edit's options ...]

The edits take turns: on the command line, in `imagic-edit serve`, and in a real GIMP 2.10 by its procedure, each in a
home of its own. A process gets KILL, TERM, HUP or INT, or its input ends, at a moment drawn evenly from the time that a
whole edit takes; in GIMP it is either GIMP itself or the plug-in, its child, and the time is that from the plug-in's
start, because GIMP takes longer for its own than for a short edit. The next process of the same edit goes on, until one
ends. Its bytes are compared with those of an edit that nobody has killed. `--keep` is the
time between resume points (IMAGIC_RESUME_SECONDS), the program's own unless it is given. Only the standard library is
needed, and gimp-console-2.10, which is left out with a line where it is not installed.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
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


def only_pixels(picture):
    """The header and the pixels of a PNG: GIMP also writes when it was saved."""
    at, head, data = 8, b"", b""
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        kind, body = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        head += body if kind == b"IHDR" else b""
        data += body if kind == b"IDAT" else b""
        at += length + 12
    return head + zlib.decompress(data)


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
        arguments = ["edit", "in.png", "--force", "-o", "out.png", "--model", self.options.model, *self.options.edit]
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


# Seconds that a GIMP may take to end.
PATIENCE = 60

# What GIMP does with the picture: opens it, edits its layer, saves the result alone.
SCRIPT = """
(let* ((image (car (gimp-file-load RUN-NONINTERACTIVE "in.png" "in.png")))
       (layer (car (gimp-image-get-active-layer image)))
       (result (car (plug-in-imagic-edit RUN-NONINTERACTIVE image layer {prompt} {model} 0.8 0 FALSE {settings}))))
  (file-png-save RUN-NONINTERACTIVE image result "out.png" "out.png" 0 9 0 0 0 0 0))
"""


class Gimp(Home):
    """The edit by the procedure of the plug-in in GIMP 2.10."""

    def __init__(self, folder, options):
        super().__init__(folder, options)
        self.environment["GIMP2_DIRECTORY"] = f"{folder}/profile"
        plug_in = self.folder / "profile/plug-ins/imagic-edit"
        plug_in.mkdir(parents=True)
        for name in ("imagic-edit", "libimagic_edit.so"):
            shutil.copy(Path(options.program).parent / name, plug_in / name)

    def run(self, until=None):
        """As on the command line."""
        out = self.folder / "out.png"
        pairs = zip(self.options.edit[::2], self.options.edit[1::2], strict=True)
        settings = {name.removeprefix("--").replace("-", "_"): value for name, value in pairs}
        # Those that are arguments of their own.
        prompt = settings.pop("prompt")
        texts = {"prompt": prompt, "model": self.options.model, "settings": json.dumps(settings)}
        script = SCRIPT.format(**{name: json.dumps(text) for name, text in texts.items()})
        gimp = ["gimp-console-2.10", "-i", "-d", "-f", "-s", "--batch-interpreter", "plug-in-script-fu-eval"]
        # One that a killed GIMP was about to write.
        out.unlink(missing_ok=True)
        before = self.step()
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(
            [*gimp, "-b", script, "-b", "(gimp-quit 0)"], cwd=self.folder, env=self.environment, text=True, **pipes
        )
        self.ended = self.start_of_edit = None
        killer = threading.Thread(target=self.kill, args=[process, until])
        killer.start()
        try:
            said, _ = process.communicate(timeout=None if until is None else until + PATIENCE)
        except subprocess.TimeoutExpired:
            if self.ended != process.pid:
                raise SystemExit("failed: GIMP does not end") from None
            # What GIMP does at a signal may wait for ever for a lock of GObject that is held by what it interrupted.
            process.kill()
            said, _ = process.communicate()
        killer.join()
        self.wait_for_plug_in()
        took = time.perf_counter() - (self.start_of_edit or time.perf_counter())
        if process.returncode == 0 and out.exists():
            return only_pixels(out.read_bytes()), before, took
        if until is None:
            raise SystemExit(f"failed: {said}")
        return None, before, took

    def kill(self, process, until):
        """Ends GIMP or its child `until` seconds after the edit has begun; notes when that was."""
        while not (plug_ins := self.plug_ins()):
            if process.poll() is not None:
                return
            time.sleep(0.01)
        self.start_of_edit = time.perf_counter()
        if until is None:
            return
        # Both are drawn whenever it is too late, that a seed means the same kills.
        at_gimp, ending = random.random() < 0.5, random.choice(ENDINGS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(until)
            return
        who = self.ended = process.pid if at_gimp else plug_ins[0]
        with contextlib.suppress(ProcessLookupError):
            os.kill(who, ending)

    def plug_ins(self):
        """The processes of the plug-in in this home that edit; GIMP also starts one to ask what it can do."""
        own = str(self.folder / "profile/plug-ins/imagic-edit/imagic-edit")
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "exe") == own and b"-run" in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def wait_for_plug_in(self):
        """It outlives its GIMP for what it still has to write, but not for long."""
        end = time.perf_counter() + 20
        while self.plug_ins():
            if time.perf_counter() > end:
                raise SystemExit("failed: the plug-in outlives its GIMP")
            time.sleep(0.05)

    def step(self):
        """Where the edit would go on."""
        listed = subprocess.run(
            [self.options.program, "cache", "list", "--json"], env=self.environment, capture_output=True, check=True
        )
        kept = json.loads(listed.stdout)["tuned_models"]
        return max((entry["steps"][0] for entry in kept if entry["kind"] == "unfinished"), default=0)


WAYS = [CommandLine, Serve, Gimp]


def main():
    """Prints what came of it; exit status 1 if a byte was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=float)
    parser.add_argument("--program", default=str(ROOT / "target/release/imagic-edit"))
    parser.add_argument("--ways", nargs="+", choices=[way.__name__ for way in WAYS], help="all of them unless given")
    parser.add_argument("--model", default=str(ROOT / "models/scenes-64"))
    options, options.edit = parser.parse_known_args()
    if not options.edit:
        options.edit = ["--prompt", "a red ball on a beach", "--preset", "fast"]
    random.seed(options.seed)
    ways = [way for way in WAYS if options.ways is None or way.__name__ in options.ways]
    if Gimp in ways and shutil.which("gimp-console-2.10") is None:
        print("skipped: gimp-console-2.10 is not installed")
        ways.remove(Gimp)
    of_way = dict.fromkeys(ways, 0)
    kills = edits = went_on = wrong = left = 0
    whole, took = {}, {}
    while kills < options.kills:
        way = ways[edits % len(ways)]
        if way not in whole:
            with tempfile.TemporaryDirectory() as folder:
                whole[way], _, took[way] = way(folder, options).run()
        with tempfile.TemporaryDirectory() as folder:
            home, result = way(folder, options), None
            while result is None and kills < options.kills:
                result, step, _ = home.run(random.uniform(0, took[way]))
                went_on += step > 0
                kills += result is None
                of_way[way] += result is None
            if result is None:
                result, step, _ = home.run()
                went_on += step > 0
            edits += 1
            wrong += result != whole[way]
            names = [file.name for file in (Path(folder) / "cache/imagic-edit").iterdir()]
            left += sum(name.endswith((".part", ".resume", ".bad")) for name in names)
        each = ", ".join(f"{way.__name__} {count}" for way, count in of_way.items())
        print(f"{kills} kills ({each}), {edits} edits, {went_on} went on, {wrong} wrong, {left} files left", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
