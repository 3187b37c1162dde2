"""The check of a real number that layers, optimizers and schedules take."""

from __future__ import annotations

import math
from numbers import Real

from fastcnn.functional import _checks as check


def number(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return `value` as a float where it is a finite real number from `low` to `high`, both included.

    Raises
    ------
    TypeError
        If it is not a real number.
    ValueError
        If it is out of range or not finite.
    """
    if type(value) is float and low <= value <= high and math.isfinite(value):
        return value
    if high < math.inf:
        wanted = f"a number from {low:g} to {high:g}"
    else:
        wanted = "a finite number" + (f" of at least {low:g}" if low > -math.inf else "")
    if isinstance(value, bool) or not isinstance(value, Real):
        check.fail(name, wanted, check.shown(value), TypeError)
    try:
        converted = float(value)
    except OverflowError:  # of an int
        converted = math.inf
    if not (low <= value <= high and math.isfinite(converted)):
        check.fail(name, wanted, check.shown(value))
    return converted
