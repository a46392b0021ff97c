"""What choosing among several versions of an edit is worth: each edit is tuned once and drawn with several seeds.

    benches/edit_benchmark/python -m edit_benchmark.versions [--count 16] [--candidates 8] [--sheet OUT.png]

one      the first seed's version, as without a choice
mean     all versions: what a seed taken blindly succeeds in
chosen   the version that the program takes
oracle   whether one of them succeeds: what the best choice could reach

With shares of successful edits stand their 95 % intervals, and of the pairs (one, chosen) how many differ, with the
probability of that or more under chance alone (McNemar's exact test).
"""

import argparse
import math
import sys
from pathlib import Path

import classifier
from edit_benchmark import Failed, intervals, measures
from edit_benchmark.edits import add_arguments as add_edits
from edit_benchmark.edits import edits
from edit_benchmark.program import Program, add_arguments, program_of
from edit_benchmark.sheet import sheet


def by_chance(gained: int, lost: int) -> float:
    """Two-sided probability of a split as uneven as this one of so many pairs that differ."""
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    return min(1.0, 2 * tail)


def drawn(program: Program, edit, eta: float, **parameters):
    """The picture, and the seed of the version that was taken."""
    results, report = program.edit(edit.source, edit.prompt, [eta], **parameters)
    return results[eta], report["outputs"][0]["seed"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_edits(parser, 16)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--eta", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="a picture of all results")
    add_arguments(parser)
    options = parser.parse_args()
    judges = measures.Judges(classifier=classifier.load(), values=classifier.VALUES)
    one, chosen, oracle, every, rows = [], [], [], [], []
    for edit in edits(options.split, options.seed, options.count):
        with program_of(options, preset=options.preset) as program:
            _, taken = drawn(program, edit, options.eta, candidates=options.candidates, seed=0)
            seeds = range(options.candidates)
            pictures = [drawn(program, edit, options.eta, candidates=1, seed=seed)[0] for seed in seeds]
        succeeds = [row["success"] for row in measures.measure(edit, pictures, judges)]
        one.append(succeeds[0])
        chosen.append(succeeds[taken])
        oracle.append(any(succeeds))
        every += succeeds
        rows.append((f"{edit.prompt} ({taken})", [edit.source, *pictures, edit.target]))
        print(f"{edit.name}: {sum(succeeds)} of {len(succeeds)} succeed, taken {taken}: {succeeds[taken]}", flush=True)
    for name, values in (("one", one), ("mean", every), ("chosen", chosen), ("oracle", oracle)):
        share = intervals.rate(values)
        print(f"{name:8}{share.value:6.1%}  ({share.low:.1%} to {share.high:.1%}) of {share.count}")
    gained = sum(after > before for before, after in zip(one, chosen))
    lost = sum(before > after for before, after in zip(one, chosen))
    print(f"one to chosen: {gained} gained, {lost} lost, p {by_chance(gained, lost):.2g}")
    if options.sheet:
        seeds = [f"seed {seed}" for seed in range(options.candidates)]
        sheet(rows, ["source", *seeds, "the truth"]).save(options.sheet)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"{failure}")
