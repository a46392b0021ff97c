"""95 % confidence intervals of means and rates."""

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
Z = 1.959964  # of the normal distribution, two-sided 95 %


@dataclass(frozen=True)
class Estimate:
    """A mean or a rate, its interval, and of how many values."""

    value: float
    low: float
    high: float
    count: int


def mean(values: list[float]) -> Estimate:
    """Percentile bootstrap, with a fixed seed: the same values give the same interval."""
    values = np.array(values, float)
    chosen = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[chosen].mean(1), (2.5, 97.5))
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def rate(values: list[bool]) -> Estimate:
    """Wilson's score interval."""
    n, p = len(values), sum(values) / len(values)
    middle, spread = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Estimate(p, max(0.0, (middle - spread) / (1 + Z**2 / n)), min(1.0, (middle + spread) / (1 + Z**2 / n)), n)
