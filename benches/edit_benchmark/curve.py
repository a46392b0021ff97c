"""Alignment with the text against fidelity to the picture, over eta: figure 9 of the Imagic paper, as a table and a
plot."""

import csv
from pathlib import Path

from edit_benchmark.intervals import Estimate, mean

HEAD = (
    "eta",
    "edits",
    "alignment",
    "alignment_low",
    "alignment_high",
    "fidelity",
    "fidelity_low",
    "fidelity_high",
    "psnr_to_source",
    "psnr_to_source_low",
    "psnr_to_source_high",
    "success",
    "success_low",
    "success_high",
)


def curve(rows: list[dict], etas: dict[float, dict[str, Estimate]], unrelated: float | None) -> list[dict]:
    """One row of HEAD an eta. Fidelity: 1 is the picture itself, 0 as far from it as an unrelated scene, which is at
    `unrelated`."""
    points = []
    for eta, estimates in etas.items():
        estimates = dict(estimates)
        if unrelated:
            at_eta = [row for row in rows if row["method"] == "imagic" and row["level"] == eta]
            estimates["fidelity"] = mean([1 - row["squeezenet_to_source"] / unrelated for row in at_eta])
        point = {"eta": eta, "edits": estimates["psnr"].count}
        for name in ("alignment", "fidelity", "psnr_to_source", "success"):
            if name in estimates:
                point |= {
                    name: estimates[name].value,
                    f"{name}_low": estimates[name].low,
                    f"{name}_high": estimates[name].high,
                }
        points.append(point)
    return points


def write(base: Path, points: list[dict]):
    with open(base.with_name(base.name + ".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, HEAD, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: round(value, 4) for name, value in point.items()} for point in points)

    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import PercentFormatter

    colors = {"alignment": "#c44e2a", "fidelity": "#2a62c4", "success": "#555555"}
    labels = {
        "alignment": "alignment with the text",
        "fidelity": "fidelity to the picture",
        "success": "successful edits",
    }
    pyplot.rcParams.update(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e4e4e4",
        }
    )
    figure, (over_eta, against) = pyplot.subplots(1, 2, figsize=(8.2, 3.3), dpi=110, layout="constrained")
    for name in labels:
        line = [
            (point["eta"], *(point[name + end] for end in ("", "_low", "_high"))) for point in points if name in point
        ]
        if line:
            eta, value, low, high = zip(*line)
            over_eta.plot(
                eta,
                value,
                "--" if name == "success" else "-",
                marker="o",
                markersize=3.5,
                color=colors[name],
                label=labels[name],
            )
            over_eta.fill_between(eta, low, high, color=colors[name], alpha=0.13, linewidth=0)
    over_eta.set(xlabel="eta", ylim=(min(0, *over_eta.get_ylim()), 1.02))
    over_eta.yaxis.set_major_formatter(PercentFormatter(1))
    over_eta.legend(
        frameon=False,
        fontsize=8,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=3,
        columnspacing=1,
        handlelength=1.5,
    )
    line = [point for point in points if "alignment" in point and "psnr_to_source" in point]
    against.plot(
        [p["psnr_to_source"] for p in line], [p["alignment"] for p in line], "-o", markersize=3.5, color="#333333"
    )
    for point in line:
        against.annotate(
            f"{point['eta']:g}",
            (point["psnr_to_source"], point["alignment"]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8.5,
        )
    against.set(
        xlabel="PSNR to the picture, dB", ylabel="alignment with the text", ylim=(0, 1.02), title="a point for each eta"
    )
    against.title.set_fontsize(8)
    against.yaxis.set_major_formatter(PercentFormatter(1))
    figure.savefig(base.with_name(base.name + ".png"), metadata={"Software": None})
