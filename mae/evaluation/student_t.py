"""Student's t: its tails and its quantiles, to double precision, so that no statistics library is needed for them."""

from __future__ import annotations

import functools
import math


def t_tails(t: float, freedom: int) -> float:
    """P(|T| > t) of Student's t with so many degrees of freedom, for t ≥ 0."""
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


@functools.cache
def t_quantile(share: float, freedom: int) -> float:
    """The value below which Student's t lies with probability ``share``, 0.5 ≤ share < 1."""
    if not 0.5 <= share < 1 or freedom < 1:
        raise ValueError(f"no quantile of {share} with {freedom} degrees of freedom here")
    low, high = 0.0, 1.0
    while t_tails(high, freedom) > 2 * (1 - share):
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tails(middle, freedom) > 2 * (1 - share) else (low, middle)
    return (low + high) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # beyond it the fraction converges slowly, and its mirror image fast
        return 1 - _incomplete_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / a / _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d₁/(1 + d₂/(1 + …)), from the inside out; 200 terms are far more than double precision needs here."""
    value = 1.0
    for term in range(200, 0, -1):
        half = term // 2
        if term % 2:
            factor = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            factor = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        value = 1 + factor / value
    return value
