"""The benchmark of edits with exact ground truth: makes the edits, runs the methods, measures, and reports.

    benches/edits --seed 0 --scenes 25 --json edits.json --sheet edits.png --curve eta --docs docs/BENCHMARK.md

A test run reports; everything that is chosen is chosen with --split validation. Results are kept in --work, so that a
run that was interrupted goes on and other measures of the same results cost nothing. docs/BENCHMARK.md says what is
measured."""

import argparse
import json
import os
import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import data
from edit_benchmark import Failed, curve, measures, methods, report, summary
from edit_benchmark.edits import SPLITS, Edit, edits
from edit_benchmark.perceptual import FILE, SqueezeNet
from edit_benchmark.program import ROOT, Program, add_arguments, read_preset
from edit_benchmark.sheet import sheet
from edit_benchmark.store import Result, Store
from scenes import ATTRIBUTES

HELD_OUT_SCENES = 2000  # for the classifier's own accuracy


def main():
    options = arguments()
    torch.set_num_threads(options.threads * options.jobs)
    try:
        benchmark(options)
    except Failed as error:
        sys.exit(f"benches/edits: {error}")
    except KeyboardInterrupt:
        sys.exit("benches/edits: stopped; the same command goes on from here")


def benchmark(options: argparse.Namespace):
    settings = make_settings(options)
    place = f"edits {options.split}"
    # What would fail at the end of hours is tried first.
    if any(method.startswith("imagic") for method in options.methods):
        settings.program.check()
    if options.docs:
        report.around(options.docs, place)
    chosen = edits(options.split, options.seed, options.scenes, options.attributes)
    judges, accuracy, skipped = make_judges(options)
    for note in skipped:
        print(note, file=sys.stderr)

    results = methods.run({method.removesuffix("-oracle") for method in options.methods}, chosen, settings)
    rows = measure_all(chosen, results, judges)
    tables_rows = summary.tables_rows(rows, options.methods, settings.eta, methods.STRENGTH)
    result = summarize(rows, tables_rows) | {
        "command": "benches/edits " + shlex.join(sys.argv[1:]),
        "split": options.split,
        "seed": options.seed,
        "edits": len(chosen),
        "model": f"{options.model.resolve().name} ({settings.model})",
        "preset": settings.preset | {"eta": settings.eta},
        "classifier": accuracy,
        "skipped": skipped,
        "levels": {"eta": settings.eta, "strength": methods.STRENGTH},
        "processor": processor(),
        "jobs": options.jobs,
        "threads": options.threads,
    }
    text = report.markdown(result)
    points = curve.curve(rows, result["etas"], unrelated_distance(chosen, judges))
    if options.json:
        nearer = {f"{a} than {b}": shares for (a, b), shares in result["nearer"].items()}
        options.json.write_text(
            json.dumps(result | {"nearer": nearer, "curve": points, "rows": rows}, indent=1, default=asdict) + "\n"
        )
    if options.docs:
        report.write_into(options.docs, place, text)
    if options.sheet:
        contact_sheet(chosen, results, tables_rows).save(options.sheet)
    if options.curve:
        curve.write(options.curve, points)
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/edits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="other edits of the same split")
    parser.add_argument("--scenes", type=int, default=25, help="edits of each attribute")
    parser.add_argument("--split", choices=SPLITS, default="test")
    for name, known in (("methods", tuple(report.METHODS)), ("attributes", ATTRIBUTES)):
        parser.add_argument(
            f"--{name}", type=names_of(known), default=list(known), metavar="A,B,...", help=f"of {', '.join(known)}"
        )
    parser.add_argument(
        "--etas",
        type=float,
        nargs="+",
        default=methods.ETAS,
        metavar="ETA",
        help="imagic's, for the oracle and the curve; the preset's is always one of them",
    )
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="*",
        metavar="STRENGTH",
        help="with --split validation: show sdedit at all of them; "
        f"at {' '.join(map(str, methods.STRENGTHS))} if none is given",
    )
    parser.add_argument("--preset", choices=("paper", "balanced", "fast"), default="balanced")
    add_arguments(parser)
    parser.add_argument("--jobs", type=int, default=1, help="edits at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each edit")
    parser.add_argument("--classifier", type=Path, help="its weights, if not the ones in models/train")
    parser.add_argument("--metrics", type=Path, default=ROOT.parent / "shared/metrics", help=f"folder of {FILE}")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "benches/edit_benchmark/work", help="where results are kept"
    )
    parser.add_argument(
        "--tuned",
        type=Path,
        metavar="FOLDER",
        help="keep tuned models there: other guidance or steps of sampling then take seconds",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers, and every row")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the report into this document")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="pictures: a row an edit")
    parser.add_argument(
        "--curve", type=Path, metavar="NAME", help="alignment and fidelity over eta: NAME.csv and NAME.png"
    )
    options = parser.parse_args()
    if options.strengths is not None and options.split != "validation":
        parser.error("the strength is chosen on validation scenes: --strengths needs --split validation")
    if options.strengths is not None and "sdedit" not in options.methods:
        parser.error("strengths are sdedit's: --strengths needs sdedit among the methods")
    if options.curve and "imagic" not in options.methods:
        parser.error("the curve is imagic's: --curve needs imagic among the methods")
    if options.scenes < 1 or options.jobs < 1 or options.threads < 1:
        parser.error("--scenes, --jobs and --threads are at least 1")
    return options


def names_of(known):
    def names(text):
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return names


def make_settings(options: argparse.Namespace) -> methods.Settings:
    changes = dict(options.set)
    preset = read_preset(options.model, options.preset, changes)
    eta = float(preset.pop("eta"))
    changes.pop("eta", None)
    every_eta = bool(options.curve) or "imagic-oracle" in options.methods or options.split == "validation"
    strengths = {methods.STRENGTH} if "sdedit" in options.methods else set()
    if options.strengths is not None:
        strengths |= set(options.strengths or methods.STRENGTHS)
    if "sdedit-oracle" in options.methods:
        strengths |= set(methods.STRENGTHS)
    return methods.Settings(
        program=Program(
            options.program, options.model, options.threads, {"preset": options.preset, **changes}, options.tuned
        ),
        preset=preset,
        eta=eta,
        etas=tuple(sorted({eta, *options.etas} if every_eta else {eta})),
        strengths=tuple(sorted(strengths)),
        store=Store(options.work / "results"),
        jobs=options.jobs,
    )


def make_judges(options: argparse.Namespace) -> tuple[measures.Judges, dict[str, float] | None, list[str]]:
    """The judges, the classifier's own accuracy, and what will be missing in the report, in words."""
    judges, accuracy, skipped = measures.Judges(), None, []
    if (options.metrics / FILE).exists():
        judges.squeezenet = SqueezeNet(options.metrics)
    else:
        skipped.append(f"Skipped: SqueezeNet distances; there is no {FILE} in the folder of --metrics.")
    try:
        import classifier

        judges.classifier, judges.values = classifier.load(options.classifier), classifier.VALUES
        accuracy = classifier.accuracy(judges.classifier, data.scenes(HELD_OUT_SCENES, data.HELD_OUT_SEED))
    except (ModuleNotFoundError, FileNotFoundError) as error:
        skipped.append(f"Skipped: success and alignment; there is no classifier of attributes ({error}).")
    return judges, accuracy, skipped


def measure_all(
    chosen: list[Edit], results: dict[tuple[str, str], list[Result]], judges: measures.Judges
) -> list[dict]:
    rows = []
    for edit in chosen:
        of_edit = [
            (family, result) for (name, family), results in results.items() if name == edit.name for result in results
        ]
        measured = measures.measure(edit, [result.picture for _, result in of_edit], judges)
        for (family, result), values in zip(of_edit, measured):
            rows.append(
                {
                    "edit": edit.name,
                    "attribute": edit.attribute,
                    "prompt": edit.prompt,
                    "method": family,
                    "level": result.level,
                    "seconds": result.seconds if result.seconds else None,
                    **values,
                }
            )
    return rows


def summarize(rows: list[dict], tables_rows: dict[str, list[dict]]) -> dict:
    judged = [
        method
        for method in ("sdedit", "imagic", "imagic-oracle")
        if method in tables_rows and "success" in tables_rows[method][0]
    ]
    pairs = [
        (a, b)
        for a, b in (("imagic", "sdedit"), ("imagic-oracle", "sdedit-oracle"), ("imagic", "imagic-without-b"))
        if a in tables_rows and b in tables_rows
    ]
    return {
        "methods": {method: summary.estimates(of_method) for method, of_method in tables_rows.items()},
        "attributes": {method: summary.by_attribute(tables_rows[method]) for method in judged},
        "nearer": {(a, b): summary.share_nearer(tables_rows[a], tables_rows[b]) for a, b in pairs},
        "etas": summary.by_level(rows, "imagic"),
        "strengths": summary.by_level(rows, "sdedit"),
    }


def unrelated_distance(chosen: list[Edit], judges: measures.Judges) -> float | None:
    """Mean SqueezeNet distance between the source of an edit and that of the next one, another scene."""
    if judges.squeezenet is None or len(chosen) < 2:
        return None
    pairs = zip(chosen, [*chosen[1:], chosen[0]])
    return float(np.mean([judges.squeezenet.distances([edit.source], other.source)[0] for edit, other in pairs]))


def contact_sheet(chosen: list[Edit], results, tables_rows: dict[str, list[dict]]):
    columns = [method for method in tables_rows if method not in ("source", "truth")]
    rows = []
    for edit in chosen:
        pictures = [edit.source]
        for method in columns:
            row = next(row for row in tables_rows[method] if row["edit"] == edit.name)
            pictures.append(next(r.picture for r in results[edit.name, row["method"]] if r.level == row["level"]))
        rows.append((edit.prompt, [*pictures, edit.target]))
    return sheet(rows, ["source", *columns, "true result"], cell=96)


def processor() -> str:
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        return f"{names[0] if names else platform.machine()} ({os.cpu_count()} threads)"
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
