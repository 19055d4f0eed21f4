"""Scales, tick positions and number formats of the charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: shown for a number that is not there
MISSING = "n/a"
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Scale:
    """Maps data in [low, high] to pixels in [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value; values beyond the range are held at its edge."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that lie in [low, high]: as many as fit into `most`."""
    if not high > low:
        return [low]
    power = math.floor(math.log10((high - low) / most)) - 1
    for exponent in (power, power + 1, power + 2, power + 3):
        for factor in (1, 2, 5):
            step: float = factor * 10.0**exponent
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first + 1 <= most:
                return [round(index * step, max(0, -exponent)) + 0.0 for index in range(first, last + 1)]
    return []


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Powers of ten in [low, high], thinned evenly to about `most`; over few decades also 2 and 5 times them."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first + 1) / most)))]
    if len(powers) > 2:
        return powers
    fine = [factor * 10.0**power for power in range(first - 1, last + 1) for factor in (1, 2, 5)]
    fine = [value for value in fine if low <= value * (1 + 1e-9) and value * (1 - 1e-9) <= high]
    return fine if len(fine) <= most or not powers else powers


def finite_range(values: Sequence[float], log: bool = False) -> tuple[float, float]:
    """A range that holds all values, with a little air; in a logarithmic one only positive values count."""
    if log:
        positive = [value for value in values if value > 0]
        if not positive:
            return 0.1, 1.0
        return min(positive) / 1.3, max(positive) * 1.3
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        air = abs(low) * 0.1 or 1.0
        return low - air, high + air
    air = (high - low) * 0.06
    return low - air, high + air


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with about `digits` significant ones: 0.0123, 12.3, 12,300, 1.2e-06."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if size < 10.0**-4 or size >= 10.0**12:
        text = f"{value:.{max(digits - 2, 0)}e}"
    else:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{value:,.{decimals}f}"
    return text.replace("-", _MINUS) if value < 0 and "e" not in text else text


def tick_label(value: float, log: bool = False) -> str:
    """A number as short as an axis needs it; powers of ten on a logarithmic axis."""
    if log:
        power = math.floor(math.log10(value) + 1e-9)
        if -2 <= power <= 3:
            return f"{value:g}"
        factor = round(value / 10.0**power)
        return ("10" if factor == 1 else f"{factor}·10") + str(power).translate(
            str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
        )
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k".replace("-", _MINUS)
    return f"{value:g}".replace("e-0", "e-").replace("-", _MINUS)


def duration(seconds: float | None) -> str:
    """'8.2 s', '4 min 05 s' or '2 h 10 min'."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
