"""The Markdown of a benchmark, and its place in a document."""

from pathlib import Path

from edit_benchmark import Failed
from edit_benchmark.intervals import Estimate
from edit_benchmark.measures import KEPT
from edit_benchmark.summary import MEANS, RATES, best_level

DIGITS = {"ssim": 3, "squeezenet": 3, "squeezenet_to_source": 3, "alignment": 2}  # after the point; 1 where not said
COLUMNS = (
    "success",
    "asked",
    "alignment",
    "squeezenet",
    "psnr",
    "ssim",
    "keep_psnr",
    "squeezenet_to_source",
    "seconds",
)
LEVEL_COLUMNS = (
    "success",
    "asked",
    "others",
    "alignment",
    "squeezenet",
    "psnr",
    "keep_psnr",
    "squeezenet_to_source",
    "psnr_to_source",
)
METHODS = {
    "source": "source, unedited",
    "vae": "autoencoder round trip",
    "sdedit": "SDEdit, strength {strength}",
    "sdedit-oracle": "SDEdit, best strength of each edit",
    "imagic-without-b": "Imagic without stage B, eta {eta}",
    "imagic": "**Imagic, eta {eta}**",
    "imagic-oracle": "Imagic, best eta of each edit",
    "truth": "the true result itself",
}


def markdown(result: dict) -> str:
    """`result`: what main.summarize makes."""
    names = {method: text.format(**result["levels"]) for method, text in METHODS.items()}
    parts = [head(result)]
    measured = [column for column in COLUMNS if any(column in row for row in result["methods"].values())]
    parts.append(
        table(
            ["method", *map(title, measured)],
            [
                [names[method], *(cell(column, row.get(column)) for column in measured)]
                for method, row in result["methods"].items()
            ],
        )
        + "\n\nMeans and shares over all edits, in brackets their 95 % confidence intervals."
    )
    if result["attributes"]:
        methods = list(result["attributes"])
        parts.append(
            "Success by what the prompt changes:\n\n"
            + table(
                ["change", *(names[m] for m in methods)],
                [
                    [attribute, *(cell("success", result["attributes"][m][attribute]) for m in methods)]
                    for attribute in result["attributes"][methods[0]]
                ],
            )
        )
    parts += [
        f"{names[a].strip('*')} is nearer to the truth than {names[b]} in "
        + " and ".join(
            f"{cell('success', share)} of the edits by "
            + title(measure).removesuffix(" to the truth").removesuffix(" to the truth, dB")
            for measure, share in shares.items()
        )
        + "."
        for (a, b), shares in result["nearer"].items()
    ]
    for heading, name, levels in (
        ("Imagic at each eta:", "eta", result["etas"]),
        ("SDEdit at each strength:", "strength", result["strengths"]),
    ):
        if len(levels) > 1:
            measured = [column for column in LEVEL_COLUMNS if any(column in row for row in levels.values())]
            parts.append(
                f"{heading}\n\n"
                + table(
                    [name, *map(title, measured)],
                    [
                        [
                            f"{level:g}",
                            *(cell(column, row.get(column), with_interval=column in RATES) for column in measured),
                        ]
                        for level, row in levels.items()
                    ],
                )
            )
            if result["split"] == "validation" and (best := best_level(levels)) is not None:
                parts.append(f"The most successful {name} is {best:g}.")
    if result["classifier"]:
        shares = ", ".join(f"{name} {share:.1%}".replace("%", " %") for name, share in result["classifier"].items())
        parts.append(f"The classifier that reads the attributes is right on held-out scenes in: {shares}.")
    parts += result["skipped"]
    return "\n\n".join(parts) + "\n"


def head(result: dict) -> str:
    values = ", ".join(f"{name} {value}" for name, value in result["preset"].items())
    return (
        f"{result['edits']} edits of the {result['split']} scenes (seed {result['seed']}), "
        f"model {result['model']}; {values}. "
        f"Success: all attributes read as they should, and {KEPT:g} dB or better on the pixels that must stay. "
        f"Seconds on {result['processor']}: {result['jobs']} at a time, "
        f"each on {result['threads']} thread{'s' * (result['threads'] > 1)}."
    )


def title(measure: str) -> str:
    return {**MEANS, **RATES}[measure]


def cell(measure: str, estimate: Estimate | None, with_interval=True) -> str:
    if estimate is None:
        return "-"
    if measure in RATES:
        text, interval = f"{100 * estimate.value:.0f} %", f" ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"
    else:
        digits = DIGITS.get(measure, 1)
        text, interval = f"{estimate.value:.{digits}f}", f" ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
    return text + interval if with_interval else text


def table(head: list[str], rows: list[list[str]]) -> str:
    return (
        "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
        .replace("| --- ", "|---")
        .replace("--- |", "---|")
    )


def write_into(document: Path, place: str, text: str, writer: str = "benches/edits"):
    """Replaces what stands between the two comments that mark `place`."""
    before, after = around(document, place, writer)
    document.write_text(before + text + after)


def around(document: Path, place: str, writer: str = "benches/edits") -> tuple[str, str]:
    """What stands before `place` and after it, the comments that mark it included."""
    first, last = f"<!-- {place}: written by {writer} -->\n", f"<!-- end of {place} -->"
    text = document.read_text() if document.exists() else ""
    if first not in text or last not in text:
        raise Failed(f"{document} has no place for this report: add the lines {first.strip()} and {last}")
    return text[: text.index(first) + len(first)], text[text.index(last) :]
