"""From the rows, one for each result, to numbers with intervals. Knows no picture and no Markdown.

A row holds `edit`, `attribute`, `method` (as run: imagic at every eta is one method), `level` (eta, strength or None),
`seconds` and the measures.
"""

from edit_benchmark.intervals import Estimate, mean, rate

# id: what it is, its unit's digits after the point; rates are shares of edits
MEANS = {
    "alignment": "probability of the asked value",
    "squeezenet": "SqueezeNet distance to the truth",
    "psnr": "PSNR to the truth, dB",
    "ssim": "SSIM to the truth",
    "keep_psnr": "PSNR on kept pixels, dB",
    "squeezenet_to_source": "SqueezeNet distance to the source",
    "psnr_to_source": "PSNR to the source, dB",
    "seconds": "seconds",
}
RATES = {"success": "success", "asked": "asked attribute right", "others": "other attributes right"}


def tables_rows(rows: list[dict], methods: list[str], eta: float, strength: float) -> dict[str, list[dict]]:
    """Of each method in the tables, its row of every edit."""
    levels = {"imagic": eta, "imagic-without-b": eta, "sdedit": strength}
    return {
        method: nearest(rows, method.removesuffix("-oracle"))
        if method.endswith("-oracle")
        else [row for row in rows if row["method"] == method and row["level"] == levels.get(method)]
        for method in methods
    }


def nearest(rows: list[dict], method: str) -> list[dict]:
    """For each edit the result nearest to the truth: by SqueezeNet distance where it was measured, else by PSNR.

    Without seconds: to know the nearest one takes all of them, and the truth.
    """
    best = {}
    for row in rows:
        if row["method"] == method:
            distance = row["squeezenet"] if "squeezenet" in row else -row["psnr"]
            if row["edit"] not in best or distance < best[row["edit"]][0]:
                best[row["edit"]] = distance, row | {"seconds": None}
    return [row for _, row in best.values()]


def estimates(rows: list[dict]) -> dict[str, Estimate]:
    """Of every measure that these rows have, over the edits where it is defined."""
    result = {}
    for names, estimate in ((RATES, rate), (MEANS, mean)):
        for name in names:
            values = [row[name] for row in rows if row.get(name) is not None]
            if values:
                result[name] = estimate(values)
    return result


def by_level(rows: list[dict], method: str) -> dict[float, dict[str, Estimate]]:
    """eta or strength -> estimates."""
    levels = sorted({row["level"] for row in rows if row["method"] == method})
    return {
        level: estimates([row for row in rows if row["method"] == method and row["level"] == level]) for level in levels
    }


def best_level(levels: dict[float, dict[str, Estimate]]) -> float | None:
    """The one with the most successful edits, the smaller one of two that are equal; None if success was not measured
    or never came."""
    shares = {level: row["success"].value for level, row in levels.items() if "success" in row}
    return max(sorted(shares), key=shares.get) if any(shares.values()) else None


def by_attribute(rows: list[dict]) -> dict[str, Estimate]:
    """Kind of edit -> success."""
    attributes = dict.fromkeys(row["attribute"] for row in rows)
    return {
        attribute: rate([row["success"] for row in rows if row["attribute"] == attribute]) for attribute in attributes
    }


def share_nearer(rows: list[dict], others: list[dict]) -> dict[str, Estimate]:
    """Share of the edits where the result in `rows` is nearer to the truth than the one in `others`, by either
    measure."""
    pairs = [(row, {other["edit"]: other for other in others}[row["edit"]]) for row in rows]
    result = {"psnr": rate([row["psnr"] > other["psnr"] for row, other in pairs])}
    if all("squeezenet" in row for pair in pairs for row in pair):
        result["squeezenet"] = rate([row["squeezenet"] < other["squeezenet"] for row, other in pairs])
    return result
