"""The engine against PyTorch and diffusers on the same weights, shapes, precision (f32) and number of threads.

    benches/speed --model builtin --json speed.json --docs docs/SPEED.md

One process at a time: each round starts the engine and every peer once for each operation, warms up, and takes
--repeats runs. The ratios are to the fastest peer of each operation. The peak is of the whole process, libraries and
model included."""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from edit_benchmark import Failed, report
from edit_benchmark.main import processor
from edit_benchmark.program import ROOT, read_preset

OPERATIONS = ("forward", "stage A step", "stage B step", "DDIM", "vae encode", "vae decode", "edit")
PEERS = {
    "eager": {"attention": "fused", "compiled": False},
    "eager, plain attention": {"attention": "plain", "compiled": False},
    "compiled": {"attention": "fused", "compiled": True},
}
# Steps of one run of a training operation; the first is part of the warm-up run too.
TRAINING_STEPS = 3
REFERENCE = ROOT / "tests/reference"


def main():
    options = arguments()
    try:
        model = model_folder(options.model, options.work)
        options.latent = options.latent or json.loads((model / "unet/config.json").read_text())["sample_size"]
        engine = build_worker(options.device)
        operations = {name: measure(name, model, engine, options) for name in options.operations}
        result = {
            "command": "benches/speed " + shlex.join(sys.argv[1:]),
            "model": options.model,
            "latent": options.latent,
            "threads": options.threads,
            "precision": options.precision if options.device == "cuda" else "f32",
            "where": where(options),
            "processor": processor(),
            "versions": versions(),
            "rounds": options.rounds,
            "repeats": options.repeats,
            "operations": operations,
        }
    except Failed as error:
        sys.exit(f"benches/speed: {error}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.docs:
        report.write_into(
            options.docs, f"speed {options.model} {options.latent}", markdown(result) + "\n", "benches/speed"
        )
    print(markdown(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="builtin",
        help="small (a test's random weights), builtin, sd15 (its size, random weights) or a folder",
    )
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cuda: needs a GPU, PyTorch for it, and installer/cuda-toolkit.sh",
    )
    parser.add_argument("--precision", choices=["f32", "tf32"], default="tf32", help="of matrix products on a GPU")
    parser.add_argument(
        "--cuda-libraries",
        type=Path,
        default=Path.home() / ".local/share/imagic-edit/cuda",
        help="where libcublas.so is, if the loader does not find it",
    )
    parser.add_argument("--latent", type=int, help="side of the latents; the model's own if it is not given")
    for name, known in (("operations", OPERATIONS), ("peers", tuple(PEERS))):
        parser.add_argument(
            f"--{name}", nargs="+", choices=known, default=list(known), metavar="NAME", help=f"of {', '.join(known)}"
        )
    parser.add_argument(
        "--batch", type=int, help="timesteps of each step; the preset's if it is not given, 1 where there is none"
    )
    parser.add_argument("--sampling-steps", type=int, default=50, help="of the operation DDIM")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=ROOT / "target/speed", help="where random weights go")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path, help="file with the markers between which the table goes")
    return parser.parse_args()


def model_folder(name: str, work: Path) -> Path:
    if name == "builtin":
        return ROOT / "models/scenes-64"
    if name == "small":
        return ROOT / "tests/fixtures/small-sd1/model"
    if name == "sd15":
        folder = work / "sd15"
        if not (folder / "model_index.json").exists():
            sys.path.insert(0, str(REFERENCE))
            import random_model

            random_model.write(folder, json.loads((REFERENCE / "configs/sd15.json").read_text()), 0)
        return folder
    if not Path(name).is_dir():
        raise Failed(f"there is no folder {name}")
    return Path(name)


def build_worker(device: str) -> Path:
    command = ["cargo", "build", "--release", "--locked", "--example", "speed_worker"]
    if device == "cuda":
        toolkit = ROOT / "target/cuda-toolkit/environment.sh"
        if not toolkit.exists():
            raise Failed(f"{toolkit} is missing; run installer/cuda-toolkit.sh")
        command = ["bash", "-c", f". {shlex.quote(str(toolkit))} && {shlex.join([*command, '--features', 'cuda'])}"]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise Failed(f"{shlex.join(command)} failed")
    return ROOT / "target/release/examples/speed_worker"


def measure(operation: str, model: Path, engine: Path, options: argparse.Namespace) -> dict:
    """Seconds of every run and peak memory of every round, of the engine and each peer."""
    job = {
        "operation": operation,
        "model": str(model),
        "latent": options.latent,
        "threads": options.threads,
        "tokens": json.loads((model / "text_encoder/config.json").read_text()).get("max_position_embeddings", 77),
        "params": parameters(operation, model, options),
    }
    if options.device == "cuda":
        job["gpu"] = {"precision": options.precision, "libraries": str(options.cuda_libraries)}
    python = [sys.executable, "-m", "speed_benchmark.peer"]
    commands = {"engine": ([str(engine)], job)} | {
        f"PyTorch {peer}": (python, job | PEERS[peer]) for peer in options.peers
    }
    results = {name: {"seconds": [], "peak": []} for name in commands}
    for _ in range(options.rounds):
        for name, (command, job) in commands.items():
            seconds, peak = run_worker([*command, json.dumps(job)], options)
            results[name]["seconds"] += seconds
            results[name]["peak"].append(peak)
            print(
                f"{operation}: {name} {statistics.median(seconds):.4f} s, {peak / 1e6:.0f} MB",
                file=sys.stderr,
                flush=True,
            )
    return results


def parameters(operation: str, model: Path, options: argparse.Namespace) -> dict:
    preset = {
        "batch_size": 1,
        "guidance": 7.5,
        "sampling_steps": 50,
        "embedding_lr": 1e-3,
        "tuning_lr": 1e-6,
        "eta": 0.7,
    }
    if (model / "imagic.json").exists():
        preset |= read_preset(model, "balanced", {})
    if options.batch:
        preset["batch_size"] = options.batch
    if operation == "edit":
        return (
            {"embedding_steps": TRAINING_STEPS, "tuning_steps": TRAINING_STEPS}
            | preset
            | {"prompt": "a photo of a bird spreading its wings"}
        )
    return preset | {
        "embedding_steps": TRAINING_STEPS,
        "tuning_steps": TRAINING_STEPS,
        "sampling_steps": options.sampling_steps,
    }


def run_worker(command: list[str], options: argparse.Namespace) -> tuple[list[float], int]:
    """Seconds of all runs, and the peak of the process's memory, or of the GPU's, in bytes."""
    # As src/main.rs does for the engine; PyTorch knows only the last one.
    environment = {
        **os.environ,
        "RAYON_NUM_THREADS": str(options.threads),
        "CANDLE_NUM_THREADS": "1",
        "MIMALLOC_PURGE_DELAY": "10000",
        "OMP_NUM_THREADS": str(options.threads),
    }
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        if process.stdout.readline().strip() != "ready":
            raise Failed(f"{shlex.join(command)} did not start; its message is above")
        seconds = []
        for _ in range(options.repeats):
            process.stdin.write("run\n")
            process.stdin.flush()
            seconds += json.loads(process.stdout.readline())
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
        process.stdin.close()
        if options.device == "cuda":
            # Of the GPU's memory, which a worker tells at its end.
            peak = int(process.stdout.readline())
    return seconds, peak


def where(options: argparse.Namespace) -> str:
    if options.device == "cpu":
        return f"{options.threads} threads of {processor()}"
    import torch

    return torch.cuda.get_device_name()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers")}


def markdown(result: dict) -> str:
    lines = [
        f"Model {result['model']}, latents {result['latent']}x{result['latent']}, {result['precision']}, "
        f"{result['where']}; torch {result['versions']['torch']}, diffusers {result['versions']['diffusers']}; "
        f"{result['rounds']} rounds of {result['repeats']} runs, made by `{result['command']}`.",
        "",
        "| operation | engine, s | fastest PyTorch, s | which | time, ratio | engine, MB | that PyTorch, MB "
        "| memory, ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for operation, results in result["operations"].items():
        medians = {name: statistics.median(of["seconds"]) for name, of in results.items()}
        peaks = {name: statistics.median(of["peak"]) / 1e6 for name, of in results.items()}
        best = min((name for name in results if name != "engine"), key=medians.get)
        lines.append(
            f"| {operation} | {medians['engine']:.4g} | {medians[best]:.4g} | {best.removeprefix('PyTorch ')} "
            f"| **{medians['engine'] / medians[best]:.2f}** "
            f"| {peaks['engine']:.0f} | {peaks[best]:.0f} | {peaks['engine'] / peaks[best]:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
