"""What is measured of one result; pictures are (h, w, 3) uint8.

name     formula
psnr     10 log10(255^2 / mean squared error), over all pixels and channels
ssim     Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2 0.03, mean over channels and all places
         where the window lies inside the picture
success  the asked attribute reads as asked, every other one as before, and the pixels that must stay are kept
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from scenes import ATTRIBUTES, Scene

KEPT = 20.0  # dB on the pixels that must stay; below, they are not kept
LEAST_KEEP = 0.01  # share of the picture; with fewer pixels that must stay, nothing can be said of them


@dataclass
class Judges:
    """Trained networks that some measures need; None where there is none, then these measures are None too."""

    squeezenet: Any = None  # perceptual.SqueezeNet
    classifier: Any = None  # classifier.Classifier of models/train
    values: Any = None  # classifier.VALUES


def measure(edit, pictures: list[np.ndarray], judges: Judges) -> list[dict]:
    """One dictionary of measures a picture; None is a measure that is undefined here or whose judge is missing."""
    rows = [
        {
            "psnr": finite(psnr(picture, edit.target)),
            "ssim": ssim(picture, edit.target),
            "psnr_to_source": finite(psnr(picture, edit.source)),
            "keep_psnr": finite(keep_psnr(picture, edit.source, edit.keep)),
        }
        for picture in pictures
    ]
    if judges.squeezenet is not None:
        for name, reference in (("squeezenet", edit.target), ("squeezenet_to_source", edit.source)):
            for row, distance in zip(rows, judges.squeezenet.distances(pictures, reference)):
                row[name] = distance
    if judges.classifier is not None:
        asked = judges.values[edit.attribute].index(getattr(edit.edited, edit.attribute))
        probabilities = judges.classifier.probabilities(pictures)[edit.attribute][:, asked]
        for row, picture, reading, probability in zip(rows, pictures, judges.classifier.read(pictures), probabilities):
            right = right_attributes(reading, edit.edited)
            row["alignment"] = float(probability)
            row["asked"] = edit.attribute in right
            row["others"] = right | {edit.attribute} == readable_attributes(edit.edited)
            row["success"] = success(right, edit.edited, keep_psnr(picture, edit.source, edit.keep))
    return rows


def success(right: set[str], edited: Scene, kept: float | None) -> bool:
    """`right`: the attributes that read as in the edited scene; `kept`: PSNR on the pixels that must stay, None if
    undefined."""
    return right == readable_attributes(edited) and (kept is None or kept >= KEPT)


def right_attributes(reading: dict[str, Any], edited: Scene) -> set[str]:
    return {attribute for attribute in readable_attributes(edited) if reading[attribute] == getattr(edited, attribute)}


def readable_attributes(edited: Scene) -> set[str]:
    """A pencil sketch has no color."""
    return set(ATTRIBUTES) - ({"color"} if edited.style == "sketch" else set())


def keep_psnr(picture: np.ndarray, source: np.ndarray, keep: np.ndarray) -> float | None:
    return psnr(picture[keep], source[keep]) if keep.mean() >= LEAST_KEEP else None


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Infinite for equal pictures."""
    error = np.square(a.astype(float) - b).mean()
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    offsets = np.arange(11) - 5
    window = np.exp(-np.square(offsets) / (2 * 1.5**2))
    window /= window.sum()

    def local_mean(x):  # (h, w, 3) to (h - 10, w - 10, 3)
        return sliding_window_view(sliding_window_view(x, 11, 0) @ window, 11, 1) @ window

    a, b = a.astype(float), b.astype(float)
    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a, variance_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean())


def finite(value: float | None) -> float | None:
    """A mean with an infinite value in it would say nothing."""
    return value if value is not None and math.isfinite(value) else None
